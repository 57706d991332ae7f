/* Callbacks that call back, wait, stop the work or look around, several threads on one context, and a host that is left as it was. */
#include "support.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

static ingot_error *error;
static char *model_a, *model_b;

/* ---- a model that the program reads itself ---------------------------------------------------------------------------------- */

typedef struct source {
  struct host *host;
  int model;
} source;

typedef struct host {
  ingot_context *context;
  const ingot_recipe *recipe;
  const ingot_plan *plan;
  char *bytes[2];
  size_t size;
  int is_running;      /* only then a read does something */
  atomic_int reads;    /* while running */
  atomic_int not_busy; /* calls inside of a callback that were not refused as they should */
  source sources[64];
  atomic_int opened, released;
  volatile int32_t cancel;
  void (*first_read)(struct host *);
  uint32_t source_size, source_flags; /* what `open` makes of the struct; 0: as it is */
} host;

static void count_busy(host *h, ingot_status status) {
  if (status != INGOT_E_BUSY) ++h->not_busy;
}

static int32_t swallow(void *user, const char *file, uint64_t offset, const void *from, uint64_t bytes) {
  (void)user, (void)file, (void)offset, (void)from, (void)bytes;
  return 0;
}

/* Every function that takes a context, on one that is at work. */
static void use_context(host *h) {
  ingot_plan *plan = NULL;
  ingot_sink sink = INGOT_SINK_INIT;
  float numbers[2] = {1, 2}, result[2];
  const int64_t shape[1] = {2};
  ingot_tensor_view in = INGOT_TENSOR_VIEW_INIT, out;
  in.dtype = INGOT_DTYPE_F32, in.rank = 1, in.shape = shape, in.data = numbers;
  out = in, out.data = result;
  const ingot_tensor_view *inputs[] = {&in};
  sink.write_at = swallow;
  count_busy(h, ingot_plan_create(h->context, h->recipe, &plan, NULL, NULL));
  if (h->plan) {
    count_busy(h, ingot_plan_run_to_directory(h->context, h->plan, "never", NULL, NULL, NULL));
    count_busy(h, ingot_plan_run_to_sink(h->context, h->plan, &sink, NULL, NULL, NULL));
    count_busy(h, ingot_plan_run_to_tensors(h->context, h->plan, NULL, 0, NULL, NULL, NULL));
  }
  count_busy(h, ingot_merge_tensors(h->context, "linear", NULL, NULL, inputs, 1, &out, NULL, NULL));
  count_busy(h, ingot_directory_verify(h->context, "never", NULL, NULL, NULL));
  if (plan || !ingot_context_json(h->context)) ++h->not_busy;
}

static int32_t source_size(void *user, uint64_t *bytes) {
  *bytes = ((source *)user)->host->size;
  return 0;
}

static int32_t source_read(void *user, uint64_t offset, void *to, uint64_t bytes) {
  source *s = user;
  host *h = s->host;
  if (offset > h->size || bytes > h->size - offset) return 1;
  if (h->is_running && h->reads++ == 0 && h->first_read) h->first_read(h);
  memcpy(to, h->bytes[s->model] + offset, bytes);
  return 0;
}

static void source_release(void *user) { ++((source *)user)->host->released; }

static int32_t open_source(void *user, const char *model, const char *file, ingot_source *out) {
  host *h = user;
  if (strcmp(file, "model.safetensors")) return INGOT_E_NOT_FOUND;
  if (h->opened == 64) return 78;
  source *s = &h->sources[h->opened++];
  s->host = h, s->model = model[0] == 'b';
  out->user = s, out->size = source_size, out->read_at = source_read, out->release = source_release;
  if (h->source_size) out->struct_size = h->source_size;
  if (h->source_flags) out->flags = h->source_flags;
  if (!h->is_running && h->first_read == use_context) use_context(h);
  return 0;
}

