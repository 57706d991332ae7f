/* The arithmetic of Ingot: loops over runs of elements, one compiled copy per instruction set.
 *
 * Private to the package: only Sources/IngotTensors/Kernels*.swift calls these functions, and it checks every count first.
 * `set` is the ordinal of an instruction set (0 ..< ingotk_set_count()); one that does not run here falls back to the scalar set.
 * Every set gives the same bits: no contraction, no reassociation, no libm. In-place use (out == an input) is allowed everywhere;
 * partial overlap is not. No function allocates, and none keeps state besides the call counters.
 */
#ifndef INGOT_CKERNELS_H
#define INGOT_CKERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

/* Instruction sets compiled into this library, best first; the last is the scalar reference. */
int32_t ingotk_set_count(void);
const char *ingotk_set_name(int32_t set);
bool ingotk_set_runs_here(int32_t set);
uint64_t ingotk_set_calls(int32_t set);
/* An address for runs of no elements. */
float *ingotk_nothing(void);

typedef float *_Nonnull const *_Nonnull ingotk_rows;

/* Element types, numbered as in ingot.h. */
enum { INGOTK_F32 = 1, INGOTK_F16 = 2, INGOTK_BF16 = 3, INGOTK_F64 = 4, INGOTK_F8E4M3 = 5, INGOTK_F8E5M2 = 6 };
/* How equal magnitudes are ordered. */
enum { INGOTK_TIES_HASH = 0, INGOTK_TIES_INDEX = 1, INGOTK_TIES_GE = 2 };
/* The sign elected where the weighted sum is exactly zero; NONE keeps no term there. */
enum { INGOTK_ZERO_POSITIVE = 0, INGOTK_ZERO_NEGATIVE = 1, INGOTK_ZERO_NONE = 2 };

/* Conversion. `load` returns how many results are NaN or infinite; an unknown type writes zeros. Storage may be unaligned. */
size_t ingotk_load(int32_t set, int32_t dtype, const void *source, float *out, size_t n);
void ingotk_store(int32_t set, int32_t dtype, const float *x, void *out, size_t n);

/* Combination. */
void ingotk_linear(int32_t set, ingotk_rows x, size_t rows, const float *weights, float divisor, float *out, size_t n);
void ingotk_scale(int32_t set, const float *x, float by, float *out, size_t n);
void ingotk_subtract(int32_t set, const float *x, const float *base, float *out, size_t n);
void ingotk_add_delta(int32_t set, const float *delta, float scale, const float *base, float *out, size_t n);
void ingotk_weighted_sum(int32_t set, ingotk_rows deltas, size_t rows, const float *weights, float divisor, float *out, size_t n);
void ingotk_elect(int32_t set, ingotk_rows deltas, size_t rows, const float *weights, bool normalize, int32_t zero_sign, float *out,
                  size_t n);

/* Sums into 16 f64 lanes: element i is added to lane i mod 16. */
void ingotk_dot(int32_t set, const float *x, const float *y, double *lanes, size_t n);
void ingotk_absolute(int32_t set, const float *x, double *lanes, size_t n);
void ingotk_moments(int32_t set, const float *x, const float *y, double *xx, double *xy, double *yy, size_t n);

/* Magnitude selection over keys (|x| bits << 32 | tie). */
size_t ingotk_collect(int32_t set, const float *x, uint64_t first, int32_t ties, uint64_t low, uint64_t high, uint64_t *above,
                      uint64_t *keys, size_t capacity, size_t n);
void ingotk_histogram(int32_t set, const float *x, uint64_t first, int32_t ties, uint64_t prefix, int32_t prefix_bits, int32_t digit_bits,
                      uint64_t *counts, size_t n);
void ingotk_trim(int32_t set, float *x, uint64_t first, int32_t ties, uint64_t threshold, bool inclusive, size_t n);

/* Randomness: Philox4x32-10. `bits` has (n + 7) / 8 bytes; unused high bits are cleared. */
void ingotk_bernoulli(int32_t set, uint64_t seed, uint64_t stream, uint64_t first, uint64_t threshold, uint8_t *bits, size_t n);
void ingotk_apply_mask(int32_t set, float *x, const uint8_t *bits, float scale, size_t n);
void ingotk_masked_absolute(int32_t set, const float *x, const uint8_t *bits, double *all, double *kept, size_t n);
/* One row. `scratch` has 2 n words; `probabilities` may be null. n < 2^31. */
void ingotk_della_row(int32_t set, const float *x, double density, double epsilon, uint64_t seed, uint64_t stream, uint64_t first,
                      uint8_t *bits, float *_Nullable probabilities, uint32_t *scratch, size_t n);
void ingotk_divide_kept(int32_t set, float *x, const uint8_t *bits, const float *probabilities, size_t n);

/* Fused: a method's whole element-wise step in registers, from and to storage types, the same bits as the single kernels in a row. */

/* One fine-tuned model (or, without a base, one model) of a merge. */
typedef struct {
  const void *source; /* elements of `dtype`, any alignment */
  size_t count;       /* of elements; for the caller's checks */
  int32_t dtype;
  float weight;
  uint64_t least;                /* keys below it are trimmed; 0 trims nothing */
  const uint8_t *_Nullable bits; /* null: all are kept; else a kept delta is scaled, another is zero */
  size_t bit_count;              /* for the caller's checks */
  float bits_scale;
} ingotk_term;

/* How deltas become one. */
typedef struct {
  bool elect; /* false: weighted_sum with `divisor`; true: elect with `normalize` and `zero_sign` */
  bool normalize;
  int32_t zero_sign;
  int32_t ties;
  float divisor;
  float scale; /* of the merged delta */
} ingotk_rule;

/* Both return how many input values are NaN or infinite; `out_dtype` is F32, F16 or BF16. `out` may be a
 * source of the same type. */
size_t ingotk_merge_linear(int32_t set, const ingotk_term *terms, size_t rows, float divisor, int32_t out_dtype, void *out, size_t n);
size_t ingotk_merge_deltas(int32_t set, const ingotk_term *base, const ingotk_term *terms, size_t rows, ingotk_rule rule, uint64_t first,
                           int32_t out_dtype, void *out, size_t n);

#pragma clang assume_nonnull end

/// The key of rank `rank` counted from the largest (0), among `count` > rank keys, which are reordered. `equal` gets how many keys equal it,
/// itself included, and `larger` how many are larger.
uint64_t ingotk_select(uint64_t *_Nonnull keys, size_t count, size_t rank, size_t *_Nonnull equal, size_t *_Nonnull larger);

#endif
