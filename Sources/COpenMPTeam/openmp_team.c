#include "COpenMPTeam.h"

#include <omp.h>
#include <stdatomic.h>
#include <unistd.h>

__attribute__((visibility("default"))) int ingot_openmp_run(int threads, void (*body)(void *, int, int), void *context) {
  // The process that first used the runtime through us. It is the only state here, and it is per process by nature: after a
  // fork the runtime's threads are gone, and a region that waited for them would hang.
  static _Atomic int owner = 0;
  const int self = (int)getpid();
  int expected = 0;
  if (!atomic_compare_exchange_strong(&owner, &expected, self) && expected != self) return INGOT_OPENMP_FORKED;
  if (omp_in_parallel()) return INGOT_OPENMP_NESTED;
  if (!body) return INGOT_OPENMP_OK;
#pragma omp parallel num_threads(threads)
  body(context, omp_get_thread_num(), omp_get_num_threads());
  return INGOT_OPENMP_OK;
}
