/* Delta packs and comparisons through the C API: what they give, what progress and cancel do, what is refused. */
#include "support.h"

static char *root, *base, *tuned;
static ingot_error *error;
static ingot_context *context;

static int32_t count_calls(void *user, const ingot_progress *progress) {
  CHECK(progress->bytes_done <= progress->bytes_total);
  ++*(int *)user;
  return 0;
}

/* bitdelta with every tensor of two axes as signs: mean |difference| with the difference's sign. The norm is whole. */
static void test_pack(void) {
  const char *models[] = {tuned};
  char *pack = joined(root, "pack"), *summary = NULL, *seen = NULL;
  int calls = 0;
  ingot_run_options run = INGOT_RUN_OPTIONS_INIT;
  run.progress = count_calls, run.progress_user = &calls;
  CHECK_OK(ingot_delta_pack(context, "bitdelta", "{\"layers\": \"all\"}", base, models, 1, pack, &summary, &run, &error));
  CHECK(calls > 0 && summary && strstr(summary, "\"method\": \"bitdelta\"") && strstr(summary, "\"relative_error\""));
  CHECK_OK(ingot_delta_inspect(pack, &seen, &error));
  CHECK(summary && seen && !strcmp(summary, seen));
  ingot_string_destroy(summary);
  ingot_string_destroy(seen);
  CHECK_ERROR(INGOT_E_EXISTS, "pack", ingot_delta_pack(context, "bitdelta", NULL, base, models, 1, pack, &summary, NULL, &error));
  CHECK(summary == NULL);
  run.flags = INGOT_RUN_OVERWRITE, run.sync = INGOT_SYNC_NONE;
  CHECK_OK(ingot_delta_pack(context, "bitdelta", "{\"layers\": \"all\"}", base, models, 1, pack, NULL, &run, &error));
  free(pack);
}

static float difference(int index) { return model_value(2, index) - model_value(1, index); }

/* Into memory, as any plan: the scale of a tensor times the signs. */
static void test_unpack(void) {
  char *pack = joined(root, "pack");
  float *found = malloc(sizeof(float) * MODEL_ELEMENTS), *applied = malloc(sizeof(float) * MODEL_ELEMENTS);
  const int starts[] = {0, EMBED, EMBED + LAYER, MODEL_ELEMENTS};
  const char *names[] = {"embed.weight", "layers.0.weight", "norm.weight"};
  ingot_delta_options options = INGOT_DELTA_OPTIONS_INIT;
  options.scale = 0.5;
  ingot_plan *plans[2] = {NULL, NULL};
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "norm.weight", ingot_delta_plan_unpack(context, pack, NULL, &plans[0], NULL, &error));
  CHECK_OK(ingot_delta_plan_unpack(context, pack, base, &plans[0], NULL, &error));
  CHECK_OK(ingot_delta_plan_apply(context, pack, base, &plans[1], &options, &error));
  for (int which = 0; which < 2; ++which) {
    ingot_tensor_view views[3];
    const ingot_tensor_view *outputs[3];
    CHECK(ingot_plan_tensor_count(plans[which]) == 3);
    for (uint64_t i = 0; i < 3; ++i) {
      views[i] = (ingot_tensor_view)INGOT_TENSOR_VIEW_INIT;
      CHECK_OK(ingot_plan_tensor(plans[which], i, &views[i], &error));
      for (int t = 0; t < 3; ++t)
        if (!strcmp(views[i].name, names[t])) views[i].data = (which ? applied : found) + starts[t];
      outputs[i] = &views[i];
    }
    CHECK_OK(ingot_plan_run_to_tensors(context, plans[which], outputs, 3, NULL, NULL, &error));
    ingot_plan_destroy(plans[which]);
  }
  int wrong = 0;
  for (int t = 0; t < 3; ++t) {
    double sum = 0;
    for (int i = starts[t]; i < starts[t + 1]; ++i) sum += difference(i) < 0 ? -difference(i) : difference(i);
    float scale = (float)(sum / (starts[t + 1] - starts[t]));
    for (int i = starts[t]; i < starts[t + 1]; ++i) {
      float expected = t == 2 ? difference(i) : difference(i) < 0 ? -scale : scale;
      wrong += !near(found[i], expected) || !near(applied[i], model_value(1, i) + 0.5f * expected);
    }
  }
  CHECK(wrong == 0);
  free(found);
  free(applied);
  free(pack);
}