static host make_host(int32_t team, int threads) {
  host h;
  memset(&h, 0, sizeof h);
  ingot_context_options options = INGOT_CONTEXT_OPTIONS_INIT;
  options.team = team, options.threads = threads;
  CHECK_OK(ingot_context_create(&h.context, &options, &error));
  char *text = linear_recipe("a", "b");
  h.recipe = parsed(text);
  free(text);
  for (int i = 0; i < 2; ++i) h.bytes[i] = model_bytes(i + 1, &h.size);
  return h;
}

static ingot_status make_plan(host *h) {
  ingot_resolver resolver = INGOT_RESOLVER_INIT;
  resolver.user = h, resolver.open = open_source;
  ingot_plan_options options = INGOT_PLAN_OPTIONS_INIT;
  options.resolver = &resolver;
  ingot_plan *plan = NULL;
  ingot_status status = ingot_plan_create(h->context, h->recipe, &plan, &options, &error);
  h->plan = plan;
  return status;
}

static void end_host(host *h) {
  ingot_plan_destroy((ingot_plan *)h->plan);
  ingot_recipe_destroy((ingot_recipe *)h->recipe);
  ingot_context_destroy(h->context);
  CHECK(h->opened == h->released);
  for (int i = 0; i < 2; ++i) free(h->bytes[i]);
}

/* Runs into a sink that keeps nothing. */
static ingot_status run(host *h) {
  ingot_sink sink = INGOT_SINK_INIT;
  sink.write_at = swallow;
  ingot_run_options options = INGOT_RUN_OPTIONS_INIT;
  options.cancel = &h->cancel;
  h->reads = 0;
  h->is_running = 1;
  ingot_status status = ingot_plan_run_to_sink(h->context, h->plan, &sink, NULL, &options, &error);
  h->is_running = 0;
  return status;
}

/* ---- callbacks that call back, wait and stop ------------------------------------------------------------------------------- */

static void call_back(void) {
  for (int32_t team = INGOT_TEAM_AUTO; team <= INGOT_TEAM_PTHREAD; team += INGOT_TEAM_PTHREAD) {
    host h = make_host(team, 2);
    h.first_read = use_context; /* in `open` while a plan is made, and in a read on a worker while it runs */
    CHECK_STATUS(INGOT_OK, make_plan(&h));
    CHECK_STATUS(INGOT_OK, run(&h));
    CHECK(h.reads > 0 && h.not_busy == 0);
    end_host(&h);
  }
}

static void *cancel_from_elsewhere(void *user) {
  host *h = user;
  use_context(h);
  h->cancel = 1;
  return NULL;
}

/* A read that does not come back before somebody has cancelled the run. */
static void wait_for_cancel(host *h) {
  pthread_t other;
  if (pthread_create(&other, NULL, cancel_from_elsewhere, h) || pthread_join(other, NULL)) exit(92);
}

static void *destroy_from_elsewhere(void *user) {
  host *h = user;
  ingot_context_destroy(h->context); /* comes back although a call is under way */
  if (ingot_context_json(h->context)) ++h->not_busy;
  return NULL;
}

static void wait_for_destroy(host *h) {
  pthread_t other;
  if (pthread_create(&other, NULL, destroy_from_elsewhere, h) || pthread_join(other, NULL)) exit(92);
}

static void wait_and_stop(void) {
  for (int threads = 1; threads <= 3; ++threads) {
    host h = make_host(INGOT_TEAM_AUTO, threads);
    CHECK_STATUS(INGOT_OK, make_plan(&h));
    h.first_read = wait_for_cancel;
    CHECK_STATUS(INGOT_E_CANCELLED, run(&h));
    CHECK(h.not_busy == 0);
    h.first_read = NULL;
    h.cancel = 0;
    CHECK_STATUS(INGOT_OK, run(&h)); /* the context is none the worse for it */
#ifndef UNDER_A_CHECKER              /* looks at a destroyed handle on purpose */
    h.first_read = wait_for_destroy;
    CHECK_STATUS(INGOT_OK, run(&h));
    CHECK(h.not_busy == 0);
    h.context = NULL;
#endif
    end_host(&h);
  }
}

