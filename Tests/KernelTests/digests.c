/* A digest of what every kernel gives on every instruction set that runs here, one line each: `kernel set digest`.
 *
 * All sets must agree, and so must machines: scripts/cross runs it on emulated processors of other kinds. Beside the digests the call
 * counters must show that the set asked for did the work.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "CKernels.h"

enum { N = 1 << 12, ODD = N - 5, ROWS = 3 };

static float inputs[ROWS + 1][N], out[N], scratch_floats[4 * N];
static double lanes[5 * 16], doubles[4 * N], double_out[N];
static uint8_t bytes[8 * N + 16], bits[N / 8];
static uint64_t keys[N], counts[64];
static uint32_t scratch[2 * N];
static uint64_t state;

static uint32_t draw(void) { /* splitmix64 */
  state += 0x9e3779b97f4a7c15ull;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return (uint32_t)((z ^ (z >> 31)) >> 32);
}

/* Weights of many magnitudes, some of them equal, subnormal, zero or of either zero. */
static void fill(void) {
  state = 7;
  for (int row = 0; row <= ROWS; ++row) {
    for (int i = 0; i < N; ++i) {
      float value = ((float)(draw() >> 8) - 8388608.0f) * 0x1p-26f;
      switch (draw() % 32) {
      case 0: value *= 0x1p-125f; break;
      case 1: value = 0; break;
      case 2: value = -0.0f; break;
      case 3: value = 0.125f; break;
      case 4: value *= 0x1p20f; break;
      default: break;
      }
      inputs[row][i] = value;
    }
  }
  for (size_t i = 0; i < sizeof bytes; ++i) bytes[i] = (uint8_t)(draw() & 0x3f); /* no infinity in any type */
  for (size_t i = 0; i < sizeof bits; ++i) bits[i] = (uint8_t)draw();
  for (int i = 0; i < 4 * N; ++i) doubles[i] = ((double)draw() - 2147483648.0) / 4294967296.0;
}

static uint64_t digest;
static void add(const void *data, size_t count) { /* FNV-1a */
  const uint8_t *p = data;
  for (size_t i = 0; i < count; ++i) digest = (digest ^ p[i]) * 0x100000001b3ull;
}
static void add_number(uint64_t value) { add(&value, sizeof value); }

static int32_t set;
static float *const rows[] = {inputs[0], inputs[1], inputs[2]};
static const float weights[] = {0.3f, 0.5f, 0.9f};

