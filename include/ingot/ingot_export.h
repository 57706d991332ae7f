/* Macros of ingot.h: visibility, nullability, deprecation. Not to be included directly. */
#ifndef INGOT_EXPORT_H
#define INGOT_EXPORT_H

/* A function of the library. */
#if defined(__GNUC__) || defined(__clang__)
#define INGOT_API __attribute__((visibility("default")))
#define INGOT_NODISCARD __attribute__((warn_unused_result))
#define INGOT_DEPRECATED(since, use) __attribute__((deprecated("since " since ": use " use)))
#else
#define INGOT_API
#define INGOT_NODISCARD
#define INGOT_DEPRECATED(since, use)
#endif

#ifdef __cplusplus
#define INGOT_EXTERN_C_BEGIN extern "C" {
#define INGOT_EXTERN_C_END }
#else
#define INGOT_EXTERN_C_BEGIN
#define INGOT_EXTERN_C_END
#endif

/* Pointers are never NULL unless they say INGOT_NULLABLE. Clang checks that in callers; other compilers take it as a comment.
 * Swift's importer does not get the promise: the library itself checks every pointer it is given. */
#if defined(__clang__) && !defined(__swift__)
#define INGOT_NULLABLE _Nullable
#define INGOT_NONNULL _Nonnull /* where a pointer to a pointer needs it said */
#define INGOT_BEGIN_DECLS \
  INGOT_EXTERN_C_BEGIN    \
  _Pragma("clang diagnostic push") _Pragma("clang diagnostic ignored \"-Wnullability-extension\"") _Pragma("clang assume_nonnull begin")
#define INGOT_END_DECLS _Pragma("clang assume_nonnull end") _Pragma("clang diagnostic pop") INGOT_EXTERN_C_END
#else
#define INGOT_NULLABLE
#define INGOT_NONNULL
#define INGOT_BEGIN_DECLS INGOT_EXTERN_C_BEGIN
#define INGOT_END_DECLS INGOT_EXTERN_C_END
#endif

#endif