static void refused_sources(void) {
  host h = make_host(INGOT_TEAM_AUTO, 1);
  h.source_size = 7;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "ingot_source", make_plan(&h));
  h.source_size = sizeof(ingot_source) + 1;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "ingot_source", make_plan(&h));
  h.source_size = sizeof(ingot_source) + 8; /* the library's struct has no room for that */
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "ingot_source", make_plan(&h));
  h.source_size = 4096;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "ingot_source", make_plan(&h));
  h.source_size = 0;
  h.source_flags = 8;
  CHECK_ERROR(INGOT_E_UNSUPPORTED, "0x8", make_plan(&h));
  CHECK(h.released == 0 && h.opened == 5); /* a struct that is refused is not consumed */
  h.opened = 0;
  h.source_flags = 0;
  h.source_size = offsetof(ingot_source, map); /* an older program's: without release */
  CHECK_STATUS(INGOT_OK, make_plan(&h));
  CHECK_STATUS(INGOT_OK, run(&h));
  h.opened = 0;
  end_host(&h);
}

/* ---- several threads --------------------------------------------------------------------------------------------------------- */

#ifdef UNDER_A_CHECKER
enum { THREADS = 4, ROUNDS = 5 };
#else
enum { THREADS = 4, ROUNDS = 40 };
#endif

typedef struct caller {
  ingot_context *context; /* NULL: its own */
  int done, busy, wrong;
} caller;

static void *merge_many_times(void *user) {
  caller *c = user;
  const int64_t shape[1] = {3000};
  float *in = malloc(2 * 3000 * sizeof *in), *out = in + 3000;
  for (int i = 0; i < 3000; ++i) in[i] = (float)i;
  ingot_tensor_view x = INGOT_TENSOR_VIEW_INIT, y;
  x.dtype = INGOT_DTYPE_F32, x.rank = 1, x.shape = shape, x.data = in;
  y = x, y.data = out;
  const ingot_tensor_view *inputs[] = {&x, &x};
  for (int round = 0; round < ROUNDS; ++round) {
    ingot_context *context = c->context;
    ingot_context_options options = INGOT_CONTEXT_OPTIONS_INIT;
    options.threads = 2;
    if (!context && ingot_context_create(&context, &options, NULL)) ++c->wrong;
    memset(out, 0, 3000 * sizeof *out);
    ingot_status status = ingot_merge_tensors(context, "linear", NULL, NULL, inputs, 2, &y, NULL, NULL);
    if (status == INGOT_OK) ++c->done;
    if (status == INGOT_E_BUSY) ++c->busy;
    if (status == INGOT_OK && memcmp(in, out, 3000 * sizeof *out)) ++c->wrong;
    if (!c->context) ingot_context_destroy(context);
  }
  free(in);
  return NULL;
}

static void several_threads(void) {
  for (int shared = 0; shared < 2; ++shared) {
    ingot_context *context = NULL;
    if (shared) CHECK_OK(ingot_context_create(&context, NULL, &error));
    pthread_t threads[THREADS];
    caller callers[THREADS];
    memset(callers, 0, sizeof callers);
    for (int i = 0; i < THREADS; ++i) {
      callers[i].context = context;
      CHECK(!pthread_create(&threads[i], NULL, merge_many_times, &callers[i]));
    }
    int done = 0, busy = 0, wrong = 0;
    for (int i = 0; i < THREADS; ++i) {
      CHECK(!pthread_join(threads[i], NULL));
      done += callers[i].done, busy += callers[i].busy, wrong += callers[i].wrong;
    }
    CHECK(wrong == 0 && done > 0 && done + busy == THREADS * ROUNDS && (shared || busy == 0));
    ingot_context_destroy(context);
  }
}

