/* Merges through the C API: into a directory, a sink and memory, from directories, sources and memory; progress and cancel. */
#include "support.h"

#include <pthread.h>

static char *root, *model_a, *model_b;
static ingot_error *error;

static float expected_value(int i) { return 0.25f * model_value(1, i) + 0.75f * model_value(2, i); }

static void check_weights(const char *directory) {
  size_t count;
  char *bytes = read_file(directory, "model.safetensors", &count);
  CHECK(bytes);
  if (!bytes) return;
  const char *names[] = {"embed.weight", "layers.0.weight", "norm.weight"};
  const int counts[] = {EMBED, LAYER, NORM};
  int index = 0, wrong = 0;
  for (int t = 0; t < 3; ++t) {
    const char *start = find_tensor(bytes, names[t]);
    CHECK(start);
    for (int i = 0; start && i < counts[t]; ++i, ++index) {
      float value;
      memcpy(&value, start + 4 * i, 4);
      wrong += !near(value, expected_value(index));
    }
  }
  CHECK(wrong == 0);
  free(bytes);
}

static int same_file(const char *a, const char *b, const char *name) {
  size_t na = 0, nb = 1;
  char *ba = read_file(a, name, &na), *bb = read_file(b, name, &nb);
  int same = ba && bb && na == nb && !memcmp(ba, bb, na);
  free(ba);
  free(bb);
  return same;
}

/* ---- progress, cancel, re-entrancy ------------------------------------------------------------------------------------------- */

typedef struct watch {
  ingot_context *context;
  const ingot_recipe *recipe;
  const ingot_plan *plan;
  pthread_t thread;
  int calls, answer, reenter, destroy;
  uint64_t done, total;
  volatile int32_t *cancel;
} watch;

/* Another thread, while a call of its context runs. */
static void *from_another_thread(void *user) {
  watch *w = user;
  ingot_plan *plan = NULL;
  ingot_error *inner = NULL;
  check_status(INGOT_E_BUSY, ingot_plan_create(w->context, w->recipe, &plan, NULL, &inner), &inner, __FILE__, __LINE__, "second thread");
  return NULL;
}

static int32_t on_progress(void *user, const ingot_progress *progress) {
  watch *w = user;
  CHECK(progress->struct_size == sizeof *progress);
  CHECK(progress->bytes_done >= w->done && progress->bytes_done <= progress->bytes_total);
  CHECK(progress->tensors_done <= progress->tensors_total && progress->tensors_total == 3);
  CHECK(pthread_equal(pthread_self(), w->thread));
  w->done = progress->bytes_done;
  w->total = progress->bytes_total;
  if (w->reenter && w->calls == 0) {
    ingot_plan *plan = NULL;
    ingot_error *inner = NULL;
    check_status(INGOT_E_BUSY, ingot_plan_create(w->context, w->recipe, &plan, NULL, &inner), &inner, __FILE__, __LINE__,
                 "re-entrant plan");
    CHECK(plan == NULL);
    check_status(INGOT_E_BUSY, ingot_plan_run_to_directory(w->context, w->plan, "never", NULL, NULL, &inner), &inner, __FILE__, __LINE__,
                 "re-entrant run");
    CHECK(ingot_context_json(w->context) != NULL); /* getters are not calls */
    pthread_t other;
    if (!pthread_create(&other, NULL, from_another_thread, w)) pthread_join(other, NULL);
  }
  if (w->destroy && w->calls == 0) ingot_context_destroy(w->context);
  if (w->cancel) *w->cancel = 1;
  ++w->calls;
  return w->answer;
}

static ingot_plan *make_plan(ingot_context *context, const ingot_recipe *recipe) {
  ingot_plan *plan = NULL;
  CHECK_OK(ingot_plan_create(context, recipe, &plan, NULL, &error));
  return plan;
}

static void test_directory(ingot_context *context, const ingot_recipe *recipe) {
  ingot_plan *plan = make_plan(context, recipe);
  CHECK(ingot_plan_tensor_count(plan) == 3);
  CHECK(strlen(ingot_plan_digest(plan)) == 32);
  CHECK(strstr(ingot_plan_json(plan), "layers.0.weight") && ingot_plan_json(plan) == ingot_plan_json(plan));
  CHECK(strstr(ingot_plan_table(plan), "layers.0.weight"));

  watch w = {context, recipe, plan, pthread_self(), 0, 0, 1, 0, 0, 0, NULL};
  ingot_run_options options = INGOT_RUN_OPTIONS_INIT;
  options.progress = on_progress;
  options.progress_user = &w;
  options.progress_interval_ms = 1;
  char *out = joined(root, "out"), *report = NULL;
  CHECK_OK(ingot_plan_run_to_directory(context, plan, out, &report, &options, &error));
  CHECK(w.calls > 0 && w.done == w.total && w.total == 4 * MODEL_ELEMENTS);
  CHECK(report && strstr(report, "\"bytes_written\":") && strstr(report, "\"isa\":"));
  ingot_string_destroy(report);
  check_weights(out);
  CHECK(exists(out, "config.json") && exists(out, "tokenizer.json") && exists(out, "ingot.json"));

  report = (char *)"untouched";
  CHECK_ERROR(INGOT_E_EXISTS, "out", ingot_plan_run_to_directory(context, plan, out, &report, NULL, &error));
  CHECK(report == NULL);
  options.flags = INGOT_RUN_OVERWRITE;
  options.sync = INGOT_SYNC_NONE;
  w.done = 0;
  CHECK_OK(ingot_plan_run_to_directory(context, plan, out, NULL, &options, &error));
  check_weights(out);

  CHECK_OK(ingot_directory_verify(context, out, &report, NULL, &error));
  CHECK(report && strstr(report, "\"intact\":"));
  ingot_string_destroy(report);
  char *weights = joined(out, "model.safetensors");
  FILE *file = fopen(weights, "r+b");
  fseek(file, -2, SEEK_END);
  fputc(99, file);
  fclose(file);
  CHECK_ERROR(INGOT_E_FORMAT, "norm.weight", ingot_directory_verify(context, out, &report, NULL, &error));
  CHECK(report && strstr(report, "norm.weight")); /* what differs is told with the failure */
  ingot_string_destroy(report);
  free(weights);
  free(out);
  ingot_plan_destroy(plan);
}

