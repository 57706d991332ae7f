// LoRA adapters. Part of ingot.hpp.
#ifndef INGOT_CPP_ADAPTERS_HPP
#define INGOT_CPP_ADAPTERS_HPP

#include <ingot/cpp/context.hpp>
#include <ingot/cpp/progress.hpp>

#include <string>
#include <vector>

namespace ingot {

/// What adapters change, as JSON; see ingot_lora_inspect.
inline std::string inspect_adapters(const std::vector<std::string> &adapters, const std::string &parameters_json = "{}") {
  const std::vector<const char *> names = detail::texts(adapters);
  return detail::make<detail::owned_text>(
             [&](auto out, auto e) { return ingot_lora_inspect(parameters_json.c_str(), names.data(), names.size(), out, e); })
      .get();
}

/// Merges adapters of one base into a new one, returns the report as JSON; see ingot_lora_merge.
inline std::string merge_adapters(context &c, const std::string &method, const std::vector<std::string> &adapters,
                                  const std::string &directory, const std::string &parameters_json = "{}",
                                  ingot_run_options o = INGOT_RUN_OPTIONS_INIT, const progress_function &progress = nullptr) {
  const std::vector<const char *> names = detail::texts(adapters);
  return detail::run(c, o, progress, nullptr, nullptr, [&](auto text, auto options, auto e) {
    return ingot_lora_merge(c.get(), method.c_str(), parameters_json.c_str(), names.data(), names.size(), directory.c_str(), text, options,
                            e);
  });
}

/// Makes an adapter of the difference of a fine-tuned model and its base, returns the report as JSON; see ingot_lora_extract.
inline std::string extract_adapter(context &c, const std::string &parameters_json, const std::string &base, const std::string &tuned,
                                   const std::string &directory, ingot_run_options o = INGOT_RUN_OPTIONS_INIT,
                                   const progress_function &progress = nullptr) {
  return detail::run(c, o, progress, nullptr, nullptr, [&](auto text, auto options, auto e) {
    return ingot_lora_extract(c.get(), parameters_json.c_str(), base.c_str(), tuned.c_str(), directory.c_str(), text, options, e);
  });
}

/// Brings an adapter to another rank, returns the report as JSON; see ingot_lora_resize.
inline std::string resize_adapter(context &c, const std::string &parameters_json, const std::string &adapter, const std::string &directory,
                                  ingot_run_options o = INGOT_RUN_OPTIONS_INIT, const progress_function &progress = nullptr) {
  return detail::run(c, o, progress, nullptr, nullptr, [&](auto text, auto options, auto e) {
    return ingot_lora_resize(c.get(), parameters_json.c_str(), adapter.c_str(), directory.c_str(), text, options, e);
  });
}
} // namespace ingot

#endif
