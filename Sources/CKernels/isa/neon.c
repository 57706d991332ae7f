#if defined(__aarch64__)
/* The kernels for neon: Advanced SIMD of AArch64. */
#define INGOTK_SET neon
#define INGOTK_NEON 1
#define INGOTK_LANES 4
#include "../kernels/vector.h"

#include "../kernels/all.inc"
#else
typedef int ingotk_nothing_here;
#endif