static void test_cancel(ingot_context *context, const ingot_recipe *recipe) {
  ingot_plan *plan = make_plan(context, recipe);
  char *out = joined(root, "cancelled");
  volatile int32_t cancel = 1;
  ingot_run_options options = INGOT_RUN_OPTIONS_INIT;
  options.cancel = &cancel;
  CHECK_STATUS(INGOT_E_CANCELLED, ingot_plan_run_to_directory(context, plan, out, NULL, &options, &error));
  CHECK(!exists(root, "cancelled") && exists(root, "cancelled.partial"));
  CHECK_ERROR(INGOT_E_EXISTS, "cancelled.partial", ingot_plan_run_to_directory(context, plan, out, NULL, NULL, &error));

  watch w = {context, recipe, plan, pthread_self(), 0, 42, 0, 0, 0, 0, NULL};
  options.cancel = NULL;
  options.flags = INGOT_RUN_RESUME;
  options.progress = on_progress;
  options.progress_user = &w;
  options.progress_interval_ms = 1;
  CHECK_STATUS(INGOT_E_CANCELLED, ingot_plan_run_to_directory(context, plan, out, NULL, &options, &error));
  CHECK(last_user_code == 42 && w.calls == 1 && !exists(root, "cancelled"));

  options.progress = NULL;
  CHECK_OK(ingot_plan_run_to_directory(context, plan, out, NULL, &options, &error));
  check_weights(out);
  free(out);
  ingot_plan_destroy(plan);
}

static void test_destroy_inside_callback(const ingot_recipe *recipe) {
  ingot_context *context = NULL;
  CHECK_OK(ingot_context_create(&context, NULL, &error));
  ingot_plan *plan = make_plan(context, recipe);
  watch w = {context, recipe, plan, pthread_self(), 0, 0, 0, 1, 0, 0, NULL};
  ingot_run_options options = INGOT_RUN_OPTIONS_INIT;
  options.progress = on_progress;
  options.progress_user = &w;
  options.progress_interval_ms = 1;
  char *out = joined(root, "orphan");
  CHECK_OK(ingot_plan_run_to_directory(context, plan, out, NULL, &options, &error));
  check_weights(out);
  ingot_plan_destroy(plan); /* after its context: the order does not matter */
  free(out);
}

/* ---- sinks and sources in memory ----------------------------------------------------------------------------------------------- */

typedef struct memory_file {
  char name[64];
  char *bytes;
  uint64_t size, written;
} memory_file;

typedef struct store {
  pthread_mutex_t lock;
  memory_file files[16];
  int count, commits, releases, opened, fail_writes, fail_reads, fail_size, has_list;
} store;

static memory_file *find_file(store *s, const char *name) {
  for (int i = 0; i < s->count; ++i)
    if (!strcmp(s->files[i].name, name)) return &s->files[i];
  return NULL;
}

static int32_t reserve_file(void *user, const char *file, uint64_t bytes) {
  store *s = user;
  CHECK(!find_file(s, file) && s->count < 16);
  memory_file *f = &s->files[s->count++];
  snprintf(f->name, sizeof f->name, "%s", file);
  f->bytes = malloc(bytes + 1);
  f->size = bytes;
  f->written = 0;
  return 0;
}

static int32_t write_file_at(void *user, const char *file, uint64_t offset, const void *from, uint64_t bytes) {
  store *s = user;
  pthread_mutex_lock(&s->lock);
  memory_file *f = find_file(s, file);
  CHECK(f && offset <= f->size && bytes <= f->size - offset);
  memcpy(f->bytes + offset, from, bytes);
  f->written += bytes;
  int32_t answer = s->fail_writes && offset > 0 ? s->fail_writes : 0;
  pthread_mutex_unlock(&s->lock);
  return answer;
}

static int32_t commit_store(void *user) { return ++((store *)user)->commits, 0; }
static void release_store(void *user) { ++((store *)user)->releases; }