static void conversion(size_t n) {
  for (int32_t dtype = INGOTK_F32; dtype <= INGOTK_F8E5M2; ++dtype) {
    memset(out, 0, sizeof out);
    add_number(ingotk_load(set, dtype, bytes + 1, out, n));
    for (size_t i = 0; i < n; ++i) add(&(float){isnan(out[i]) ? 0 : out[i]}, 4); /* which NaN is not promised */
  }
  for (int32_t dtype = INGOTK_F32; dtype <= INGOTK_BF16; ++dtype) {
    memset(scratch_floats, 0, sizeof scratch_floats);
    ingotk_store(set, dtype, inputs[0], scratch_floats, n);
    add(scratch_floats, 4 * n);
  }
}
static void quantised(size_t n) {
  ingotk_load_scaled(set, INGOTK_F8E4M3, bytes, inputs[3], 5, 128, out, n);
  add(out, 4 * n);
  ingotk_load_powers(set, bytes, out, n);
  add(out, 4 * n);
  ingotk_load_mxfp4(set, bytes, 16, 7, bytes + N, out, n / 32);
  add(out, 4 * (n / 32));
}
static void combination(size_t n) {
  ingotk_linear(set, rows, ROWS, weights, 1.7f, out, n);
  add(out, 4 * n);
  ingotk_scale(set, inputs[0], 0.3f, out, n);
  add(out, 4 * n);
  ingotk_subtract(set, inputs[0], inputs[1], out, n);
  add(out, 4 * n);
  ingotk_add_delta(set, inputs[0], 0.7f, inputs[1], out, n);
  add(out, 4 * n);
  ingotk_weighted_sum(set, rows, ROWS, weights, 1.7f, out, n);
  add(out, 4 * n);
  for (int32_t zero = INGOTK_ZERO_POSITIVE; zero <= INGOTK_ZERO_NONE; ++zero) {
    ingotk_elect(set, rows, ROWS, weights, zero != INGOTK_ZERO_NEGATIVE, zero, out, n);
    add(out, 4 * n);
    ingotk_elect_largest(set, rows, ROWS, weights, zero, out, n);
    add(out, 4 * n);
    ingotk_stepwise_elect(set, INGOTK_BF16, rows, ROWS, weights, true, zero, out, n);
    add(out, 4 * n);
  }
  memcpy(out, inputs[0], sizeof out);
  ingotk_round_to(set, INGOTK_F16, out, n);
  add(out, 4 * n);
}
static void sums(size_t n) {
  memset(lanes, 0, sizeof lanes);
  ingotk_dot(set, inputs[0], inputs[1], lanes, n);
  ingotk_absolute(set, inputs[2], lanes + 16, n);
  ingotk_moments(set, inputs[0], inputs[1], lanes + 32, lanes + 48, lanes + 64, n);
  add(lanes, sizeof lanes);
  memset(lanes, 0, sizeof lanes);
  ingotk_compare(set, inputs[0], inputs[1], lanes, n);
  add(lanes, sizeof lanes);
}
static void selection(size_t n) {
  for (int32_t ties = INGOTK_TIES_HASH; ties <= INGOTK_TIES_INDEX; ++ties) {
    memset(counts, 0, sizeof counts);
    const size_t found = ingotk_collect(set, inputs[0], 11, ties, 1ull << 60, 1ull << 61, counts, keys, N, n);
    uint64_t sum = 0;
    for (size_t i = 0; i < found; ++i) sum += keys[i] * 0x9e3779b97f4a7c15ull; /* in any order */
    add_number(found);
    add_number(sum);
    add(counts, 8);
    memcpy(out, inputs[0], sizeof out);
    ingotk_trim(set, out, 11, ties, 0x3c80000080000000ull, true, n);
    add(out, 4 * n);
  }
}
static void randomness(size_t n) {
  static uint8_t drawn[N / 8];
  memset(drawn, 0, sizeof drawn);
  ingotk_bernoulli(set, 42, 17, 4096, 0x60000000u, drawn, n);
  add(drawn, sizeof drawn);
  memcpy(out, inputs[0], sizeof out);
  ingotk_apply_mask(set, out, bits, 1.5f, n);
  add(out, 4 * n);
  memset(lanes, 0, sizeof lanes);
  ingotk_masked_absolute(set, inputs[0], bits, lanes, lanes + 16, n);
  add(lanes, 32 * 8);
  memset(drawn, 0, sizeof drawn);
  ingotk_della_row(set, inputs[0], 0.4, 0.1, 42, 17, 4096, drawn, out, scratch, n);
  add(drawn, sizeof drawn);
  add(out, 4 * n);
  memcpy(scratch_floats, inputs[0], sizeof inputs[0]);
  ingotk_divide_kept(set, scratch_floats, drawn, out, n);
  add(scratch_floats, 4 * n);
}
static void fused(size_t n) {
  ingotk_term terms[ROWS];
  for (int i = 0; i < ROWS; ++i) {
    terms[i] = (ingotk_term){.source = inputs[i], .count = N, .dtype = INGOTK_F32, .weight = weights[i], .bits_scale = 1};
  }
  terms[1].least = 0x3c80000080000000ull;
  terms[2].bits = bits, terms[2].bit_count = N, terms[2].bits_scale = 1.25f;
  const ingotk_term base = {.source = bytes + 2, .count = N, .dtype = INGOTK_BF16, .weight = 1, .bits_scale = 1};
  for (int32_t dtype = INGOTK_F32; dtype <= INGOTK_BF16; ++dtype) {
    memset(out, 0, sizeof out);
    add_number(ingotk_merge_linear(set, terms, ROWS, 1.7f, dtype, out, n));
    add(out, 4 * n);
    for (int elect = 0; elect < 2; ++elect) {
      const ingotk_rule rule = {.elect = elect, .normalize = true, .ties = INGOTK_TIES_HASH, .divisor = 1.7f, .scale = 0.9f};
      memset(out, 0, sizeof out);
      add_number(ingotk_merge_deltas(set, &base, terms, ROWS, rule, 23, dtype, out, n));
      add(out, 4 * n);
    }
  }
}
static void methods(size_t n) {
  ingotk_nearswap(set, inputs[0], inputs[1], 0.01f, out, n);
  add(out, 4 * n);
  ingotk_ram(set, rows, ROWS, 1e-3f, weights, out, n);
  add(out, 4 * n);
  memset(counts, 0, sizeof counts);
  ingotk_ram_counts(set, rows, ROWS, 1e-3f, counts, n);
  ingotk_count_signs(set, inputs[0], counts + 8, n);
  ingotk_conflicts(set, inputs[0], inputs[1], counts + 16, n);
  add(counts, sizeof counts);
  ingotk_select_important(set, inputs[2], 0.1f, inputs[0], inputs[1], out, n);
  add(out, 4 * n);
  memset(lanes, 0, sizeof lanes);
  add_number(ingotk_variance(set, inputs[3], rows, ROWS, out, lanes, n));
  add(out, 4 * n);
  ingotk_energy(set, inputs[3], inputs[0], out, lanes + 16, n);
  add(lanes, sizeof lanes);
  ingotk_sce_merge(set, inputs[3], rows, ROWS, NULL, weights, 1e-6f, out, n);
  add(out, 4 * n);
  uint64_t most = 0;
  add_number(ingotk_distances(set, 2, bytes, bytes + 1, 0x7f80, &most, n));
  add_number(most);
}
static void transcendental(size_t n) {
  ingotk_exponential(set, doubles, double_out, n);
  add(double_out, 8 * n);
  for (size_t i = 0; i < n; ++i) doubles[N + i] = fabs(doubles[i]) + 1e-3;
  ingotk_logarithm(set, doubles + N, double_out, n);
  add(double_out, 8 * n);
  for (size_t i = 0; i < n; ++i) scratch_floats[i] = inputs[0][i] * 0x1p-16f, scratch_floats[N + i] = inputs[1][i] * 0x1p-16f;
  const double divergence = ingotk_row_divergence(set, scratch_floats, scratch_floats + N, doubles + 2 * N, n);
  add(&divergence, 8);
}
static void columns(size_t n) {
  static double moments[3 * 61];
  memset(moments, 0, sizeof moments);
  ingotk_column_moments(set, inputs[0], inputs[1], 13, 61, moments, n);
  add(moments, sizeof moments);
  ingotk_column_combination(set, inputs[0], inputs[1], 13, 61, inputs[2], out, n);
  add(out, 4 * n);
}
static void deltas(size_t n) {
  const ingotk_delta delta = {.source = inputs[0], .base = bytes + 2, .dtype = INGOTK_F32, .base_dtype = INGOTK_BF16};
  size_t bad = 0;
  memset(counts, 0, sizeof counts);
  const size_t found = ingotk_collect_deltas(set, &delta, 11, INGOTK_TIES_HASH, 1ull << 60, 1ull << 61, counts, keys, N, n, &bad);
  uint64_t sum = 0;
  for (size_t i = 0; i < found; ++i) sum += keys[i] * 0x9e3779b97f4a7c15ull;
  add_number(found);
  add_number(sum);
  add(counts, 8);
  memset(lanes, 0, sizeof lanes);
  add_number(ingotk_masked_absolute_deltas(set, &delta, bits, lanes, lanes + 16, n));
  add(lanes, 32 * 8);
}
/* Sizes of the inputs, as weights that are never negative; and shares between 0 and 1. */
static float sizes[ROWS][N], shares[N];
static float *const size_rows[] = {sizes[0], sizes[1], sizes[2]};
static void fill_sizes(void) {
  for (int row = 0; row < ROWS; ++row) {
    for (int i = 0; i < N; ++i) sizes[row][i] = fabsf(inputs[row][i]);
  }
  for (int i = 0; i < N; ++i) shares[i] = (float)(bytes[i] + 1) / 65;
}

