/* The way from a set's ordinal to its table, and the counters that prove which set ran. */
#include <stdatomic.h>

#include "table.h"

static const struct {
  const char *name;
  const struct ingot_kernels *table;
  uint32_t needs;
} sets[] = {
#if defined(__x86_64__)
    {"avx512", &ingotk_table_avx512, INGOTK_CPU_AVX512},
    {"avx2", &ingotk_table_avx2, INGOTK_CPU_AVX2},
    {"baseline", &ingotk_table_baseline, INGOTK_CPU_BASELINE},
#elif defined(__aarch64__)
    {"neon", &ingotk_table_neon, INGOTK_CPU_NEON},
#endif
    {"scalar", &ingotk_table_scalar, 0},
};
enum { SETS = sizeof sets / sizeof sets[0], SHARDS = 64 };

/* One counter per set would be one cache line fought over by every worker: each thread adds to the shard its stack address picks. */
static struct {
  _Alignas(64) _Atomic uint64_t calls;
} counters[SETS][SHARDS];

/* 0 until detected, then the features with the top bit set; racing detections write the same value. */
static _Atomic uint32_t features;

static uint32_t detected(void) {
  uint32_t known = atomic_load_explicit(&features, memory_order_relaxed);
  if (known == 0) {
    known = ingotk_cpu_features() | UINT32_C(0x80000000);
    atomic_store_explicit(&features, known, memory_order_relaxed);
  }
  return known;
}

int32_t ingotk_set_count(void) { return SETS; }

const char *ingotk_set_name(int32_t set) { return set >= 0 && set < SETS ? sets[set].name : ""; }

bool ingotk_set_runs_here(int32_t set) { return set >= 0 && set < SETS && (detected() & sets[set].needs) == sets[set].needs; }

uint64_t ingotk_set_calls(int32_t set) {
  if (set < 0 || set >= SETS) return 0;
  uint64_t sum = 0;
  for (int i = 0; i < SHARDS; i++) sum += atomic_load_explicit(&counters[set][i].calls, memory_order_relaxed);
  return sum;
}

float *ingotk_nothing(void) {
  static float nothing;
  return &nothing;
}

static inline const struct ingot_kernels *enter(int32_t set) {
  const int32_t chosen = ingotk_set_runs_here(set) ? set : SETS - 1;
  const uint64_t stack = (uintptr_t)__builtin_frame_address(0) >> 16;
  const uint64_t shard = (stack * UINT64_C(0x9E3779B97F4A7C15)) >> 58;
  atomic_fetch_add_explicit(&counters[chosen][shard].calls, 1, memory_order_relaxed);
  return sets[chosen].table;
}