static ingot_sink sink_of(store *s) {
  ingot_sink sink = INGOT_SINK_INIT;
  sink.user = s;
  sink.reserve = reserve_file;
  sink.write_at = write_file_at;
  sink.commit = commit_store;
  sink.release = release_store;
  return sink;
}

static void clear(store *s) {
  for (int i = 0; i < s->count; ++i) free(s->files[i].bytes);
  memset(s, 0, sizeof *s);
  pthread_mutex_init(&s->lock, NULL);
}

static void test_sink(ingot_context *context, const ingot_recipe *recipe) {
  static store s;
  clear(&s);
  ingot_plan *plan = make_plan(context, recipe);
  ingot_sink sink = sink_of(&s);
  CHECK_OK(ingot_plan_run_to_sink(context, plan, &sink, NULL, NULL, &error));
  CHECK(s.commits == 1 && s.releases == 1);
  for (int i = 0; i < s.count; ++i) CHECK(s.files[i].written == s.files[i].size); /* every byte once */
  memory_file *weights = find_file(&s, "model.safetensors");
  char *directory = joined(root, "resumed"); /* compare with a directory of the same plan */
  CHECK_OK(ingot_plan_run_to_directory(context, plan, directory, NULL, NULL, &error));
  size_t count = 0;
  char *bytes = read_file(directory, "model.safetensors", &count);
  CHECK(bytes && weights && weights->size == count && !memcmp(bytes, weights->bytes, count));
  CHECK(find_file(&s, "config.json") && find_file(&s, "tokenizer.json"));
  free(bytes);
  free(directory);

  clear(&s);
  s.fail_writes = 7;
  CHECK_ERROR(INGOT_E_CALLBACK, "model.safetensors", ingot_plan_run_to_sink(context, plan, &sink, NULL, NULL, &error));
  CHECK(last_user_code == 7 && s.commits == 0 && s.releases == 1);
  clear(&s);
  CHECK_STATUS(INGOT_E_INVALID_ARGUMENT, ingot_plan_run_to_sink(NULL, plan, &sink, NULL, NULL, &error));
  CHECK(s.commits == 0 && s.releases == 1); /* consumed, whatever else was wrong */
  clear(&s);
  ingot_plan_destroy(plan);
}

static store *shared_store;

static int32_t source_size(void *user, uint64_t *bytes) {
  *bytes = ((memory_file *)user)->size;
  return shared_store->fail_size;
}

static int32_t source_read(void *user, uint64_t offset, void *to, uint64_t bytes) {
  memory_file *f = user;
  if (shared_store->fail_reads && offset > 0 && bytes > 1000) return shared_store->fail_reads;
  CHECK(offset <= f->size && bytes <= f->size - offset);
  memcpy(to, f->bytes + offset, bytes);
  return 0;
}

static const void *source_map(void *user, uint64_t offset, uint64_t bytes) {
  memory_file *f = user;
  return offset <= f->size && bytes <= f->size - offset ? f->bytes + offset : NULL;
}

static void source_release(void *user) {
  (void)user;
  --shared_store->opened;
}

static int32_t open_file(void *user, const char *model, const char *file, ingot_source *out) {
  store *s = user;
  char name[64];
  snprintf(name, sizeof name, "%s/%s", model, file);
  memory_file *f = find_file(s, name);
  if (!f) return INGOT_E_NOT_FOUND;
  CHECK(out->struct_size == sizeof *out);
  out->user = f;
  out->size = source_size;
  out->read_at = source_read;
  out->map = s->has_list ? source_map : NULL;
  out->release = source_release;
  ++s->opened;
  return 0;
}

static int32_t list_files(void *user, const char *model, ingot_name_fn add, void *names) {
  store *s = user;
  size_t length = strlen(model);
  for (int i = 0; i < s->count; ++i)
    if (!strncmp(s->files[i].name, model, length) && s->files[i].name[length] == '/') {
      int32_t answer = add(names, s->files[i].name + length + 1);
      if (answer) return answer;
    }
  return 0;
}

static int32_t list_evil(void *user, const char *model, ingot_name_fn add, void *names) {
  (void)user, (void)model;
  return add(names, "../../etc/passwd");
}

static void add_file(store *s, const char *name, char *bytes, uint64_t size) {
  memory_file *f = &s->files[s->count++];
  snprintf(f->name, sizeof f->name, "%s", name);
  f->bytes = bytes;
  f->size = size;
}

