#if defined(__x86_64__)
/* The kernels for avx2: AVX2 with F16C and BMI2. */
#define INGOTK_SET avx2
#define INGOTK_AVX2 1
#define INGOTK_LANES 8
#include "../kernels/vector.h"

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt"))), apply_to = function)
#include "../kernels/all.inc"
#pragma clang attribute pop
#else
typedef int ingotk_nothing_here;
#endif
