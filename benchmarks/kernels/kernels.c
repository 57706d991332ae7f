/* Throughput of every kernel and of the chains that methods make of them, per instruction set, beside memcpy.
 *
 * Bytes are those read plus those written by the operation as a whole, memcpy's too. "tile": one tile of 4,096 elements again and again, in
 * L1 or L2. "stream": tile after tile of arrays that together exceed the last-level cache; a chain's scratch stays in cache, its inputs and
 * its output are bf16 unless its name says otherwise. One thread. Each figure is the median of interleaved rounds; a chain's share of
 * memcpy is the median of the rounds' shares, so that a slow moment of the machine meets both.
 */
#include <CKernels.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TILE = 4096, ROW = 4096, INPUTS = 4, MOST_ROUNDS = 101 };

static size_t elements = (size_t)48 << 20; /* of each stream */
static int rounds = 7;
static int32_t set;

/* Five streams of raw elements (four inputs, one output), scratch tiles, masks. */
static char *stream[INPUTS + 1];
static float *scratch[2 * INPUTS + 2];
static uint32_t row_scratch[2 * ROW];
static uint8_t mask[TILE / 8];
static uint64_t keys[2 * TILE];
static double lanes[4][16];
static const float weights[INPUTS] = {0.5f, 0.3f, 0.4f, 0.2f};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}
static double median(double *values, int n) {
  qsort(values, (size_t)n, sizeof *values, by_value);
  return values[n / 2];
}

/* Kernels on f32. `at` is the first element of the tile in the streams, which hold f32 here. */
#define X ((float *)stream[0] + at)
#define Y ((float *)stream[1] + at)
#define Z ((float *)stream[2] + at)
#define OUT ((float *)stream[INPUTS] + at)
#define ROWS3 ((float *const[]){X, Y, Z})

static void load_f32(size_t at) { ingotk_load(set, INGOTK_F32, X, OUT, TILE); }
static void load_bf16(size_t at) { ingotk_load(set, INGOTK_BF16, (uint16_t *)stream[0] + at, OUT, TILE); }
static void load_f16(size_t at) { ingotk_load(set, INGOTK_F16, (uint16_t *)stream[0] + at, OUT, TILE); }
static void load_e4m3(size_t at) { ingotk_load(set, INGOTK_F8E4M3, stream[0] + at, OUT, TILE); }
static void load_e5m2(size_t at) { ingotk_load(set, INGOTK_F8E5M2, stream[0] + at, OUT, TILE); }
static void store_bf16(size_t at) { ingotk_store(set, INGOTK_BF16, X, (uint16_t *)stream[INPUTS] + at, TILE); }
static void store_f16(size_t at) { ingotk_store(set, INGOTK_F16, X, (uint16_t *)stream[INPUTS] + at, TILE); }
static void linear(size_t at) { ingotk_linear(set, ROWS3, 3, weights, 1.2f, OUT, TILE); }
static void scale(size_t at) { ingotk_scale(set, X, 0.3f, OUT, TILE); }
static void subtract(size_t at) { ingotk_subtract(set, X, Y, OUT, TILE); }
static void add_delta(size_t at) { ingotk_add_delta(set, X, 0.3f, Y, OUT, TILE); }
static void weighted_sum(size_t at) { ingotk_weighted_sum(set, ROWS3, 3, weights, 1.2f, OUT, TILE); }
static void elect(size_t at) { ingotk_elect(set, ROWS3, 3, weights, true, INGOTK_ZERO_POSITIVE, OUT, TILE); }
static void dot(size_t at) { ingotk_dot(set, X, Y, lanes[0], TILE); }
static void absolute(size_t at) { ingotk_absolute(set, X, lanes[0], TILE); }
static void moments(size_t at) { ingotk_moments(set, X, Y, lanes[0], lanes[1], lanes[2], TILE); }
static void collect_few(size_t at) { /* about one in a hundred */
  uint64_t above = 0;
  ingotk_collect(set, X, at, INGOTK_TIES_HASH, (uint64_t)0x3ca3d70a << 32, (uint64_t)0x3ca7a8c1 << 32, &above, keys, 2 * TILE, TILE);
}
static void collect_all(size_t at) {
  uint64_t above = 0;
  ingotk_collect(set, X, at, INGOTK_TIES_HASH, 0, UINT64_MAX, &above, keys, 2 * TILE, TILE);
}
static void trim(size_t at) { ingotk_trim(set, X, at, INGOTK_TIES_HASH, (uint64_t)0x3ca3d70a << 32, true, TILE); }
static void bernoulli(size_t at) { ingotk_bernoulli(set, 1, 2, at, 1u << 31, mask, TILE); }
static void apply_mask(size_t at) { ingotk_apply_mask(set, X, mask, 1.0f, TILE); }
static void masked_absolute(size_t at) { ingotk_masked_absolute(set, X, mask, lanes[0], lanes[1], TILE); }
static void divide_kept(size_t at) { ingotk_divide_kept(set, X, mask, Y, TILE); }
static void della_row(size_t at) { ingotk_della_row(set, X, 0.5, 0.15, 1, 2, at, mask, NULL, row_scratch, ROW); }
static void della_probabilities(size_t at) { ingotk_della_row(set, X, 0.5, 0.15, 1, 2, at, mask, OUT, row_scratch, ROW); }

