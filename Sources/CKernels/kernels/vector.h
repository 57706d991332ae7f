/* Vocabulary of the kernel bodies. */
#ifndef INGOT_KERNELS_VECTOR_H
#define INGOT_KERNELS_VECTOR_H

#include "../table.h"

#define PLAIN_LOOP _Pragma("clang loop vectorize(disable) interleave(disable) unroll(disable)")
#define INLINE static inline __attribute__((always_inline))

/* A function's address with the set's name: the tables are the only exported symbols. */
#define INGOTK_PASTE2(a, b) a##b
#define INGOTK_PASTE(a, b) INGOTK_PASTE2(a, b)

INLINE uint32_t float_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
INLINE float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
INLINE uint16_t read16(const uint8_t *p) {
  uint16_t x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
INLINE uint32_t magnitude_bits(float x) { return float_bits(x) & UINT32_C(0x7fffffff); }

#endif
