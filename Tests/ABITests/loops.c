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

int main(int count, char **arguments) {
  int rounds = count > 1 ? atoi(arguments[1]) : 10000;
  for (int32_t team = INGOT_TEAM_AUTO; team <= INGOT_TEAM_PTHREAD; team += INGOT_TEAM_PTHREAD) {
    /* What is made once and kept, and the caches of the runtime, which take some thousand rounds to fill. */
    for (int i = 0; i < 20 + rounds / 5; ++i) once(team);
    size_t bytes = mallinfo2().uordblks;
    int threads = entries("/proc/self/task"), descriptors = entries("/proc/self/fd");
    for (int i = 0; i < rounds; ++i) once(team);
    size_t grown = mallinfo2().uordblks - bytes;
    if ((long)grown >= 64 * 1024) fprintf(stderr, "team %d: %ld bytes more after %d rounds\n", (int)team, (long)grown, rounds);
    CHECK((long)grown < 64 * 1024);
    CHECK(entries("/proc/self/task") <= threads && entries("/proc/self/fd") <= descriptors);
  }
  return finish("loops");
}
