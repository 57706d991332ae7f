/* Merges tensors that are already in memory, one at a time: no files, no recipe. */
#include <ingot/ingot.h>

#include <stdio.h>

static ingot_tensor_view matrix(float *data, const int64_t *shape) {
  ingot_tensor_view view = INGOT_TENSOR_VIEW_INIT;
  view.dtype = INGOT_DTYPE_F32;
  view.rank = 2;
  view.shape = shape;
  view.data = data;
  return view;
}

int main(void) {
  const int64_t shape[2] = {2, 3};
  float base[6] = {0, 0, 0, 0, 0, 0};
  float left[6] = {1, 0, 0, 4, -1, 2};
  float right[6] = {3, 0, 1, -4, -1, 2};
  float merged[6];
  ingot_tensor_view b = matrix(base, shape), l = matrix(left, shape), r = matrix(right, shape), out = matrix(merged, shape);
  const ingot_tensor_view *inputs[] = {&l, &r};

  ingot_context *context = NULL;
  ingot_error *error = NULL;
  ingot_status status = ingot_context_create(&context, NULL, &error);
  if (status == INGOT_OK)
    status = ingot_merge_tensors(context, "task_arithmetic", "{\"weight\": [0.5, 0.25]}", &b, inputs, 2, &out, NULL, &error);
  if (status == INGOT_OK)
    for (int i = 0; i < 6; ++i) printf("%g%c", merged[i], i % 3 == 2 ? '\n' : ' ');
  else
    fprintf(stderr, "%s: %s\n", ingot_status_name(status), ingot_error_message(error));
  ingot_error_destroy(error);
  ingot_context_destroy(context);
  return status != INGOT_OK;
}
