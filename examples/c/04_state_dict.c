/* Merges state dicts: models made of tensors in memory, through a plan, so that every method and every scope works. */
#include <ingot/ingot.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TENSORS = 2 };
static const int64_t shapes[TENSORS][2] = {{4, 3}, {3, 2}};
static const char *const names[TENSORS] = {"encoder.weight", "decoder.weight"};

static ingot_model *make_model(const char *name, float *elements, ingot_error **error) {
  ingot_tensor_view views[TENSORS];
  const ingot_tensor_view *pointers[TENSORS];
  ingot_model *model = NULL;
  for (int t = 0; t < TENSORS; ++t) {
    ingot_tensor_view view = INGOT_TENSOR_VIEW_INIT;
    view.name = names[t];
    view.dtype = INGOT_DTYPE_F32;
    view.rank = 2;
    view.shape = shapes[t];
    view.data = elements + 12 * t;
    views[t] = view;
    pointers[t] = &views[t];
  }
  return ingot_model_create(name, pointers, TENSORS, &model, NULL, error) ? NULL : model;
}

int main(void) {
  const char *recipe_text = "merge_method: ties\nbase_model: base\nmodels: [{model: left}, {model: right}]\n"
                            "parameters: {weight: 1, density: 0.5, scope: model}\n";
  float elements[3][18];
  for (int m = 0; m < 3; ++m)
    for (int i = 0; i < 18; ++i) elements[m][i] = (float)((i * (m + 3)) % 7) * (float)m;
  ingot_context *context = NULL;
  ingot_recipe *recipe = NULL;
  ingot_plan *plan = NULL;
  ingot_error *error = NULL;
  const ingot_model *models[3];
  models[0] = make_model("base", elements[0], &error);
  models[1] = make_model("left", elements[1], &error);
  models[2] = make_model("right", elements[2], &error);
  ingot_plan_options options = INGOT_PLAN_OPTIONS_INIT;
  options.flags = INGOT_PLAN_NO_FILES;
  options.models = models;
  options.model_count = 3;
  int failed = ingot_recipe_parse(recipe_text, strlen(recipe_text), NULL, &recipe, NULL, &error) ||
               ingot_context_create(&context, NULL, &error) || ingot_plan_create(context, recipe, &plan, &options, &error);

  /* The plan says what comes out; memory for it is ours to find. */
  ingot_tensor_view outputs[TENSORS];
  const ingot_tensor_view *pointers[TENSORS];
  uint64_t count = 0;
  for (; !failed && count < ingot_plan_tensor_count(plan); ++count) {
    outputs[count] = (ingot_tensor_view)INGOT_TENSOR_VIEW_INIT;
    failed = ingot_plan_tensor(plan, count, &outputs[count], &error) != INGOT_OK;
    outputs[count].data = malloc(outputs[count].byte_count);
    pointers[count] = &outputs[count];
  }
  if (!failed) failed = ingot_plan_run_to_tensors(context, plan, pointers, count, NULL, NULL, &error) != INGOT_OK;
  if (failed) fprintf(stderr, "%s: %s\n", ingot_status_name(ingot_error_status(error)), ingot_error_message(error));
  for (uint64_t t = 0; t < count; ++t) {
    if (!failed) printf("%s: first element %g\n", outputs[t].name, (double)*(float *)outputs[t].data);
    free(outputs[t].data);
  }
  ingot_error_destroy(error);
  ingot_plan_destroy(plan);
  ingot_recipe_destroy(recipe);
  ingot_context_destroy(context);
  for (int m = 0; m < 3; ++m) ingot_model_destroy((ingot_model *)models[m]);
  return failed;
}
