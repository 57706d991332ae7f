#if defined(__x86_64__)
/* The kernels for baseline: x86-64-v2 (SSE4.2). */
#define INGOTK_SET baseline
#define INGOTK_BASELINE 1
#define INGOTK_LANES 4
#include "../kernels/vector.h"

#pragma clang attribute push(__attribute__((target("sse4.2,popcnt,cx16"))), apply_to = function)
#include "../kernels/all.inc"
#pragma clang attribute pop
#else
typedef int ingotk_nothing_here;
#endif
