#define _GNU_SOURCE
#include <hwloc.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "CTeam.h"
#include "placement.h"

/// A node that has memory and allowed processors.
typedef struct place {
  hwloc_bitmap_t processors;
  hwloc_obj_t memory;
  int cores;
} place;

struct ingot_topology {
  hwloc_topology_t hwloc;
  hwloc_bitmap_t allowed; // what the calling thread may use
  place *places;
  int place_count;
  int cores;
  bool may_bind;
  bool is_this_machine;
};

struct ingot_placement {
  const ingot_topology *topology;
  int workers;
  int *nodes;
};

static int count_cores(hwloc_topology_t topology, hwloc_const_bitmap_t processors) {
  int cores = 0;
  const int all = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
  for (int i = 0; i < all; i++) {
    hwloc_obj_t core = hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE, (unsigned)i);
    if (core && hwloc_bitmap_intersects(core->cpuset, processors)) cores++;
  }
  // Some virtual machines show processors without cores.
  if (cores == 0) cores = hwloc_bitmap_weight(processors);
  return cores > 0 ? cores : 1;
}

static bool has_memory(hwloc_obj_t node) { return node->attr && node->attr->numanode.local_memory > 0; }

static int by_processor_count(const void *a, const void *b) {
  const hwloc_obj_t x = *(const hwloc_obj_t *)a;
  const hwloc_obj_t y = *(const hwloc_obj_t *)b;
  const int d = hwloc_bitmap_weight(x->cpuset) - hwloc_bitmap_weight(y->cpuset);
  if (d != 0) return d;
  return x->logical_index < y->logical_index ? -1 : 1;
}

/// Gives `processors` to the place that lies closest to `from` in the tree: the first that shares an ancestor.
static void give_to_nearest(ingot_topology *t, hwloc_obj_t from, hwloc_const_bitmap_t processors) {
  int chosen = 0;
  bool found = false;
  for (hwloc_obj_t up = from; up && !found; up = up->parent) {
    for (int i = 0; i < t->place_count && !found; i++) {
      if (hwloc_bitmap_intersects(t->places[i].memory->cpuset, up->cpuset)) {
        chosen = i;
        found = true;
      }
    }
  }
  hwloc_bitmap_or(t->places[chosen].processors, t->places[chosen].processors, processors);
}

/// One place per node with memory and processors of its own. Where several nodes share processors (fast and far memory of one
/// package) the first of the smallest set has them. Processors without memory beside them join the nearest place.
static bool find_places(ingot_topology *t) {
  const int all = hwloc_get_nbobjs_by_type(t->hwloc, HWLOC_OBJ_NUMANODE);
  if (all < 1) return false;
  hwloc_obj_t *nodes = calloc((size_t)all, sizeof *nodes);
  t->places = calloc((size_t)all, sizeof *t->places);
  hwloc_bitmap_t left = hwloc_bitmap_dup(t->allowed);
  if (!nodes || !t->places || !left) {
    free(nodes);
    hwloc_bitmap_free(left);
    return false;
  }
  bool any_memory = false;
  for (int i = 0; i < all; i++) {
    nodes[i] = hwloc_get_obj_by_type(t->hwloc, HWLOC_OBJ_NUMANODE, (unsigned)i);
    any_memory = any_memory || has_memory(nodes[i]);
  }
  qsort(nodes, (size_t)all, sizeof *nodes, by_processor_count);
  for (int i = 0; i < all; i++) {
    if (any_memory && !has_memory(nodes[i])) continue;
    hwloc_bitmap_t own = hwloc_bitmap_alloc();
    if (!own) continue;
    hwloc_bitmap_and(own, nodes[i]->cpuset, left);
    if (hwloc_bitmap_iszero(own)) {
      hwloc_bitmap_free(own);
      continue;
    }
    hwloc_bitmap_andnot(left, left, own);
    t->places[t->place_count++] = (place){own, nodes[i], 0};
  }
  bool ok = t->place_count > 0;
  if (!ok) {
    // Memory only where no processor is allowed: one place, so that there is always one.
    hwloc_obj_t first = nodes[0];
    for (int i = 0; i < all && any_memory; i++) {
      if (has_memory(nodes[i])) {
        first = nodes[i];
        break;
      }
    }
    hwloc_bitmap_t own = hwloc_bitmap_dup(t->allowed);
    if (own) {
      t->places[t->place_count++] = (place){own, first, 0};
      ok = true;
    }
    hwloc_bitmap_zero(left);
  }
  for (int i = 0; ok && i < all; i++) {
    if (!any_memory || has_memory(nodes[i]) || !hwloc_bitmap_intersects(nodes[i]->cpuset, left)) continue;
    hwloc_bitmap_t own = hwloc_bitmap_alloc();
    if (!own) continue;
    hwloc_bitmap_and(own, nodes[i]->cpuset, left);
    hwloc_bitmap_andnot(left, left, own);
    give_to_nearest(t, nodes[i]->parent, own);
    hwloc_bitmap_free(own);
  }
  if (ok && !hwloc_bitmap_iszero(left)) give_to_nearest(t, NULL, left);
  for (int i = 0; i < t->place_count; i++) t->places[i].cores = count_cores(t->hwloc, t->places[i].processors);
  hwloc_bitmap_free(left);
  free(nodes);
  return ok;
}