size_t ingotk_load(int32_t set, int32_t dtype, const void *source, float *out, size_t n) { return enter(set)->load(dtype, source, out, n); }
void ingotk_store(int32_t set, int32_t dtype, const float *x, void *out, size_t n) { enter(set)->store(dtype, x, out, n); }
void ingotk_load_scaled(int32_t set, int32_t dtype, const void *source, const float *scales, size_t first, size_t block, float *out,
                        size_t n) {
  enter(set)->load_scaled(dtype, source, scales, first, block, out, n);
}
void ingotk_load_powers(int32_t set, const void *source, float *out, size_t n) { enter(set)->load_powers(source, out, n); }
void ingotk_load_mxfp4(int32_t set, const void *blocks, size_t stride, size_t index, const void *scales, float *out, size_t n) {
  enter(set)->load_mxfp4(blocks, stride, index, scales, out, n);
}
void ingotk_linear(int32_t set, ingotk_rows x, size_t rows, const float *weights, float divisor, float *out, size_t n) {
  enter(set)->linear(x, rows, weights, divisor, out, n);
}
void ingotk_scale(int32_t set, const float *x, float by, float *out, size_t n) { enter(set)->scale(x, by, out, n); }
void ingotk_subtract(int32_t set, const float *x, const float *base, float *out, size_t n) { enter(set)->subtract(x, base, out, n); }
void ingotk_add_delta(int32_t set, const float *delta, float scale, const float *base, float *out, size_t n) {
  enter(set)->add_delta(delta, scale, base, out, n);
}
void ingotk_weighted_sum(int32_t set, ingotk_rows deltas, size_t rows, const float *weights, float divisor, float *out, size_t n) {
  enter(set)->weighted_sum(deltas, rows, weights, divisor, out, n);
}
void ingotk_elect(int32_t set, ingotk_rows deltas, size_t rows, const float *weights, bool normalize, int32_t zero_sign, float *out,
                  size_t n) {
  enter(set)->elect(deltas, rows, weights, normalize, zero_sign, out, n);
}
void ingotk_dot(int32_t set, const float *x, const float *y, double *lanes, size_t n) { enter(set)->dot(x, y, lanes, n); }
void ingotk_absolute(int32_t set, const float *x, double *lanes, size_t n) { enter(set)->absolute(x, lanes, n); }
void ingotk_moments(int32_t set, const float *x, const float *y, double *xx, double *xy, double *yy, size_t n) {
  enter(set)->moments(x, y, xx, xy, yy, n);
}
size_t ingotk_collect(int32_t set, const float *x, uint64_t first, int32_t ties, uint64_t low, uint64_t high, uint64_t *above,
                      uint64_t *keys, size_t capacity, size_t n) {
  return enter(set)->collect(x, first, ties, low, high, above, keys, capacity, n);
}
void ingotk_trim(int32_t set, float *x, uint64_t first, int32_t ties, uint64_t threshold, bool inclusive, size_t n) {
  enter(set)->trim(x, first, ties, threshold, inclusive, n);
}
void ingotk_bernoulli(int32_t set, uint64_t seed, uint64_t stream, uint64_t first, uint64_t threshold, uint8_t *bits, size_t n) {
  enter(set)->bernoulli(seed, stream, first, threshold, bits, n);
}
void ingotk_apply_mask(int32_t set, float *x, const uint8_t *bits, float scale, size_t n) { enter(set)->apply_mask(x, bits, scale, n); }
void ingotk_masked_absolute(int32_t set, const float *x, const uint8_t *bits, double *all, double *kept, size_t n) {
  enter(set)->masked_absolute(x, bits, all, kept, n);
}
void ingotk_della_row(int32_t set, const float *x, double density, double epsilon, uint64_t seed, uint64_t stream, uint64_t first,
                      uint8_t *bits, float *probabilities, uint32_t *scratch, size_t n) {
  enter(set)->della_row(x, density, epsilon, seed, stream, first, bits, probabilities, scratch, n);
}
void ingotk_divide_kept(int32_t set, float *x, const uint8_t *bits, const float *probabilities, size_t n) {
  enter(set)->divide_kept(x, bits, probabilities, n);
}
size_t ingotk_merge_linear(int32_t set, const ingotk_term *terms, size_t rows, float divisor, int32_t out_dtype, void *out, size_t n) {
  return enter(set)->merge_linear(terms, rows, divisor, out_dtype, out, n);
}
size_t ingotk_merge_deltas(int32_t set, const ingotk_term *base, const ingotk_term *terms, size_t rows, ingotk_rule rule, uint64_t first,
                           int32_t out_dtype, void *out, size_t n) {
  return enter(set)->merge_deltas(base, terms, rows, rule, first, out_dtype, out, n);
}
void ingotk_nearswap(int32_t set, const float *base, const float *other, float t, float *out, size_t n) {
  enter(set)->nearswap(base, other, t, out, n);
}
void ingotk_ram(int32_t set, ingotk_rows deltas, size_t rows, float epsilon, const float *unique, float *out, size_t n) {
  enter(set)->ram(deltas, rows, epsilon, unique, out, n);
}
void ingotk_ram_counts(int32_t set, ingotk_rows deltas, size_t rows, float epsilon, uint64_t *counts, size_t n) {
  enter(set)->ram_counts(deltas, rows, epsilon, counts, n);
}
void ingotk_count_signs(int32_t set, const float *x, uint64_t *counts, size_t n) { enter(set)->count_signs(x, counts, n); }
void ingotk_select_important(int32_t set, const float *importance, float threshold, const float *base, const float *other, float *out,
                             size_t n) {
  enter(set)->select_important(importance, threshold, base, other, out, n);
}
size_t ingotk_variance(int32_t set, const float *base, ingotk_rows x, size_t rows, float *out, double *lanes, size_t n) {
  return enter(set)->variance(base, x, rows, out, lanes, n);
}
void ingotk_energy(int32_t set, const float *base, const float *x, const float *selected, double *lanes, size_t n) {
  enter(set)->energy(base, x, selected, lanes, n);
}
void ingotk_sce_merge(int32_t set, const float *base, ingotk_rows x, size_t rows, const float *selected, const float *weights, float floor,
                      float *out, size_t n) {
  enter(set)->sce_merge(base, x, rows, selected, weights, floor, out, n);
}
void ingotk_exponential(int32_t set, const double *x, double *out, size_t n) { enter(set)->exponential(x, out, n); }
void ingotk_logarithm(int32_t set, const double *x, double *out, size_t n) { enter(set)->logarithm(x, out, n); }
double ingotk_row_divergence(int32_t set, const float *base, const float *other, double *scratch, size_t n) {
  return enter(set)->row_divergence(base, other, scratch, n);
}
void ingotk_column_moments(int32_t set, const float *x, const float *y, uint64_t first, size_t columns, double *sums, size_t n) {
  enter(set)->column_moments(x, y, first, columns, sums, n);
}
void ingotk_column_combination(int32_t set, const float *x, const float *y, uint64_t first, size_t columns, const float *weights,
                               float *out, size_t n) {
  enter(set)->column_combination(x, y, first, columns, weights, out, n);
}
void ingotk_round_to(int32_t set, int32_t dtype, float *x, size_t n) { enter(set)->round_to(dtype, x, n); }
void ingotk_stepwise_elect(int32_t set, int32_t dtype, ingotk_rows terms, size_t rows, const float *weights, bool normalize,
                           int32_t zero_sign, float *out, size_t n) {
  enter(set)->stepwise_elect(dtype, terms, rows, weights, normalize, zero_sign, out, n);
}
void ingotk_compare(int32_t set, const float *x, const float *y, double *lanes, size_t n) { enter(set)->compare(x, y, lanes, n); }
void ingotk_conflicts(int32_t set, const float *x, const float *y, uint64_t *counts, size_t n) { enter(set)->conflicts(x, y, counts, n); }
size_t ingotk_distances(int32_t set, size_t width, const void *x, const void *y, uint64_t limit, uint64_t *most, size_t n) {
  return enter(set)->distances(width, x, y, limit, most, n);
}
size_t ingotk_collect_deltas(int32_t set, const ingotk_delta *delta, uint64_t first, int32_t ties, uint64_t low, uint64_t high,
                             uint64_t *above, uint64_t *keys, size_t capacity, size_t n, size_t *bad) {
  return enter(set)->collect_deltas(delta, first, ties, low, high, above, keys, capacity, n, bad);
}
size_t ingotk_masked_absolute_deltas(int32_t set, const ingotk_delta *delta, const uint8_t *bits, double *all, double *kept, size_t n) {
  return enter(set)->masked_absolute_deltas(delta, bits, all, kept, n);
}
void ingotk_count_zeros(int32_t set, const float *x, const float *y, uint64_t *counts, size_t n) {
  enter(set)->count_zeros(x, y, counts, n);
}
void ingotk_varied_mean(int32_t set, const float *base, ingotk_rows x, size_t rows, bool squares, float *out, size_t n) {
  enter(set)->varied_mean(base, x, rows, squares, out, n);
}
void ingotk_magmax(int32_t set, ingotk_rows deltas, size_t rows, float *out, size_t n) { enter(set)->magmax(deltas, rows, out, n); }
void ingotk_consensus(int32_t set, ingotk_rows deltas, size_t rows, const float *merged, const float *thresholds, int32_t least, float *out,
                      size_t n) {
  enter(set)->consensus(deltas, rows, merged, thresholds, least, out, n);
}
void ingotk_localize(int32_t set, ingotk_rows deltas, size_t rows, const float *merged, size_t row, float threshold, float *out, size_t n) {
  enter(set)->localize(deltas, rows, merged, row, threshold, out, n);
}
void ingotk_signs(int32_t set, const float *x, float size, float *out, size_t n) { enter(set)->signs(x, size, out, n); }
void ingotk_vote_part(int32_t set, const float *x, int32_t part, float weight, float *out, size_t n) {
  enter(set)->vote_part(x, part, weight, out, n);
}
void ingotk_settle_vote(int32_t set, const float *positive, const float *negative, const float *positive_weight,
                        const float *negative_weight, float *out, size_t n) {
  enter(set)->settle_vote(positive, negative, positive_weight, negative_weight, out, n);
}
void ingotk_informed(int32_t set, const float *x, const float *f, double floor, double scale, float *out, size_t n) {
  enter(set)->informed(x, f, floor, scale, out, n);
}
void ingotk_ratio(int32_t set, const float *x, const float *y, float otherwise, float *out, size_t n) {
  enter(set)->ratio(x, y, otherwise, out, n);
}
void ingotk_accumulate_scaled(int32_t set, const float *a, double product, double *sums, size_t n) {
  enter(set)->accumulate_scaled(a, product, sums, n);
}
void ingotk_unify(int32_t set, ingotk_rows deltas, size_t rows, float *out, size_t n) { enter(set)->unify(deltas, rows, out, n); }
void ingotk_agree(int32_t set, const float *x, const float *values, float *out, size_t n) { enter(set)->agree(x, values, out, n); }
void ingotk_elect_with_slack(int32_t set, ingotk_rows deltas, size_t rows, const float *weights, bool normalize, float slack, float *out,
                             size_t n) {
  enter(set)->elect_with_slack(deltas, rows, weights, normalize, slack, out, n);
}
void ingotk_elect_largest(int32_t set, ingotk_rows deltas, size_t rows, const float *weights, int32_t zero_sign, float *out, size_t n) {
  enter(set)->elect_largest(deltas, rows, weights, zero_sign, out, n);
}
void ingotk_protect(int32_t set, const float *x, float share, const float *merged, float *out, size_t n) {
  enter(set)->protect(x, share, merged, out, n);
}
void ingotk_competition(int32_t set, ingotk_rows deltas, size_t rows, size_t row, const float *bounds, bool pairwise, int32_t part,
                        float least, float *out, size_t n) {
  enter(set)->competition(deltas, rows, row, bounds, pairwise, part, least, out, n);
}
void ingotk_balance(int32_t set, ingotk_rows deltas, ingotk_rows scores, size_t rows, const float *limits, float *out, size_t n) {
  enter(set)->balance(deltas, scores, rows, limits, out, n);
}
void ingotk_column_sum(int32_t set, ingotk_rows x, size_t rows, uint64_t first, size_t columns, const float *weights, float *out,
                       size_t n) {
  enter(set)->column_sum(x, rows, first, columns, weights, out, n);
}
void ingotk_significance_sum(int32_t set, ingotk_rows x, size_t rows, const double *cuts, double value, float *out, size_t n) {
  enter(set)->significance_sum(x, rows, cuts, value, out, n);
}
void ingotk_conflict_mass(int32_t set, const float *x, const float *y, double *opposite, double *both, double *opposed, double *all,
                          size_t n) {
  enter(set)->conflict_mass(x, y, opposite, both, opposed, all, n);
}
void ingotk_trim_row(int32_t set, float *x, uint64_t first, int32_t ties, size_t drop, size_t keep, uint64_t *keys, size_t n) {
  enter(set)->trim_row(x, first, ties, drop, keep, keys, n);
}
void ingotk_scale_channels(int32_t set, const float *x, const float *factors, uint64_t first, size_t columns, const float *base, float *out,
                           size_t n) {
  enter(set)->scale_channels(x, factors, first, columns, base, out, n);
}
void ingotk_weighted_mean(int32_t set, ingotk_rows x, ingotk_rows w, size_t rows, ingotk_weighting weighting, const float *fallback,
                          float *out, size_t n) {
  enter(set)->weighted_mean(x, w, rows, weighting, fallback, out, n);
}
void ingotk_saliency(int32_t set, const float *v, const float *d, float *out, size_t n) { enter(set)->saliency(v, d, out, n); }
void ingotk_precondition(int32_t set, const float *v, const float *kept, ingotk_preconditioner how, float *out, size_t n) {
  enter(set)->precondition(v, kept, how, out, n);
}
void ingotk_outer_product(int32_t set, const float *rows, size_t row_count, const float *columns, size_t column_count, uint64_t first,
                          float *out, size_t n) {
  enter(set)->outer_product(rows, row_count, columns, column_count, first, out, n);
}
void ingotk_vote(int32_t set, const float *g, const float *x, const float *r, const float *prior, float lambda, bool begins, float *votes,
                 size_t n) {
  enter(set)->vote(g, x, r, prior, lambda, begins, votes, n);
}
void ingotk_add_voted(int32_t set, const float *r, const float *x, const float *base, const float *votes, float *out, size_t n) {
  enter(set)->add_voted(r, x, base, votes, out, n);
}
void ingotk_soft_mask(int32_t set, const float *x, ingotk_mask_rule rule, uint64_t first, float *out, size_t n) {
  enter(set)->soft_mask(x, rule, first, out, n);
}
