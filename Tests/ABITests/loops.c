/* Makes and destroys every kind of object many times: memory, threads and descriptors stay where they were. */
#include "support.h"

#include <dirent.h>
#include <malloc.h>

static ingot_error *error;
static float numbers[4] = {1, 2, 3, 4};
static const int64_t shape[1] = {4};
static const char *text = "merge_method: linear\nmodels: [{model: m, parameters: {weight: 1}}]\n";

static int entries(const char *directory) {
  int count = 0;
  DIR *d = opendir(directory);
  while (d && readdir(d)) ++count;
  if (d) closedir(d);
  return count;
}

static void once(int32_t team) {
  ingot_context_options options = INGOT_CONTEXT_OPTIONS_INIT;
  options.threads = 2;
  options.team = team;
  ingot_context *context = NULL;
  ingot_recipe *recipe = NULL;
  ingot_model *model = NULL;
  ingot_plan *plan = NULL;
  char *report = NULL;
  float result[4];
  ingot_tensor_view v = INGOT_TENSOR_VIEW_INIT, described = INGOT_TENSOR_VIEW_INIT;
  v.name = "w", v.dtype = INGOT_DTYPE_F32, v.rank = 1, v.shape = shape, v.data = numbers;
  const ingot_tensor_view *views[] = {&v};
  CHECK_OK(ingot_context_create(&context, &options, &error));
  CHECK_OK(ingot_recipe_parse(text, strlen(text), NULL, &recipe, NULL, &error));
  CHECK_OK(ingot_model_create("m", views, 1, &model, NULL, &error));
  const ingot_model *models[] = {model};
  ingot_plan_options plan_options = INGOT_PLAN_OPTIONS_INIT;
  plan_options.models = models, plan_options.model_count = 1;
  CHECK_OK(ingot_plan_create(context, recipe, &plan, &plan_options, &error));
  CHECK(ingot_plan_json(plan) && ingot_plan_table(plan));
  CHECK_OK(ingot_plan_tensor(plan, 0, &described, &error));
  v.data = result;
  CHECK_OK(ingot_plan_run_to_tensors(context, plan, views, 1, &report, NULL, &error));
  CHECK(result[3] == 4);
  ingot_string_destroy(report);
  ingot_plan *refused = NULL; /* errors too */
  CHECK_STATUS(INGOT_E_NOT_FOUND, ingot_plan_create(context, recipe, &refused, NULL, &error));
  ingot_plan_destroy(plan);
  ingot_model_destroy(model);
  ingot_recipe_destroy(recipe);
  ingot_context_destroy(context);
}

/* A file of one tensor, read through the program's functions. */
static const char file[] = "\x38\0\0\0\0\0\0\0{\"w\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}} 0123456789abcdef";
enum { FILE_SIZE = sizeof file - 1 };
static int opened, closed;

static int32_t size_of(void *user, uint64_t *bytes) { return (void)user, *bytes = FILE_SIZE, 0; }
static int32_t read_at(void *user, uint64_t offset, void *to, uint64_t bytes) { return (void)user, memcpy(to, file + offset, bytes), 0; }
static void close_one(void *user) { ++*(int *)user; }

static int32_t open_one(void *user, const char *model, const char *name, ingot_source *out) {
  (void)user, (void)model;
  if (strcmp(name, "model.safetensors")) return INGOT_E_NOT_FOUND;
  ++opened;
  out->user = &closed, out->size = size_of, out->read_at = read_at, out->release = close_one;
  return 0;
}

static int32_t write_at(void *user, const char *name, uint64_t offset, const void *from, uint64_t bytes) {
  return (void)name, (void)offset, (void)from, (void)bytes, *(int32_t *)user;
}

