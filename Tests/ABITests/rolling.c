/* Rolling merges through the C API: means and task vectors of models that come one at a time; what is refused leaves the state as it was. */
#include "support.h"

static char *root, *models[3];
static ingot_error *error;
static ingot_context *context;

static int32_t count_calls(void *user, const ingot_progress *progress) { return (void)progress, ++*(int *)user, 0; }

/* How many elements of the model in a directory differ from what `expected` says. */
static int wrong_values(const char *directory, float (*expected)(int index)) {
  const int starts[] = {0, EMBED, EMBED + LAYER, MODEL_ELEMENTS};
  const char *names[] = {"embed.weight", "layers.0.weight", "norm.weight"};
  size_t size;
  char *bytes = read_file(directory, "model.safetensors", &size);
  int wrong = bytes == NULL;
  for (int t = 0; bytes && t < 3; ++t) {
    const char *place = find_tensor(bytes, names[t]);
    for (int i = starts[t]; place && i < starts[t + 1]; ++i, place += 4) {
      float found;
      memcpy(&found, place, 4);
      wrong += !near(found, expected(i));
    }
    wrong += place == NULL;
  }
  free(bytes);
  return wrong;
}

/* A quarter of the first, three quarters of the second: exact in floats. */
static float weighted(int i) { return 0.25f * model_value(0, i) + 0.75f * model_value(1, i); }
static float halved_task_vectors(int i) {
  return model_value(0, i) + 0.5f * ((model_value(1, i) - model_value(0, i)) + (model_value(2, i) - model_value(0, i)));
}

