// BLAS and LAPACK from OpenBLAS, opened with dlopen when the first matrix method is planned.
//
// Nothing links to OpenBLAS: programs that use no matrix method neither load its 36 MB nor start its threads. All matrices are
// column-major, all integers 32 bits wide, as in Fortran. The functions may be called after `ingotl_open` has returned true, by any thread; no
// argument is checked here. An integer result is LAPACK's INFO.
#ifndef CLAPACK_H
#define CLAPACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Opens OpenBLAS once for the process: `libopenblas.so.0` beside this library, else where the system's loader finds it. False with the
/// reason in `why`; a later call tries again. Safe from any thread. OpenBLAS starts its threads here, with the caller's affinity.
bool ingotl_open(char *why, size_t why_bytes);

/// Name of the processor core whose kernels OpenBLAS runs, and its configuration; empty before `ingotl_open`. Static strings.
const char *ingotl_core(void);
const char *ingotl_configuration(void);

/// The value of OPENBLAS_CORETYPE under which Debian's OpenBLAS 0.3.21 uses this processor's AVX-512 units, where it would not find them itself:
/// AMD's, which are younger than that version. Null where nothing needs to be said. Needs no library.
const char *ingotl_advised_core(void);

/// Threads that OpenBLAS starts for one call now, for the whole process.
int32_t ingotl_threads(void);

/// Begins a phase in which every call of OpenBLAS uses `threads` threads. Phases of one thread run beside each other; one of more threads runs
/// alone, and waits until no other is under way. The first phase saves the process-wide count, the last one restores it.
void ingotl_begin_phase(int32_t threads);
void ingotl_end_phase(void);

#define INGOTL_DECLARE(T, S)                                                                                                          \
  void ingotl_gemm_##S(char transa, char transb, int32_t m, int32_t n, int32_t k, T alpha, const T *a, int32_t lda, const T *b,       \
                       int32_t ldb, T beta, T *c, int32_t ldc);                                                                       \
  void ingotl_syrk_##S(char uplo, char trans, int32_t n, int32_t k, T alpha, const T *a, int32_t lda, T beta, T *c, int32_t ldc);     \
  void ingotl_trsm_##S(char side, char uplo, char transa, char diag, int32_t m, int32_t n, T alpha, const T *a, int32_t lda, T *b,    \
                       int32_t ldb);                                                                                                  \
  void ingotl_symm_##S(char side, char uplo, int32_t m, int32_t n, T alpha, const T *a, int32_t lda, const T *b, int32_t ldb, T beta, \
                       T *c, int32_t ldc);                                                                                            \
  void ingotl_symv_##S(char uplo, int32_t n, const T *a, int32_t lda, const T *x, T *y);                                              \
  void ingotl_trsv_##S(char uplo, char transa, int32_t n, const T *a, int32_t lda, T *x);                                             \
  int32_t ingotl_potrf_##S(char uplo, int32_t n, T *a, int32_t lda);                                                                  \
  int32_t ingotl_potri_##S(char uplo, int32_t n, T *a, int32_t lda);                                                                  \
  int32_t ingotl_potrs_##S(char uplo, int32_t n, int32_t nrhs, const T *a, int32_t lda, T *b, int32_t ldb);                           \
  int32_t ingotl_syevd_##S(char jobz, char uplo, int32_t n, T *a, int32_t lda, T *w, T *work, int32_t lwork, int32_t *iwork,          \
                           int32_t liwork);                                                                                           \
  int32_t ingotl_syevr_##S(char uplo, int32_t n, T *a, int32_t lda, int32_t il, int32_t iu, T abstol, int32_t *found, T *w, T *z,     \
                           int32_t ldz, int32_t *isuppz, T *work, int32_t lwork, int32_t *iwork, int32_t liwork);                     \
  int32_t ingotl_gelqf_##S(int32_t m, int32_t n, T *a, int32_t lda, T *tau, T *work, int32_t lwork);                                  \
  int32_t ingotl_orglq_##S(int32_t m, int32_t n, int32_t k, T *a, int32_t lda, const T *tau, T *work, int32_t lwork);                 \
  int32_t ingotl_gesdd_##S(char jobz, int32_t m, int32_t n, T *a, int32_t lda, T *s, T *u, int32_t ldu, T *vt, int32_t ldvt, T *work, \
                           int32_t lwork, int32_t *iwork);

/// The dot product in f64: element i is added to lane i mod 16, and the lanes are folded in one order. Needs no library.
double ingotl_dot_f32(const float *x, const float *y, size_t count);
double ingotl_dot_f64(const double *x, const double *y, size_t count);

INGOTL_DECLARE(float, f32)
INGOTL_DECLARE(double, f64)
#undef INGOTL_DECLARE

#ifdef __cplusplus
}
#endif
#endif
