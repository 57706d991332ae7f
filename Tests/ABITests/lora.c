/* LoRA adapters through the C API: made of a difference, looked at, merged, resized, applied; what is refused, and that nothing is left then. */
#include "support.h"

static char *root, *base, *tuned;
static ingot_error *error;
static ingot_context *context;

static int32_t count_calls(void *user, const ingot_progress *progress) {
  CHECK(progress->bytes_done <= progress->bytes_total);
  ++*(int *)user;
  return 0;
}

/* The number behind a key, the first one behind a text; -1 where it is not. */
static double number_behind(const char *json, const char *text, const char *key) {
  char quoted[64];
  snprintf(quoted, sizeof quoted, "\"%s\": ", key);
  const char *place = json ? strstr(json, text) : NULL;
  place = place ? strstr(place, quoted) : NULL;
  return place ? strtod(place + strlen(quoted), NULL) : -1;
}

/* Of the layer, in a report or in the first adapter of an inspection. */
static double layer(const char *json, const char *key) { return number_behind(json, "\"layers.0\"", key); }

/* The rows of the layer are shifts of one of 101 values: rank 101 at most. */
static void test_extract(void) {
  char *adapter = joined(root, "adapter"), *report = NULL;
  int calls = 0;
  ingot_run_options run = INGOT_RUN_OPTIONS_INIT;
  run.progress = count_calls, run.progress_user = &calls;
  const char *wanted = "{\"rank\": 128, \"exact\": true, \"embeddings\": \"whole\", \"seed\": 18446744073709551615}";
  CHECK_OK(ingot_lora_extract(context, wanted, base, tuned, adapter, &report, &run, &error));
  CHECK(calls > 0 && layer(report, "rank") <= 101 && layer(report, "relative_error") >= 0 && layer(report, "relative_error") < 1e-5);
  CHECK(number_behind(report, "{", "whole_tensors") == 1);
  CHECK(exists(adapter, "adapter_config.json") && exists(adapter, "adapter_model.safetensors"));
  ingot_string_destroy(report);
  CHECK_ERROR(INGOT_E_EXISTS, "adapter", ingot_lora_extract(context, wanted, base, tuned, adapter, &report, NULL, &error));
  CHECK(report == NULL);
  run.flags = INGOT_RUN_OVERWRITE, run.sync = INGOT_SYNC_NONE;
  wanted = "{\"energy\": 1, \"rules\": {\"*\": 101}, \"max_rank\": 300, \"dtype\": \"float32\", \"others\": null}";
  CHECK_OK(ingot_lora_extract(context, wanted, base, tuned, adapter, NULL, &run, &error));
  free(adapter);
}

/* base+adapter is the fine-tuned model again. */
static void test_apply(void) {
  char *text = malloc(strlen(root) * 2 + 100);
  sprintf(text, "merge_method: passthrough\nmodels:\n  - model: {model: {path: %s/base}, lora: {path: %s/adapter}}\n", root, root);
  ingot_recipe *recipe = parsed(text);
  ingot_plan *plan = NULL;
  float *found = malloc(sizeof(float) * MODEL_ELEMENTS);
  const int starts[] = {0, EMBED, EMBED + LAYER};
  const char *names[] = {"embed.weight", "layers.0.weight", "norm.weight"};
  ingot_tensor_view views[3];
  const ingot_tensor_view *outputs[3];
  CHECK_OK(ingot_plan_create(context, recipe, &plan, NULL, &error));
  for (uint64_t i = 0; i < 3; ++i) {
    views[i] = (ingot_tensor_view)INGOT_TENSOR_VIEW_INIT;
    CHECK_OK(ingot_plan_tensor(plan, i, &views[i], &error));
    for (int t = 0; t < 3; ++t)
      if (!strcmp(views[i].name, names[t])) views[i].data = found + starts[t];
    outputs[i] = &views[i];
  }
  CHECK_OK(ingot_plan_run_to_tensors(context, plan, outputs, 3, NULL, NULL, &error));
  int wrong = 0;
  for (int i = 0; i < MODEL_ELEMENTS; ++i) {
    float distance = found[i] - model_value(2, i);
    wrong += !(distance < 1e-5f && distance > -1e-5f);
  }
  CHECK(wrong == 0);
  ingot_plan_destroy(plan);
  ingot_recipe_destroy(recipe);
  free(found);
  free(text);
}

static void test_algebra(void) {
  char *adapter = joined(root, "adapter"), *sum = joined(root, "sum"), *small = joined(root, "small"), *report = NULL;
  const char *pair[] = {adapter, adapter}, *both[] = {adapter, sum};
  /* A quarter and three quarters of one change are that change. */
  CHECK_OK(
      ingot_lora_merge(context, "cat", "{\"weight\": [0.25, 0.75], \"modules_to_save\": \"first\"}", pair, 2, sum, &report, NULL, &error));
  double norm = layer(report, "norm");
  CHECK(norm > 0 && layer(report, "rank") > 101 && layer(report, "rank") <= 202);
  ingot_string_destroy(report);
  CHECK_OK(ingot_lora_inspect("{\"spectrum\": true}", both, 2, &report, &error));
  CHECK(report && strstr(report, "\"singular_values\"") && strstr(report, "\"overlaps\""));
  CHECK(layer(report, "norm") > 0.9999 * norm && layer(report, "norm") < 1.0001 * norm);
  ingot_string_destroy(report);
  CHECK_OK(ingot_lora_resize(context, "{\"rank\": 8, \"dtype\": \"bfloat16\"}", sum, small, &report, NULL, &error));
  CHECK(layer(report, "rank") == 8 && layer(report, "relative_error") > 0 && layer(report, "norm") < norm);
  ingot_string_destroy(report);
  CHECK_OK(ingot_lora_inspect(NULL, NULL, 0, &report, &error));
  CHECK(report && strstr(report, "\"adapters\": []"));
  ingot_string_destroy(report);
  free(adapter);
  free(sum);
  free(small);
}

