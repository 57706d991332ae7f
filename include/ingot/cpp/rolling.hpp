// Rolling merges: models that come one at a time. Part of ingot.hpp.
#ifndef INGOT_CPP_ROLLING_HPP
#define INGOT_CPP_ROLLING_HPP

#include <ingot/cpp/context.hpp>
#include <ingot/cpp/progress.hpp>

#include <string>

namespace ingot {

/// Adds a model to a state, returns the report as JSON; see ingot_rolling_step. `method` and `base` may be empty for all but the first step.
inline std::string roll(context &c, const std::string &state, const std::string &model, const std::string &method = "",
                        const std::string &base = "", const std::string &parameters_json = "{}",
                        ingot_run_options o = INGOT_RUN_OPTIONS_INIT, const progress_function &progress = nullptr) {
  const char *name = method.empty() ? nullptr : method.c_str(), *origin = base.empty() ? nullptr : base.c_str();
  return detail::run(c, o, progress, nullptr, nullptr, [&](auto text, auto options, auto e) {
    return ingot_rolling_step(c.get(), name, parameters_json.c_str(), origin, model.c_str(), state.c_str(), text, options, e);
  });
}

/// Makes a model of a state, returns the report as JSON; see ingot_rolling_finish.
inline std::string finish_rolling(context &c, const std::string &state, const std::string &directory,
                                  const std::string &parameters_json = "{}", ingot_run_options o = INGOT_RUN_OPTIONS_INIT,
                                  const progress_function &progress = nullptr) {
  return detail::run(c, o, progress, nullptr, nullptr, [&](auto text, auto options, auto e) {
    return ingot_rolling_finish(c.get(), parameters_json.c_str(), state.c_str(), directory.c_str(), text, options, e);
  });
}
} // namespace ingot

#endif
