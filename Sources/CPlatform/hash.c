#include <stdlib.h>

#include "CPlatform.h"

// Inlined: nothing of libxxhash is linked, and no symbol of it can clash with a host's copy. The SSE2 form that every x86-64
// has hashes faster than memory delivers, so there is no choice at run time.
#define XXH_INLINE_ALL
#include <xxhash.h>

struct ingot_xxh3_state {
  XXH3_state_t xxh;
};

void ingot_xxh3_128(const void *data, size_t bytes, uint8_t out[16]) {
  // A null pointer with no bytes is legal for the caller, not for the header.
  const XXH128_hash_t hash = XXH3_128bits(data ? data : "", bytes);
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  for (int i = 0; i < 16; i++) out[i] = canonical.digest[i];
}

uint64_t ingot_xxh3_64(const void *data, size_t bytes) { return XXH3_64bits(data ? data : "", bytes); }

ingot_xxh3_state *ingot_xxh3_create(void) {
  void *memory = NULL;
  if (posix_memalign(&memory, 64, sizeof(ingot_xxh3_state)) != 0) return NULL;
  ingot_xxh3_state *state = memory;
  XXH3_128bits_reset(&state->xxh);
  return state;
}

void ingot_xxh3_destroy(ingot_xxh3_state *state) { free(state); }

void ingot_xxh3_reset(ingot_xxh3_state *state) { XXH3_128bits_reset(&state->xxh); }

void ingot_xxh3_update(ingot_xxh3_state *state, const void *data, size_t bytes) {
  if (bytes) XXH3_128bits_update(&state->xxh, data, bytes);
}

void ingot_xxh3_digest(const ingot_xxh3_state *state, uint8_t out[16]) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state->xxh));
  for (int i = 0; i < 16; i++) out[i] = canonical.digest[i];
}
