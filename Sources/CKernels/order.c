// Order statistics over collected keys; the same on every instruction set.
#pragma STDC FP_CONTRACT OFF
#include "CKernels.h"

enum { DIGIT_BITS = 11, FEW_BITS = 7, FEW = 1 << 10, BUCKETS = 1 << DIGIT_BITS };

uint64_t ingotk_select(uint64_t *keys, size_t count, size_t rank, size_t *equal, size_t *larger) {
  size_t high = count, wanted = rank;
  // MSD radix selection from the highest bit in which keys differ; the bucket that holds the rank is brought to the front.
  while (high > 1) {
    uint64_t differing = 0;
    for (size_t i = 1; i < high; i++) differing |= keys[i] ^ keys[0];
    if (differing == 0) break;
    const int top = 63 - __builtin_clzll(differing);
    // Of few keys the buckets would be more work than the keys.
    const int bits = high < FEW ? FEW_BITS : DIGIT_BITS;
    const size_t last = ((size_t)1 << bits) - 1;
    const int shift = top + 1 > bits ? top + 1 - bits : 0;
    size_t counts[BUCKETS];
    for (size_t digit = 0; digit <= last; digit++) counts[digit] = 0;
    for (size_t i = 0; i < high; i++) counts[(keys[i] >> shift) & last]++;
    size_t digit = last;
    while (digit > 0 && wanted >= counts[digit]) wanted -= counts[digit--];
    size_t front = 0;
    for (size_t i = 0; i < high; i++) {
      // Exchanged without a branch: all keys stay, those of the bucket gather in front.
      const uint64_t key = keys[i];
      keys[i] = keys[front];
      keys[front] = key;
      front += ((key >> shift) & last) == digit;
    }
    high = front;
  }
  *equal = high;
  *larger = rank - wanted;
  return keys[0];
}

void ingotk_bin_keys(const uint64_t *keys, size_t count, uint64_t low, int32_t shift, uint64_t *counts, size_t bins) {
  for (size_t i = 0; i < count; i++) {
    const uint64_t place = (keys[i] - low) >> shift;
    if (place < bins) counts[place]++;
  }
}
