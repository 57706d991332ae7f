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

/* Quantised storage. `load_scaled`: out[i] = value of the FP8 code i times scales[(first + i) / block]; `dtype` is F8E4M3 or F8E5M2, block > 0.
 * `load_powers`: 2^(e - 127) of E8M0 codes. `load_mxfp4`: of n blocks of 32 E2M1 codes (16 bytes, the low nibble first), `stride` bytes apart,
 * code `index` (< 32) times the block's E8M0 scale. */
void ingotk_load_scaled(int32_t set, int32_t dtype, const void *source, const float *scales, size_t first, size_t block, float *out,
                        size_t n);
void ingotk_load_powers(int32_t set, const void *source, float *out, size_t n);
void ingotk_load_mxfp4(int32_t set, const void *blocks, size_t stride, size_t index, const void *scales, float *out, size_t n);

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

/* Whole steps of single methods. */

/* base + w (other - base), w = clamp(t / max(|other - base|, 1e-6), 0, 1). */
void ingotk_nearswap(int32_t set, const float *base, const float *other, float t, float *out, size_t n);
/* The mean of the deltas with |d| > epsilon; where there is one only, that one times its row's factor. */
void ingotk_ram(int32_t set, ingotk_rows deltas, size_t rows, float epsilon, const float *unique, float *out, size_t n);
/* Adds two counts for each row: elements in which it alone is above epsilon, and which it shares with others. */
void ingotk_ram_counts(int32_t set, ingotk_rows deltas, size_t rows, float epsilon, uint64_t *counts, size_t n);
/* Adds the numbers of values above and below zero to two counts. */
void ingotk_count_signs(int32_t set, const float *x, uint64_t *counts, size_t n);
/* `other` where |importance| >= threshold, else `base`. */
void ingotk_select_important(int32_t set, const float *importance, float threshold, const float *base, const float *other, float *out,
                             size_t n);
/* Population variance of x - base over the rows; the squares of x - base go into the lanes. Returns how many variances are not 0. */
size_t ingotk_variance(int32_t set, const float *base, ingotk_rows x, size_t rows, float *out, double *lanes, size_t n);
/* Adds (x - base)^2 to the lanes where `selected` (null: everywhere) is not 0. */
void ingotk_energy(int32_t set, const float *base, const float *x, const float *_Nullable selected, double *lanes, size_t n);
/* base + the weighted mean of the deltas that have the sign of their plain sum; `base` where `selected` is 0.
 * The weights' sum counts as at least `floor`. */
void ingotk_sce_merge(int32_t set, const float *base, ingotk_rows x, size_t rows, const float *_Nullable selected, const float *weights,
                      float floor, float *out, size_t n);
/* exp of numbers up to 700 (0 below -700) and ln of positive normal numbers, to about 2e-16 and 4e-16. */
void ingotk_exponential(int32_t set, const double *x, double *out, size_t n);
void ingotk_logarithm(int32_t set, const double *x, double *out, size_t n);
/* KL divergence of softmax(other) from softmax(base), 1e-8 added to each probability. `scratch` has 2 n doubles. */
double ingotk_row_divergence(int32_t set, const float *base, const float *other, double *scratch, size_t n);
/* Element i belongs to column (first + i) mod columns. `sums` has 3 columns of doubles, `weights` 2 columns of floats. */
void ingotk_column_moments(int32_t set, const float *x, const float *y, uint64_t first, size_t columns, double *sums, size_t n);
void ingotk_column_combination(int32_t set, const float *x, const float *y, uint64_t first, size_t columns, const float *weights,
                               float *out, size_t n);
/* base + f (x - base) with the factor f of the element's column; x itself where f is 1, base itself where the difference is 0. */
void ingotk_scale_channels(int32_t set, const float *x, const float *factors, uint64_t first, size_t columns, const float *base, float *out,
                           size_t n);

/* Side inputs. Weights are never negative; a term whose weight is 0 (or NaN, where that is not the first) is skipped. */

/* What of the weights counts: those of row r times scale[r], after a floor of floor[r] (added, or the least value). */
typedef struct {
  const double *scale;
  const double *floor;
  double least;
  bool adds;
} ingotk_weighting;

/* The mean of the rows of x weighted by those of w; `fallback`, else the plain mean of x, where the weights' sum is not above `least`. All in
 * f64, rounded once. */
void ingotk_weighted_mean(int32_t set, ingotk_rows x, ingotk_rows w, size_t rows, ingotk_weighting weighting,
                          const float *_Nullable fallback, float *out, size_t n);
