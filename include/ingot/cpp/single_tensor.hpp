// One tensor. Part of ingot.hpp.
#ifndef INGOT_CPP_SINGLE_TENSOR_HPP
#define INGOT_CPP_SINGLE_TENSOR_HPP

#include <ingot/cpp/context.hpp>
#include <ingot/cpp/tensors.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace ingot {

/// What a method reads of a model besides its tensor; see ingot_side_input.
struct side_input {
  std::string name;
  uint64_t input; ///< index of the model, or INGOT_SIDE_OF_BASE
  tensor values;  ///< its name is empty but for row_sums and column_sums
};

namespace detail {
/// Side inputs as an array of pointers.
struct side_views {
  explicit side_views(const std::vector<side_input> &sides) {
    for (const side_input &s : sides) {
      views.push_back(s.values.view());
      if (s.values.name.empty()) views.back().name = nullptr;
    }
    for (std::size_t i = 0; i < sides.size(); ++i)
      storage.push_back({uint32_t{sizeof(ingot_side_input)}, 0, sides[i].name.c_str(), sides[i].input, &views[i]});
    for (const ingot_side_input &s : storage) pointers.push_back(&s);
  }
  std::vector<ingot_tensor_view> views;
  std::vector<ingot_side_input> storage;
  std::vector<const ingot_side_input *> pointers;
};
} // namespace detail

/// Merges one tensor; see ingot_merge_tensors. `sides` take the place of the options' own.
inline void merge_tensors(context &c, const std::string &method, const std::string &parameters_json, const tensor *base,
                          const std::vector<tensor> &inputs, const tensor &out, ingot_merge_options options = INGOT_MERGE_OPTIONS_INIT,
                          const std::vector<side_input> &sides = {}) {
  detail::views v(inputs);
  detail::side_views s(sides);
  if (!sides.empty()) {
    options.sides = s.pointers.data();
    options.side_count = s.pointers.size();
  }
  ingot_tensor_view base_view = base ? base->view() : ingot_tensor_view();
  ingot_tensor_view output_view = out.view();
  if (out.name.empty()) output_view.name = nullptr;
  ingot_error *e = nullptr;
  detail::check(ingot_merge_tensors(c.get(), method.c_str(), parameters_json.c_str(), base ? &base_view : nullptr, v.pointers.data(),
                                    v.pointers.size(), &output_view, &options, &e),
                e, {c.captured()});
}
} // namespace ingot

#endif