static void test_sources(ingot_context *context) {
  static store s;
  clear(&s);
  shared_store = &s;
  size_t count;
  char *bytes = model_bytes(1, &count);
  add_file(&s, "first/model.safetensors", bytes, count);
  bytes = model_bytes(2, &count);
  add_file(&s, "second/model.safetensors", bytes, count);
  add_file(&s, "first/config.json", strdup("{\"model_type\":\"test\"}"), 21);
  add_file(&s, "first/tokenizer.json", strdup("{}"), 2);
  char *text = linear_recipe("first", "second");
  ingot_recipe *recipe = parsed(text);
  CHECK(ingot_recipe_model_count(recipe) == 2 && !strcmp(ingot_recipe_model(recipe, 1), "second") && !ingot_recipe_model(recipe, 2));
  ingot_resolver resolver = INGOT_RESOLVER_INIT;
  resolver.user = &s;
  resolver.open = open_file;
  resolver.release = release_store;
  ingot_plan_options options = INGOT_PLAN_OPTIONS_INIT;
  options.resolver = &resolver;
  char *directory = joined(root, "from-sources");
  for (int round = 0; round < 2; ++round) { /* read_at without a list, then map with one */
    s.has_list = round;
    s.releases = 0;
    resolver.list = round ? list_files : NULL;
    ingot_plan *plan = NULL;
    CHECK_OK(ingot_plan_create(context, recipe, &plan, &options, &error));
    ingot_run_options run = INGOT_RUN_OPTIONS_INIT;
    run.flags = INGOT_RUN_OVERWRITE;
    CHECK_OK(ingot_plan_run_to_directory(context, plan, directory, NULL, &run, &error));
    check_weights(directory);
    CHECK(exists(directory, "tokenizer.json") && exists(directory, "config.json"));
    CHECK(s.releases == 0 && s.opened >= 2);
    s.fail_reads = 9;
    if (!round) {
      CHECK_ERROR(INGOT_E_CALLBACK, "model.safetensors", ingot_plan_run_to_directory(context, plan, directory, NULL, &run, &error));
      CHECK(last_user_code == 9);
    }
    s.fail_reads = 0;
    ingot_plan_destroy(plan);
    CHECK(s.releases == 1 && s.opened == 0);
  }
  ingot_plan *plan = NULL;
  s.releases = 0;
  resolver.list = list_evil;
  CHECK_ERROR(INGOT_E_CALLBACK, "../../etc/passwd", ingot_plan_create(context, recipe, &plan, &options, &error));
  CHECK(s.releases == 1 && s.opened == 0);
  resolver.list = NULL;
  s.fail_size = 11;
  CHECK_ERROR(INGOT_E_CALLBACK, "size", ingot_plan_create(context, recipe, &plan, &options, &error));
  CHECK(last_user_code == 11 && s.releases == 2 && s.opened == 0);
  s.fail_size = 0;
  s.files[1].name[0] = 'S'; /* "second" is gone */
  CHECK_ERROR(INGOT_E_NOT_FOUND, "second", ingot_plan_create(context, recipe, &plan, &options, &error));
  CHECK(s.releases == 3 && s.opened == 0 && plan == NULL);
  CHECK_STATUS(INGOT_E_INVALID_ARGUMENT, ingot_plan_create(NULL, recipe, &plan, &options, &error));
  CHECK(s.releases == 4);
  ingot_recipe_destroy(recipe);
  free(directory);
  free(text);
  clear(&s);
}

/* ---- tensors in memory --------------------------------------------------------------------------------------------------------- */

static ingot_tensor_view view_of(const char *name, float *data, int rank, const int64_t *shape) {
  ingot_tensor_view view = INGOT_TENSOR_VIEW_INIT;
  view.name = name;
  view.dtype = INGOT_DTYPE_F32;
  view.rank = rank;
  view.shape = shape;
  view.data = data;
  return view;
}