/* v d d 2^64 (v 2^64 without d) in f32, at least the smallest number above 0. */
void ingotk_saliency(int32_t set, const float *v, const float *_Nullable d, float *out, size_t n);
/* (v^power factor + epsilon) scale; 0 where `kept` (null: nowhere) is 0. Negative values count as 0. In f64, rounded once. */
typedef struct {
  double power, factor, epsilon, scale;
} ingotk_preconditioner;
void ingotk_precondition(int32_t set, const float *v, const float *_Nullable kept, ingotk_preconditioner how, float *out, size_t n);
/* v[i] = rows[r] columns[c], element first + i of a matrix with so many columns. */
void ingotk_outer_product(int32_t set, const float *rows, size_t row_count, const float *columns, size_t column_count, uint64_t first,
                          float *out, size_t n);
/* +1 where g x + lambda prior (r - x)^2 <= 0, else -1: set as the votes when it `begins`, else added to them. */
void ingotk_vote(int32_t set, const float *g, const float *x, const float *r, const float *prior, float lambda, bool begins, float *votes,
                 size_t n);
/* r + (x - base) where the vote is above 0, else r. */
void ingotk_add_voted(int32_t set, const float *r, const float *x, const float *base, const float *votes, float *out, size_t n);
/* Values of a mask from logits, or from shares. kind 0: the share p, the sigmoid of a logit; 1: 1 where p > 1/2, else 0; 2: 1 where the draw u < p,
 * else 0; 3: the relaxed sample, the sigmoid of (logit + ln u - ln(1 - u)) / temperature. u is (the element's Philox word + 1/2) / 2^32. Into
 * `out`, or times what is there. In f64, rounded once. */
typedef struct {
  int32_t kind;
  bool is_logit;
  bool multiplies;
  double temperature;
  uint64_t seed, stream;
} ingotk_mask_rule;
void ingotk_soft_mask(int32_t set, const float *x, ingotk_mask_rule rule, uint64_t first, float *out, size_t n);
/* Rounding to F16 or BF16 after every step; other types round nothing. */
void ingotk_round_to(int32_t set, int32_t dtype, float *x, size_t n);
void ingotk_stepwise_elect(int32_t set, int32_t dtype, ingotk_rows terms, size_t rows, const float *weights, bool normalize,
                           int32_t zero_sign, float *out, size_t n);

/* Task vectors. */

/* Of the rows' values that of the largest magnitude, of equal ones the last. */
void ingotk_magmax(int32_t set, ingotk_rows deltas, size_t rows, float *out, size_t n);
/* TALL masks: row r marks an element where |d| > thresholds[r] |merged - d|; `merged` null is the rows' sum. The merged value where at least
 * `least` rows mark it, else 0. */
void ingotk_consensus(int32_t set, ingotk_rows deltas, size_t rows, const float *_Nullable merged, const float *thresholds, int32_t least,
                      float *out, size_t n);
/* The merged value where row `row` (< rows) marks it, else 0. */
void ingotk_localize(int32_t set, ingotk_rows deltas, size_t rows, const float *_Nullable merged, size_t row, float threshold, float *out,
                     size_t n);
/* `size` with the sign of x, a zero counting as plus. */
void ingotk_signs(int32_t set, const float *x, float size, float *out, size_t n);
/* What a rolling vote adds up, by `part`: weight times the size of positive (0) or negative (1) values, or the weight of such (2, 3). */
void ingotk_vote_part(int32_t set, const float *x, int32_t part, float weight, float *out, size_t n);
/* The signed mean of the side with the larger sum; the positive one where they are equal, 0 where nothing is. */
void ingotk_settle_vote(int32_t set, const float *positive, const float *negative, const float *positive_weight,
                        const float *negative_weight, float *out, size_t n);
/* scale max(f, floor) x in f64, rounded once; `x` null counts as 1. */
void ingotk_informed(int32_t set, const float *_Nullable x, const float *f, double floor, double scale, float *out, size_t n);
/* x / y, `otherwise` where y is 0. */
void ingotk_ratio(int32_t set, const float *x, const float *y, float otherwise, float *out, size_t n);
/* sums[j] += a[j] product. */
void ingotk_accumulate_scaled(int32_t set, const float *a, double product, double *sums, size_t n);
/* The sign of the rows' sum (0 counts as minus) with the largest magnitude among the values that have it; 0 where none has. */
void ingotk_unify(int32_t set, ingotk_rows deltas, size_t rows, float *out, size_t n);
/* `values` where x has their sign, else 0. */
void ingotk_agree(int32_t set, const float *x, const float *values, float *out, size_t n);
/* `elect` (a zero sum counts as plus); where the other sign's terms reach (1 - slack) times the elected sign's, all terms enter. */
void ingotk_elect_with_slack(int32_t set, ingotk_rows deltas, size_t rows, const float *weights, bool normalize, float slack, float *out,
                             size_t n);
