#define _GNU_SOURCE
#include "companion.h"

#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMPANION_NAME "libingot-openmp.so"
/// The DT_NEEDED of the companion as built here. A loaded object of this DT_SONAME is what the loader gives the companion.
#define COMPANION_RUNTIME "libomp.so.5"

static const char *last_component(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

/// True for the file names of OpenMP runtimes: GNU, Intel, LLVM, NVIDIA, Cray, Fujitsu. libompd and libomptarget are not.
static bool names_runtime(const char *name) {
  static const char *const prefixes[] = {"libgomp", "libiomp5", "libnvomp", "libcraymp", "libfjomp"};
  for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
    if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) return true;
  }
  if (strncmp(name, "libomp", 6) != 0) return false;
  return name[6] == '.' || name[6] == '-' || (name[6] >= '0' && name[6] <= '9');
}

typedef struct runtimes {
  int count;
  bool is_ours_by_name; // the last one found has the DT_SONAME that the companion needs
  char name[128];       // of the last one found
} runtimes;

static const char *soname(const struct dl_phdr_info *info) {
  for (int i = 0; i < info->dlpi_phnum; i++) {
    if (info->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
    const ElfW(Dyn) *entries = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
    uintptr_t strings = 0;
    uintptr_t offset = 0;
    for (const ElfW(Dyn) *d = entries; d->d_tag != DT_NULL; d++) {
      if (d->d_tag == DT_STRTAB) strings = d->d_un.d_ptr;
      if (d->d_tag == DT_SONAME) offset = d->d_un.d_val;
    }
    if (!strings || !offset) return NULL;
    // glibc relocates DT_STRTAB in place on most machines, not on all; the vDSO is never relocated.
    if (strings < info->dlpi_addr) strings += info->dlpi_addr;
    return (const char *)(strings + offset);
  }
  return NULL;
}

static int count_runtime(struct dl_phdr_info *info, size_t size, void *context) {
  (void)size;
  runtimes *found = context;
  const char *path = info->dlpi_name;
  if (!path || !*path) return 0;
  const char *file = last_component(path);
  const char *own = soname(info);
  if (!names_runtime(file) && !(own && names_runtime(own))) return 0;
  found->count++;
  found->is_ours_by_name = own && strcmp(own, COMPANION_RUNTIME) == 0;
  snprintf(found->name, sizeof found->name, "%s", file);
  return 0;
}

static runtimes scan_runtimes(void) {
  runtimes found = {0, false, ""};
  dl_iterate_phdr(count_runtime, &found);
  // Linked into the host under another name, or statically.
  if (found.count == 0 && (dlsym(RTLD_DEFAULT, "omp_in_parallel") || dlsym(RTLD_DEFAULT, "__kmpc_fork_call"))) {
    found.count = 1;
    snprintf(found.name, sizeof found.name, "an OpenMP runtime inside the host");
  }
  return found;
}

/// The directory of the object that contains this code, without a trailing slash.
static bool own_directory(char out[PATH_MAX]) {
  Dl_info info;
  struct link_map *map = NULL;
  if (!dladdr1((void *)own_directory, &info, (void **)&map, RTLD_DL_LINKMAP) || !map) return false;
  // The main program's name is empty here and argv[0] in dladdr, neither of which is a path.
  const char *path = map->l_name && *map->l_name ? map->l_name : "/proc/self/exe";
  if (!realpath(path, out)) return false;
  char *slash = strrchr(out, '/');
  if (!slash) return false;
  *slash = 0;
  return true;
}

static bool find_companion(char out[PATH_MAX]) {
  static const char *const places[] = {"%s/" COMPANION_NAME, "%s/../lib/" COMPANION_NAME};
  char directory[PATH_MAX];
  if (!own_directory(directory)) return false;
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    char candidate[PATH_MAX + 64];
    snprintf(candidate, sizeof candidate, places[i], directory);
    if (access(candidate, R_OK) == 0 && realpath(candidate, out)) return true;
  }
  return false;
}

static ingot_openmp_run_function refuse(void *handle, char *why, size_t why_bytes, const char *format, const char *detail) {
  snprintf(why, why_bytes, format, detail);
  if (handle) dlclose(handle);
  return NULL;
}

ingot_openmp_run_function ingot_companion_open(const char *path, char *why, size_t why_bytes) {
  char found[PATH_MAX];
  if (path) {
    if (!realpath(path, found)) return refuse(NULL, why, why_bytes, "the OpenMP companion %s is missing", path);
  } else if (!find_companion(found)) {
    return refuse(NULL, why, why_bytes, "%s is neither beside this library nor in ../lib", COMPANION_NAME);
  }
  runtimes before = scan_runtimes();
  void *handle = dlopen(found, RTLD_NOLOAD | RTLD_NOW | RTLD_LOCAL);
  const bool shares = before.count == 0 || (before.count == 1 && (handle || before.is_ours_by_name));
  if (!shares) return refuse(handle, why, why_bytes, "another OpenMP runtime is in this process: %s", before.name);
  if (!handle) handle = dlopen(found, RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char *reason = dlerror();
    return refuse(NULL, why, why_bytes, "the OpenMP companion does not load: %s", reason ? reason : found);
  }
  // Nothing of the runtime has run yet (it starts at its first call), so a second copy can still be let go.
  runtimes after = scan_runtimes();
  if (after.count > 1) return refuse(handle, why, why_bytes, "the companion would bring a second OpenMP runtime: %s", after.name);
  ingot_openmp_run_function run = (ingot_openmp_run_function)dlsym(handle, "ingot_openmp_run");
  if (!run) return refuse(handle, why, why_bytes, "%s has no ingot_openmp_run", found);
  switch (run(0, NULL, NULL)) {
  case INGOT_OPENMP_OK: break;
  case INGOT_OPENMP_NESTED: return refuse(NULL, why, why_bytes, "%s", "the call comes from inside a parallel region");
  case INGOT_OPENMP_FORKED: return refuse(NULL, why, why_bytes, "%s", "this process is a fork of one that used OpenMP");
  default: return refuse(NULL, why, why_bytes, "%s answers in an unknown way", found);
  }
  dlopen(found, RTLD_NOLOAD | RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  dlclose(handle);
  snprintf(why, why_bytes, "OpenMP through %s", found);
  return run;
}
