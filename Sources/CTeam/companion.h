// Finding and opening libingot-openmp.so, only where a second OpenMP runtime cannot result.
#ifndef INGOT_COMPANION_H
#define INGOT_COMPANION_H

#include <stddef.h>

#include "../COpenMPTeam/include/COpenMPTeam.h"

/// The companion's function, or null with the reason in `why`. On success `why` says where it was found. The companion is
/// never unloaded again: libomp's threads live in it.
ingot_openmp_run_function ingot_companion_open(const char *path, char *why, size_t why_bytes);

#endif