/* `elect`, but of the terms that agree the one of the largest magnitude in the place of their sum. */
void ingotk_elect_largest(int32_t set, ingotk_rows deltas, size_t rows, const float *weights, int32_t zero_sign, float *out, size_t n);
/* x where it is not 0 and |x| >= share |merged|, else `merged`. */
void ingotk_protect(int32_t set, const float *x, float share, const float *merged, float *out, size_t n);
/* PCB's scores of row `row` (< rows). `bounds`: lowest and highest magnitude of each row. `part`: 0 all, 1 the positive, -1 the negative ones;
 * a `least` above 0 takes its place: the scores from it on. */
void ingotk_competition(int32_t set, ingotk_rows deltas, size_t rows, size_t row, const float *bounds, bool pairwise, int32_t part,
                        float least, float *out, size_t n);
/* PCB's weighted mean. `limits`: low, high, cut, top and factor of each row. */
void ingotk_balance(int32_t set, ingotk_rows deltas, ingotk_rows scores, size_t rows, const float *limits, float *out, size_t n);
/* The sum of the rows, each value times its row's weight for its column; `weights` has `columns` for each row. */
void ingotk_column_sum(int32_t set, ingotk_rows x, size_t rows, uint64_t first, size_t columns, const float *weights, float *out, size_t n);
/* The sum of the rows times their scores: `value` above the row's cut, else the softmax of the magnitudes over the rows. */
void ingotk_significance_sum(int32_t set, ingotk_rows x, size_t rows, const double *cuts, double value, float *out, size_t n);
/* Adds to four runs of 16 lanes: opposite signs, neither zero, the smaller magnitude at opposite signs, both magnitudes. */
void ingotk_conflict_mass(int32_t set, const float *x, const float *y, double *opposite, double *both, double *opposed, double *all,
                          size_t n);
/* One row in place: without its `drop` largest keys, the next `keep` stay. `keys` has room for n. */
void ingotk_trim_row(int32_t set, float *x, uint64_t first, int32_t ties, size_t drop, size_t keep, uint64_t *keys, size_t n);

/* Comparison. */

/* Adds to five runs of 16 lanes: x·x, x·y, y·y, (x − y)², and the largest |x − y|. Pairs with a NaN or an infinity add nothing. */
void ingotk_compare(int32_t set, const float *x, const float *y, double *lanes, size_t n);
/* Adds to four counts: x ≠ 0, y ≠ 0, both, opposite signs. */
void ingotk_conflicts(int32_t set, const float *x, const float *y, uint64_t *counts, size_t n);
/* How many elements of `width` bytes (1, 2, 4 or 8) have other bits. `most` grows to the largest distance in units of the last place among
 * pairs whose magnitudes are both below `limit`. */
size_t ingotk_distances(int32_t set, size_t width, const void *x, const void *y, uint64_t limit, uint64_t *most, size_t n);

/* A task vector as it is stored: x - base, element by element. */
typedef struct {
  const void *source, *base;
  int32_t dtype, base_dtype;
} ingotk_delta;

/* As `collect` and `masked_absolute` of the difference, straight from storage; keys may come in another order. `*bad` is raised, or the
 * result is not 0, where a difference or an input may be NaN or infinite. */
size_t ingotk_collect_deltas(int32_t set, const ingotk_delta *delta, uint64_t first, int32_t ties, uint64_t low, uint64_t high,
                             uint64_t *above, uint64_t *keys, size_t capacity, size_t n, size_t *bad);
size_t ingotk_masked_absolute_deltas(int32_t set, const ingotk_delta *delta, const uint8_t *bits, double *all, double *kept, size_t n);
/* Adds to two counts: how many values of x are zero, and in how many elements only one of x and y is. */
void ingotk_count_zeros(int32_t set, const float *x, const float *y, uint64_t *counts, size_t n);
/* base + the mean of the deltas x - base, each weighted by its own square or magnitude; by nothing where these sum to less than 1e-13. */
void ingotk_varied_mean(int32_t set, const float *base, ingotk_rows x, size_t rows, bool squares, float *out, size_t n);

#pragma clang assume_nonnull end

/// Adds to counts[(key - low) >> shift] for each key; what lies beyond `bins` is not counted.
void ingotk_bin_keys(const uint64_t *_Nonnull keys, size_t count, uint64_t low, int32_t shift, uint64_t *_Nonnull counts, size_t bins);

/// The key of rank `rank` counted from the largest (0), among `count` > rank keys, which are reordered. `equal` gets how many keys equal it,
/// itself included, and `larger` how many are larger.
uint64_t ingotk_select(uint64_t *_Nonnull keys, size_t count, size_t rank, size_t *_Nonnull equal, size_t *_Nonnull larger);

#endif
