// Finding and opening libingot-openmp.so, only where a second OpenMP runtime cannot result.
#ifndef INGOT_COMPANION_H
#define INGOT_COMPANION_H

#include <stdbool.h>
#include <stddef.h>

#include "../COpenMPTeam/include/COpenMPTeam.h"

/// The companion's function, or null with the reason in `why`. On success `why` says where it was found. The companion is
/// never unloaded again: libomp's threads live in it.
ingot_openmp_run_function ingot_companion_open(const char *path, char *why, size_t why_bytes);

/// The first number of an OMP_NUM_THREADS, at most the most threads of a team; 0 for NULL and for what is no list of positive numbers.
int ingot_host_thread_count(const char *text);

/// False, with the reason in `why`, where a variable of this environment could make the runtime end the process when it starts.
bool ingot_companion_fits_environment(char *const *variables, char *why, size_t why_bytes);

/// False, with the reason in `why`, where no file can be made in `directory`, which is /dev/shm: the runtime would end the process.
bool ingot_companion_has_shared_memory(const char *directory, char *why, size_t why_bytes);

#endif