static void test_mistakes(void) {
  char *adapter = joined(root, "adapter"), *out = joined(root, "never"), *text = (char *)"untouched";
  const char *one[] = {adapter}, *none[] = {NULL}, *nowhere[] = {"./nowhere"};
#define MERGE_ERROR(status, words, method, parameters, list, count) \
  CHECK_ERROR(status, words, ingot_lora_merge(context, method, parameters, list, count, out, &text, NULL, &error))
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "knots", "knot", NULL, one, 1);
  CHECK(text == NULL);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "densty", "ties", "{\"densty\": 0.5}", one, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "density", "ties", "{\"density\": \"half\"}", one, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "frequency", "ties", "{\"majority\": \"loud\"}", one, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "2 values", "linear", "{\"weight\": [1, 2]}", one, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "weight", "linear", "{\"weight\": 1e999}", one, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "rank and energy", "svd", "{\"rank\": 2, \"energy\": 0.5}", one, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "rank is 0", "svd", "{\"rank\": 0}", one, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "rank", "svd", "{\"rank\": 2.5}", one, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "seed", "lego", "{\"seed\": -1}", one, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "dtype", "linear", "{\"dtype\": \"int8\"}", one, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "reweight", "lego", "{\"reweight\": 1}", one, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "object", "linear", "[]", one, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "parameters_json", "linear", "{", one, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "adapters", "linear", NULL, NULL, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "adapters[0]", "linear", NULL, none, 1);
  MERGE_ERROR(INGOT_E_INVALID_ARGUMENT, "method", NULL, NULL, one, 1);
  MERGE_ERROR(INGOT_E_NOT_FOUND, "nowhere", "linear", NULL, nowhere, 1);
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "directory", ingot_lora_merge(context, "cat", NULL, one, 1, NULL, &text, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "context", ingot_lora_merge(NULL, "cat", NULL, one, 1, out, &text, NULL, &error));
#define EXTRACT_ERROR(words, parameters) \
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, words, ingot_lora_extract(context, parameters, base, tuned, out, &text, NULL, &error))
  EXTRACT_ERROR("no rank", NULL);
  EXTRACT_ERROR("norm_fraction", "{\"norm_fraction\": 1}");
  EXTRACT_ERROR("max_rank", "{\"rank\": 1, \"max_rank\": 0}");
  EXTRACT_ERROR("fraction:SHARE", "{\"rank\": 1, \"rules\": {\"*\": \"energetic\"}}");
  CHECK(strstr(last_error_text, "\"subject\":\"rules\""));
  EXTRACT_ERROR("object", "{\"rank\": 1, \"rules\": [1]}");
  EXTRACT_ERROR("only", "{\"rank\": 1, \"only\": \"layers\"}");
  EXTRACT_ERROR("skip", "{\"rank\": 1, \"skip\": [\"/(/\"]}");
  EXTRACT_ERROR("whole, lora, skip", "{\"rank\": 1, \"embeddings\": \"maybe\"}");
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "tuned", ingot_lora_extract(context, "{\"rank\": 1}", base, NULL, out, &text, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "no rank", ingot_lora_resize(context, "{}", adapter, out, &text, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "adapter", ingot_lora_resize(context, "{\"rank\": 1}", NULL, out, &text, NULL, &error));
  CHECK_ERROR(INGOT_E_NOT_FOUND, "adapter_model.safetensors", ingot_lora_resize(context, "{\"rank\": 1}", base, out, &text, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "out", ingot_lora_inspect(NULL, one, 1, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "spectrum", ingot_lora_inspect("{\"spectrum\": \"yes\"}", one, 1, &text, &error));
  volatile int32_t cancel = 1;
  ingot_run_options run = INGOT_RUN_OPTIONS_INIT;
  run.cancel = &cancel;
  CHECK_STATUS(INGOT_E_CANCELLED, ingot_lora_merge(context, "cat", NULL, one, 1, out, &text, &run, &error));
  run.sync = 7;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "sync", ingot_lora_merge(context, "cat", NULL, one, 1, out, &text, &run, &error));
  CHECK(!exists(root, "never") && !exists(root, "never.partial"));
  free(adapter);
  free(out);
}

int main(int count, char **arguments) {
  if (count != 2) return 2;
  root = arguments[1];
  base = make_model(root, "base", 1);
  tuned = make_model(root, "tuned", 2);
  CHECK_OK(ingot_context_create(&context, NULL, &error));
  test_extract();
  test_apply();
  test_algebra();
  test_mistakes();
  ingot_context_destroy(context);
  free(base);
  free(tuned);
  return finish("lora");
}
