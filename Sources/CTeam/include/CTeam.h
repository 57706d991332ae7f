// The worker team, and where its workers and their memory are placed.
//
// Nothing here prints, exits or installs a handler. Functions that can fail return one of INGOT_TEAM_* and, where they take
// `why`, write one line of at most `why_bytes` bytes that says what was found.
#ifndef INGOT_TEAM_H
#define INGOT_TEAM_H

#include <stddef.h>
#include <stdint.h>

enum {
  INGOT_TEAM_OK = 0,
  INGOT_TEAM_INVALID = -1,     // an argument is out of range
  INGOT_TEAM_UNAVAILABLE = -2, // the kind asked for cannot run in this process
  INGOT_TEAM_BUSY = -3,        // the team is already running a body (another thread, or a call from inside the body)
  INGOT_TEAM_NO_MEMORY = -4,
};

enum { INGOT_TEAM_AUTO = 0, INGOT_TEAM_OPENMP = 1, INGOT_TEAM_PTHREAD = 2 };

/// More threads than this is an argument error.
enum { INGOT_TEAM_MAX_THREADS = 4096 };

typedef struct ingot_team ingot_team;
typedef struct ingot_topology ingot_topology;
typedef struct ingot_placement ingot_placement;

/// Runs on every worker. `worker` is 0 ..< team_size, and 0 is the calling thread. Must return normally: no longjmp, no
/// exception, no pthread_exit.
typedef void (*ingot_team_body)(void *user, int worker, int team_size);

// ---- team -------------------------------------------------------------------------------------------------------------

/// Makes a team of at most `requested_threads` workers, the calling thread among them; 0 asks for OMP_NUM_THREADS if the host
/// set it, else `ingot_topology_default_threads` of this machine.
///
/// INGOT_TEAM_AUTO runs on OpenMP's threads where that is safe and on threads of its own elsewhere. OpenMP is safe when
///  - libingot-openmp.so is found: at `companion_path` if given (then nowhere else), else in the directory of the library or
///    executable that contains this function, else in `../lib` of that directory; and
///  - no OpenMP runtime is in the process yet, or the only one is the very object that the companion needs: it came in with
///    the companion, or it is named libomp.so.5, which the loader hands to the companion instead of loading a second. Two
///    runtimes of one family abort the process, so a libgomp, a libiomp5, a libomp of another name, or two runtimes mean a
///    team of our own threads (`why` names what was found); and
///  - the call does not come from inside a parallel region; and
///  - as many threads as asked for can be created (libomp aborts the process when it cannot create one); and
///  - no variable of the environment is one over which libomp aborts the process, such as an empty OMP_NUM_THREADS, and
///    /dev/shm takes a file (environment.c).
/// INGOT_TEAM_OPENMP fails with INGOT_TEAM_UNAVAILABLE where AUTO would fall back. A team of one is never OpenMP.
///
/// `why` gets the reason of the choice, also on success. Not safe against another thread's dlopen of an OpenMP runtime at the
/// same moment.
int ingot_team_create(int requested_threads, int kind, const char *companion_path, ingot_team **out, char *why, size_t why_bytes);

/// Runs `body` on every worker and returns when all have finished. One call at a time: INGOT_TEAM_BUSY otherwise.
///
/// While `body` runs, its thread rounds to nearest, keeps subnormals (no FTZ, no DAZ) and masks floating-point traps; the
/// thread's own control word is put back afterwards, also on the calling thread. `team_size` may be smaller than asked for.
/// From inside a host's parallel region, and in a child after fork(), the team runs on threads of its own, made anew.
int ingot_team_run(ingot_team *team, ingot_team_body body, void *user);

/// Joins the team's own threads and frees it; null is allowed. OpenMP's threads belong to libomp and stay. Must not be called
/// while the team runs. In a child after fork() it frees what it can and waits for nothing.
void ingot_team_destroy(ingot_team *team);

/// The number of workers a run will have, or fewer if OpenMP's limits say so.
int ingot_team_size(const ingot_team *team);
/// INGOT_TEAM_OPENMP or INGOT_TEAM_PTHREAD.
int ingot_team_kind(const ingot_team *team);

