/* Beside another OpenMP runtime: a host that uses it before, during and after merges, also from inside a parallel region. Compiled with
 * gcc -fopenmp; LLVM's and Intel's runtimes, which speak gcc's dialect too, are put in front of libgomp by LD_PRELOAD. */
#define _GNU_SOURCE
#include "support.h"

#include <omp.h>
#include <sched.h>

enum { ELEMENTS = 70001, THREADS = 3 };
static float a[ELEMENTS], b[ELEMENTS];

static double host_sum(void) {
  double sum = 0;
#pragma omp parallel for reduction(+ : sum) num_threads(THREADS)
  for (int i = 0; i < ELEMENTS; ++i) sum += a[i];
  return sum;
}

/* Returns the number of failures; usable from any thread. */
static int merge(int32_t team, int threads, float *out, ingot_status allowed) {
  const int64_t shape[1] = {ELEMENTS};
  ingot_context_options options = INGOT_CONTEXT_OPTIONS_INIT;
  options.threads = threads;
  options.team = team;
  ingot_context *context = NULL;
  ingot_status status = ingot_context_create(&context, &options, NULL);
  if (status) return status != allowed;
  ingot_tensor_view x = INGOT_TENSOR_VIEW_INIT, y = INGOT_TENSOR_VIEW_INIT, z = INGOT_TENSOR_VIEW_INIT;
  x.dtype = y.dtype = z.dtype = INGOT_DTYPE_F32;
  x.rank = y.rank = z.rank = 1;
  x.shape = y.shape = z.shape = shape;
  x.data = a, y.data = b, z.data = out;
  const ingot_tensor_view *inputs[] = {&x, &y};
  status = ingot_merge_tensors(context, "linear", "{\"weight\": [0.25, 0.75]}", NULL, inputs, 2, &z, NULL, NULL);
  ingot_context_destroy(context);
  if (status) return 1;
  for (int i = 0; i < ELEMENTS; ++i) {
    if (out[i] != 0.25f * a[i] + 0.75f * b[i]) return 1;
  }
  return 0;
}

int main(void) {
  static float out[THREADS][ELEMENTS];
  for (int i = 0; i < ELEMENTS; ++i) a[i] = (float)(i % 97), b[i] = (float)(i % 89);
  cpu_set_t before, after;
  CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
  const double sum = host_sum();
  for (int32_t team = INGOT_TEAM_AUTO; team <= INGOT_TEAM_PTHREAD; ++team) {
    for (int threads = 1; threads <= THREADS; ++threads) {
      /* OpenMP's team, where it was asked for and cannot be had, is refused. */
      CHECK(merge(team, threads, out[0], INGOT_E_UNSUPPORTED) == 0);
      CHECK(host_sum() == sum);
    }
  }
  int failed = 0;
#pragma omp parallel num_threads(THREADS) reduction(+ : failed)
  failed += merge(INGOT_TEAM_AUTO, 2, out[omp_get_thread_num() % THREADS], INGOT_OK);
  CHECK(failed == 0);
  CHECK(host_sum() == sum);
  CHECK(sched_getaffinity(0, sizeof after, &after) == 0 && CPU_EQUAL(&before, &after));
  return finish("openmp");
}
