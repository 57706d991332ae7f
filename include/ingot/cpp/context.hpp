// Threads and memory. Part of ingot.hpp.
#ifndef INGOT_CPP_CONTEXT_HPP
#define INGOT_CPP_CONTEXT_HPP

#include <ingot/cpp/errors.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace ingot {

using log_function = std::function<void(int32_t level, const char *message, const char *fields_json)>;

class context {
public:
  /// `log` takes the place of the options' own log and log_user.
  explicit context(ingot_context_options o = INGOT_CONTEXT_OPTIONS_INIT, log_function log = nullptr)
      : state_(new state{std::move(log), {}}) {
    if (state_->log) {
      o.log_user = state_.get();
      o.log = [](void *user, int32_t level, const char *message, const char *fields) {
        state *s = static_cast<state *>(user);
        s->captured.run([&] { return s->log(level, message, fields), 0; });
      };
    }
    handle_ = detail::make<decltype(handle_)>([&](auto out, auto e) { return ingot_context_create(out, &o, e); });
  }
  std::string json() const { return detail::text(ingot_context_json(handle_.get())); }
  ingot_context *get() const noexcept { return handle_.get(); }
  detail::capture *captured() const noexcept { return state_ ? &state_->captured : nullptr; }

private:
  struct state {
    log_function log;
    detail::capture captured;
  };
  std::unique_ptr<state> state_; // outlives the handle below
  detail::handle<ingot_context, ingot_context_destroy> handle_;
};
} // namespace ingot

#endif