static bool is_set(const char *name) {
  const char *value = getenv(name);
  return value && *value && strcasecmp(value, "false") != 0 && strcasecmp(value, "none") != 0 && strcasecmp(value, "disabled") != 0;
}

static bool host_binds_by_environment(void) {
  return is_set("OMP_PROC_BIND") || is_set("OMP_PLACES") || is_set("KMP_AFFINITY") || is_set("GOMP_CPU_AFFINITY");
}

/// True where a synthetic description has more than SYNTHETIC_MOST objects on one level: hwloc would spend minutes and gigabytes on it. Counted are the
/// numbers of its levels ("numa:2 core:4 2"), not those of attributes in parentheses or of what is attached in brackets.
static bool is_oversized(const char *description) {
  enum { SYNTHETIC_MOST = 1 << 16 };
  if (!description) return false;
  unsigned long long objects = 1;
  int depth = 0;
  bool counts = true; // a number here is a level's: at the start of a word or behind its colon
  for (const char *at = description; *at;) {
    if (*at == '(' || *at == '[') depth++;
    if (*at == ')' || *at == ']') depth--;
    if (depth == 0 && counts && *at >= '0' && *at <= '9') {
      char *end;
      const unsigned long long count = strtoull(at, &end, 0);
      if (count > SYNTHETIC_MOST || (objects *= count ? count : 1) > SYNTHETIC_MOST) return true;
      counts = false;
      at = end;
      continue;
    }
    counts = *at == ' ' || *at == ':';
    at++;
  }
  return false;
}

static ingot_topology *fail(ingot_topology *t, char *why, size_t why_bytes, const char *text) {
  if (why && why_bytes) snprintf(why, why_bytes, "%s", text);
  ingot_topology_destroy(t);
  return NULL;
}