static void sides(size_t n) {
  fill_sizes();
  static const double scale[ROWS] = {1, 0.5, 2}, floor[ROWS] = {1e-9, 0, 1e-3};
  for (int adds = 0; adds < 2; ++adds) {
    const ingotk_weighting weighting = {.scale = scale, .floor = floor, .least = 1e-12, .adds = adds};
    ingotk_weighted_mean(set, rows, size_rows, ROWS, weighting, adds ? inputs[3] : NULL, out, n);
    add(out, 4 * n);
  }
  ingotk_saliency(set, sizes[0], inputs[1], out, n);
  add(out, 4 * n);
  ingotk_saliency(set, sizes[0], NULL, out, n);
  add(out, 4 * n);
  const ingotk_preconditioner how = {.power = 0.4, .factor = 1.5, .epsilon = 1e-8, .scale = 3};
  ingotk_precondition(set, inputs[0], inputs[1], how, out, n);
  add(out, 4 * n);
  ingotk_precondition(set, sizes[2], NULL, how, out, n);
  add(out, 4 * n);
  ingotk_outer_product(set, sizes[0], 68, inputs[1], 61, 13, out, n);
  add(out, 4 * n);
  for (int begins = 1; begins >= 0; --begins) {
    ingotk_vote(set, inputs[begins], inputs[1], inputs[2], sizes[0], 1000, begins, scratch_floats, n);
    add(scratch_floats, 4 * n);
  }
  ingotk_add_voted(set, inputs[0], inputs[1], inputs[2], scratch_floats, out, n);
  add(out, 4 * n);
  for (int32_t kind = 0; kind < 4; ++kind) {
    for (int is_logit = 0; is_logit < 2; ++is_logit) {
      const ingotk_mask_rule rule = {
          .kind = kind, .is_logit = is_logit, .multiplies = is_logit, .temperature = 0.7, .seed = 42, .stream = 17};
      ingotk_soft_mask(set, is_logit ? inputs[0] : shares, rule, 4096, out, n);
      add(out, 4 * n);
    }
  }
  ingotk_scale_channels(set, inputs[0], inputs[2], 13, 61, inputs[1], out, n);
  add(out, 4 * n);
}
static void tasks(size_t n) {
  static const float thresholds[ROWS] = {0.4f, 1, 0.1f};
  ingotk_magmax(set, rows, ROWS, out, n);
  add(out, 4 * n);
  for (int given = 0; given < 2; ++given) {
    const float *merged = given ? inputs[3] : NULL;
    ingotk_consensus(set, rows, ROWS, merged, thresholds, 2, out, n);
    add(out, 4 * n);
    ingotk_localize(set, rows, ROWS, merged, 1, 0.4f, out, n);
    add(out, 4 * n);
    ingotk_informed(set, merged, inputs[1], 0.01, 1.5, out, n);
    add(out, 4 * n);
    ingotk_varied_mean(set, inputs[3], rows, ROWS, given, out, n);
    add(out, 4 * n);
  }
  ingotk_signs(set, inputs[0], 0.3f, out, n);
  add(out, 4 * n);
  for (int32_t part = 0; part < 4; ++part) {
    ingotk_vote_part(set, inputs[0], part, 0.7f, scratch_floats + part * N, n);
    add(scratch_floats + part * N, 4 * n);
  }
  ingotk_settle_vote(set, scratch_floats, scratch_floats + N, scratch_floats + 2 * N, scratch_floats + 3 * N, out, n);
  add(out, 4 * n);
  ingotk_ratio(set, inputs[0], inputs[1], 7, out, n);
  add(out, 4 * n);
  memcpy(double_out, doubles, sizeof double_out);
  ingotk_accumulate_scaled(set, inputs[0], 0.3, double_out, n);
  add(double_out, 8 * n);
  ingotk_unify(set, rows, ROWS, out, n);
  add(out, 4 * n);
  ingotk_agree(set, inputs[0], inputs[1], out, n);
  add(out, 4 * n);
  for (int normalize = 0; normalize < 2; ++normalize) {
    ingotk_elect_with_slack(set, rows, ROWS, weights, normalize, 0.2f, out, n);
    add(out, 4 * n);
  }
  ingotk_protect(set, inputs[0], 0.5f, inputs[1], out, n);
  add(out, 4 * n);
  memset(counts, 0, sizeof counts);
  ingotk_count_zeros(set, inputs[0], inputs[1], counts, n);
  add(counts, 16);
  memset(lanes, 0, sizeof lanes);
  ingotk_conflict_mass(set, inputs[0], inputs[1], lanes, lanes + 16, lanes + 32, lanes + 48, n);
  add(lanes, sizeof lanes);
}
static void scores(size_t n) {
  static const float bounds[2 * ROWS] = {0, 0.125f, 1e-6f, 0.1f, 0, 1};
  static float row_scores[ROWS][N];
  static float *const score_rows[] = {row_scores[0], row_scores[1], row_scores[2]};
  for (int pairwise = 0; pairwise < 2; ++pairwise) {
    for (int32_t part = -1; part <= 1; ++part) {
      ingotk_competition(set, rows, ROWS, 1, bounds, pairwise, part, 0, out, n);
      add(out, 4 * n);
      ingotk_competition(set, rows, ROWS, 1, bounds, pairwise, part, 0.01f, out, n);
      add(out, 4 * n);
    }
  }
  for (size_t row = 0; row < ROWS; ++row) ingotk_competition(set, rows, ROWS, row, bounds, false, 0, 0, row_scores[row], n);
  static const float limits[5 * ROWS] = {0, 0.125f, 0.01f, 0.1f, 1, 1e-6f, 0.1f, 0.02f, 0.09f, 0.5f, 0, 1, 0.03f, 0.5f, 2};
  ingotk_balance(set, rows, score_rows, ROWS, limits, out, n);
  add(out, 4 * n);
  ingotk_column_sum(set, rows, ROWS, 13, 61, inputs[3], out, n);
  add(out, 4 * n);
  static const double cuts[ROWS] = {0.01, 0.1, 0.03};
  ingotk_significance_sum(set, rows, ROWS, cuts, 0.4, out, n);
  add(out, 4 * n);
  for (int32_t ties = INGOTK_TIES_HASH; ties <= INGOTK_TIES_INDEX; ++ties) {
    memcpy(out, inputs[0], sizeof out);
    ingotk_trim_row(set, out, 4096, ties, 31, n / 3, keys, n);
    add(out, 4 * n);
  }
  /* The same on every set: keys of a row, counted and sought. */
  const size_t found = ingotk_collect(set, inputs[0], 11, INGOTK_TIES_HASH, 0, UINT64_MAX, counts, keys, N, n);
  memset(counts, 0, sizeof counts);
  ingotk_bin_keys(keys, found, 0x3c00000000000000ull, 52, counts, 64);
  add(counts, sizeof counts);
  for (size_t rank = 0; rank < found; rank += 511) {
    size_t equal = 0, larger = 0;
    add_number(ingotk_select(keys, found, rank, &equal, &larger));
    add_number(equal << 32 | larger);
  }
}

