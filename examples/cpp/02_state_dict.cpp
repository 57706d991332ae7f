// Merges two state dicts in memory, from C++.
#include <ingot/ingot.hpp>

#include <iostream>

int main() {
  std::vector<float> a{1, 2, 3, 4}, b{5, 6, 7, 8}, merged(4);
  try {
    ingot::context context;
    ingot::model first("first", {{"layer.weight", INGOT_DTYPE_F32, {2, 2}, a.data()}});
    ingot::model second("second", {{"layer.weight", INGOT_DTYPE_F32, {2, 2}, b.data()}});
    ingot::recipe recipe("merge_method: slerp\nbase_model: first\nmodels: [{model: second}]\nparameters: {t: 0.5}\n");
    ingot::plan plan(context, recipe, {&first, &second});
    std::vector<ingot::tensor> outputs = plan.tensors(); // names, shapes and types; memory is ours to give
    outputs.at(0).data = merged.data();
    plan.run_to_tensors(context, outputs);
    for (float value : merged) std::cout << value << "\n";
    return 0;
  } catch (const ingot::error &error) {
    std::cerr << ingot_status_name(error.status) << ": " << error.what() << "\n";
    return 1;
  }
}
