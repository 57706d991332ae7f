// Tensors in the caller's memory, and models made of them. Part of ingot.hpp.
#ifndef INGOT_CPP_TENSORS_HPP
#define INGOT_CPP_TENSORS_HPP

#include <ingot/cpp/errors.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace ingot {

/// A tensor somebody else owns; see ingot_tensor_view for who must keep what how long.
struct tensor {
  std::string name;
  int32_t dtype = 0; ///< INGOT_DTYPE_*
  std::vector<int64_t> shape;
  void *data = nullptr;
  std::vector<int64_t> strides = {}; ///< in elements; empty: row-major without gaps
  bool read_only = false;
  /// Borrows from this object.
  ingot_tensor_view view() const {
    uint32_t flags = read_only ? uint32_t{INGOT_TENSOR_READ_ONLY} : 0;
    return {uint32_t{sizeof(ingot_tensor_view)},
            flags,
            name.c_str(),
            dtype,
            static_cast<int32_t>(shape.size()),
            shape.data(),
            strides.empty() ? nullptr : strides.data(),
            data,
            0};
  }
};

namespace detail {
/// Views of many tensors, as an array of pointers.
struct views {
  explicit views(const std::vector<tensor> &tensors) {
    for (const tensor &t : tensors) storage.push_back(t.view()); // all before the first address is taken
    for (const ingot_tensor_view &v : storage) pointers.push_back(&v);
  }
  std::vector<ingot_tensor_view> storage;
  std::vector<const ingot_tensor_view *> pointers;
};
} // namespace detail

/// A state dict that recipes can name. The tensors' elements are borrowed until it and all plans made with it are gone.
class model {
public:
  model(const std::string &name, const std::vector<tensor> &tensors, const std::string &config_json = "") {
    ingot_model_options o = INGOT_MODEL_OPTIONS_INIT;
    o.config_json = config_json.empty() ? nullptr : config_json.c_str();
    detail::views v(tensors);
    handle_ = detail::make<decltype(handle_)>(
        [&](auto out, auto e) { return ingot_model_create(name.c_str(), v.pointers.data(), v.pointers.size(), out, &o, e); });
  }
  const ingot_model *get() const noexcept { return handle_.get(); }

private:
  detail::handle<ingot_model, ingot_model_destroy> handle_;
};
} // namespace ingot

#endif
