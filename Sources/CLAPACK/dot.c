#include "CLAPACK.h"

#pragma STDC FP_CONTRACT OFF

#define LANES 16

#define DEFINE(T, S)                                                                                          \
  double ingotl_dot_##S(const T *x, const T *y, size_t count) {                                               \
    double lanes[LANES] = {0};                                                                                \
    size_t i = 0;                                                                                             \
    for (; i + LANES <= count; i += LANES) {                                                                  \
      for (size_t lane = 0; lane < LANES; lane++) lanes[lane] += (double)x[i + lane] * (double)y[i + lane];   \
    }                                                                                                         \
    for (size_t lane = 0; i + lane < count; lane++) lanes[lane] += (double)x[i + lane] * (double)y[i + lane]; \
    for (size_t half = LANES / 2; half > 0; half /= 2) {                                                      \
      for (size_t lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];                           \
    }                                                                                                         \
    return lanes[0];                                                                                          \
  }

DEFINE(float, f32)
DEFINE(double, f64)
