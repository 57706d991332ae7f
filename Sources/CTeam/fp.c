#include "CTeam.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
/// MXCSR in the low half; in the high half the control word of the x87, whose rounding the C library's number parser follows.
uint64_t ingot_fp_control(void) {
  uint16_t x87;
  __asm__ volatile("fnstcw %0" : "=m"(x87));
  return (uint64_t)x87 << 32 | _mm_getcsr();
}
void ingot_fp_set_control(uint64_t control) {
  const uint16_t x87 = (uint16_t)(control >> 32);
  __asm__ volatile("fldcw %0" ::"m"(x87));
  _mm_setcsr((unsigned)control);
}
/// All traps masked, round to nearest, FTZ and DAZ off, no sticky flags; the x87 with 64 bits of mantissa.
#define STANDARD_CONTROL 0x037F00001F80u
#elif defined(__aarch64__)
uint64_t ingot_fp_control(void) {
  uint64_t control;
  __asm__ volatile("mrs %0, fpcr" : "=r"(control));
  return control;
}
void ingot_fp_set_control(uint64_t control) { __asm__ volatile("msr fpcr, %0" ::"r"(control)); }
#define STANDARD_CONTROL 0u
#else
uint64_t ingot_fp_control(void) { return 0; }
void ingot_fp_set_control(uint64_t control) { (void)control; }
#define STANDARD_CONTROL 0u
#endif

uint64_t ingot_fp_enter(void) {
  const uint64_t before = ingot_fp_control();
  if (before != STANDARD_CONTROL) ingot_fp_set_control(STANDARD_CONTROL);
  return before;
}
