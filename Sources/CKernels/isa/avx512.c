#if defined(__x86_64__)
/* The kernels for avx512: AVX-512 F, BW, VL and DQ. */
#define INGOTK_SET avx512
#define INGOTK_AVX512 1
#define INGOTK_LANES 16
#include "../kernels/vector.h"

#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt"))), \
                             apply_to = function)
#include "../kernels/all.inc"
#pragma clang attribute pop
#else
typedef int ingotk_nothing_here;
#endif