/* ---- what a host sees -------------------------------------------------------------------------------------------------------- */

static int is_mapped(const char *path) {
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[4096];
  int found = 0;
  while (maps && fgets(line, sizeof line, maps)) found |= strstr(line, path) != NULL;
  if (!maps || fclose(maps)) exit(93);
  return found;
}

typedef struct witness {
  atomic_int writes, mapped;
  int32_t answer;
  int commits, releases;
  const char *truncated; /* cut at the first write, which is that of the header: nothing was read yet */
  volatile int32_t *cancel;
} witness;

static int32_t look(void *user, const char *file, uint64_t offset, const void *from, uint64_t bytes) {
  witness *w = user;
  (void)file, (void)offset, (void)from, (void)bytes;
  if (is_mapped("/a/model.safetensors") || is_mapped("/b/model.safetensors")) ++w->mapped;
  if (w->writes++ == 0 && w->truncated && truncate(w->truncated, 2000)) exit(94);
  if (w->cancel) *w->cancel = 1;
  return w->answer;
}

static int32_t commit(void *user) { return ++((witness *)user)->commits, 0; }
static void release(void *user) { ++((witness *)user)->releases; }

/* Files are read, not mapped: one that shrinks while it is read is an error and no signal. */
static void files_that_shrink(void) {
  ingot_context *context = NULL;
  CHECK_OK(ingot_context_create(&context, NULL, &error));
  char *text = linear_recipe(model_a, model_b), *path = joined(model_b, "model.safetensors");
  ingot_recipe *recipe = parsed(text);
  size_t count;
  char *bytes = read_file(model_b, "model.safetensors", &count);
  /* That the look into the list of mappings would see one. */
  FILE *file = fopen(path, "rb");
  void *own = mmap(NULL, count, PROT_READ, MAP_SHARED, fileno(file), 0);
  CHECK(own != MAP_FAILED && is_mapped("/b/model.safetensors"));
  munmap(own, count);
  fclose(file);
  volatile int32_t cancel = 0;
  for (int round = 0; round < 4; ++round) {
    ingot_plan *plan = NULL;
    CHECK_OK(ingot_plan_create(context, recipe, &plan, NULL, &error));
    witness w;
    memset(&w, 0, sizeof w);
    w.truncated = round == 1 ? path : NULL, w.answer = round == 2 ? 5 : 0, w.cancel = round == 3 ? &cancel : NULL;
    ingot_sink sink = INGOT_SINK_INIT;
    sink.user = &w, sink.write_at = look, sink.commit = commit, sink.release = release;
    ingot_run_options options = INGOT_RUN_OPTIONS_INIT;
    options.cancel = &cancel;
    /* Otherwise a range is mapped for a moment, to ask the kernel what of it is in the page cache; nothing is read by it. */
    options.flags = INGOT_RUN_CACHED_READS;
    const ingot_status expected[] = {INGOT_OK, INGOT_E_IO, INGOT_E_CALLBACK, INGOT_E_CANCELLED};
    ingot_status status = ingot_plan_run_to_sink(context, plan, &sink, NULL, &options, &error);
    if (round == 1) {
      CHECK(status == INGOT_E_IO || status == INGOT_E_STALE);
      CHECK(error && strstr(ingot_error_json(error), "b/model.safetensors"));
      CHECK_STATUS(status, status);
      write_file(model_b, "model.safetensors", bytes, count);
    } else {
      CHECK_STATUS(expected[round], status);
    }
    CHECK(w.writes > 0 && w.mapped == 0 && w.releases == 1 && w.commits == (round == 0));
    ingot_plan_destroy(plan);
  }
  ingot_recipe_destroy(recipe);
  ingot_context_destroy(context);
  free(bytes);
  free(path);
  free(text);
}

/* A sink that has room for what it was told of, and no more. */
typedef struct store {
  uint64_t room, written;
  int beyond;
} store;