static void test_tensors(ingot_context *context) {
  const int64_t shape[2] = {3, 4}, backwards[2] = {-4, -1}, gaps[2] = {8, 2}, repeated[2] = {0, 1};
  float a[12], b[12], out[24];
  for (int i = 0; i < 12; ++i) a[i] = (float)i, b[i] = (float)(100 + i);
  ingot_tensor_view va = view_of("w", a, 2, shape), vb = view_of("w", b + 11, 2, shape), vo = view_of("w", out, 2, shape);
  vb.strides = backwards; /* the elements of b from the last to the first */
  vo.strides = gaps;
  const ingot_tensor_view *pa[] = {&va}, *pb[] = {&vb}, *po[] = {&vo};
  ingot_model *ma = NULL, *mb = NULL;
  CHECK_OK(ingot_model_create("a", pa, 1, &ma, NULL, &error));
  CHECK_OK(ingot_model_create("b", pb, 1, &mb, NULL, &error));
  CHECK(!strcmp(ingot_model_name(ma), "a"));
  const ingot_model *models[] = {ma, mb};
  char *text = linear_recipe("a", "b");
  ingot_recipe *recipe = parsed(text);
  ingot_plan_options options = INGOT_PLAN_OPTIONS_INIT;
  options.models = models;
  options.model_count = 2;
  options.flags = INGOT_PLAN_NO_FILES;
  ingot_plan *plan = NULL;
  CHECK_OK(ingot_plan_create(context, recipe, &plan, &options, &error));
  ingot_model_destroy(ma); /* the plan keeps what it needs */
  ingot_tensor_view described = INGOT_TENSOR_VIEW_INIT;
  CHECK_OK(ingot_plan_tensor(plan, 0, &described, &error));
  CHECK(!strcmp(described.name, "w") && described.rank == 2 && described.shape[1] == 4 && described.byte_count == 48 && !described.data &&
        described.dtype == INGOT_DTYPE_F32);
  CHECK_STATUS(INGOT_E_INVALID_ARGUMENT, ingot_plan_tensor(plan, 1, &described, &error));

  for (int i = 0; i < 24; ++i) out[i] = -1;
  CHECK_OK(ingot_plan_run_to_tensors(context, plan, po, 1, NULL, NULL, &error));
  for (int i = 0; i < 12; ++i) CHECK(near(out[2 * i], 0.25f * a[i] + 0.75f * b[11 - i]) && out[2 * i + 1] == -1);

  ingot_tensor_view bad = vo;
  po[0] = &bad;
  bad.flags = INGOT_TENSOR_READ_ONLY;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "read-only", ingot_plan_run_to_tensors(context, plan, po, 1, NULL, NULL, &error));
  bad = vo, bad.data = b + 2, bad.strides = NULL;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "overlap", ingot_plan_run_to_tensors(context, plan, po, 1, NULL, NULL, &error));
  bad = vo, bad.name = "v";
  CHECK_ERROR(INGOT_E_NOT_FOUND, "w", ingot_plan_run_to_tensors(context, plan, po, 1, NULL, NULL, &error));
  bad = vo, bad.dtype = INGOT_DTYPE_BF16;
  CHECK_ERROR(INGOT_E_DTYPE, "BF16", ingot_plan_run_to_tensors(context, plan, po, 1, NULL, NULL, &error));
  const int64_t other[2] = {4, 3};
  bad = vo, bad.shape = other, bad.strides = NULL;
  CHECK_ERROR(INGOT_E_SHAPE, "[4, 3]", ingot_plan_run_to_tensors(context, plan, po, 1, NULL, NULL, &error));
  bad = vo, bad.strides = repeated;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "strides", ingot_plan_run_to_tensors(context, plan, po, 1, NULL, NULL, &error));
  ingot_plan_destroy(plan);
  options.model_count = 1; /* "b" is neither a model nor, with NO_FILES, a directory */
  models[0] = mb;
  CHECK_ERROR(INGOT_E_NOT_FOUND, "a", ingot_plan_create(context, recipe, &plan, &options, &error));
  ingot_model_destroy(mb);
  ingot_recipe_destroy(recipe);
  free(text);

  /* One tensor. */
  vb = view_of(NULL, b, 2, shape);
  vo = view_of(NULL, out, 2, shape);
  const ingot_tensor_view *inputs[] = {&va, &vb};
  CHECK_OK(ingot_merge_tensors(context, "linear", "{\"weight\": [0.25, 0.75]}", NULL, inputs, 2, &vo, NULL, &error));
  for (int i = 0; i < 12; ++i) CHECK(near(out[i], 0.25f * a[i] + 0.75f * b[i]));
  CHECK_OK(ingot_merge_tensors(context, "linear", NULL, NULL, inputs, 2, &vo, NULL, &error));
  for (int i = 0; i < 12; ++i) CHECK(near(out[i], 0.5f * a[i] + 0.5f * b[i]));
  CHECK_OK(ingot_merge_tensors(context, "task_arithmetic", "{\"weight\": 0.5}", &va, inputs + 1, 1, &vo, NULL, &error));
  for (int i = 0; i < 12; ++i) CHECK(near(out[i], a[i] + 0.5f * (b[i] - a[i])));
  float first[12];
  ingot_merge_options seeded = INGOT_MERGE_OPTIONS_INIT;
  for (int round = 0; round < 2; ++round) { /* another seed, other draws */
    seeded.seed = (uint64_t)round;
    CHECK_OK(ingot_merge_tensors(context, "dare_linear", "{\"weight\": 1, \"density\": 0.5}", &va, inputs + 1, 1, &vo, &seeded, &error));
    if (!round) memcpy(first, out, sizeof first);
  }
  CHECK(memcmp(first, out, sizeof first) != 0);
  a[5] = 0.0f / 0.0f;
  CHECK_STATUS(INGOT_E_NONFINITE, ingot_merge_tensors(context, "linear", NULL, NULL, inputs, 2, &vo, NULL, &error));
  seeded.flags = INGOT_MERGE_ALLOW_NONFINITE;
  CHECK_OK(ingot_merge_tensors(context, "linear", NULL, NULL, inputs, 2, &vo, &seeded, &error));
  CHECK(out[5] != out[5] && near(out[4], 0.5f * a[4] + 0.5f * b[4]));
  volatile int32_t cancel = 1;
  seeded.cancel = &cancel;
  CHECK_STATUS(INGOT_E_CANCELLED, ingot_merge_tensors(context, "linear", NULL, NULL, inputs, 2, &vo, &seeded, &error));
  vo.data = b;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "overlap", ingot_merge_tensors(context, "linear", NULL, NULL, inputs, 2, &vo, NULL, &error));
  vo.data = out;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "linear", ingot_merge_tensors(context, "linaer", NULL, NULL, inputs, 2, &vo, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "weight",
              ingot_merge_tensors(context, "linear", "{\"weight\": [1]}", NULL, inputs, 2, &vo, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "wieght",
              ingot_merge_tensors(context, "linear", "{\"wieght\": 1}", NULL, inputs, 2, &vo, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "object", ingot_merge_tensors(context, "linear", "[1]", NULL, inputs, 2, &vo, NULL, &error));
}

/* What methods read of models besides their tensor, and the last step that is informed by activations. */
static void test_sides(ingot_context *context) {
  const int64_t shape[2] = {2, 3}, channels[1] = {3}, rows[1] = {2}, square[2] = {3, 3};
  float a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {3, 0, 3, 8, 1, 0}, fa[6] = {1, 1, 2, 0, 1, 3}, fb[6] = {3, 1, 0, 0, 4, 1}, out[6];
  ingot_tensor_view va = view_of(NULL, a, 2, shape), vb = view_of(NULL, b, 2, shape), vo = view_of(NULL, out, 2, shape);
  ingot_tensor_view sa = view_of(NULL, fa, 2, shape), sb = view_of(NULL, fb, 2, shape);
  const ingot_tensor_view *inputs[] = {&va, &vb};
  ingot_side_input one = INGOT_SIDE_INPUT_INIT, two = INGOT_SIDE_INPUT_INIT;
  one.name = two.name = "fisher", one.tensor = &sa, two.tensor = &sb, two.input = 1;
  const ingot_side_input *sides[] = {&two, &one};
  ingot_merge_options options = INGOT_MERGE_OPTIONS_INIT;
  options.sides = sides, options.side_count = 2;
  const char *plain = "{\"fisher_norm\": \"none\", \"fisher_floor\": 0}";
#define MERGE(method, parameters, base, list, count) \
  ingot_merge_tensors(context, method, parameters, base, list, count, &vo, &options, &error)
  CHECK_OK(MERGE("fisher", plain, NULL, inputs, 2));
  for (int i = 0; i < 6; ++i) {
    float total = fa[i] + fb[i];
    CHECK(near(out[i], total > 0 ? (fa[i] * a[i] + fb[i] * b[i]) / total : (a[i] + b[i]) / 2));
  }
  /* The base as one more input, with a side input of its own. */
  one.input = INGOT_SIDE_OF_BASE, two.input = 0;
  CHECK_OK(MERGE("fisher", plain, &va, inputs + 1, 1));
  CHECK(near(out[0], (1 * 1 + 3 * 3) / 4.0f));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "base", MERGE("fisher", plain, NULL, inputs + 1, 1));
  one.input = 0, two.input = 1;

  /* What is wrong with them. */
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "inputs[1]", MERGE("fisher", plain, NULL, inputs, 1));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "no side inputs", MERGE("linear", NULL, NULL, inputs, 2));
  options.side_count = 1;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "no side input fisher", MERGE("fisher", plain, NULL, inputs, 2));
  options.side_count = 2;
  sb.shape = square, sb.rank = 1;
  CHECK_ERROR(INGOT_E_SHAPE, "[2, 3]", MERGE("fisher", plain, NULL, inputs, 2));
  sb = view_of("w", fb, 2, shape);
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "no name", MERGE("fisher", plain, NULL, inputs, 2));
  sb = view_of(NULL, out, 2, shape);
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "overlap", MERGE("fisher", plain, NULL, inputs, 2));
  sb = view_of(NULL, fb, 2, shape), sb.dtype = INGOT_DTYPE_I32;
  CHECK_ERROR(INGOT_E_DTYPE, "I32", MERGE("fisher", plain, NULL, inputs, 2));
  sb.dtype = INGOT_DTYPE_F32, one.name = "fishre";
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "fisher", MERGE("fisher", plain, NULL, inputs, 2));
  one.name = NULL;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "sides[1]", MERGE("fisher", plain, NULL, inputs, 2));
  one.name = "fisher", one.tensor = NULL;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "sides[1]", MERGE("fisher", plain, NULL, inputs, 2));
  sides[0] = NULL;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "sides[0]", MERGE("fisher", plain, NULL, inputs, 2));
  options.sides = NULL;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "sides", MERGE("fisher", plain, NULL, inputs, 2));
  sides[0] = &two, one.tensor = &sa, options.sides = sides;

  /* Row and column sums: two side inputs of one model. */
  float ra[2] = {4, 2}, ca[3] = {1, 2, 3}, rb[2] = {1, 1}, cb[3] = {1, 1, 1};
  ingot_tensor_view sums[4] = {view_of("row_sums", ra, 1, rows), view_of("column_sums", ca, 1, channels), view_of("row_sums", rb, 1, rows),
                               view_of("column_sums", cb, 1, channels)};
  ingot_side_input parts[4];
  const ingot_side_input *listed[4];
  for (int i = 0; i < 4; ++i) {
    parts[i] = (ingot_side_input)INGOT_SIDE_INPUT_INIT;
    parts[i].name = "second_moment", parts[i].input = (uint64_t)(i / 2), parts[i].tensor = &sums[i];
    listed[i] = &parts[i];
  }
  options.sides = listed, options.side_count = 4;
  CHECK_OK(MERGE("ota", NULL, NULL, inputs, 2));
  options.side_count = 3;
  CHECK_STATUS(INGOT_E_SHAPE, MERGE("ota", NULL, NULL, inputs, 2));

  /* Gram matrices: of the last axis whole, of the first packed. */
  float ga[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1}, gb[9] = {3, 0, 0, 0, 3, 0, 0, 0, 3}, ta[3] = {1, 0, 1}, tb[3] = {3, 0, 3};
  ingot_tensor_view grams[4] = {view_of(NULL, ga, 2, square), view_of(NULL, gb, 2, square), view_of("transposed", ta, 1, channels),
                                view_of("transposed", tb, 1, channels)};
  for (int i = 0; i < 4; ++i) parts[i].name = "gram", parts[i].input = (uint64_t)(i % 2), parts[i].tensor = &grams[i];
  options.side_count = 2;
  for (int round = 0; round < 2; ++round) {
    options.sides = listed + 2 * round;
    CHECK_OK(MERGE("regmean", "{\"ridge\": 0}", NULL, inputs, 2));
    for (int i = 0; i < 6; ++i) CHECK(near(out[i], (a[i] + 3 * b[i]) / 4));
  }
  options.sides = listed + 1;
  parts[2].input = 0;
  CHECK_ERROR(INGOT_E_SHAPE, "are of the rows", MERGE("regmean", NULL, NULL, inputs, 2));

  /* The last step: 1 - (1 - omega) * norm / largest norm of the change is left. */
  float norms[3] = {4, 2, 0};
  ingot_tensor_view vn = view_of(NULL, norms, 1, channels);
  ingot_aim aim = INGOT_AIM_INIT;
  aim.norms = &vn, aim.base = &va;
  options.sides = NULL, options.side_count = 0, options.aim = &aim;
  CHECK_OK(MERGE("linear", NULL, NULL, inputs, 2));
  for (int i = 0; i < 6; ++i) CHECK(near(out[i], a[i] + (1 - 0.6f * norms[i % 3] / 4) * (b[i] - a[i]) / 2));
  aim.flags = INGOT_AIM_OMEGA;
  CHECK_OK(MERGE("task_arithmetic", NULL, &va, inputs + 1, 1));
  for (int i = 0; i < 6; ++i) CHECK(near(out[i], a[i] + (1 - norms[i % 3] / 4) * (b[i] - a[i])));
  aim.base = NULL; /* that of the merge */
  CHECK_OK(MERGE("task_arithmetic", NULL, &va, inputs + 1, 1));
  CHECK(near(out[0], a[0]) && near(out[2], b[2]));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "base", MERGE("linear", NULL, NULL, inputs, 2));
  aim.omega = 2;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "omega", MERGE("task_arithmetic", NULL, &va, inputs + 1, 1));
  aim.omega = 0.0 / 0.0;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "omega", MERGE("task_arithmetic", NULL, &va, inputs + 1, 1));
  aim.omega = 1, vo.name = "w";
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, ".weight", MERGE("task_arithmetic", NULL, &va, inputs + 1, 1));
  vo.name = "w.weight", vn.shape = rows;
  CHECK_ERROR(INGOT_E_SHAPE, "[3]", MERGE("task_arithmetic", NULL, &va, inputs + 1, 1));
  aim.norms = NULL;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "norms", MERGE("task_arithmetic", NULL, &va, inputs + 1, 1));
}

