/* Merges models as a recipe says and writes the result as a model directory.
 *
 *   01_merge_directory recipe.yml merged
 *
 * Ctrl-C stops at the next tile; run it again and it goes on where it stopped. */
#include <ingot/ingot.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static volatile int32_t cancel;

static void on_interrupt(int signal) {
  (void)signal;
  cancel = 1; /* all that a signal handler needs to do */
}

static int32_t on_progress(void *user, const ingot_progress *progress) {
  (void)user;
  double part = progress->bytes_total ? (double)progress->bytes_done / (double)progress->bytes_total : 1;
  fprintf(stderr, "\r%3.0f %%", 100 * part);
  return 0; /* anything else would cancel */
}

static int fail(ingot_error *error) {
  int32_t line, column;
  if (ingot_error_position(error, &line, &column))
    fprintf(stderr, "%s:%d:%d: ", ingot_error_origin(error), (int)line, (int)column);
  else if (ingot_error_subject(error))
    fprintf(stderr, "%s: ", ingot_error_subject(error));
  fprintf(stderr, "%s\n", ingot_error_message(error));
  if (ingot_error_hint(error)) fprintf(stderr, "hint: %s\n", ingot_error_hint(error));
  ingot_error_destroy(error);
  return 1;
}

static char *read_text(const char *path, uint64_t *bytes) {
  FILE *file = fopen(path, "rb");
  char *text = file ? malloc(1 << 20) : NULL;
  *bytes = text ? fread(text, 1, 1 << 20, file) : 0;
  if (file) fclose(file);
  return text;
}

int main(int count, char **arguments) {
  ingot_context *context = NULL;
  ingot_recipe *recipe = NULL;
  ingot_plan *plan = NULL;
  ingot_error *error = NULL;
  char *report = NULL;
  uint64_t bytes;
  char *text = count == 3 ? read_text(arguments[1], &bytes) : NULL;
  if (!text) return fprintf(stderr, "usage: 01_merge_directory RECIPE DIRECTORY\n"), 2;
  signal(SIGINT, on_interrupt);

  ingot_run_options options = INGOT_RUN_OPTIONS_INIT;
  options.flags = INGOT_RUN_RESUME;
  options.progress = on_progress;
  options.cancel = &cancel;
  int failed = ingot_recipe_parse(text, bytes, arguments[1], &recipe, NULL, &error) != INGOT_OK ||
               ingot_context_create(&context, NULL, &error) != INGOT_OK ||
               ingot_plan_create(context, recipe, &plan, NULL, &error) != INGOT_OK ||
               ingot_plan_run_to_directory(context, plan, arguments[2], &report, &options, &error) != INGOT_OK;
  if (failed)
    fail(error);
  else
    printf("\n%s\n", report);

  ingot_string_destroy(report);
  ingot_plan_destroy(plan);
  ingot_context_destroy(context);
  ingot_recipe_destroy(recipe);
  free(text);
  return failed;
}