/// From the next run on, worker i > 0 is bound to its node's processors while it runs the body; the calling thread never is,
/// and every binding is undone before the run returns. Null switches it off. `placement` is borrowed until then.
void ingot_team_place(ingot_team *team, const ingot_placement *placement);

// ---- topology ---------------------------------------------------------------------------------------------------------

/// Reads the machine with hwloc. `synthetic` (may be null) is an hwloc synthetic description instead of this machine;
/// `allowed` (may be null) is a list such as "0-3,8" of the processors to use instead of the calling thread's affinity. hwloc's
/// own HWLOC_SYNTHETIC and HWLOC_XMLFILE hold. Null on failure, with the reason in `why`.
ingot_topology *ingot_topology_create(const char *synthetic, const char *allowed, char *why, size_t why_bytes);
void ingot_topology_destroy(ingot_topology *topology);

/// Physical cores that the calling thread's affinity at creation and the machine's cpusets allow; at least 1.
int ingot_topology_cores(const ingot_topology *topology);
/// The same, but not more than the CPU quota of the process's control group, rounded up.
int ingot_topology_default_threads(const ingot_topology *topology);
/// Nodes that have memory and allowed processors; at least 1. Processors of a node without memory count for the nearest one.
int ingot_topology_nodes(const ingot_topology *topology);
/// The operating system's number of node `node`, or -1.
int ingot_topology_node_os_index(const ingot_topology *topology, int node);
/// 1 if workers may be bound: several nodes, and the host bound nothing itself (no OMP_PROC_BIND, OMP_PLACES, KMP_AFFINITY or
/// GOMP_CPU_AFFINITY, and the calling thread may run on every processor that the machine's cpusets allow).
int ingot_topology_may_bind(const ingot_topology *topology);

/// The CPU quota of this process's control group in thousandths of a processor, 0 for none: the least of the group and its
/// parents, cpu.max (v2) or cpu.cfs_quota_us (v1). `root` is put before /proc and /sys ("" for the live system).
int64_t ingot_cgroup_cpu_quota(const char *root);

// ---- placement --------------------------------------------------------------------------------------------------------

/// Spreads `workers` over the nodes by their number of cores. Worker 0, the calling thread, is on `first_node`, or on the node
/// where the caller runs now if it is -1. The topology must outlive the placement.
ingot_placement *ingot_placement_create(const ingot_topology *topology, int workers, int first_node);
void ingot_placement_destroy(ingot_placement *placement);
/// The node of a worker, 0 ..< nodes.
int ingot_placement_node(const ingot_placement *placement, int worker);
/// Writes the worker's processors as a list ("0-3,8"); returns its length, or -1.
int ingot_placement_processors(const ingot_placement *placement, int worker, char *out, size_t out_bytes);

/// Anonymous zeroed pages, bound to a node before their first touch when there are several nodes (best effort: without the
/// right to bind, the kernel's first-touch rule places them). Page-aligned. Null when there is no memory or bytes is 0.
void *ingot_node_alloc(const ingot_topology *topology, size_t bytes, int node);
void ingot_node_free(void *memory, size_t bytes);

/// Asks for whole pages to lie on a node, also those that are somewhere else already: a wish, which a full node does not fulfil. Does
/// nothing where workers are not bound. `unbind` takes the wish back and leaves the pages where they are.
void ingot_node_bind(const ingot_topology *topology, void *memory, size_t bytes, int node);
void ingot_node_unbind(const ingot_topology *topology, void *memory, size_t bytes);
/// How many pages of a range are there, and how many of those lie on another node than `node`. 0 pages where the system does not tell.
void ingot_node_pages(const ingot_topology *topology, void *memory, size_t bytes, int node, uint64_t *present, uint64_t *elsewhere);

// ---- floating-point control -------------------------------------------------------------------------------------------

/// MXCSR (x86) or FPCR (arm) of the calling thread; 0 elsewhere.
uint64_t ingot_fp_control(void);
void ingot_fp_set_control(uint64_t control);
/// Round to nearest, subnormals kept, traps masked; returns what was set before.
uint64_t ingot_fp_enter(void);

#endif