static int32_t store_reserve(void *user, const char *file, uint64_t bytes) {
  if (!strcmp(file, "words.txt")) ((store *)user)->room = bytes;
  return 0;
}

static int32_t store_write(void *user, const char *file, uint64_t offset, const void *from, uint64_t bytes) {
  store *s = user;
  if (strcmp(file, "words.txt")) return 0;
  s->beyond |= offset > s->room || bytes > s->room - offset;
  for (uint64_t i = 0; i < bytes; ++i) s->beyond |= ((const char *)from)[i] != (char)(offset + i);
  s->written += bytes;
  return 0;
}

/* A file that is carried over is copied in pieces, and not at all where it is no longer as long as the plan said. */
static void side_files_that_grow(void) {
  enum { SIZE = 5 * 1000 * 1000 };
  char *words = malloc(SIZE + 1);
  for (int i = 0; i <= SIZE; ++i) words[i] = (char)i;
  char *text = linear_recipe(model_a, model_b);
  ingot_recipe *recipe = parsed(text);
  ingot_context *context = NULL;
  CHECK_OK(ingot_context_create(&context, NULL, &error));
  for (int grown = -1; grown <= 1; ++grown) {
    write_file(model_a, "words.txt", words, SIZE);
    ingot_plan *plan = NULL;
    CHECK_OK(ingot_plan_create(context, recipe, &plan, NULL, &error));
    if (grown) write_file(model_a, "words.txt", words, SIZE + grown);
    store s = {0, 0, 0};
    ingot_sink sink = INGOT_SINK_INIT;
    sink.user = &s, sink.reserve = store_reserve, sink.write_at = store_write;
    if (grown) {
      CHECK_ERROR(INGOT_E_STALE, "words.txt", ingot_plan_run_to_sink(context, plan, &sink, NULL, NULL, &error));
    } else {
      CHECK_OK(ingot_plan_run_to_sink(context, plan, &sink, NULL, NULL, &error));
    }
    CHECK(s.room == SIZE && !s.beyond && s.written == (grown ? 0 : SIZE));
    ingot_plan_destroy(plan);
  }
  char *path = joined(model_a, "words.txt");
  CHECK(!unlink(path));
  free(path);
  ingot_context_destroy(context);
  ingot_recipe_destroy(recipe);
  free(text);
  free(words);
}

/* What a text decides the depth or the length of takes no stack: a host's thread may have little. */
#ifdef UNDER_A_CHECKER
enum { STACK = 8 << 20, DOCUMENTS = 40 };
#else
enum { STACK = 256 << 10, DOCUMENTS = 200 };
#endif

static void *little_stack(void *user) {
  const char *root = user;
  ingot_error *own = NULL;
  char *text = malloc(1 << 20), *end = text;
  for (int depth = 63; depth <= 64; ++depth) {
    end = text + sprintf(text, "{\"merge_method\": \"linear\", \"x\": ");
    for (int i = 0; i < depth; ++i) end += sprintf(end, i % 2 ? "[" : "{\"a\": ");
    end += sprintf(end, "1");
    for (int i = depth; i-- > 0;) *end++ = i % 2 ? ']' : '}';
    end += sprintf(end, "}");
    ingot_recipe *recipe = NULL;
    CHECK(ingot_recipe_parse(text, (uint64_t)(end - text), NULL, &recipe, NULL, &own) == INGOT_E_RECIPE && own);
    CHECK((depth > 63) == (strstr(ingot_error_message(own), "levels deep") != NULL));
    ingot_error_destroy(own);
    own = NULL;
  }
  end = text + sprintf(text, "name: d0\nmerge_method: passthrough\nmodels: [{model: %s}]\n", model_a);
  for (int i = 1; i < DOCUMENTS; ++i) {
    end += sprintf(end, "---\nname: d%d\nmerge_method: passthrough\nmodels: [{model: d%d, parameters: {scale: 0.5}}]\n", i, i - 1);
  }
  ingot_recipe *recipe = parsed(text);
  ingot_context *context = NULL;
  ingot_context_options options = INGOT_CONTEXT_OPTIONS_INIT;
  options.threads = 1;
  CHECK(ingot_context_create(&context, &options, NULL) == INGOT_OK);
  ingot_plan *plan = NULL;
  CHECK(ingot_plan_create(context, recipe, &plan, NULL, NULL) == INGOT_OK);
  char *out = joined(root, "chain");
  CHECK(ingot_plan_run_to_directory(context, plan, out, NULL, NULL, NULL) == INGOT_OK);
  free(out);
  ingot_plan_destroy(plan);
  ingot_context_destroy(context);
  ingot_recipe_destroy(recipe);
  free(text);
  return NULL;
}

