// Looking at checkpoints, and delta packs. Part of ingot.hpp.
#ifndef INGOT_CPP_CHECKPOINTS_HPP
#define INGOT_CPP_CHECKPOINTS_HPP

#include <ingot/cpp/context.hpp>
#include <ingot/cpp/progress.hpp>

#include <string>
#include <vector>

namespace ingot {

/// How two checkpoints differ, as JSON; see ingot_checkpoint_compare. `base` may be empty.
inline std::string compare(context &c, const std::string &a, const std::string &b, const std::string &base = "",
                           ingot_run_options o = INGOT_RUN_OPTIONS_INIT, const progress_function &progress = nullptr) {
  const char *name = base.empty() ? nullptr : base.c_str();
  return detail::run(c, o, progress, nullptr, nullptr, [&](auto text, auto options, auto e) {
    return ingot_checkpoint_compare(c.get(), a.c_str(), b.c_str(), name, text, options, e);
  });
}

/// Packs the differences of models to their base, returns the summary as JSON; see ingot_delta_pack.
inline std::string pack(context &c, const std::string &method, const std::string &parameters_json, const std::string &base,
                        const std::vector<std::string> &models, const std::string &directory, ingot_run_options o = INGOT_RUN_OPTIONS_INIT,
                        const progress_function &progress = nullptr) {
  const std::vector<const char *> names = detail::texts(models);
  return detail::run(c, o, progress, nullptr, nullptr, [&](auto text, auto options, auto e) {
    return ingot_delta_pack(c.get(), method.c_str(), parameters_json.c_str(), base.c_str(), names.data(), names.size(), directory.c_str(),
                            text, options, e);
  });
}

/// What a delta pack holds, as JSON; see ingot_delta_inspect.
inline std::string inspect_pack(const std::string &pack) {
  return detail::make<detail::owned_text>([&](auto out, auto e) { return ingot_delta_inspect(pack.c_str(), out, e); }).get();
}

/// What the headers of a checkpoint say, as JSON; see ingot_checkpoint_inspect.
inline std::string inspect(const std::string &path) {
  return detail::make<detail::owned_text>([&](auto out, auto e) { return ingot_checkpoint_inspect(path.c_str(), out, e); }).get();
}
} // namespace ingot

#endif
