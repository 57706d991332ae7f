#define _GNU_SOURCE
#include "CLAPACK.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "libopenblas.so.0"

/// gfortran passes the length of every character argument behind the others.
typedef size_t length;
typedef const char *letter;
typedef const int32_t *number;

/// The functions of one type, by LAPACK's names without their first letter.
#define ROUTINES(T)                                                                                                                        \
  void (*gemm)(letter, letter, number, number, number, const T *, const T *, number, const T *, number, const T *, T *, number, length,    \
               length);                                                                                                                    \
  void (*syrk)(letter, letter, number, number, const T *, const T *, number, const T *, T *, number, length, length);                      \
  void (*trsm)(letter, letter, letter, letter, number, number, const T *, const T *, number, T *, number, length, length, length, length); \
  void (*symm)(letter, letter, number, number, const T *, const T *, number, const T *, number, const T *, T *, number, length, length);   \
  void (*symv)(letter, number, const T *, const T *, number, const T *, number, const T *, T *, number, length);                           \
  void (*trsv)(letter, letter, letter, number, const T *, number, T *, number, length, length, length);                                    \
  void (*potrf)(letter, number, T *, number, int32_t *, length);                                                                           \
  void (*potri)(letter, number, T *, number, int32_t *, length);                                                                           \
  void (*potrs)(letter, number, number, const T *, number, T *, number, int32_t *, length);                                                \
  void (*syevd)(letter, letter, number, T *, number, T *, T *, number, int32_t *, number, int32_t *, length, length);                      \
  void (*syevr)(letter, letter, letter, number, T *, number, const T *, const T *, number, number, const T *, int32_t *, T *, T *, number, \
                int32_t *, T *, number, int32_t *, number, int32_t *, length, length, length);                                             \
  void (*gelqf)(number, number, T *, number, T *, T *, number, int32_t *);                                                                 \
  void (*orglq)(number, number, number, T *, number, const T *, T *, number, int32_t *);                                                   \
  void (*gesdd)(letter, number, number, T *, number, T *, T *, number, T *, number, T *, number, int32_t *, int32_t *, length);

typedef struct {
  ROUTINES(float)
} routines_f32;
typedef struct {
  ROUTINES(double)
} routines_f64;

// Written once under the lock, before `ingotl_open` first returns true.
static routines_f32 f32;
static routines_f64 f64;
static int (*get_threads)(void);
static void (*set_threads)(int);
static char *(*get_core)(void);
static char *(*get_configuration)(void);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool is_open;
// Phases under way, their threads, phases of many threads that wait, and the count to go back to.
static int32_t holders, phase_threads, waiting, saved_threads;

/// The path of the library beside the object that contains this code; false when there is none.
static bool beside(char out[PATH_MAX]) {
  Dl_info info;
  if (!dladdr((void *)beside, &info) || !info.dli_fname) return false;
  char own[PATH_MAX];
  if (!realpath(info.dli_fname, own)) return false;
  char *slash = strrchr(own, '/');
  if (!slash) return false;
  *slash = 0;
  int written = snprintf(out, PATH_MAX, "%s/" LIBRARY, own);
  return written > 0 && written < PATH_MAX && access(out, R_OK) == 0;
}

static bool find(void *handle, const char *name, void *slot, const char **missing) {
  void *symbol = dlsym(handle, name);
  if (!symbol) {
    *missing = name;
    return false;
  }
  memcpy(slot, &symbol, sizeof symbol);
  return true;
}

static bool find_all(void *handle, const char **missing) {
#define BOTH(NAME) find(handle, "s" #NAME "_", &f32.NAME, missing) && find(handle, "d" #NAME "_", &f64.NAME, missing)
  return BOTH(gemm) && BOTH(syrk) && BOTH(trsm) && BOTH(symm) && BOTH(symv) && BOTH(trsv) && BOTH(potrf) && BOTH(potri) && BOTH(potrs) &&
         BOTH(syevd) && BOTH(syevr) && BOTH(gelqf) && BOTH(orglq) && BOTH(gesdd) &&
         find(handle, "openblas_get_num_threads", &get_threads, missing) &&
         find(handle, "openblas_set_num_threads", &set_threads, missing) && find(handle, "openblas_get_corename", &get_core, missing) &&
         find(handle, "openblas_get_config", &get_configuration, missing);
#undef BOTH
}