static const struct {
  const char *name;
  void (*run)(size_t n);
} kernels[] = {{"conversion", conversion},
               {"quantised", quantised},
               {"combination", combination},
               {"sums", sums},
               {"selection", selection},
               {"random", randomness},
               {"fused", fused},
               {"methods", methods},
               {"transcendental", transcendental},
               {"columns", columns},
               {"deltas", deltas},
               {"sides", sides},
               {"tasks", tasks},
               {"scores", scores}};

int main(void) {
  const int32_t scalar = ingotk_set_count() - 1;
  int failures = 0;
  for (size_t k = 0; k < sizeof kernels / sizeof kernels[0]; ++k) {
    uint64_t reference = 0;
    /* The reference first. */
    for (int32_t i = scalar; i >= 0; --i) {
      if (!ingotk_set_runs_here(i)) continue;
      set = i;
      digest = 0xcbf29ce484222325ull;
      fill();
      const uint64_t calls = ingotk_set_calls(i);
      kernels[k].run(N);
      kernels[k].run(ODD);
      printf("%s %s %016" PRIx64 "\n", kernels[k].name, ingotk_set_name(i), digest);
      if (ingotk_set_calls(i) == calls) {
        fprintf(stderr, "%s: no kernel of %s ran\n", kernels[k].name, ingotk_set_name(i));
        ++failures;
      }
      if (i == scalar) reference = digest;
      if (digest != reference) {
        fprintf(stderr, "%s: %s gives other bytes than scalar\n", kernels[k].name, ingotk_set_name(i));
        ++failures;
      }
    }
  }
  return failures != 0;
}
