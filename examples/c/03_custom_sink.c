/* Sends the output of a merge through functions of one's own: here they count, and keep one checksum of everything.
 *
 *   03_custom_sink recipe.yml
 *
 * An object store or an archive would take the same bytes: they come in any order, from several threads. */
#include <ingot/ingot.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

typedef struct sink_state {
  pthread_mutex_t lock;
  uint64_t bytes, files;
  uint64_t checksum; /* a sum over all bytes and their places, which does not depend on the order they come in */
  int committed;
} sink_state;

static int32_t reserve(void *user, const char *file, uint64_t bytes) {
  sink_state *state = user;
  printf("%s: %llu bytes\n", file, (unsigned long long)bytes);
  state->files += 1;
  return 0;
}

static int32_t write_at(void *user, const char *file, uint64_t offset, const void *from, uint64_t bytes) {
  sink_state *state = user;
  const unsigned char *c = from;
  uint64_t sum = 0;
  for (uint64_t i = 0; i < bytes; ++i) sum += (offset + i + strlen(file)) * c[i];
  pthread_mutex_lock(&state->lock);
  state->checksum += sum;
  state->bytes += bytes;
  pthread_mutex_unlock(&state->lock);
  return 0;
}

static int32_t commit(void *user) {
  ((sink_state *)user)->committed = 1;
  return 0;
}

int main(int count, char **arguments) {
  static char text[1 << 20];
  FILE *file = count >= 2 ? fopen(arguments[1], "rb") : NULL;
  if (!file) return fprintf(stderr, "usage: 03_custom_sink RECIPE\n"), 2;
  uint64_t bytes = fread(text, 1, sizeof text, file);
  fclose(file);
  ingot_context *context = NULL;
  ingot_recipe *recipe = NULL;
  ingot_plan *plan = NULL;
  ingot_error *error = NULL;
  sink_state state = {PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, 0};
  ingot_sink sink = INGOT_SINK_INIT;
  sink.user = &state;
  sink.reserve = reserve;
  sink.write_at = write_at;
  sink.commit = commit;
  if (ingot_context_create(&context, NULL, &error) || ingot_recipe_parse(text, bytes, arguments[1], &recipe, NULL, &error) ||
      ingot_plan_create(context, recipe, &plan, NULL, &error) || ingot_plan_run_to_sink(context, plan, &sink, NULL, NULL, &error))
    fprintf(stderr, "%s: %s\n", ingot_status_name(ingot_error_status(error)), ingot_error_message(error));
  else
    printf("%llu bytes in %llu files, checksum %016llx\n", (unsigned long long)state.bytes, (unsigned long long)state.files,
           (unsigned long long)state.checksum);
  ingot_error_destroy(error);
  ingot_plan_destroy(plan);
  ingot_recipe_destroy(recipe);
  ingot_context_destroy(context);
  return !state.committed;
}