static bool refuse(void *handle, char *why, size_t why_bytes, const char *format, const char *detail) {
  snprintf(why, why_bytes, format, detail);
  if (handle) dlclose(handle);
  return false;
}

static bool open_library(char *why, size_t why_bytes) {
  char path[PATH_MAX];
  const char *name = beside(path) ? path : LIBRARY;
  // Its threads live in it, so it is never unloaded; its symbols stay out of the host's way.
  void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!handle) {
    const char *reason = dlerror();
    return refuse(NULL, why, why_bytes, "%s", reason ? reason : LIBRARY " does not load");
  }
  const char *missing = NULL;
  if (!find_all(handle, &missing)) return refuse(handle, why, why_bytes, LIBRARY " has no function %s", missing);
  if (strstr(get_configuration(), "USE64BITINT")) return refuse(handle, why, why_bytes, "%s was built for 64-bit integers", LIBRARY);
  return true;
}

bool ingotl_open(char *why, size_t why_bytes) {
  pthread_mutex_lock(&lock);
  if (!is_open) is_open = open_library(why, why_bytes);
  bool result = is_open;
  pthread_mutex_unlock(&lock);
  return result;
}

static bool has_opened(void) {
  pthread_mutex_lock(&lock);
  bool result = is_open;
  pthread_mutex_unlock(&lock);
  return result;
}

const char *ingotl_core(void) { return has_opened() ? get_core() : ""; }
const char *ingotl_configuration(void) { return has_opened() ? get_configuration() : ""; }
const char *ingotl_advised_core(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_is("amd") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return "SkylakeX";
#endif
  return NULL;
}

int32_t ingotl_threads(void) { return has_opened() ? get_threads() : 0; }

void ingotl_begin_phase(int32_t threads) {
  if (!has_opened()) return;
  if (threads < 1) threads = 1;
  pthread_mutex_lock(&lock);
  if (threads > 1) {
    waiting++;
    while (holders > 0) pthread_cond_wait(&changed, &lock);
    waiting--;
  } else {
    // One that wants all threads is not kept waiting by ever new small ones.
    while ((holders > 0 && phase_threads > 1) || waiting > 0) pthread_cond_wait(&changed, &lock);
  }
  if (holders == 0) {
    saved_threads = get_threads();
    if (saved_threads != threads) set_threads(threads);
    phase_threads = threads;
  }
  holders++;
  pthread_mutex_unlock(&lock);
}

void ingotl_end_phase(void) {
  pthread_mutex_lock(&lock);
  if (holders > 0 && --holders == 0) {
    if (get_threads() != saved_threads) set_threads(saved_threads);
    pthread_cond_broadcast(&changed);
  }
  pthread_mutex_unlock(&lock);
}