ingot_topology *ingot_topology_create(const char *synthetic, const char *allowed, char *why, size_t why_bytes) {
  ingot_topology *t = calloc(1, sizeof *t);
  if (!t) return fail(t, why, why_bytes, "out of memory");
  if (hwloc_topology_init(&t->hwloc) != 0) {
    t->hwloc = NULL;
    return fail(t, why, why_bytes, "hwloc does not start");
  }
  if (is_oversized(synthetic ? synthetic : getenv("HWLOC_SYNTHETIC")))
    return fail(t, why, why_bytes, "the synthetic description (HWLOC_SYNTHETIC) is of more than 65536 processors");
  if (synthetic && hwloc_topology_set_synthetic(t->hwloc, synthetic) != 0)
    return fail(t, why, why_bytes, "hwloc does not understand the synthetic description");
  // The default object types stay: without groups and caches hwloc attaches a node to a larger parent, with its processors.
  hwloc_topology_set_flags(t->hwloc, HWLOC_TOPOLOGY_FLAG_NO_DISTANCES | HWLOC_TOPOLOGY_FLAG_NO_MEMATTRS | HWLOC_TOPOLOGY_FLAG_NO_CPUKINDS);
  if (hwloc_topology_load(t->hwloc) != 0) return fail(t, why, why_bytes, "hwloc cannot read the machine");
  t->is_this_machine = hwloc_topology_is_thissystem(t->hwloc);
  hwloc_const_bitmap_t machine = hwloc_topology_get_allowed_cpuset(t->hwloc);
  t->allowed = hwloc_bitmap_dup(machine);
  hwloc_bitmap_t given = hwloc_bitmap_alloc();
  if (!t->allowed || !given) {
    hwloc_bitmap_free(given);
    return fail(t, why, why_bytes, "out of memory");
  }
  if (allowed) {
    if (hwloc_bitmap_list_sscanf(given, allowed) != 0) hwloc_bitmap_zero(given);
    hwloc_bitmap_and(t->allowed, t->allowed, given);
  } else if (t->is_this_machine && hwloc_get_cpubind(t->hwloc, given, HWLOC_CPUBIND_THREAD) == 0) {
    hwloc_bitmap_and(t->allowed, t->allowed, given);
  }
  hwloc_bitmap_free(given);
  if (hwloc_bitmap_iszero(t->allowed)) return fail(t, why, why_bytes, "no processor is allowed");
  if (!find_places(t)) return fail(t, why, why_bytes, "hwloc shows no memory node");
  t->cores = count_cores(t->hwloc, t->allowed);
  t->may_bind = t->place_count > 1 && !host_binds_by_environment() && hwloc_bitmap_isequal(t->allowed, machine);
  return t;
}

void ingot_topology_destroy(ingot_topology *t) {
  if (!t) return;
  for (int i = 0; i < t->place_count; i++) hwloc_bitmap_free(t->places[i].processors);
  free(t->places);
  hwloc_bitmap_free(t->allowed);
  if (t->hwloc) hwloc_topology_destroy(t->hwloc);
  free(t);
}

int ingot_topology_cores(const ingot_topology *t) { return t ? t->cores : 1; }

int ingot_topology_default_threads(const ingot_topology *t) {
  if (!t) return 1;
  int threads = t->cores < INGOT_TEAM_MAX_THREADS ? t->cores : INGOT_TEAM_MAX_THREADS;
  if (t->is_this_machine) {
    const int64_t quota = ingot_cgroup_cpu_quota("");
    // Rounded up: a fraction of a processor is still work done.
    if (quota > 0 && (quota + 999) / 1000 < threads) threads = (int)((quota + 999) / 1000);
  }
  return threads;
}

int ingot_topology_nodes(const ingot_topology *t) { return t ? t->place_count : 1; }

int ingot_topology_node_os_index(const ingot_topology *t, int node) {
  return t && node >= 0 && node < t->place_count ? (int)t->places[node].memory->os_index : -1;
}

int ingot_topology_may_bind(const ingot_topology *t) { return t ? t->may_bind : 0; }

/// The node where the calling thread ran last, 0 when it is not known.
static int current_node(const ingot_topology *t) {
  int node = 0;
  hwloc_bitmap_t where = hwloc_bitmap_alloc();
  if (where && t->is_this_machine && hwloc_get_last_cpu_location(t->hwloc, where, HWLOC_CPUBIND_THREAD) == 0) {
    for (int i = 0; i < t->place_count; i++) {
      if (hwloc_bitmap_intersects(t->places[i].processors, where)) node = i;
    }
  }
  hwloc_bitmap_free(where);
  return node;
}

ingot_placement *ingot_placement_create(const ingot_topology *t, int workers, int first_node) {
  if (!t || workers < 1 || workers > INGOT_TEAM_MAX_THREADS || first_node >= t->place_count) return NULL;
  ingot_placement *p = calloc(1, sizeof *p);
  int *load = calloc((size_t)t->place_count, sizeof *load);
  if (p) p->nodes = calloc((size_t)workers, sizeof *p->nodes);
  if (!p || !load || !p->nodes) {
    free(load);
    ingot_placement_destroy(p);
    return NULL;
  }
  p->topology = t;
  p->workers = workers;
  const int first = first_node >= 0 ? first_node : current_node(t);
  for (int worker = 0; worker < workers; worker++) {
    // The node with the most cores per worker left; equal ones in turn, from the caller's on.
    int best = first;
    for (int step = 1; worker > 0 && step < t->place_count; step++) {
      const int node = (first + step) % t->place_count;
      const int64_t here = (int64_t)(load[node] + 1) * t->places[best].cores;
      const int64_t there = (int64_t)(load[best] + 1) * t->places[node].cores;
      if (here < there) best = node;
    }
    p->nodes[worker] = best;
    load[best]++;
  }
  free(load);
  return p;
}