static void test_pack_mistakes(void) {
  const char *models[] = {tuned, base}, *none[] = {NULL};
  char *pack = joined(root, "pack"), *out = joined(root, "never"), *text = (char *)"untouched";
  ingot_plan *plan = NULL;
#define PACK_ERROR(status, words, method, parameters, of, list, count) \
  CHECK_ERROR(status, words, ingot_delta_pack(context, method, parameters, of, list, count, out, &text, NULL, &error))
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "compeft", "compfet", NULL, base, models, 1);
  CHECK(text == NULL);
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "density", "compeft", "{\"desnity\": 0.5}", base, models, 1);
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "2", "compeft", "{\"density\": 2}", base, models, 1);
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "an object", "compeft", "{\"density\": {}}", base, models, 1);
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "object", "compeft", "[]", base, models, 1);
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "3 values", "tall", "{\"lambda\": [1, 2, 3]}", base, models, 1);
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "2 models", "bitdelta", NULL, base, models, 2);
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "0 models", "bitdelta", NULL, base, NULL, 0);
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "models", "bitdelta", NULL, base, NULL, 1);
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "models[0]", "bitdelta", NULL, base, none, 1);
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "base is among", "bitdelta", NULL, tuned, models, 1);
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "2 @ signs", "bitdelta", NULL, "a@b@c+", models, 1);
  PACK_ERROR(INGOT_E_NOT_FOUND, "nowhere", "bitdelta", NULL, "./nowhere", models, 1);
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "method", NULL, NULL, base, models, 1);
  PACK_ERROR(INGOT_E_INVALID_ARGUMENT, "base", "bitdelta", NULL, NULL, models, 1);
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "directory", ingot_delta_pack(context, "tall", NULL, base, models, 1, NULL, &text, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "context", ingot_delta_pack(NULL, "tall", NULL, base, models, 1, out, &text, NULL, &error));
  volatile int32_t cancel = 1;
  ingot_run_options run = INGOT_RUN_OPTIONS_INIT;
  run.cancel = &cancel;
  CHECK_STATUS(INGOT_E_CANCELLED, ingot_delta_pack(context, "tall", NULL, base, models, 1, out, &text, &run, &error));
  run.sync = 7;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "sync", ingot_delta_pack(context, "tall", NULL, base, models, 1, out, &text, &run, &error));
  CHECK(!exists(root, "never") && !exists(root, "never.partial"));

  ingot_delta_options options = INGOT_DELTA_OPTIONS_INIT;
  CHECK_ERROR(INGOT_E_SHAPE, "another", ingot_delta_plan_apply(context, pack, tuned, &plan, NULL, &error));
  CHECK(plan == NULL);
  options.task = "no such task";
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "no such task", ingot_delta_plan_apply(context, pack, base, &plan, &options, &error));
  options.task = NULL, options.scale = 0.0 / 0.0;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "scale", ingot_delta_plan_apply(context, pack, base, &plan, &options, &error));
  options.scale = 2;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "scale", ingot_delta_plan_unpack(context, pack, base, &plan, &options, &error));
  options.flags = 1;
  CHECK_ERROR(INGOT_E_UNSUPPORTED, "0x1", ingot_delta_plan_apply(context, pack, base, &plan, &options, &error));
  CHECK_ERROR(INGOT_E_FORMAT, "pack", ingot_delta_plan_apply(context, base, base, &plan, NULL, &error));
  CHECK_ERROR(INGOT_E_NOT_FOUND, "nowhere", ingot_delta_plan_unpack(context, "./nowhere", base, &plan, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "base", ingot_delta_plan_apply(context, pack, NULL, &plan, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "pack", ingot_delta_plan_unpack(context, NULL, NULL, &plan, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "out", ingot_delta_plan_unpack(context, pack, base, NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_NOT_FOUND, "nowhere", ingot_delta_inspect("./nowhere", &text, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "out", ingot_delta_inspect(pack, NULL, &error));
  free(pack);
  free(out);
}

static void test_compare(void) {
  char *found = NULL;
  int calls = 0;
  ingot_run_options run = INGOT_RUN_OPTIONS_INIT;
  run.progress = count_calls, run.progress_user = &calls, run.flags = INGOT_RUN_TENSORS_ONLY;
  CHECK_OK(ingot_checkpoint_compare(context, base, tuned, NULL, &found, &run, &error));
  CHECK(found && strstr(found, "\"equal\": false") && strstr(found, "layers.0.weight") && !strstr(found, "task_vectors") && calls > 0);
  ingot_string_destroy(found);
  CHECK_OK(ingot_checkpoint_compare(context, base, tuned, base, &found, NULL, &error));
  CHECK(found && strstr(found, "task_vectors"));
  ingot_string_destroy(found);
  CHECK_OK(ingot_checkpoint_compare(context, tuned, tuned, NULL, &found, NULL, &error));
  CHECK(found && strstr(found, "\"equal\": true"));
  ingot_string_destroy(found);
  CHECK_ERROR(INGOT_E_NOT_FOUND, "nowhere", ingot_checkpoint_compare(context, base, "./nowhere", NULL, &found, NULL, &error));
  CHECK(found == NULL);
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "b", ingot_checkpoint_compare(context, base, NULL, NULL, &found, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "out", ingot_checkpoint_compare(context, base, base, NULL, NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "context", ingot_checkpoint_compare(NULL, base, base, NULL, &found, NULL, &error));
  volatile int32_t cancel = 1;
  run.cancel = &cancel;
  CHECK_STATUS(INGOT_E_CANCELLED, ingot_checkpoint_compare(context, base, tuned, NULL, &found, &run, &error));
}

int main(int count, char **arguments) {
  if (count != 2) return 2;
  root = arguments[1];
  base = make_model(root, "base", 1);
  tuned = make_model(root, "tuned", 2);
  CHECK_OK(ingot_context_create(&context, NULL, &error));
  test_pack();
  test_unpack();
  test_pack_mistakes();
  test_compare();
  ingot_context_destroy(context);
  free(base);
  free(tuned);
  return finish("packs");
}
