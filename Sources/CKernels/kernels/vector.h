/* Vocabulary of the kernel bodies. */
#ifndef INGOT_KERNELS_VECTOR_H
#define INGOT_KERNELS_VECTOR_H

#include "../table.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The vectors below never cross a real call: every function that has one as an argument is inlined. */
#pragma clang diagnostic ignored "-Wpsabi"

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
/* One NaN for all: which operand's payload and sign survive differs between instruction sets. */
INLINE float plain_nan(float x) { return x == x ? x : float_of(UINT32_C(0x7fc00000)); }
INLINE uint32_t magnitude_bits(float x) { return float_bits(x) & UINT32_C(0x7fffffff); }

#if INGOTK_LANES > 1
/* Vectors of 16 elements on every instruction set: the compiler splits them into the registers there are. */
typedef float f32v __attribute__((ext_vector_type(16)));
typedef uint32_t u32v __attribute__((ext_vector_type(16)));
typedef int32_t i32v __attribute__((ext_vector_type(16)));
typedef uint16_t u16v __attribute__((ext_vector_type(16)));
typedef uint8_t u8v __attribute__((ext_vector_type(16)));
typedef double f64v __attribute__((ext_vector_type(16)));
typedef uint64_t u64v __attribute__((ext_vector_type(16)));
typedef bool boolv __attribute__((ext_vector_type(16)));

/* The same in memory, at any address. */
typedef float f32m __attribute__((ext_vector_type(16), aligned(1), may_alias));
typedef uint32_t u32m __attribute__((ext_vector_type(16), aligned(1), may_alias));
typedef uint16_t u16m __attribute__((ext_vector_type(16), aligned(1), may_alias));
typedef uint8_t u8m __attribute__((ext_vector_type(16), aligned(1), may_alias));
typedef double f64m __attribute__((ext_vector_type(16), aligned(1), may_alias));

#define LOAD_F32(p) ((f32v) * (const f32m *)(p))
#define LOAD_U32(p) ((u32v) * (const u32m *)(p))
#define LOAD_U16(p) ((u16v) * (const u16m *)(p))
#define LOAD_U8(p) ((u8v) * (const u8m *)(p))
#define LOAD_F64(p) ((f64v) * (const f64m *)(p))
#define STORE_F32(p, v) (*(f32m *)(p) = (v))
#define STORE_U32(p, v) (*(u32m *)(p) = (v))
#define STORE_U16(p, v) (*(u16m *)(p) = (v))
#define STORE_F64(p, v) (*(f64m *)(p) = (v))

/* plain_nan of every lane. */
#define PLAIN_NAN(v)                                                           \
  __extension__({                                                              \
    const __typeof__(v) value_ = (v);                                          \
    value_ == value_ ? value_ : (__typeof__(v))float_of(UINT32_C(0x7fc00000)); \
  })

/* |x| as a signed integer: signed compares are the cheap ones. */
#define MAGNITUDE(v) ((i32v)(v) & 0x7fffffff)
#define COUNT_UP ((u32v){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})

/* One bit per lane of a comparison's result, and back. */
#define MASK_BITS(mask)                                               \
  __extension__({                                                     \
    const boolv lanes_ = __builtin_convertvector((mask) != 0, boolv); \
    uint16_t bits_;                                                   \
    __builtin_memcpy(&bits_, &lanes_, sizeof bits_);                  \
    (uint32_t)bits_;                                                  \
  })
#define BITS_MASK(bits16)                             \
  __extension__({                                     \
    const uint16_t bits_ = (uint16_t)(bits16);        \
    boolv lanes_;                                     \
    __builtin_memcpy(&lanes_, &bits_, sizeof lanes_); \
    -__builtin_convertvector(lanes_, i32v);           \
  })
#endif

#endif