void ingot_placement_destroy(ingot_placement *p) {
  if (!p) return;
  free(p->nodes);
  free(p);
}

int ingot_placement_node(const ingot_placement *p, int worker) { return p && worker >= 0 && worker < p->workers ? p->nodes[worker] : 0; }

int ingot_placement_processors(const ingot_placement *p, int worker, char *out, size_t out_bytes) {
  if (!p || worker < 0 || worker >= p->workers) return -1;
  return hwloc_bitmap_list_snprintf(out, out_bytes, p->topology->places[p->nodes[worker]].processors);
}

void *ingot_placement_bind(const ingot_placement *p, int worker) {
  if (!p->topology->may_bind || !p->topology->is_this_machine || worker >= p->workers) return NULL;
  hwloc_topology_t topology = p->topology->hwloc;
  hwloc_bitmap_t before = hwloc_bitmap_alloc();
  if (!before) return NULL;
  if (hwloc_get_cpubind(topology, before, HWLOC_CPUBIND_THREAD) == 0 &&
      hwloc_set_cpubind(topology, p->topology->places[p->nodes[worker]].processors, HWLOC_CPUBIND_THREAD) == 0)
    return before;
  hwloc_bitmap_free(before);
  return NULL;
}

void ingot_placement_unbind(const ingot_placement *p, void *previous) {
  hwloc_set_cpubind(p->topology->hwloc, previous, HWLOC_CPUBIND_THREAD);
  hwloc_bitmap_free(previous);
}

void *ingot_node_alloc(const ingot_topology *t, size_t bytes, int node) {
  if (bytes == 0 || bytes > PTRDIFF_MAX) return NULL;
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return NULL;
  if (t && t->may_bind && node >= 0 && node < t->place_count) {
    hwloc_set_area_membind(t->hwloc, memory, bytes, t->places[node].memory->nodeset, HWLOC_MEMBIND_BIND, HWLOC_MEMBIND_BYNODESET);
  }
  return memory;
}

void ingot_node_free(void *memory, size_t bytes) {
  if (memory && bytes) munmap(memory, bytes);
}

void ingot_node_bind(const ingot_topology *t, void *memory, size_t bytes, int node) {
  if (!t || !t->may_bind || node < 0 || node >= t->place_count || bytes == 0) return;
  // Not strict: Linux then prefers the node, and takes another one when it is full.
  hwloc_set_area_membind(t->hwloc, memory, bytes, t->places[node].memory->nodeset, HWLOC_MEMBIND_BIND,
                         HWLOC_MEMBIND_BYNODESET | HWLOC_MEMBIND_MIGRATE);
}

void ingot_node_unbind(const ingot_topology *t, void *memory, size_t bytes) {
  if (!t || !t->may_bind || bytes == 0) return;
  hwloc_set_area_membind(t->hwloc, memory, bytes, t->places[0].memory->nodeset, HWLOC_MEMBIND_DEFAULT, HWLOC_MEMBIND_BYNODESET);
}

void ingot_node_pages(const ingot_topology *t, void *memory, size_t bytes, int node, uint64_t *present, uint64_t *elsewhere) {
  enum { BATCH = 512 };
  *present = *elsewhere = 0;
  const int wanted = ingot_topology_node_os_index(t, node);
  if (!t || !t->is_this_machine || wanted < 0) return;
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  void *pages[BATCH];
  int nodes[BATCH];
  for (size_t at = 0; at < bytes;) {
    unsigned long count = 0;
    for (; count < BATCH && at < bytes; at += page) pages[count++] = (char *)memory + at;
    // Without a list of nodes the call moves nothing and tells where each page is.
    if (syscall(SYS_move_pages, 0, count, pages, NULL, nodes, 0) != 0) return;
    for (unsigned long i = 0; i < count; i++) {
      if (nodes[i] < 0) continue;
      *present += 1;
      *elsewhere += nodes[i] != wanted;
    }
  }
}
