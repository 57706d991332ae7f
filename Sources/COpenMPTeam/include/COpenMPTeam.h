// The one function of the OpenMP companion, libingot-openmp.so.
//
// The companion is its own shared object so that a process which must not load a second OpenMP runtime never does:
// CTeam opens it with dlopen, or runs its own threads instead (see CTeam.h).
#ifndef INGOT_OPENMP_TEAM_H
#define INGOT_OPENMP_TEAM_H

/// What `ingot_openmp_run` answers.
enum {
  INGOT_OPENMP_OK = 0,
  /// The call comes from inside a parallel region of this runtime: nothing was run.
  INGOT_OPENMP_NESTED = 1,
  /// This process is a fork of the one that started the runtime, whose threads did not come along: nothing was run.
  INGOT_OPENMP_FORKED = 2,
};

/// Runs `body(context, worker, team_size)` once on every thread of a parallel region of at most `threads` threads and
/// returns when all are done. The calling thread is worker 0. OMP_THREAD_LIMIT, OMP_DYNAMIC, OMP_PLACES and OMP_PROC_BIND
/// hold, so `team_size` may be smaller than `threads`. With a null `body` it only answers whether a region could run here.
int ingot_openmp_run(int threads, void (*body)(void *context, int worker, int team_size), void *context);

typedef int (*ingot_openmp_run_function)(int, void (*)(void *, int, int), void *);

#endif