/* Elements at addresses that fit no type: every instruction set, every type with arithmetic, in and out. */
static void test_misaligned(void) {
  enum { COUNT = 70001 };
  const int64_t shape[1] = {COUNT};
  const struct {
    int32_t dtype;
    size_t width;
  } types[] = {{INGOT_DTYPE_F32, 4}, {INGOT_DTYPE_F16, 2},     {INGOT_DTYPE_BF16, 2},
               {INGOT_DTYPE_F64, 8}, {INGOT_DTYPE_F8_E4M3, 1}, {INGOT_DTYPE_F8_E5M2, 1}};
  char *in = calloc(COUNT, 8 * 2), *out = malloc(COUNT * 4 + 64), *aligned = malloc(COUNT * 4 + 64);
  for (size_t i = 0; i < COUNT * 16; i += 2) in[i] = (char)(i * 31 % 53); /* small numbers in every type */
  for (uint32_t isa = 0; isa < ingot_isa_count(); ++isa) {
    ingot_context_options options = INGOT_CONTEXT_OPTIONS_INIT;
    options.isa = ingot_isa_name(isa);
    ingot_context *context = NULL;
    CHECK_OK(ingot_context_create(&context, &options, &error));
    for (size_t t = 0; t < sizeof types / sizeof *types; ++t) {
      char *moved = malloc(COUNT * 8 + 64);
      memcpy(moved + 1, in, COUNT * types[t].width);
      ingot_tensor_view a = view_of(NULL, NULL, 1, shape), b = a, o = a;
      a.dtype = b.dtype = types[t].dtype;
      o.dtype = t < 3 ? types[t].dtype : INGOT_DTYPE_F32;
      const ingot_tensor_view *inputs[] = {&a, &b};
      for (int round = 0; round < 2; ++round) {
        a.data = b.data = round ? moved + 1 : in;
        o.data = round ? out + 3 : aligned;
        const char *method = isa % 2 ? "linear" : "slerp";
        CHECK_OK(ingot_merge_tensors(context, method, isa % 2 ? NULL : "{\"t\": 0.25}", isa % 2 ? NULL : &a, isa % 2 ? inputs : inputs + 1,
                                     isa % 2 ? 2 : 1, &o, NULL, &error));
      }
      CHECK(!memcmp(out + 3, aligned, COUNT * (t == 1 || t == 2 ? 2 : 4)));
      free(moved);
    }
    ingot_context_destroy(context);
  }
  free(in);
  free(out);
  free(aligned);
}