#define DEFINE(T, S)                                                                                                                    \
  void ingotl_gemm_##S(char transa, char transb, int32_t m, int32_t n, int32_t k, T alpha, const T *a, int32_t lda, const T *b,         \
                       int32_t ldb, T beta, T *c, int32_t ldc) {                                                                        \
    S.gemm(&transa, &transb, &m, &n, &k, &alpha, a, &lda, b, &ldb, &beta, c, &ldc, 1, 1);                                               \
  }                                                                                                                                     \
  void ingotl_syrk_##S(char uplo, char trans, int32_t n, int32_t k, T alpha, const T *a, int32_t lda, T beta, T *c, int32_t ldc) {      \
    S.syrk(&uplo, &trans, &n, &k, &alpha, a, &lda, &beta, c, &ldc, 1, 1);                                                               \
  }                                                                                                                                     \
  void ingotl_trsm_##S(char side, char uplo, char transa, char diag, int32_t m, int32_t n, T alpha, const T *a, int32_t lda, T *b,      \
                       int32_t ldb) {                                                                                                   \
    S.trsm(&side, &uplo, &transa, &diag, &m, &n, &alpha, a, &lda, b, &ldb, 1, 1, 1, 1);                                                 \
  }                                                                                                                                     \
  void ingotl_symm_##S(char side, char uplo, int32_t m, int32_t n, T alpha, const T *a, int32_t lda, const T *b, int32_t ldb, T beta,   \
                       T *c, int32_t ldc) {                                                                                             \
    S.symm(&side, &uplo, &m, &n, &alpha, a, &lda, b, &ldb, &beta, c, &ldc, 1, 1);                                                       \
  }                                                                                                                                     \
  void ingotl_symv_##S(char uplo, int32_t n, const T *a, int32_t lda, const T *x, T *y) {                                               \
    int32_t step = 1;                                                                                                                   \
    T alpha = 1, beta = 0;                                                                                                              \
    S.symv(&uplo, &n, &alpha, a, &lda, x, &step, &beta, y, &step, 1);                                                                   \
  }                                                                                                                                     \
  void ingotl_trsv_##S(char uplo, char transa, int32_t n, const T *a, int32_t lda, T *x) {                                              \
    int32_t step = 1;                                                                                                                   \
    S.trsv(&uplo, &transa, "N", &n, a, &lda, x, &step, 1, 1, 1);                                                                        \
  }                                                                                                                                     \
  int32_t ingotl_potrf_##S(char uplo, int32_t n, T *a, int32_t lda) {                                                                   \
    int32_t info = 0;                                                                                                                   \
    S.potrf(&uplo, &n, a, &lda, &info, 1);                                                                                              \
    return info;                                                                                                                        \
  }                                                                                                                                     \
  int32_t ingotl_potri_##S(char uplo, int32_t n, T *a, int32_t lda) {                                                                   \
    int32_t info = 0;                                                                                                                   \
    S.potri(&uplo, &n, a, &lda, &info, 1);                                                                                              \
    return info;                                                                                                                        \
  }                                                                                                                                     \
  int32_t ingotl_potrs_##S(char uplo, int32_t n, int32_t nrhs, const T *a, int32_t lda, T *b, int32_t ldb) {                            \
    int32_t info = 0;                                                                                                                   \
    S.potrs(&uplo, &n, &nrhs, a, &lda, b, &ldb, &info, 1);                                                                              \
    return info;                                                                                                                        \
  }                                                                                                                                     \
  int32_t ingotl_syevd_##S(char jobz, char uplo, int32_t n, T *a, int32_t lda, T *w, T *work, int32_t lwork, int32_t *iwork,            \
                           int32_t liwork) {                                                                                            \
    int32_t info = 0;                                                                                                                   \
    S.syevd(&jobz, &uplo, &n, a, &lda, w, work, &lwork, iwork, &liwork, &info, 1, 1);                                                   \
    return info;                                                                                                                        \
  }                                                                                                                                     \
  int32_t ingotl_syevr_##S(char uplo, int32_t n, T *a, int32_t lda, int32_t il, int32_t iu, T abstol, int32_t *found, T *w, T *z,       \
                           int32_t ldz, int32_t *isuppz, T *work, int32_t lwork, int32_t *iwork, int32_t liwork) {                      \
    int32_t info = 0;                                                                                                                   \
    T unused = 0;                                                                                                                       \
    S.syevr("V", "I", &uplo, &n, a, &lda, &unused, &unused, &il, &iu, &abstol, found, w, z, &ldz, isuppz, work, &lwork, iwork, &liwork, \
            &info, 1, 1, 1);                                                                                                            \
    return info;                                                                                                                        \
  }                                                                                                                                     \
  int32_t ingotl_gelqf_##S(int32_t m, int32_t n, T *a, int32_t lda, T *tau, T *work, int32_t lwork) {                                   \
    int32_t info = 0;                                                                                                                   \
    S.gelqf(&m, &n, a, &lda, tau, work, &lwork, &info);                                                                                 \
    return info;                                                                                                                        \
  }                                                                                                                                     \
  int32_t ingotl_orglq_##S(int32_t m, int32_t n, int32_t k, T *a, int32_t lda, const T *tau, T *work, int32_t lwork) {                  \
    int32_t info = 0;                                                                                                                   \
    S.orglq(&m, &n, &k, a, &lda, tau, work, &lwork, &info);                                                                             \
    return info;                                                                                                                        \
  }                                                                                                                                     \
  int32_t ingotl_gesdd_##S(char jobz, int32_t m, int32_t n, T *a, int32_t lda, T *s, T *u, int32_t ldu, T *vt, int32_t ldvt, T *work,   \
                           int32_t lwork, int32_t *iwork) {                                                                             \
    int32_t info = 0;                                                                                                                   \
    S.gesdd(&jobz, &m, &n, a, &lda, s, u, &ldu, vt, &ldvt, work, &lwork, iwork, &info, 1);                                              \
    return info;                                                                                                                        \
  }

DEFINE(float, f32)
DEFINE(double, f64)
