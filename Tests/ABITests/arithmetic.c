/* A host may flush subnormals, round otherwise or trap: it gets the same bytes, and its own state back. */
#include "support.h"

#include <fenv.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { ROWS = 37, COLUMNS = 301, ELEMENTS = ROWS * COLUMNS };
static float models[3][ELEMENTS];
static ingot_error *error;

/* Numbers that say in which state they were computed: sums that round, and subnormals. */
static void fill(void) {
  uint32_t state = 1;
  for (int m = 0; m < 3; ++m) {
    for (int i = 0; i < ELEMENTS; ++i) {
      state = state * 1664525u + 1013904223u;
      float value = ((float)(state >> 8) - 8388608.0f) / 16777216.0f;
      models[m][i] = i % 7 ? value : value * 0x1p-130f;
    }
  }
}

static const char *const recipes[] = {
    "merge_method: linear\nmodels: [{model: a, parameters: {weight: 0.1}}, {model: b, parameters: {weight: 0.7}}]\n",
    "merge_method: ties\nbase_model: base\nmodels: [{model: a, parameters: {weight: 0.3, density: 0.37}}, "
    "{model: b, parameters: {weight: 1e-3, density: 0.61}}]\n",
    "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: [0.1, 0.7]}\n",
    "merge_method: della\nbase_model: base\nmodels: [{model: a, parameters: {weight: 0.3, density: 0.37, epsilon: 0.1}}, "
    "{model: b, parameters: {weight: 0.7, density: 0.61, epsilon: 0.1}}]\nparameters: {lambda: 0.9}\n",
    "merge_method: model_stock\nbase_model: base\nmodels: [{model: a}, {model: b}]\n",
};
enum { RECIPES = sizeof recipes / sizeof recipes[0] };

static void merge(const char *text, int32_t team, float *out) {
  static const char *const names[] = {"base", "a", "b"};
  const int64_t shape[2] = {ROWS, COLUMNS};
  ingot_context_options options = INGOT_CONTEXT_OPTIONS_INIT;
  options.threads = 2;
  options.team = team;
  ingot_context *context = NULL;
  ingot_recipe *recipe = NULL;
  ingot_model *handles[3] = {NULL, NULL, NULL};
  ingot_plan *plan = NULL;
  ingot_tensor_view v = INGOT_TENSOR_VIEW_INIT;
  v.name = "layers.0.w", v.dtype = INGOT_DTYPE_F32, v.rank = 2, v.shape = shape;
  const ingot_tensor_view *views[] = {&v};
  CHECK_OK(ingot_context_create(&context, &options, &error));
  CHECK_OK(ingot_recipe_parse(text, strlen(text), NULL, &recipe, NULL, &error));
  for (int m = 0; m < 3; ++m) {
    v.data = models[m];
    CHECK_OK(ingot_model_create(names[m], views, 1, &handles[m], NULL, &error));
  }
  ingot_plan_options plan_options = INGOT_PLAN_OPTIONS_INIT;
  plan_options.models = (const ingot_model *const *)handles;
  plan_options.model_count = 3;
  CHECK_OK(ingot_plan_create(context, recipe, &plan, &plan_options, &error));
  v.data = out;
  CHECK_OK(ingot_plan_run_to_tensors(context, plan, views, 1, NULL, NULL, &error));
  ingot_plan_destroy(plan);
  for (int m = 0; m < 3; ++m) ingot_model_destroy(handles[m]);
  ingot_recipe_destroy(recipe);
  ingot_context_destroy(context);
}

static unsigned control(void) {
#if defined(__x86_64__)
  return _mm_getcsr() & ~0x3Fu; /* without the flags of what happened */
#else
  return 0;
#endif
}

#ifdef UNDER_A_CHECKER /* valgrind's processor neither flushes nor traps */
enum { STATES = 4 };
#else
enum { STATES = 6 };
#endif

int main(void) {
  static float expected[RECIPES][ELEMENTS], found[ELEMENTS];
  static const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
  fill();
  for (int r = 0; r < RECIPES; ++r) merge(recipes[r], INGOT_TEAM_PTHREAD, expected[r]);
  for (int r = 0; r < RECIPES; ++r) {
    for (int state = 0; state < STATES; ++state) {
      fenv_t before;
      fegetenv(&before);
      /* The last two flush and trap. */
      if (state < 4) fesetround(modes[state]);
#if defined(__x86_64__)
      if (state >= 4) _mm_setcsr(_mm_getcsr() | 0x8040u); /* FTZ, DAZ */
#endif
      if (state == 5) feenableexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW | FE_UNDERFLOW | FE_INEXACT);
      const unsigned mine = control();
      const int mode = fegetround();
      merge(recipes[r], r % 2 ? INGOT_TEAM_AUTO : INGOT_TEAM_PTHREAD, found);
      const int kept = control() == mine && fegetround() == mode;
      fesetenv(&before);
      CHECK(kept);
      if (memcmp(found, expected[r], sizeof found)) fprintf(stderr, "state %d: other bytes for %.20s\n", state, recipes[r]);
      CHECK(!memcmp(found, expected[r], sizeof found));
    }
  }
  return finish("arithmetic");
}