/* ---- log, inspect -------------------------------------------------------------------------------------------------------------- */

static int warnings, infos;

static void on_log(void *user, int32_t level, const char *message, const char *fields) {
  CHECK(user == &warnings && *message && fields[0] == '{');
  if (level == INGOT_LOG_WARNING) ++warnings;
  if (level == INGOT_LOG_INFO) ++infos;
  if (strstr(message, "note")) CHECK(strstr(fields, "\"line\":1") && strstr(fields, "test.yml"));
}

static void test_log(void) {
  ingot_context_options options = INGOT_CONTEXT_OPTIONS_INIT;
  options.threads = 1;
  options.log = on_log;
  options.log_user = &warnings;
  options.log_level = INGOT_LOG_WARNING;
  ingot_context *context = NULL;
  CHECK_OK(ingot_context_create(&context, &options, &error));
  char *linear = linear_recipe(model_a, model_b), *text = malloc(strlen(linear) + 20);
  sprintf(text, "note: hello\n%s", linear);
  ingot_recipe *recipe = parsed(text);
  CHECK(strstr(ingot_recipe_notices_json(recipe), "note") && !strcmp(ingot_recipe_method(recipe), "linear"));
  ingot_plan *plan = make_plan(context, recipe);
  CHECK(warnings == 1 && infos == 0);
  ingot_plan_destroy(plan);
  ingot_recipe_options strict = INGOT_RECIPE_OPTIONS_INIT;
  strict.flags = INGOT_RECIPE_STRICT;
  ingot_recipe *refused = NULL;
  CHECK_ERROR(INGOT_E_RECIPE, "note", ingot_recipe_parse(text, strlen(text), NULL, &refused, &strict, &error));
  ingot_recipe_destroy(recipe);
  ingot_context_destroy(context);
  free(text);
  free(linear);
}

