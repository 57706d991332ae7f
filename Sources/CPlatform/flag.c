#include "CPlatform.h"

int32_t ingot_load_flag(const volatile int32_t *flag) { return __atomic_load_n(flag, __ATOMIC_RELAXED); }

void ingot_store_flag(volatile int32_t *flag, int32_t value) { __atomic_store_n(flag, value, __ATOMIC_RELAXED); }