/* Chains on bf16 (or another type): load every input's tile, combine in scratch, store. */
static void load_inputs(int32_t dtype, int inputs, size_t at) {
  const size_t width = dtype == INGOTK_F32 ? 4 : 2;
  for (int r = 0; r < inputs; r++) ingotk_load(set, dtype, stream[r] + at * width, scratch[r], TILE);
}
static void store_output(int32_t dtype, const float *x, size_t at) {
  ingotk_store(set, dtype, x, stream[INPUTS] + at * (dtype == INGOTK_F32 ? 4 : 2), TILE);
}
static void deltas(void) {
  for (int r = 1; r < 4; r++) ingotk_subtract(set, scratch[r], scratch[0], scratch[r], TILE);
}
static void chain_linear_of(int32_t dtype, int inputs, size_t at) {
  load_inputs(dtype, inputs, at);
  ingotk_linear(set, scratch, (size_t)inputs, weights, 1.2f, scratch[8], TILE);
  store_output(dtype, scratch[8], at);
}
static void chain_linear(size_t at) { chain_linear_of(INGOTK_BF16, 3, at); }
static void chain_linear_f16(size_t at) { chain_linear_of(INGOTK_F16, 3, at); }
static void chain_linear_f32(size_t at) { chain_linear_of(INGOTK_F32, 3, at); }
static void chain_slerp(size_t at) {
  load_inputs(INGOTK_BF16, 2, at);
  ingotk_linear(set, scratch, 2, weights, 1, scratch[8], TILE);
  store_output(INGOTK_BF16, scratch[8], at);
}
static void chain_task_arithmetic(size_t at) {
  load_inputs(INGOTK_BF16, 4, at);
  deltas();
  ingotk_weighted_sum(set, scratch + 1, 3, weights, 1, scratch[8], TILE);
  ingotk_add_delta(set, scratch[8], 0.8f, scratch[0], scratch[8], TILE);
  store_output(INGOTK_BF16, scratch[8], at);
}
static void chain_ties(size_t at) {
  load_inputs(INGOTK_BF16, 4, at);
  deltas();
  for (int r = 1; r < 4; r++) ingotk_trim(set, scratch[r], at, INGOTK_TIES_HASH, (uint64_t)0x39800000 << 32, true, TILE);
  ingotk_elect(set, scratch + 1, 3, weights, true, INGOTK_ZERO_POSITIVE, scratch[8], TILE);
  ingotk_add_delta(set, scratch[8], 1, scratch[0], scratch[8], TILE);
  store_output(INGOTK_BF16, scratch[8], at);
}
static void chain_dare(size_t at) {
  load_inputs(INGOTK_BF16, 4, at);
  deltas();
  for (int r = 1; r < 4; r++) {
    ingotk_bernoulli(set, 1, (uint64_t)r, at, 1u << 31, mask, TILE);
    ingotk_apply_mask(set, scratch[r], mask, 2, TILE);
  }
  ingotk_weighted_sum(set, scratch + 1, 3, weights, 1, scratch[8], TILE);
  ingotk_add_delta(set, scratch[8], 0.8f, scratch[0], scratch[8], TILE);
  store_output(INGOTK_BF16, scratch[8], at);
}

