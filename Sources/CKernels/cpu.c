/* Detection, compiled without any instruction-set attribute: it runs on every processor. */
#include "table.h"

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t saved_state(void) {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

uint32_t ingotk_cpu_features(void) {
  uint32_t a, b, c, d, b7 = 0, c7, d7, c81 = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) b7 = 0;
  uint32_t unused_a, unused_b, unused_d;
  if (!__get_cpuid(0x80000001, &unused_a, &unused_b, &c81, &unused_d)) c81 = 0;

  /* x86-64-v2: SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT, LAHF. */
  const uint32_t v2 = bit_SSE3 | bit_SSSE3 | bit_CMPXCHG16B | bit_SSE41 | bit_SSE42 | bit_POPCNT;
  if ((c & v2) != v2 || !(c81 & bit_LAHF_LM)) return 0;
  uint32_t found = INGOTK_CPU_BASELINE;

  const uint32_t avx = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
  if ((c & avx) != avx) return found;
  const uint64_t state = saved_state();
  const uint32_t avx2 = bit_AVX2 | bit_BMI | bit_BMI2;
  if ((state & 0x06) != 0x06 || (b7 & avx2) != avx2 || !(c81 & bit_LZCNT)) return found;
  found |= INGOTK_CPU_AVX2;

  const uint32_t avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
  if ((state & 0xe6) == 0xe6 && (b7 & avx512) == avx512) found |= INGOTK_CPU_AVX512;
  return found;
}
#elif defined(__aarch64__)
/* Advanced SIMD is part of the architecture's base. */
uint32_t ingotk_cpu_features(void) { return INGOTK_CPU_NEON; }
#else
uint32_t ingotk_cpu_features(void) { return 0; }
#endif
