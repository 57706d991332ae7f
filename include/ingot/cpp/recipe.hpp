// What is to be merged, and how. Part of ingot.hpp.
#ifndef INGOT_CPP_RECIPE_HPP
#define INGOT_CPP_RECIPE_HPP

#include <ingot/cpp/errors.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ingot {

class recipe {
public:
  explicit recipe(std::string_view text, const std::string &origin = "recipe", bool strict = false) {
    ingot_recipe_options o = INGOT_RECIPE_OPTIONS_INIT;
    o.flags = strict ? uint32_t{INGOT_RECIPE_STRICT} : 0;
    const char *start = text.data() ? text.data() : "";
    handle_ = detail::make<decltype(handle_)>(
        [&](auto out, auto e) { return ingot_recipe_parse(start, text.size(), origin.c_str(), out, &o, e); });
  }
  std::string method() const { return detail::text(ingot_recipe_method(handle_.get())); }
  std::string notices_json() const { return detail::text(ingot_recipe_notices_json(handle_.get())); }
  std::vector<std::string> models() const {
    std::vector<std::string> names;
    for (uint64_t i = 0; i < ingot_recipe_model_count(handle_.get()); ++i) names.emplace_back(ingot_recipe_model(handle_.get(), i));
    return names;
  }
  const ingot_recipe *get() const noexcept { return handle_.get(); }

private:
  detail::handle<ingot_recipe, ingot_recipe_destroy> handle_;
};
} // namespace ingot

#endif