/* The same steps fused, in registers. */
static ingotk_term term(int r, int32_t dtype, size_t at) {
  const size_t width = dtype == INGOTK_F32 ? 4 : 2;
  return (ingotk_term){.source = stream[r] + at * width, .count = TILE, .dtype = dtype, .weight = weights[r], .bits_scale = 1};
}
static void fused_linear_of(int32_t dtype, int inputs, float divisor, size_t at) {
  ingotk_term terms[INPUTS];
  for (int r = 0; r < inputs; r++) terms[r] = term(r, dtype, at);
  ingotk_merge_linear(set, terms, (size_t)inputs, divisor, dtype, stream[INPUTS] + at * (dtype == INGOTK_F32 ? 4 : 2), TILE);
}
static void fused_linear(size_t at) { fused_linear_of(INGOTK_BF16, 3, 1.2f, at); }
static void fused_linear_f16(size_t at) { fused_linear_of(INGOTK_F16, 3, 1.2f, at); }
static void fused_linear_f32(size_t at) { fused_linear_of(INGOTK_F32, 3, 1.2f, at); }
static void fused_slerp(size_t at) { fused_linear_of(INGOTK_BF16, 2, 1, at); }
static void fused_deltas(ingotk_rule rule, uint64_t least, bool random, size_t at) {
  ingotk_term terms[INPUTS];
  uint8_t masks[INPUTS][TILE / 8];
  for (int r = 0; r < INPUTS; r++) {
    terms[r] = term(r, INGOTK_BF16, at);
    terms[r].least = least;
    if (random && r > 0) {
      ingotk_bernoulli(set, 1, (uint64_t)r, at, 1u << 31, masks[r], TILE);
      terms[r].bits = masks[r];
      terms[r].bits_scale = 2;
    }
  }
  ingotk_merge_deltas(set, terms, terms + 1, 3, rule, at, INGOTK_BF16, stream[INPUTS] + at * 2, TILE);
}
static void fused_task_arithmetic(size_t at) { fused_deltas((ingotk_rule){.divisor = 1, .scale = 0.8f}, 0, false, at); }
static void fused_ties(size_t at) {
  fused_deltas((ingotk_rule){.elect = true, .normalize = true, .divisor = 1, .scale = 1}, (uint64_t)0x39800000 << 32, false, at);
}
static void fused_dare(size_t at) { fused_deltas((ingotk_rule){.divisor = 1, .scale = 0.8f}, 0, true, at); }

static const struct operation {
  const char *name;
  double bytes; /* for each element */
  void (*run)(size_t at);
  bool chain;
} operations[] = {
    {"load f32", 8, load_f32, false},
    {"load bf16", 6, load_bf16, false},
    {"load f16", 6, load_f16, false},
    {"load f8_e4m3", 5, load_e4m3, false},
    {"load f8_e5m2", 5, load_e5m2, false},
    {"store bf16", 6, store_bf16, false},
    {"store f16", 6, store_f16, false},
    {"linear of 3", 16, linear, false},
    {"scale", 8, scale, false},
    {"subtract", 12, subtract, false},
    {"add_delta", 12, add_delta, false},
    {"weighted_sum of 3", 16, weighted_sum, false},
    {"elect of 3", 16, elect, false},
    {"dot", 8, dot, false},
    {"absolute", 4, absolute, false},
    {"moments", 8, moments, false},
    {"collect few", 4, collect_few, false},
    {"collect all", 12, collect_all, false},
    {"trim", 8, trim, false},
    {"bernoulli", 0.125, bernoulli, false},
    {"apply_mask", 8.125, apply_mask, false},
    {"masked_absolute", 4.125, masked_absolute, false},
    {"divide_kept", 12.125, divide_kept, false},
    {"della_row", 4.125, della_row, false},
    {"della_row, k", 8.125, della_probabilities, false},
    {"chain linear of 3", 8, chain_linear, true},
    {"chain linear f16", 8, chain_linear_f16, true},
    {"chain linear f32", 16, chain_linear_f32, true},
    {"chain slerp", 6, chain_slerp, true},
    {"chain task_arith.", 10, chain_task_arithmetic, true},
    {"chain ties", 10, chain_ties, true},
    {"chain dare", 10, chain_dare, true},
    {"fused linear of 3", 8, fused_linear, true},
    {"fused linear f16", 8, fused_linear_f16, true},
    {"fused linear f32", 16, fused_linear_f32, true},
    {"fused slerp", 6, fused_slerp, true},
    {"fused task_arith.", 10, fused_task_arithmetic, true},
    {"fused ties", 10, fused_ties, true},
    {"fused dare", 10, fused_dare, true},
};
enum { OPERATIONS = sizeof operations / sizeof operations[0] };

/* Values that look like weights: normal around 0 with deviation 0.02, and small differences between the streams. */
static void fill(bool narrow) {
  uint64_t state = 1;
  float *row = scratch[0];
  for (int r = 0; r < INPUTS; r++) {
    for (int i = 0; i < TILE; i++) {
      double sum = 0, noise = 0;
      uint64_t base = (uint64_t)i * 0x9E3779B97F4A7C15u;
      for (int j = 0; j < 4; j++) {
        base = base * 6364136223846793005u + 1442695040888963407u;
        state = state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(base >> 40) / 0x1p24 - 0.5;
        noise += (double)(state >> 40) / 0x1p24 - 0.5;
      }
      row[i] = (float)(0.035 * sum + (r > 0 ? 0.0005 * noise : 0));
    }
    if (narrow)
      ingotk_store(0, INGOTK_BF16, row, stream[r], TILE);
    else
      memcpy(stream[r], row, 4 * TILE);
    const size_t tile = TILE * (narrow ? 2 : 4);
    for (size_t at = tile; at + tile <= elements * 4; at += tile) memcpy(stream[r] + at, stream[r], tile);
  }
}