static void test_inspect(void) {
  char *found = NULL;
  CHECK_OK(ingot_checkpoint_inspect(model_a, &found, &error));
  CHECK(found && strstr(found, "layers.0.weight") && strstr(found, "F32"));
  ingot_string_destroy(found);
  CHECK_ERROR(INGOT_E_NOT_FOUND, "nowhere", ingot_checkpoint_inspect("./nowhere", &found, &error));
  CHECK(found == NULL);
}

/* The same bytes for every number of threads, team, budget and instruction set. */
static void test_same_bytes(const ingot_recipe *recipe) {
  char *reference = joined(root, "out-0"), name[32];
  for (uint32_t i = 0; i < 3 + ingot_isa_count(); ++i) {
    ingot_context_options options = INGOT_CONTEXT_OPTIONS_INIT;
    options.threads = i == 0 ? 1 : 3;
    options.team = i == 1 ? INGOT_TEAM_PTHREAD : INGOT_TEAM_AUTO;
    options.memory_budget_bytes = i == 2 ? 8u << 20 : 0;
    options.isa = i >= 3 ? ingot_isa_name(i - 3) : NULL;
    ingot_context *context = NULL;
    CHECK_OK(ingot_context_create(&context, &options, &error));
    if (i >= 3) CHECK(strstr(ingot_context_json(context), ingot_isa_name(i - 3)));
    ingot_plan *plan = make_plan(context, recipe);
    snprintf(name, sizeof name, "out-%u", i);
    char *out = joined(root, name);
    CHECK_OK(ingot_plan_run_to_directory(context, plan, out, NULL, NULL, &error));
    CHECK(same_file(reference, out, "model.safetensors"));
    ingot_plan_destroy(plan);
    ingot_context_destroy(context);
    free(out);
  }
  free(reference);
}

int main(int count, char **arguments) {
  if (count != 2) return 2;
  root = arguments[1];
  model_a = make_model(root, "a", 1);
  model_b = make_model(root, "b", 2);
  ingot_context *context = NULL;
  CHECK_OK(ingot_context_create(&context, NULL, &error));
  char *text = linear_recipe(model_a, model_b);
  ingot_recipe *recipe = parsed(text);
  test_directory(context, recipe);
  test_cancel(context, recipe);
  test_destroy_inside_callback(recipe);
  test_sink(context, recipe);
  test_sources(context);
  test_tensors(context);
  test_sides(context);
  test_misaligned();
  test_log();
  test_inspect();
  test_same_bytes(recipe);
  ingot_recipe_destroy(recipe);
  ingot_context_destroy(context);
  free(text);
  free(model_a);
  free(model_b);
  return finish("merge");
}
