#define _GNU_SOURCE
#include "CTeam.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "companion.h"
#include "placement.h"
#include "pool.h"

struct ingot_team {
  int kind;
  int size;
  _Atomic int running; // the process that is in ingot_team_run, 0 when none is
  int owner;           // the process that the pool's threads belong to
  ingot_openmp_run_function openmp;
  ingot_pool *pool;
  const ingot_placement *placement;
};

/// What one run hands to every worker.
typedef struct region {
  ingot_team_body body;
  void *user;
  const ingot_placement *placement;
} region;

static void work(void *context, int worker, int size) {
  const region *r = context;
  const uint64_t control = ingot_fp_enter();
  void *bound = worker > 0 && r->placement ? ingot_placement_bind(r->placement, worker) : NULL;
  r->body(r->user, worker, size);
  if (bound) ingot_placement_unbind(r->placement, bound);
  ingot_fp_set_control(control);
}

static int default_thread_count(void) {
  const int host = ingot_host_thread_count(getenv("OMP_NUM_THREADS"));
  if (host > 0) return host;
  char ignored[1];
  ingot_topology *topology = ingot_topology_create(NULL, NULL, ignored, sizeof ignored);
  if (!topology) return 1;
  const int count = ingot_topology_default_threads(topology);
  ingot_topology_destroy(topology);
  return count;
}

/// libomp aborts the process when it cannot create a thread, so the same number is tried first with threads of our own.
static bool can_create_threads(int count) {
  ingot_pool *trial = ingot_pool_create(count);
  if (!trial) return false;
  const bool enough = ingot_pool_size(trial) == count;
  ingot_pool_destroy(trial);
  return enough;
}

static ingot_openmp_run_function choose_openmp(int threads, const char *companion_path, char *why, size_t why_bytes) {
  if (threads == 1) {
    snprintf(why, why_bytes, "one thread needs no OpenMP");
    return NULL;
  }
  if (!ingot_companion_fits_environment(environ, why, why_bytes)) return NULL;
  if (!ingot_companion_has_shared_memory("/dev/shm", why, why_bytes)) return NULL;
  if (!can_create_threads(threads)) {
    snprintf(why, why_bytes, "the system allows fewer than %d more threads", threads - 1);
    return NULL;
  }
  return ingot_companion_open(companion_path, why, why_bytes);
}

int ingot_team_create(int requested_threads, int kind, const char *companion_path, ingot_team **out, char *why, size_t why_bytes) {
  char unused[1];
  if (!why || why_bytes == 0) {
    why = unused;
    why_bytes = sizeof unused;
  }
  why[0] = 0;
  if (!out) return INGOT_TEAM_INVALID;
  *out = NULL;
  if (requested_threads < 0 || requested_threads > INGOT_TEAM_MAX_THREADS || kind < INGOT_TEAM_AUTO || kind > INGOT_TEAM_PTHREAD) {
    snprintf(why, why_bytes, "found %d threads of kind %d, expected 0 to %d threads of kind 0, 1 or 2", requested_threads, kind,
             INGOT_TEAM_MAX_THREADS);
    return INGOT_TEAM_INVALID;
  }
  const int threads = requested_threads > 0 ? requested_threads : default_thread_count();
  ingot_team *team = calloc(1, sizeof *team);
  if (!team) return INGOT_TEAM_NO_MEMORY;
  team->owner = (int)getpid();
  if (kind == INGOT_TEAM_PTHREAD) {
    snprintf(why, why_bytes, "own threads, as asked");
  } else {
    team->openmp = choose_openmp(threads, companion_path, why, why_bytes);
    // A team of one runs on the calling thread, whatever it is called.
    if (!team->openmp && kind == INGOT_TEAM_OPENMP && threads > 1) {
      free(team);
      return INGOT_TEAM_UNAVAILABLE;
    }
  }
  if (team->openmp) {
    team->kind = INGOT_TEAM_OPENMP;
    team->size = threads;
  } else {
    team->kind = INGOT_TEAM_PTHREAD;
    team->pool = ingot_pool_create(threads);
    if (!team->pool) {
      free(team);
      return INGOT_TEAM_NO_MEMORY;
    }
    team->size = ingot_pool_size(team->pool);
  }
  *out = team;
  return INGOT_TEAM_OK;
}

/// One more than the words of the largest processor set that is saved around an OpenMP region (8,192 processors).
enum { AFFINITY_WORDS = 128 };

typedef struct affinity {
  unsigned long words[AFFINITY_WORDS];
  long bytes; // what the kernel filled in; not positive when it could not be read
} affinity;

static affinity current_affinity(void) {
  affinity a;
  memset(&a, 0, sizeof a);
  a.bytes = syscall(SYS_sched_getaffinity, 0, sizeof a.words, a.words);
  return a;
}

/// OMP_PROC_BIND makes libomp bind the thread that enters a region: ours to undo, since the host did not ask for this region.
static void run_openmp(ingot_openmp_run_function openmp, int size, region *r, int *answer) {
  const affinity before = current_affinity();
  *answer = openmp(size, work, r);
  const affinity after = current_affinity();
  if (before.bytes > 0 && memcmp(before.words, after.words, sizeof before.words) != 0) {
    syscall(SYS_sched_setaffinity, 0, (size_t)before.bytes, before.words);
  }
}

static int run_region(ingot_team *team, region *r) {
  const int self = (int)getpid();
  if (team->owner != self) {
    // The threads stayed in the parent. libomp's too, so this child runs on threads of its own.
    ingot_pool_forget(team->pool);
    team->pool = NULL;
    team->openmp = NULL;
    team->kind = INGOT_TEAM_PTHREAD;
    team->owner = self;
  }
  if (team->openmp && team->size > 1) {
    int answer = INGOT_OPENMP_OK;
    run_openmp(team->openmp, team->size, r, &answer);
    if (answer == INGOT_OPENMP_OK) return INGOT_TEAM_OK;
  }
  if (!team->pool) {
    team->pool = ingot_pool_create(team->size);
    if (!team->pool) return INGOT_TEAM_NO_MEMORY;
  }
  ingot_pool_run(team->pool, work, r);
  return INGOT_TEAM_OK;
}

int ingot_team_run(ingot_team *team, ingot_team_body body, void *user) {
  if (!team || !body) return INGOT_TEAM_INVALID;
  const int self = (int)getpid();
  int running = atomic_load_explicit(&team->running, memory_order_relaxed);
  // A mark left by another process is a run that was going on when this one was forked off; it never ends here.
  if (running == self) return INGOT_TEAM_BUSY;
  if (!atomic_compare_exchange_strong(&team->running, &running, self)) return INGOT_TEAM_BUSY;
  region r = {body, user, team->placement};
  const int status = run_region(team, &r);
  atomic_store(&team->running, 0);
  return status;
}

void ingot_team_destroy(ingot_team *team) {
  if (!team) return;
  if (team->owner == (int)getpid()) {
    ingot_pool_destroy(team->pool);
  } else {
    ingot_pool_forget(team->pool);
  }
  free(team);
}

int ingot_team_size(const ingot_team *team) { return team ? team->size : 0; }
int ingot_team_kind(const ingot_team *team) { return team ? team->kind : 0; }

void ingot_team_place(ingot_team *team, const ingot_placement *placement) {
  if (team) team->placement = placement;
}
