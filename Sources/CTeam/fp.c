#include "CTeam.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
uint64_t ingot_fp_control(void) { return _mm_getcsr(); }
void ingot_fp_set_control(uint64_t control) { _mm_setcsr((unsigned)control); }
/// All traps masked, round to nearest, FTZ and DAZ off, no sticky flags.
#define STANDARD_CONTROL 0x1F80u
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
