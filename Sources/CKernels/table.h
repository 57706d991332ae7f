/* What one instruction set provides. The functions have the arguments of their namesakes in CKernels.h without `set`. */
#ifndef INGOT_KERNELS_TABLE_H
#define INGOT_KERNELS_TABLE_H

#include <CKernels.h>

struct ingot_kernels {
  size_t (*load)(int32_t, const void *, float *, size_t);
  void (*store)(int32_t, const float *, void *, size_t);
  void (*load_scaled)(int32_t, const uint8_t *, const float *, size_t, size_t, float *, size_t);
  void (*load_powers)(const uint8_t *, float *, size_t);
  void (*load_mxfp4)(const uint8_t *, size_t, size_t, const uint8_t *, float *, size_t);
  void (*linear)(ingotk_rows, size_t, const float *, float, float *, size_t);
  void (*scale)(const float *, float, float *, size_t);
  void (*subtract)(const float *, const float *, float *, size_t);
  void (*add_delta)(const float *, float, const float *, float *, size_t);
  void (*weighted_sum)(ingotk_rows, size_t, const float *, float, float *, size_t);
  void (*elect)(ingotk_rows, size_t, const float *, bool, int32_t, float *, size_t);
  void (*dot)(const float *, const float *, double *, size_t);
  void (*absolute)(const float *, double *, size_t);
  void (*moments)(const float *, const float *, double *, double *, double *, size_t);
  size_t (*collect)(const float *, uint64_t, int32_t, uint64_t, uint64_t, uint64_t *, uint64_t *, size_t, size_t);
  void (*trim)(float *, uint64_t, int32_t, uint64_t, bool, size_t);
  void (*bernoulli)(uint64_t, uint64_t, uint64_t, uint64_t, uint8_t *, size_t);
  void (*apply_mask)(float *, const uint8_t *, float, size_t);
  void (*masked_absolute)(const float *, const uint8_t *, double *, double *, size_t);
  void (*della_row)(const float *, double, double, uint64_t, uint64_t, uint64_t, uint8_t *, float *, uint32_t *, size_t);
  void (*divide_kept)(float *, const uint8_t *, const float *, size_t);
  size_t (*merge_linear)(const ingotk_term *, size_t, float, int32_t, void *, size_t);
  size_t (*merge_deltas)(const ingotk_term *, const ingotk_term *, size_t, ingotk_rule, uint64_t, int32_t, void *, size_t);
  void (*nearswap)(const float *, const float *, float, float *, size_t);
  void (*ram)(ingotk_rows, size_t, float, const float *, float *, size_t);
  void (*ram_counts)(ingotk_rows, size_t, float, uint64_t *, size_t);
  void (*count_signs)(const float *, uint64_t *, size_t);
  void (*select_important)(const float *, float, const float *, const float *, float *, size_t);
  size_t (*variance)(const float *, ingotk_rows, size_t, float *, double *, size_t);
  void (*energy)(const float *, const float *, const float *, double *, size_t);
  void (*sce_merge)(const float *, ingotk_rows, size_t, const float *, const float *, float, float *, size_t);
  void (*exponential)(const double *, double *, size_t);
  void (*logarithm)(const double *, double *, size_t);
  double (*row_divergence)(const float *, const float *, double *, size_t);
  void (*column_moments)(const float *, const float *, uint64_t, size_t, double *, size_t);
  void (*column_combination)(const float *, const float *, uint64_t, size_t, const float *, float *, size_t);
  void (*scale_channels)(const float *, const float *, uint64_t, size_t, const float *, float *, size_t);
  void (*weighted_mean)(ingotk_rows, ingotk_rows, size_t, ingotk_weighting, const float *, float *, size_t);
  void (*saliency)(const float *, const float *, float *, size_t);
  void (*precondition)(const float *, const float *, ingotk_preconditioner, float *, size_t);
  void (*outer_product)(const float *, size_t, const float *, size_t, uint64_t, float *, size_t);
  void (*vote)(const float *, const float *, const float *, const float *, float, bool, float *, size_t);
  void (*add_voted)(const float *, const float *, const float *, const float *, float *, size_t);
  void (*soft_mask)(const float *, ingotk_mask_rule, uint64_t, float *, size_t);
  void (*round_to)(int32_t, float *, size_t);
  void (*stepwise_elect)(int32_t, ingotk_rows, size_t, const float *, bool, int32_t, float *, size_t);
  void (*compare)(const float *, const float *, double *, size_t);
  void (*conflicts)(const float *, const float *, uint64_t *, size_t);
  size_t (*distances)(size_t, const void *, const void *, uint64_t, uint64_t *, size_t);
  size_t (*collect_deltas)(const ingotk_delta *, uint64_t, int32_t, uint64_t, uint64_t, uint64_t *, uint64_t *, size_t, size_t, size_t *);
  size_t (*masked_absolute_deltas)(const ingotk_delta *, const uint8_t *, double *, double *, size_t);
  void (*count_zeros)(const float *, const float *, uint64_t *, size_t);
  void (*varied_mean)(const float *, ingotk_rows, size_t, bool, float *, size_t);
  void (*magmax)(ingotk_rows, size_t, float *, size_t);
  void (*consensus)(ingotk_rows, size_t, const float *, const float *, int32_t, float *, size_t);
  void (*localize)(ingotk_rows, size_t, const float *, size_t, float, float *, size_t);
  void (*unify)(ingotk_rows, size_t, float *, size_t);
  void (*agree)(const float *, const float *, float *, size_t);
  void (*elect_with_slack)(ingotk_rows, size_t, const float *, bool, float, float *, size_t);
  void (*elect_largest)(ingotk_rows, size_t, const float *, int32_t, float *, size_t);
  void (*protect)(const float *, float, const float *, float *, size_t);
  void (*competition)(ingotk_rows, size_t, size_t, const float *, bool, int32_t, float, float *, size_t);
  void (*balance)(ingotk_rows, ingotk_rows, size_t, const float *, float *, size_t);
  void (*column_sum)(ingotk_rows, size_t, uint64_t, size_t, const float *, float *, size_t);
  void (*significance_sum)(ingotk_rows, size_t, const double *, double, float *, size_t);
  void (*conflict_mass)(const float *, const float *, double *, double *, double *, double *, size_t);
  void (*trim_row)(float *, uint64_t, int32_t, size_t, size_t, uint64_t *, size_t);
  void (*signs)(const float *, float, float *, size_t);
  void (*vote_part)(const float *, int32_t, float, float *, size_t);
  void (*settle_vote)(const float *, const float *, const float *, const float *, float *, size_t);
  void (*informed)(const float *, const float *, double, double, float *, size_t);
  void (*ratio)(const float *, const float *, float, float *, size_t);
  void (*accumulate_scaled)(const float *, double, double *, size_t);
};

extern const struct ingot_kernels ingotk_table_scalar;
#if defined(__x86_64__)
extern const struct ingot_kernels ingotk_table_baseline, ingotk_table_avx2, ingotk_table_avx512;
#elif defined(__aarch64__)
extern const struct ingot_kernels ingotk_table_neon;
#endif

/* Sets whose instructions the processor has and whose registers the operating system saves. */
enum { INGOTK_CPU_BASELINE = 1, INGOTK_CPU_AVX2 = 2, INGOTK_CPU_AVX512 = 4, INGOTK_CPU_NEON = 8 };
uint32_t ingotk_cpu_features(void);

#endif