/* What `once` leaves out: sources and sinks, one tensor, runs that fail or are cancelled, errors that are kept for a while. */
static void others(int32_t team) {
  ingot_context_options options = INGOT_CONTEXT_OPTIONS_INIT;
  options.threads = 2;
  options.team = team;
  ingot_context *context = NULL;
  ingot_recipe *recipe = NULL;
  ingot_plan *plan = NULL;
  char *report = NULL;
  float result[4];
  int32_t answer = 0;
  volatile int32_t cancel = 0;
  CHECK_OK(ingot_context_create(&context, &options, &error));
  CHECK_OK(ingot_recipe_parse(text, strlen(text), NULL, &recipe, NULL, &error));
  ingot_resolver resolver = INGOT_RESOLVER_INIT;
  resolver.open = open_one;
  ingot_plan_options plan_options = INGOT_PLAN_OPTIONS_INIT;
  plan_options.resolver = &resolver;
  CHECK_OK(ingot_plan_create(context, recipe, &plan, &plan_options, &error));
  ingot_sink sink = INGOT_SINK_INIT;
  sink.user = &answer, sink.write_at = write_at;
  ingot_run_options run = INGOT_RUN_OPTIONS_INIT;
  run.cancel = &cancel;
  CHECK_OK(ingot_plan_run_to_sink(context, plan, &sink, &report, &run, &error));
  ingot_string_destroy(report);
  answer = 5;
  CHECK_STATUS(INGOT_E_CALLBACK, ingot_plan_run_to_sink(context, plan, &sink, &report, &run, &error));
  answer = 0, cancel = 1;
  CHECK_STATUS(INGOT_E_CANCELLED, ingot_plan_run_to_sink(context, plan, &sink, &report, &run, &error));
  ingot_tensor_view v = INGOT_TENSOR_VIEW_INIT, out;
  v.dtype = INGOT_DTYPE_F32, v.rank = 1, v.shape = shape, v.data = numbers;
  out = v, out.data = result;
  const ingot_tensor_view *inputs[] = {&v};
  CHECK_OK(ingot_merge_tensors(context, "linear", NULL, NULL, inputs, 1, &out, NULL, &error));
  CHECK_STATUS(INGOT_E_NOT_FOUND, ingot_checkpoint_inspect("./nowhere", &report, &error));
  CHECK(ingot_directory_verify(context, "./nowhere", &report, NULL, &error) != INGOT_OK && error);
  ingot_error *kept = error;
  error = NULL;
  ingot_recipe *refused = NULL;
  CHECK_STATUS(INGOT_E_RECIPE, ingot_recipe_parse("a: [", 4, NULL, &refused, NULL, &error));
  ingot_context_destroy(context); /* before its plan */
  CHECK(ingot_error_message(kept)[0] && ingot_plan_json(plan));
  ingot_plan_destroy(plan);
  CHECK(opened == closed);
  ingot_recipe_destroy(recipe);
  ingot_error_destroy(kept);
}

static void one_of_each(int32_t team, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    once(team);
    if (i % 10 == 0) others(team);
  }
}

int main(int count, char **arguments) {
  int rounds = count > 1 ? atoi(arguments[1]) : 10000;
  for (int32_t team = INGOT_TEAM_AUTO; team <= INGOT_TEAM_PTHREAD; team += INGOT_TEAM_PTHREAD) {
    /* What is made once and kept, and the caches of the runtime, which take some thousand rounds to fill. */
    one_of_each(team, 20 + rounds / 5);
    size_t bytes = mallinfo2().uordblks;
    int threads = entries("/proc/self/task"), descriptors = entries("/proc/self/fd");
    one_of_each(team, rounds);
    size_t grown = mallinfo2().uordblks - bytes;
    if ((long)grown >= 64 * 1024) fprintf(stderr, "team %d: %ld bytes more after %d rounds\n", (int)team, (long)grown, rounds);
    CHECK((long)grown < 64 * 1024);
    CHECK(entries("/proc/self/task") <= threads && entries("/proc/self/fd") <= descriptors);
  }
  return finish("loops");
}