static void small_stacks(const char *root) {
  pthread_attr_t attributes;
  pthread_t thread;
  CHECK(!pthread_attr_init(&attributes) && !pthread_attr_setstacksize(&attributes, STACK));
  CHECK(!pthread_create(&thread, &attributes, little_stack, (void *)root) && !pthread_join(thread, NULL));
  pthread_attr_destroy(&attributes);
}

typedef struct state {
  cpu_set_t processors;
  sigset_t mask;
  struct sigaction actions[65];
  char directory[4096];
  mode_t umask;
} state;

static void take(state *s) {
  memset(s, 0, sizeof *s);
  CHECK(!sched_getaffinity(0, sizeof s->processors, &s->processors));
  CHECK(!pthread_sigmask(SIG_SETMASK, NULL, &s->mask));
  for (int i = 1; i <= 64; ++i) sigaction(i, NULL, &s->actions[i]);
  CHECK(getcwd(s->directory, sizeof s->directory) != NULL);
  umask(s->umask = umask(0));
}

/* On this thread: processors, signals and the rest are what they were, also where the host has bound itself. */
static void *stays_as_it_was(void *user) {
  (void)user;
  state before, after;
  for (int bound = 0; bound < 2; ++bound) {
    cpu_set_t own, one;
    CHECK(!sched_getaffinity(0, sizeof own, &own));
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); ++i)
      if (CPU_ISSET(i, &own)) CPU_SET(i, &one);
    if (bound) CHECK(!sched_setaffinity(0, sizeof one, &one));
    take(&before);
    for (int32_t team = INGOT_TEAM_AUTO; team <= INGOT_TEAM_PTHREAD; team += INGOT_TEAM_PTHREAD) {
      host h = make_host(team, 3);
      CHECK_STATUS(INGOT_OK, make_plan(&h));
      CHECK_STATUS(INGOT_OK, run(&h));
      end_host(&h);
      take(&after);
      CHECK(CPU_EQUAL(&before.processors, &after.processors));
      CHECK(!memcmp(&before.mask, &after.mask, sizeof before.mask));
      int changed = 0;
      for (int i = 1; i <= 64; ++i) changed += before.actions[i].sa_handler != after.actions[i].sa_handler;
      CHECK(changed == 0 && !strcmp(before.directory, after.directory) && before.umask == after.umask);
    }
    if (bound) CHECK(!sched_setaffinity(0, sizeof own, &own));
  }
  return NULL;
}

int main(int count, char **arguments) {
  if (count != 2) return 2;
  model_a = make_model(arguments[1], "a", 1);
  model_b = make_model(arguments[1], "b", 2);
  call_back();
  wait_and_stop();
  refused_sources();
  several_threads();
  files_that_shrink();
  side_files_that_grow();
  small_stacks(arguments[1]);
  stays_as_it_was(NULL);
  pthread_t other;
  CHECK(!pthread_create(&other, NULL, stays_as_it_was, NULL) && !pthread_join(other, NULL));
  free(model_a);
  free(model_b);
  return finish("callbacks");
}
