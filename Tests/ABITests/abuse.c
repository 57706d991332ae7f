/* What a caller may do wrong, and what comes of it: a status and a message, never a crash. */
#include "support.h"

static ingot_error *error;
static ingot_context *context;
static ingot_recipe *recipe;
static ingot_plan *plan;
static float numbers[4] = {1, 2, 3, 4};
static const int64_t shape[1] = {4};

static ingot_tensor_view view(void) {
  ingot_tensor_view v = INGOT_TENSOR_VIEW_INIT;
  v.name = "w";
  v.dtype = INGOT_DTYPE_F32;
  v.rank = 1;
  v.shape = shape;
  v.data = numbers;
  return v;
}

static void null_arguments(void) {
  void *out = (void *)1;
  ingot_tensor_view v = view();
  const ingot_tensor_view *views[] = {&v, NULL};
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "out", ingot_context_create(NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "text", ingot_recipe_parse(NULL, 0, NULL, (ingot_recipe **)&out, NULL, &error));
  CHECK(out == NULL);
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "out", ingot_recipe_parse("", 0, NULL, NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_RECIPE, "recipe", ingot_recipe_parse("", 0, NULL, (ingot_recipe **)&out, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "context", ingot_plan_create(NULL, recipe, (ingot_plan **)&out, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "recipe", ingot_plan_create(context, NULL, (ingot_plan **)&out, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "out", ingot_plan_create(context, recipe, NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "plan", ingot_plan_tensor(NULL, 0, &v, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "out", ingot_plan_tensor(plan, 0, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "directory", ingot_plan_run_to_directory(context, plan, NULL, NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "plan", ingot_plan_run_to_directory(context, NULL, "x", NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "sink", ingot_plan_run_to_sink(context, plan, NULL, NULL, NULL, &error));
  ingot_sink sink = INGOT_SINK_INIT;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "write_at", ingot_plan_run_to_sink(context, plan, &sink, NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "outputs", ingot_plan_run_to_tensors(context, plan, NULL, 1, NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "outputs[1]", ingot_plan_run_to_tensors(context, plan, views, 2, NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_NOT_FOUND, "w", ingot_plan_run_to_tensors(context, plan, NULL, 0, NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "name", ingot_model_create(NULL, views, 1, (ingot_model **)&out, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "tensors", ingot_model_create("m", NULL, 1, (ingot_model **)&out, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "no tensors", ingot_model_create("m", NULL, 0, (ingot_model **)&out, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "tensors[1]", ingot_model_create("m", views, 2, (ingot_model **)&out, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "method", ingot_merge_tensors(context, NULL, NULL, NULL, views, 1, &v, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "inputs", ingot_merge_tensors(context, "linear", NULL, NULL, NULL, 0, &v, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "output", ingot_merge_tensors(context, "linear", NULL, NULL, views, 1, NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "path", ingot_checkpoint_inspect(NULL, (char **)&out, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "out", ingot_checkpoint_inspect("x", NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "context", ingot_directory_verify(NULL, "x", NULL, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "tensor", ingot_tensor_view_from_dlpack(NULL, &v, &error));
  /* Nobody has to take the error. */
  CHECK(ingot_checkpoint_inspect(NULL, NULL, NULL) == INGOT_E_INVALID_ARGUMENT);

  CHECK(ingot_error_status(NULL) == INGOT_OK && !strcmp(ingot_error_message(NULL), "") && !ingot_error_hint(NULL));
  CHECK(!ingot_error_subject(NULL) && !ingot_error_origin(NULL) && !ingot_error_user_code(NULL) && !strcmp(ingot_error_json(NULL), "null"));
  int32_t line = 5, column = 5;
  CHECK(ingot_error_position(NULL, &line, &column) == 0 && line == 0 && column == 0 && ingot_error_position(NULL, NULL, NULL) == 0);
  CHECK(!ingot_plan_json(NULL) && !ingot_plan_table(NULL) && !ingot_plan_digest(NULL) && !ingot_plan_tensor_count(NULL));
  CHECK(!ingot_recipe_method(NULL) && !ingot_recipe_model(NULL, 0) && !ingot_recipe_model_count(NULL) && !ingot_recipe_notices_json(NULL));
  CHECK(!ingot_context_json(NULL) && !ingot_model_name(NULL));
  ingot_error_destroy(NULL);
  ingot_context_destroy(NULL);
  ingot_recipe_destroy(NULL);
  ingot_plan_destroy(NULL);
  ingot_model_destroy(NULL);
  ingot_string_destroy(NULL);
}

static void wrong_handles(void) {
  ingot_plan *out = NULL;
  /* Of another kind. */
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "ingot_context", ingot_plan_create((ingot_context *)recipe, recipe, &out, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "ingot_recipe", ingot_plan_create(context, (ingot_recipe *)context, &out, NULL, &error));
  CHECK(!ingot_plan_json((ingot_plan *)context));
  ingot_plan_destroy((ingot_plan *)context);
  CHECK(ingot_context_json(context) != NULL);
  /* Of nobody: aligned, misaligned, a copy of a handle's memory. */
  uint64_t foreign[8] = {0};
  CHECK(!ingot_plan_json((ingot_plan *)foreign) && !ingot_plan_json((ingot_plan *)((char *)foreign + 1)));
  memcpy(foreign, plan, 32);
  CHECK(!ingot_plan_json((ingot_plan *)foreign));
}

#ifndef UNDER_A_CHECKER /* reads freed memory on purpose, which checkers report */
static void destroyed_handles(void) {
  ingot_context *c = NULL;
  ingot_recipe *r = NULL;
  ingot_plan *out = NULL;
  CHECK_OK(ingot_context_create(&c, NULL, &error));
  ingot_context_destroy(c);
  ingot_context_destroy(c);
  CHECK(!ingot_context_json(c));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "destroyed", ingot_plan_create(c, recipe, &out, NULL, &error));
  const char *text = "merge_method: linear\nmodels: [{model: m, parameters: {weight: 1}}]\n";
  CHECK_OK(ingot_recipe_parse(text, strlen(text), NULL, &r, NULL, &error));
  ingot_recipe_destroy(r);
  CHECK(!ingot_recipe_method(r) && !ingot_recipe_model_count(r) && !ingot_recipe_notices_json(r));
  ingot_recipe_destroy(r);
  ingot_tensor_view v = view();
  const ingot_tensor_view *one[] = {&v};
  ingot_model *m = NULL;
  CHECK_OK(ingot_model_create("m", one, 1, &m, NULL, &error));
  const ingot_model *models[] = {m};
  ingot_plan_options options = INGOT_PLAN_OPTIONS_INIT;
  options.models = models, options.model_count = 1;
  CHECK_OK(ingot_plan_create(context, recipe, &out, &options, &error));
  ingot_model_destroy(m);
  CHECK(!ingot_model_name(m));
  ingot_model_destroy(m);
  ingot_plan *p = NULL;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "destroyed", ingot_plan_create(context, recipe, &p, &options, &error));
  CHECK(p == NULL && ingot_plan_tensor_count(out) == 1); /* a plan keeps what it needs */
  ingot_plan_destroy(out);
  CHECK(!ingot_plan_json(out) && !ingot_plan_tensor_count(out));
  ingot_plan_destroy(out);
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "destroyed", ingot_plan_tensor(out, 0, &v, &error));
  ingot_error *e = NULL;
  CHECK(ingot_plan_create(NULL, recipe, &p, NULL, &e) == INGOT_E_INVALID_ARGUMENT && e);
  ingot_error_destroy(e);
  CHECK(ingot_error_status(e) == INGOT_OK && !*ingot_error_message(e) && !strcmp(ingot_error_json(e), "null"));
  ingot_error_destroy(e);
}
#endif

/* What every extensible struct has in common. `call` takes &s.known. scripts/test-abi looks that no struct of ingot.h is left out. */
#define SIZES(type, init, call)                                                        \
  do {                                                                                 \
    struct {                                                                           \
      type known;                                                                      \
      uint64_t more[2];                                                                \
    } s = {init, {0, 0}};                                                              \
    const uint32_t bad[] = {0, 4, 7, 9, (uint32_t)sizeof(type) + 1, 4097, UINT32_MAX}; \
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {                            \
      s.known.struct_size = bad[i];                                                    \
      CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, #type, call);                              \
    }                                                                                  \
    s.known.struct_size = sizeof s;                                                    \
    s.more[1] = 1;                                                                     \
    CHECK_ERROR(INGOT_E_UNSUPPORTED, #type, call);                                     \
    s.more[1] = 0;                                                                     \
    s.known.flags = 1u << 30;                                                          \
    CHECK_ERROR(INGOT_E_UNSUPPORTED, "0x40000000", call);                              \
  } while (0)

static int32_t never_written(void *user, const char *file, uint64_t offset, const void *from, uint64_t bytes) {
  (void)user, (void)file, (void)offset, (void)from, (void)bytes;
  return 1;
}

static int32_t never_opened(void *user, const char *model, const char *file, ingot_source *out) {
  (void)user, (void)model, (void)file, (void)out;
  return 1;
}

static int taken;
static void take_back(void *user) { (void)user, ++taken; }

static void every_struct(void) {
  ingot_context *c = NULL;
  ingot_recipe *r = NULL;
  ingot_model *m = NULL;
  ingot_plan *p = NULL;
  char *text = NULL;
  ingot_tensor_view v = view(), out = view(), unnamed = view();
  float result[4];
  out.data = result;
  unnamed.data = result, unnamed.name = NULL;
  const ingot_tensor_view *views[] = {&v};
  ingot_side_input side = INGOT_SIDE_INPUT_INIT;
  const ingot_side_input *sides[] = {&side};
  ingot_aim aim = INGOT_AIM_INIT;
  ingot_merge_options merge = INGOT_MERGE_OPTIONS_INIT;
  merge.sides = sides, merge.side_count = 1;
  side.name = "fisher", side.tensor = &v;
  SIZES(ingot_context_options, INGOT_CONTEXT_OPTIONS_INIT, ingot_context_create(&c, &s.known, &error));
  SIZES(ingot_recipe_options, INGOT_RECIPE_OPTIONS_INIT, ingot_recipe_parse("a: 1", 4, NULL, &r, &s.known, &error));
  SIZES(ingot_model_options, INGOT_MODEL_OPTIONS_INIT, ingot_model_create("m", views, 1, &m, &s.known, &error));
  SIZES(ingot_plan_options, INGOT_PLAN_OPTIONS_INIT, ingot_plan_create(context, recipe, &p, &s.known, &error));
  SIZES(ingot_run_options, INGOT_RUN_OPTIONS_INIT, ingot_plan_run_to_directory(context, plan, "x", NULL, &s.known, &error));
  SIZES(ingot_run_options, INGOT_RUN_OPTIONS_INIT, ingot_plan_run_to_tensors(context, plan, views, 1, NULL, &s.known, &error));
  SIZES(ingot_run_options, INGOT_RUN_OPTIONS_INIT, ingot_directory_verify(context, "x", NULL, &s.known, &error));
  SIZES(ingot_run_options, INGOT_RUN_OPTIONS_INIT, ingot_checkpoint_compare(context, "x", "y", NULL, &text, &s.known, &error));
  SIZES(ingot_run_options, INGOT_RUN_OPTIONS_INIT, ingot_delta_pack(context, "tall", NULL, "x", NULL, 0, "y", NULL, &s.known, &error));
  SIZES(ingot_run_options, INGOT_RUN_OPTIONS_INIT, ingot_lora_merge(context, "cat", NULL, NULL, 0, "y", NULL, &s.known, &error));
  SIZES(ingot_run_options, INGOT_RUN_OPTIONS_INIT, ingot_rolling_step(context, "ema", NULL, NULL, "x", "y", NULL, &s.known, &error));
  SIZES(ingot_delta_options, INGOT_DELTA_OPTIONS_INIT, ingot_delta_plan_apply(context, "x", "y", &p, &s.known, &error));
  SIZES(ingot_delta_options, INGOT_DELTA_OPTIONS_INIT, ingot_delta_plan_unpack(context, "x", NULL, &p, &s.known, &error));
  SIZES(ingot_merge_options, INGOT_MERGE_OPTIONS_INIT,
        ingot_merge_tensors(context, "linear", NULL, NULL, views, 1, &out, &s.known, &error));
  SIZES(ingot_tensor_view, INGOT_TENSOR_VIEW_INIT, (views[0] = &s.known, ingot_model_create("m", views, 1, &m, NULL, &error)));
  views[0] = &v;
#define MERGE(method, output) ingot_merge_tensors(context, method, NULL, NULL, views, 1, output, &merge, &error)
  SIZES(ingot_side_input, INGOT_SIDE_INPUT_INIT, (sides[0] = &s.known, MERGE("fisher", &out)));
  sides[0] = &side;
  SIZES(ingot_tensor_view, INGOT_TENSOR_VIEW_INIT, (side.tensor = &s.known, MERGE("fisher", &out)));
  merge.side_count = 0;
  SIZES(ingot_aim, INGOT_AIM_INIT, (merge.aim = &s.known, MERGE("linear", &unnamed)));
  merge.aim = &aim;
  SIZES(ingot_tensor_view, INGOT_TENSOR_VIEW_INIT, (aim.norms = &s.known, MERGE("linear", &unnamed)));
  aim.norms = &v;
  SIZES(ingot_tensor_view, INGOT_TENSOR_VIEW_INIT, (aim.base = &s.known, MERGE("linear", &unnamed)));
  ingot_plan_options options = INGOT_PLAN_OPTIONS_INIT;
#define RESOLVER {(uint32_t)sizeof(ingot_resolver), 0, NULL, never_opened, NULL, take_back}
  SIZES(ingot_resolver, RESOLVER, (options.resolver = &s.known, ingot_plan_create(context, recipe, &p, &options, &error)));
#define SINK {(uint32_t)sizeof(ingot_sink), 0, NULL, NULL, never_written, NULL, take_back}
  SIZES(ingot_sink, SINK, ingot_plan_run_to_sink(context, plan, &s.known, NULL, NULL, &error));
  CHECK(!taken && !c && !r && !m && !p && !text); /* what is refused for its struct is not consumed */
}

static void struct_sizes(void) {
  struct {
    ingot_context_options known;
    uint64_t more[2];
  } newer = {INGOT_CONTEXT_OPTIONS_INIT, {0, 0}};
  ingot_context *c = NULL;
  newer.known.threads = 1;
  newer.known.struct_size = sizeof newer;
  CHECK_OK(ingot_context_create(&c, &newer.known, &error)); /* newer, but nothing new is used */
  ingot_context_destroy(c);
  newer.more[1] = 1;
  CHECK_ERROR(INGOT_E_UNSUPPORTED, "72 bytes", ingot_context_create(&c, &newer.known, &error));
  const uint32_t bad[] = {0, 7, 28, 57, 4097, 0xFFFFFFFFu};
  for (int i = 0; i < 6; ++i) {
    newer.known.struct_size = bad[i];
    CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "struct_size", ingot_context_create(&c, &newer.known, &error));
    CHECK(c == NULL);
  }
  /* Older: what lies behind its end is not read. */
  newer.known = (ingot_context_options)INGOT_CONTEXT_OPTIONS_INIT;
  newer.known.struct_size = offsetof(ingot_context_options, isa);
  newer.known.isa = (const char *)1;
  newer.known.log_level = 77;
  CHECK_OK(ingot_context_create(&c, &newer.known, &error));
  ingot_context_destroy(c);
  /* Filled by the library: not beyond its end either. */
  ingot_tensor_view out = INGOT_TENSOR_VIEW_INIT;
  out.struct_size = offsetof(ingot_tensor_view, shape);
  out.shape = (const int64_t *)3;
  out.byte_count = 3;
  CHECK_OK(ingot_plan_tensor(plan, 0, &out, &error));
  CHECK(out.rank == 1 && out.shape == (const int64_t *)3 && out.byte_count == 3 && out.struct_size == offsetof(ingot_tensor_view, shape));
  out.struct_size = 4;
  CHECK_STATUS(INGOT_E_INVALID_ARGUMENT, ingot_plan_tensor(plan, 0, &out, &error));

  ingot_plan *p = NULL;
  ingot_run_options run = INGOT_RUN_OPTIONS_INIT;
  run.flags = 1u << 31;
  CHECK_ERROR(INGOT_E_UNSUPPORTED, "0x80000000", ingot_plan_run_to_directory(context, plan, "x", NULL, &run, &error));
  run.flags = 0;
  run.sync = 2;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "sync", ingot_plan_run_to_directory(context, plan, "x", NULL, &run, &error));
  ingot_plan_options options = INGOT_PLAN_OPTIONS_INIT;
  options.flags = 64;
  CHECK_ERROR(INGOT_E_UNSUPPORTED, "0x40", ingot_plan_create(context, recipe, &p, &options, &error));
  options.flags = 0;
  options.model_count = 1;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "models", ingot_plan_create(context, recipe, &p, &options, &error));
  options.model_count = 0;
  options.numerics = 3;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "numerics is 3", ingot_plan_create(context, recipe, &p, &options, &error));
  options.numerics = 0;
  options.missing = 4;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "missing is 4", ingot_plan_create(context, recipe, &p, &options, &error));
  /* What an older caller's struct does not have is not read. */
  options.struct_size = offsetof(ingot_plan_options, numerics);
  options.model_count = 1;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "models", ingot_plan_create(context, recipe, &p, &options, &error));
  options = (ingot_plan_options)INGOT_PLAN_OPTIONS_INIT;
  ingot_resolver resolver = INGOT_RESOLVER_INIT;
  options.resolver = &resolver;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "open", ingot_plan_create(context, recipe, &p, &options, &error));
}

static void context_options(void) {
  ingot_context *c = NULL;
  ingot_context_options options = INGOT_CONTEXT_OPTIONS_INIT;
  options.threads = -1;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "-1", ingot_context_create(&c, &options, &error));
  options.threads = 5000;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "5000", ingot_context_create(&c, &options, &error));
  options.threads = 1;
  options.team = 3;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "team", ingot_context_create(&c, &options, &error));
  options.team = 0;
  options.isa = "sse9";
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "scalar", ingot_context_create(&c, &options, &error));
  options.isa = "\xff\xfe";
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "UTF-8", ingot_context_create(&c, &options, &error));
  options.isa = NULL;
  options.memory_budget_bytes = 1;
  CHECK_ERROR(INGOT_E_MEMORY, "budget", ingot_context_create(&c, &options, &error));
  options.memory_budget_bytes = UINT64_MAX;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "memory_budget_bytes", ingot_context_create(&c, &options, &error));
  options.memory_budget_bytes = 0;
  options.log_level = 9;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "log_level", ingot_context_create(&c, &options, &error));
  options.log_level = 0;
  options.reserved = 1;
  CHECK_STATUS(INGOT_E_UNSUPPORTED, ingot_context_create(&c, &options, &error));
  CHECK(c == NULL);
}

static void environment(void) {
  ingot_context *c = NULL;
  ingot_context_options options = INGOT_CONTEXT_OPTIONS_INIT;
  setenv("INGOT_THREADS", "many", 1);
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "INGOT_THREADS", ingot_context_create(&c, NULL, &error));
  options.threads = 1; /* the option wins */
  CHECK_OK(ingot_context_create(&c, &options, &error));
  ingot_context_destroy(c);
  setenv("INGOT_THREADS", "1", 1);
  setenv("INGOT_FORCE_ISA", "scalar", 1);
  CHECK_OK(ingot_context_create(&c, NULL, &error));
  CHECK(strstr(ingot_context_json(c), "\"threads\":1,") && strstr(ingot_context_json(c), "\"isa\":\"scalar\""));
  ingot_context_destroy(c);
  options.isa = ingot_isa_name(0);
  CHECK_OK(ingot_context_create(&c, &options, &error));
  CHECK(strstr(ingot_context_json(c), ingot_isa_name(0)));
  ingot_context_destroy(c);
  setenv("INGOT_FORCE_ISA", "sse9", 1);
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "sse9", ingot_context_create(&c, NULL, &error));
  unsetenv("INGOT_FORCE_ISA");
  unsetenv("INGOT_THREADS");
}

static void views(void) {
  ingot_model *out = NULL;
  ingot_tensor_view v = view();
  const ingot_tensor_view *one[] = {&v}, *two[] = {&v, &v};
  const int64_t negative[1] = {-4}, huge[3] = {INT64_MAX, INT64_MAX, 2}, wide[3] = {1LL << 40, 1LL << 20, 2};
  const int64_t far_steps[1] = {INT64_MAX}, far_back[1] = {INT64_MIN}, below[1] = {-(1LL << 60)};
#define VIEW_ERROR(status, text, change) \
  v = view();                            \
  change;                                \
  CHECK_ERROR(status, text, ingot_model_create("m", one, 1, &out, NULL, &error))
  VIEW_ERROR(INGOT_E_INVALID_ARGUMENT, "no name", v.name = NULL);
  VIEW_ERROR(INGOT_E_INVALID_ARGUMENT, "UTF-8", v.name = "\xc3\x28");
  VIEW_ERROR(INGOT_E_DTYPE, "99", v.dtype = 99);
  VIEW_ERROR(INGOT_E_SHAPE, "-1", v.rank = -1);
  VIEW_ERROR(INGOT_E_SHAPE, "33", v.rank = 33);
  VIEW_ERROR(INGOT_E_INVALID_ARGUMENT, "shape", v.shape = NULL);
  VIEW_ERROR(INGOT_E_SHAPE, "negative", v.shape = negative);
  VIEW_ERROR(INGOT_E_SHAPE, "", (v.shape = huge, v.rank = 3));
  VIEW_ERROR(INGOT_E_SHAPE, "", (v.shape = wide, v.rank = 3, v.dtype = INGOT_DTYPE_F64));
  VIEW_ERROR(INGOT_E_SHAPE, "strides", v.strides = far_steps);
  VIEW_ERROR(INGOT_E_SHAPE, "strides", v.strides = far_back);
  VIEW_ERROR(INGOT_E_SHAPE, "strides", v.strides = below);
  VIEW_ERROR(INGOT_E_INVALID_ARGUMENT, "address", v.data = NULL);
  VIEW_ERROR(INGOT_E_SHAPE, "byte_count", v.byte_count = 15);
  VIEW_ERROR(INGOT_E_UNSUPPORTED, "0x2", v.flags = 2);
  v = view();
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "two tensors", ingot_model_create("m", two, 2, &out, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "empty", ingot_model_create("", one, 1, &out, NULL, &error));
  ingot_model_options options = INGOT_MODEL_OPTIONS_INIT;
  options.config_json = "{\"a\": ";
  CHECK_ERROR(INGOT_E_FORMAT, "config_json", ingot_model_create("m", one, 1, &out, &options, &error));
  options.config_json = "[]";
  CHECK_ERROR(INGOT_E_FORMAT, "object", ingot_model_create("m", one, 1, &out, &options, &error));
  /* No elements need no memory; a scalar needs no shape. */
  const int64_t empty[2] = {0, 5};
  v = view(), v.shape = empty, v.rank = 2, v.data = NULL;
  CHECK_OK(ingot_model_create("m", one, 1, &out, NULL, &error));
  ingot_model_destroy(out);
  v = view(), v.shape = NULL, v.rank = 0;
  CHECK_OK(ingot_model_create("m", one, 1, &out, NULL, &error));
  const ingot_model *same[] = {out, out};
  ingot_plan_options twice = INGOT_PLAN_OPTIONS_INIT;
  twice.models = same, twice.model_count = 2;
  ingot_plan *p = NULL;
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "two models", ingot_plan_create(context, recipe, &p, &twice, &error));
  ingot_model_destroy(out);
}

static void recipes(void) {
  const char *bad = "merge_method: linear\nmodels:\n  - model: a\n    parameters: {wieght: 1}\n";
  ingot_recipe *out = NULL;
  CHECK(ingot_recipe_parse(bad, strlen(bad), "bad.yml", &out, NULL, &error) == INGOT_E_RECIPE);
  int32_t line = 0, column = 0;
  CHECK(error && ingot_error_position(error, &line, &column) == 1 && line == 4 && column > 0);
  CHECK(!strcmp(ingot_error_origin(error), "bad.yml") && ingot_error_hint(error) && strstr(ingot_error_hint(error), "weight"));
  CHECK(ingot_error_subject(error) && !strchr(ingot_error_message(error), '\n') && strstr(ingot_error_json(error), "\"line\":4"));
  ingot_error_destroy(error);
  error = NULL;
  CHECK_STATUS(INGOT_E_INVALID_ARGUMENT, ingot_recipe_parse(bad, UINT64_MAX, NULL, &out, NULL, &error));
  const char bytes[] = "merge_method: \0linear\xff";
  CHECK_STATUS(INGOT_E_RECIPE, ingot_recipe_parse(bytes, sizeof bytes - 1, NULL, &out, NULL, &error));
  CHECK_ERROR(INGOT_E_INVALID_ARGUMENT, "origin", ingot_recipe_parse("", 0, "\xff", &out, NULL, &error));
}

static void names(void) {
  CHECK(!strcmp(ingot_status_name(INGOT_E_SHAPE), "INGOT_E_SHAPE") && !strcmp(ingot_status_name(0), "INGOT_OK"));
  CHECK(!strcmp(ingot_status_name(-99), "INGOT_E_INTERNAL") && !strcmp(ingot_status_name(12345), "INGOT_E_UNKNOWN"));
  for (int32_t s = INGOT_E_OUTPUT; s <= INGOT_OK; ++s) CHECK(strcmp(ingot_status_name(s), "INGOT_E_UNKNOWN"));
  CHECK(!strcmp(ingot_isa_name(ingot_isa_count() - 1), "scalar") && !ingot_isa_name(ingot_isa_count()) && !ingot_isa_name(UINT32_MAX));
  CHECK(!strcmp(ingot_dtype_name(INGOT_DTYPE_BF16), "BF16") && !ingot_dtype_name(0) && !ingot_dtype_name(-5));
  CHECK(ingot_dtype_bits(INGOT_DTYPE_F4) == 4 && ingot_dtype_bits(INGOT_DTYPE_F64) == 64 && ingot_dtype_bits(7) == 0);
  CHECK(strstr(ingot_methods_json(), "\"ties\"") && ingot_methods_json()[0] == '[' && strstr(ingot_build_info_json(), "\"abi\":0"));
  CHECK(!strcmp(ingot_version_string(), "0.1.0"));
}

int main(void) {
  ingot_tensor_view v = view();
  const ingot_tensor_view *one[] = {&v};
  const char *text = "merge_method: linear\nmodels: [{model: m, parameters: {weight: 1}}]\n";
  ingot_model *model = NULL;
  CHECK_OK(ingot_context_create(&context, NULL, &error));
  CHECK_OK(ingot_recipe_parse(text, strlen(text), NULL, &recipe, NULL, &error));
  CHECK_OK(ingot_model_create("m", one, 1, &model, NULL, &error));
  const ingot_model *models[] = {model};
  ingot_plan_options options = INGOT_PLAN_OPTIONS_INIT;
  options.models = models;
  options.model_count = 1;
  CHECK_OK(ingot_plan_create(context, recipe, &plan, &options, &error));
  null_arguments();
  wrong_handles();
#ifndef UNDER_A_CHECKER
  destroyed_handles();
#endif
  struct_sizes();
  every_struct();
  context_options();
  environment();
  views();
  recipes();
  names();
  ingot_plan_destroy(plan);
  ingot_model_destroy(model);
  ingot_recipe_destroy(recipe);
  ingot_context_destroy(context);
  return finish("abuse");
}
