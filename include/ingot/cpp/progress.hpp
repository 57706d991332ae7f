// Running with a progress function. Part of ingot.hpp.
#ifndef INGOT_CPP_PROGRESS_HPP
#define INGOT_CPP_PROGRESS_HPP

#include <ingot/cpp/context.hpp>

#include <cstdint>
#include <functional>
#include <string>

namespace ingot {

/// Another answer than 0 cancels.
using progress_function = std::function<int32_t(const ingot_progress &)>;

namespace detail {
/// Runs call(&text, &options, &error) with a progress function; returns the text.
template <typename Call>
std::string run(context &c, ingot_run_options &o, const progress_function &progress, capture *first, capture *second, Call &&call) {
  struct progress_state {
    const progress_function &function;
    capture captured;
  } state{progress, {}};
  if (progress) {
    o.progress_user = &state;
    o.progress = [](void *u, const ingot_progress *p) {
      progress_state *s = static_cast<progress_state *>(u);
      return s->captured.run([&] { return s->function(*p); });
    };
  }
  return make<owned_text>([&](auto text, auto e) { return call(text, &o, e); }, {&state.captured, first, second, c.captured()}).get();
}
} // namespace detail
} // namespace ingot

#endif