static void test_mean(void) {
  char *state = joined(root, "state"), *out = joined(root, "mean"), *report = NULL, *before, *after;
  size_t size[2];
  int calls = 0;
  ingot_run_options run = INGOT_RUN_OPTIONS_INIT;
  run.progress = count_calls, run.progress_user = &calls;
  CHECK_OK(ingot_rolling_step(context, "weighted_mean", "{\"weight\": 0.25}", NULL, models[0], state, &report, &run, &error));
  CHECK(report && strstr(report, "\"models\":1") && strstr(report, "weighted_mean") && strstr(report, "\"threads\""));
  ingot_string_destroy(report);
  CHECK(calls > 0);
  CHECK_ERROR(INGOT_E_EXISTS, "number 1 of 1", ingot_rolling_step(context, NULL, NULL, NULL, models[0], state, &report, NULL, &error));
  CHECK(report == NULL);
  before = read_file(state, "rolling.json", &size[0]);
  volatile int32_t cancel = 1;
  run.cancel = &cancel;
  CHECK_ERROR(INGOT_E_CANCELLED, "nothing has changed",
              ingot_rolling_step(context, NULL, "{\"weight\": 3}", NULL, models[1], state, &report, &run, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "ema", ingot_rolling_step(context, "ema", NULL, NULL, models[1], state, &report, NULL, &error));
  after = read_file(state, "rolling.json", &size[1]);
  CHECK(before && after && size[0] == size[1] && !memcmp(before, after, size[0]));
  CHECK_OK(ingot_rolling_step(context, NULL, "{\"weight\": 0.75}", NULL, models[1], state, &report, NULL, &error));
  CHECK(report && strstr(report, "\"models\":2"));
  ingot_string_destroy(report);
  CHECK_OK(ingot_rolling_finish(context, "{\"dtype\": \"float32\"}", state, out, NULL, NULL, &error));
  CHECK(wrong_values(out, weighted) == 0);
  CHECK_ERROR(INGOT_E_EXISTS, "mean", ingot_rolling_finish(context, NULL, state, out, NULL, NULL, &error));
  ingot_run_options over = INGOT_RUN_OPTIONS_INIT;
  over.flags = INGOT_RUN_OVERWRITE;
  CHECK_OK(ingot_rolling_finish(context, NULL, state, out, NULL, &over, &error));
  CHECK_OK(ingot_rolling_step(context, NULL, "{\"again\": true, \"weight\": 1}", NULL, models[1], state, NULL, NULL, &error));
  free(before);
  free(after);
  free(state);
  free(out);
}

static void test_task_vectors(void) {
  char *state = joined(root, "vectors"), *out = joined(root, "halved");
  for (int model = 1; model <= 2; ++model)
    CHECK_OK(ingot_rolling_step(context, model == 1 ? "task_arithmetic" : NULL, NULL, model == 1 ? models[0] : NULL, models[model], state,
                                NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_STALE, "base", ingot_rolling_step(context, NULL, NULL, models[1], models[0], state, NULL, NULL, &error));
  CHECK_OK(ingot_rolling_finish(context, "{\"lambda\": 0.5}", state, out, NULL, NULL, &error));
  CHECK(wrong_values(out, halved_task_vectors) == 0);
  free(state);
  free(out);
}

static void test_mistakes(void) {
  char *state = joined(root, "never"), *known = joined(root, "state"), *text = (char *)"untouched";
#define STEP_ERROR(status, words, method, parameters, base, model) \
  CHECK_ERROR(status, words, ingot_rolling_step(context, method, parameters, base, model, state, &text, NULL, &error))
  STEP_ERROR(INGOT_E_INVALID_ARGUMENT, "needs a method", NULL, NULL, NULL, models[0]);
  CHECK(text == NULL);
  STEP_ERROR(INGOT_E_INVALID_ARGUMENT, "running_mean", "mean", NULL, NULL, models[0]);
  STEP_ERROR(INGOT_E_INVALID_ARGUMENT, "base", "magmax", NULL, NULL, models[0]);
  STEP_ERROR(INGOT_E_INVALID_ARGUMENT, "beta", "running_mean", "{\"beta\": 0.5}", NULL, models[0]);
  STEP_ERROR(INGOT_E_INVALID_ARGUMENT, "beta", "ema", "{\"beta\": 2}", NULL, models[0]);
  STEP_ERROR(INGOT_E_INVALID_ARGUMENT, "gamma", "ema", "{\"gamma\": 2}", NULL, models[0]);
  STEP_ERROR(INGOT_E_INVALID_ARGUMENT, "weight", "running_mean", "{\"weight\": 2}", NULL, models[0]);
  STEP_ERROR(INGOT_E_INVALID_ARGUMENT, "side", "fisher", NULL, NULL, models[0]);
  STEP_ERROR(INGOT_E_INVALID_ARGUMENT, "again", "ema", "{\"again\": 1}", NULL, models[0]);
  STEP_ERROR(INGOT_E_NOT_FOUND, "nowhere", "ema", NULL, NULL, "./nowhere");
  STEP_ERROR(INGOT_E_INVALID_ARGUMENT, "model", "ema", NULL, NULL, NULL);
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "state", ingot_rolling_step(context, "ema", NULL, NULL, models[0], NULL, &text, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "context", ingot_rolling_step(NULL, "ema", NULL, NULL, models[0], state, &text, NULL, &error));
  CHECK_ERROR(INGOT_E_EXISTS, "rolling.json", ingot_rolling_step(context, "ema", NULL, NULL, models[0], models[1], &text, NULL, &error));
  CHECK_ERROR(INGOT_E_NOT_FOUND, "never", ingot_rolling_finish(context, NULL, state, state, &text, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "lambda", ingot_rolling_finish(context, "{\"lambda\": 2}", known, state, &text, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "dtype", ingot_rolling_finish(context, "{\"dtype\": \"u8\"}", known, state, &text, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "directory", ingot_rolling_finish(context, NULL, known, NULL, &text, NULL, &error));
  CHECK(!exists(root, "never") && !exists(root, "never.partial"));
  free(state);
  free(known);
}

int main(int count, char **arguments) {
  if (count != 2) return 2;
  root = arguments[1];
  for (int i = 0; i < 3; ++i) {
    const char *names[] = {"one", "two", "three"};
    models[i] = make_model(root, names[i], i);
  }
  CHECK_OK(ingot_context_create(&context, NULL, &error));
  test_mean();
  test_task_vectors();
  test_mistakes();
  ingot_context_destroy(context);
  for (int i = 0; i < 3; ++i) free(models[i]);
  return finish("rolling");
}
