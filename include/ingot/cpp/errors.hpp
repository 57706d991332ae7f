// Failures as exceptions, and owners of the library's handles. Part of ingot.hpp.
#ifndef INGOT_CPP_ERRORS_HPP
#define INGOT_CPP_ERRORS_HPP

#include <ingot/ingot.h>

#include <cstdint>
#include <exception>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace ingot {

namespace detail {
inline std::string text(const char *s) { return s ? s : ""; }
} // namespace detail

/// What a failed call said: the fields of ingot_error, copied; empty texts and zeroes for what is not known.
struct error : std::runtime_error {
  error(ingot_status code, const ingot_error *e)
      : std::runtime_error(e ? ingot_error_message(e) : ingot_status_name(code)), status(code), hint(detail::text(ingot_error_hint(e))),
        subject(detail::text(ingot_error_subject(e))), origin(detail::text(ingot_error_origin(e))), user_code(ingot_error_user_code(e)) {
    ingot_error_position(e, &line, &column);
  }
  ingot_status status;
  std::string hint, subject, origin;
  int32_t user_code, line = 0, column = 0;
};

namespace detail {
template <auto Destroy> struct destroyer {
  template <typename T> void operator()(T *p) const noexcept { Destroy(p); }
};
template <typename T, auto Destroy> using handle = std::unique_ptr<T, destroyer<Destroy>>;
using owned_text = handle<char, ingot_string_destroy>;
using owned_error = handle<ingot_error, ingot_error_destroy>;

/// An array of texts as C takes it, valid as long as the texts.
inline std::vector<const char *> texts(const std::vector<std::string> &strings) {
  std::vector<const char *> pointers;
  for (const std::string &s : strings) pointers.push_back(s.c_str());
  return pointers;
}

/// The first exception that left a callback; workers call back at once.
struct capture {
  /// Runs a callback; -1 in place of what it throws.
  template <typename Body> int32_t run(Body &&body) noexcept {
    try {
      return body();
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!first_) first_ = std::current_exception();
      return -1;
    }
  }
  void rethrow() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (std::exception_ptr found = std::exchange(first_, nullptr)) std::rethrow_exception(found);
  }
  std::mutex mutex_;
  std::exception_ptr first_;
};

/// Turns a failure into an exception: the one that left a callback, if one did.
inline void check(ingot_status status, ingot_error *e, std::initializer_list<capture *> captures = {}) {
  owned_error owner(e);
  for (capture *c : captures) c ? c->rethrow() : void();
  if (status != INGOT_OK) throw error(status, e);
}
/// Calls call(&out, &error) and owns what it made.
template <typename Handle, typename Call> Handle make(Call &&call, std::initializer_list<capture *> captures = {}) {
  typename Handle::pointer made = nullptr;
  ingot_error *e = nullptr;
  ingot_status status = call(&made, &e);
  Handle handle(made);
  check(status, e, captures);
  return handle;
}
} // namespace detail
} // namespace ingot

#endif