static double time_stream(const struct operation *op, size_t n) {
  const double start = now();
  for (size_t at = 0; at + TILE <= n; at += TILE) op->run(at);
  return now() - start;
}
static double time_tile(const struct operation *op) {
  const int repeats = 200;
  op->run(0);
  const double start = now();
  for (int i = 0; i < repeats; i++) op->run(0);
  return (now() - start) / repeats;
}
static double time_memcpy(size_t bytes) {
  const double start = now();
  memcpy(stream[INPUTS], stream[0], bytes);
  return now() - start;
}

int main(int argc, char **argv) {
  const char *only = NULL, *match = NULL;
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--set") && i + 1 < argc)
      only = argv[++i];
    else if (!strcmp(argv[i], "--only") && i + 1 < argc)
      match = argv[++i];
    else if (!strcmp(argv[i], "--rounds") && i + 1 < argc)
      rounds = atoi(argv[++i]);
    else if (!strcmp(argv[i], "--mi-elements") && i + 1 < argc)
      elements = (size_t)atoi(argv[++i]) << 20;
    else {
      fprintf(stderr, "usage: kernels [--set NAME] [--only TEXT] [--rounds N] [--mi-elements N]\n");
      return 2;
    }
  }
  if (rounds < 1 || rounds > MOST_ROUNDS || elements < TILE || elements > (size_t)1 << 30) {
    fprintf(stderr, "kernels: rounds must be 1...%d and elements 1...1024 Mi\n", MOST_ROUNDS);
    return 2;
  }
  const size_t bytes = elements * 4;
  for (int r = 0; r <= INPUTS; r++) {
    if (!(stream[r] = malloc(bytes))) {
      fprintf(stderr, "kernels: no memory for %d streams of %zu bytes\n", INPUTS + 1, bytes);
      return 1;
    }
    memset(stream[r], 1, bytes);
  }
  for (size_t i = 0; i < sizeof scratch / sizeof scratch[0]; i++)
    if (posix_memalign((void **)&scratch[i], 4096, TILE * 4 + 256)) return 1;

  printf("memcpy of %zu MiB; streams of %zu MiB; %d rounds; GB/s of bytes read plus written\n", bytes >> 20, bytes >> 20, rounds);
  printf("%-18s %-9s %9s %9s %9s %10s\n", "operation", "set", "tile", "stream", "of memcpy", "ns/element");
  for (int pass = 0; pass < 2; pass++) {
    const bool chains = pass == 1;
    fill(chains);
    for (int o = 0; o < OPERATIONS; o++) {
      const struct operation *op = &operations[o];
      if (op->chain != chains || (match && !strstr(op->name, match))) continue;
      for (set = 0; set < ingotk_set_count(); set++) {
        if (!ingotk_set_runs_here(set) || (only && strcmp(only, ingotk_set_name(set)))) continue;
        /* The scalar set and row sampling are slow: fewer elements say as much. */
        const bool slow = !strcmp(ingotk_set_name(set), "scalar") || op->run == della_row || op->run == della_probabilities;
        const size_t n = slow ? elements / 8 : elements;
        double tile[MOST_ROUNDS], streamed[MOST_ROUNDS], share[MOST_ROUNDS];
        for (int round = 0; round < rounds; round++) {
          if (op->run == apply_mask || op->run == masked_absolute || op->run == divide_kept)
            ingotk_bernoulli(0, 1, 2, 3, 1u << 31, mask, TILE);
          const double copied = 2 * (double)bytes / time_memcpy(bytes);
          streamed[round] = op->bytes * (double)(n / TILE * TILE) / time_stream(op, n);
          tile[round] = op->bytes * TILE / time_tile(op);
          share[round] = streamed[round] / copied;
        }
        const double t = median(tile, rounds), s = median(streamed, rounds);
        printf("%-18s %-9s %9.2f %9.2f %8.0f%% %10.3f\n", op->name, ingotk_set_name(set), t / 1e9, s / 1e9, 100 * median(share, rounds),
               op->bytes / s * 1e9);
        fflush(stdout);
        if (op->run == trim || op->run == apply_mask || op->run == divide_kept) fill(false); /* they change their input */
      }
    }
  }
  double copied[MOST_ROUNDS];
  for (int round = 0; round < rounds; round++) copied[round] = 2 * (double)bytes / time_memcpy(bytes);
  printf("%-18s %-9s %9s %9.2f\n", "memcpy", "", "", median(copied, rounds) / 1e9);
  return 0;
}
