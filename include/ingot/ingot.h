/* ingot.h: an engine that merges neural-network checkpoints. C99 and C++11. This file is the manual.
 *
 * The short program: create a context, parse a recipe, make a plan, run it to a directory.
 *
 *   ingot_context *context; ingot_recipe *recipe; ingot_plan *plan; ingot_error *error;
 *   if (ingot_context_create(&context, NULL, &error)) return fail(error);
 *   if (ingot_recipe_parse(text, strlen(text), "recipe.yml", &recipe, NULL, &error)) return fail(error);
 *   if (ingot_plan_create(context, recipe, &plan, NULL, &error)) return fail(error);
 *   if (ingot_plan_run_to_directory(context, plan, "merged", NULL, NULL, &error)) return fail(error);
 *
 * Conventions
 *   Order        Parameters are: object, inputs, `out`, options, `error`.
 *   Results      A function that can fail returns an ingot_status. A void function cannot fail. A function that returns a
 *                pointer or a number is a getter.
 *   Pointers     Never NULL unless marked INGOT_NULLABLE. NULL elsewhere gives INGOT_E_INVALID_ARGUMENT (getters: NULL or 0).
 *   Ownership    Each pointer is one of
 *                  borrowed   not kept beyond the call, or, for results, valid until the object it came from is destroyed;
 *                  owned      the caller's; to be released with the function named there;
 *                  copied     read during the call; the caller may change or free it afterwards;
 *                  consumed   the library's from then on; it calls `release` exactly once, also when the call fails.
 *   Handles      Opaque; made by _create or _parse, released by _destroy, which takes NULL. Objects keep what they need of each
 *                other: the order of destruction never matters. A handle that was destroyed, or is of another kind, gives
 *                INGOT_E_INVALID_ARGUMENT as long as its memory has not been put to another use: a check, not a guarantee.
 *   Units        Sizes are in bytes (uint64_t), shapes and strides in elements, unless the name says otherwise. Text is UTF-8,
 *                ends with NUL, and is one line unless it says otherwise. Paths are UTF-8; relative ones start at the working
 *                directory.
 *   Structs      An extensible struct begins with struct_size (its size where the caller was compiled) and flags; use its _INIT.
 *                Zero always means "the default". A smaller struct is an older one: what it lacks is zero. A larger one, whose
 *                unknown part is not all zero, or an unknown flag, gives INGOT_E_UNSUPPORTED. A struct_size below 8 or above
 *                4096, or one that is no multiple of the struct's alignment, gives INGOT_E_INVALID_ARGUMENT. Arrays of such
 *                structs are never passed: arrays of pointers are.
 *   Threads      Contexts serve one call at a time; a second call, from another thread or from inside a callback, returns
 *                INGOT_E_BUSY. All other objects are immutable and may be used from any thread at once, except that nobody may
 *                use an object while or after it is destroyed. "Any thread" below means: at any time, no locks needed.
 *   Callbacks    Get their `user` pointer first and return 0 to go on. Any other value stops the work, and comes back in
 *                ingot_error_user_code. They must return: a longjmp, a C++ exception or a thread exit through the library is
 *                undefined behaviour (ingot.hpp catches exceptions in its callbacks and throws them again after the call).
 *   Manners      The library never prints, exits, aborts, installs signal handlers, sets environment variables or opens network
 *                connections. It reads INGOT_THREADS, INGOT_FORCE_ISA, HF_HOME, HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE,
 *                XDG_CACHE_HOME and HOME; options win over them. (OpenMP and hwloc read their own OMP_* and HWLOC_*.)
 *   Arithmetic   A call rounds to nearest, keeps subnormals and masks floating-point traps on its own thread too, and puts back what
 *                it found: callbacks on that thread run in the same state.
 *   Same bytes   One recipe, one set of inputs and one seed give the same bytes for every number of threads, memory budget and
 *                instruction set, for all methods that work element by element.
 */
#ifndef INGOT_H
#define INGOT_H

#include <stddef.h>
#include <stdint.h>

#include "ingot_export.h"

INGOT_BEGIN_DECLS

/* ---- version ------------------------------------------------------------------------------------------------------------ */

#define INGOT_VERSION_MAJOR 0
#define INGOT_VERSION_MINOR 1
#define INGOT_VERSION_PATCH 0
/* The number in the library's name (libingot.so.0). ABI 0 may change with every minor version; from 1 on it only grows. */
#define INGOT_ABI_VERSION 0u

/* Returns the version of the library at run time: major * 1000000 + minor * 1000 + patch. Any thread. Since 0.1. */
INGOT_API uint32_t ingot_version_number(void);

/* Returns the version as text, e.g. "0.1.0": borrowed, never freed. Any thread. Since 0.1. */
INGOT_API const char *ingot_version_string(void);

/* Returns INGOT_ABI_VERSION of the library at run time. Any thread. Since 0.1. */
INGOT_API uint32_t ingot_abi_version(void);

/* Returns how the library was built and what runs here, as a JSON object: version, abi, swift, architecture, isas, isas_here.
 * Borrowed, never freed. Any thread. Since 0.1. */
INGOT_API const char *ingot_build_info_json(void);

/* ---- status and error --------------------------------------------------------------------------------------------------- */

/* 0 for success, negative for failure. Values are never renumbered; positive ones are reserved. */
typedef int32_t ingot_status;

enum {
  INGOT_OK = 0,
  INGOT_E_INVALID_ARGUMENT = -1, /* a NULL, a bad handle, a value out of range: the program is wrong */
  INGOT_E_RECIPE = -2,           /* the recipe's text: a position says where */
  INGOT_E_NOT_FOUND = -3,        /* a model, a file or a tensor is absent */
  INGOT_E_IO = -4,               /* reading failed */
  INGOT_E_FORMAT = -5,           /* a file is not what its format says */
  INGOT_E_SHAPE = -6,            /* shapes that do not go together */
  INGOT_E_DTYPE = -7,            /* an element type without the arithmetic that is needed */
  INGOT_E_MEMORY = -8,           /* the memory budget is too small; the message says how much is needed */
  INGOT_E_CANCELLED = -9,        /* the cancel flag or the progress callback said stop */
  INGOT_E_CALLBACK = -10,        /* a source, a sink or a resolver of the caller failed */
  INGOT_E_UNSUPPORTED = -11,     /* known, but not done by this version, build or machine */
  INGOT_E_EXISTS = -12,          /* the destination exists */
  INGOT_E_NO_SPACE = -13,        /* the disk is too small, or full */
  INGOT_E_NONFINITE = -14,       /* values that are combined hold NaN or infinity */
  INGOT_E_BUSY = -15,            /* the context, or the destination, is in use */
  INGOT_E_STALE = -16,           /* a source changed while, or since, it was read */
  INGOT_E_OUTPUT = -17,          /* writing the output failed */
  INGOT_E_INTERNAL = -99         /* a bug of the library: please report it */
};

/* Returns the constant's name, e.g. "INGOT_E_SHAPE", or "INGOT_E_UNKNOWN": borrowed, never freed. Any thread. Since 0.1. */
INGOT_API const char *ingot_status_name(ingot_status status);

/* What went wrong. Immutable; may be read and destroyed on any thread. */
typedef struct ingot_error ingot_error;

/* Where a function puts its error: NULL to do without; else *error is NULL after success, and owned (ingot_error_destroy) after
 * failure. What *error held before the call is overwritten, not released. */
typedef ingot_error *INGOT_NULLABLE *INGOT_NULLABLE ingot_error_out;

/* Returns the same status the failed function returned; INGOT_OK for NULL. Any thread. Since 0.1. */
INGOT_API ingot_status ingot_error_status(const ingot_error *INGOT_NULLABLE error);

/* Returns what was found and what was expected, in one line: borrowed from the error; "" for NULL. Any thread. Since 0.1. */
INGOT_API const char *ingot_error_message(const ingot_error *INGOT_NULLABLE error);

/* Returns what to try next: borrowed from the error, NULL when there is nothing to say. Any thread. Since 0.1. */
INGOT_API const char *INGOT_NULLABLE ingot_error_hint(const ingot_error *INGOT_NULLABLE error);

/* Returns what the error is about (a tensor, a path, a key of the recipe): borrowed from the error, or NULL. Any thread. Since
 * 0.1. */
INGOT_API const char *INGOT_NULLABLE ingot_error_subject(const ingot_error *INGOT_NULLABLE error);

/* Returns the name of the text the error lies in, as given to ingot_recipe_parse, or a path: borrowed, or NULL when there is no
 * position. Any thread. Since 0.1. */
INGOT_API const char *INGOT_NULLABLE ingot_error_origin(const ingot_error *INGOT_NULLABLE error);

/* Tells the error's place in that text. Returns 1 and sets *line and *column (from 1; columns count Unicode scalars; each may be
 * NULL) if it is known; else returns 0 and sets them to 0. Any thread. Since 0.1. */
INGOT_API int32_t ingot_error_position(const ingot_error *INGOT_NULLABLE error, int32_t *INGOT_NULLABLE line,
                                       int32_t *INGOT_NULLABLE column);

/* Returns what the caller's callback returned (INGOT_E_CALLBACK, INGOT_E_CANCELLED), else 0. Any thread. Since 0.1. */
INGOT_API int32_t ingot_error_user_code(const ingot_error *INGOT_NULLABLE error);

/* Returns all of it as a JSON object: {"status": "INGOT_E_RECIPE", "code": -2, "message": …, "hint": …, "subject": …,
 * "position": {"origin": …, "line": …, "column": …}, "user_code": 0}, null for what is not known. Borrowed from the error; "null"
 * for NULL. Any thread. Since 0.1. */
INGOT_API const char *ingot_error_json(const ingot_error *INGOT_NULLABLE error);

/* Releases an error (owned by the caller; NULL is ignored). Any thread. Since 0.1. */
INGOT_API void ingot_error_destroy(ingot_error *INGOT_NULLABLE error);

/* Releases a text that a function handed over as owned (NULL is ignored). Any thread. Since 0.1. */
INGOT_API void ingot_string_destroy(char *INGOT_NULLABLE text);

/* ---- what this build can do --------------------------------------------------------------------------------------------- */

/* Returns how many instruction sets are built in and run on this machine; at least 1. Any thread. Since 0.1. */
INGOT_API uint32_t ingot_isa_count(void);

/* Returns the name of one of them, best first, the last being "scalar": borrowed, never freed; NULL for an index that is not less
 * than ingot_isa_count(). Any thread. Since 0.1. */
INGOT_API const char *INGOT_NULLABLE ingot_isa_name(uint32_t index);

/* Returns every merge method as a JSON array, one object each: name, title, summary, reference, base, models, scopes, parameters
 * (name, summary, type, range, default, required, per_model, unit), side_inputs (name, summary, form, required, per_model, list), notes.
 * Borrowed, never freed. Any thread. Since 0.1. */
INGOT_API const char *ingot_methods_json(void);

/* ---- context: threads and memory ------------------------------------------------------------------------------------------ */

/* A team of worker threads and the memory they may use. One call at a time.
 *
 * Methods on whole matrices use OpenBLAS, whose thread count is the process's: around a phase of such work it is saved, set and put
 * back. Phases of several threads take turns, those of two contexts too, and a host that calls OpenBLAS meanwhile may see the
 * other count. */
typedef struct ingot_context ingot_context;

/* ingot_context_options.team: whose threads work. */
enum {
  INGOT_TEAM_AUTO = 0,   /* OpenMP's where that is safe in this process, else the library's own */
  INGOT_TEAM_OPENMP = 1, /* INGOT_E_UNSUPPORTED where AUTO would not take it; a team of one needs none */
  INGOT_TEAM_PTHREAD = 2 /* the library's own; joined by ingot_context_destroy */
};

/* ingot_log_fn's level, and ingot_context_options.log_level. */
enum {
  INGOT_LOG_DEFAULT = 0, /* as INGOT_LOG_INFO */
  INGOT_LOG_WARNING = 1, /* the result may not be what was meant */
  INGOT_LOG_INFO = 2     /* what was decided */
};

/* Receives what a person should know although the work goes on. `message` is one line; `fields_json` is an object with `subject`,
 * `origin`, `line` and `column` where they are known. Both are borrowed until it returns. Called on the thread of the call that
 * has something to say, never for a level above log_level. It may not use the context. */
typedef void (*ingot_log_fn)(void *INGOT_NULLABLE user, int32_t level, const char *message, const char *fields_json);

typedef struct ingot_context_options {
  uint32_t struct_size;
  uint32_t flags;                 /* none yet */
  int32_t threads;                /* 0: OMP_NUM_THREADS or the cores this process may use; 1: serial; at most 4096 */
  int32_t team;                   /* INGOT_TEAM_* */
  uint64_t memory_budget_bytes;   /* for tiles, scratch and kept inputs of a run; 0: 256 MiB */
  const char *INGOT_NULLABLE isa; /* copied; NULL: INGOT_FORCE_ISA or the best; else a name from ingot_isa_name */
  ingot_log_fn INGOT_NULLABLE log;
  void *INGOT_NULLABLE log_user; /* borrowed until the context is destroyed and none of its calls runs */
  int32_t log_level;             /* INGOT_LOG_* */
  int32_t reserved;
} ingot_context_options;
#define INGOT_CONTEXT_OPTIONS_INIT {(uint32_t)sizeof(ingot_context_options), 0, 0, 0, 0, NULL, NULL, NULL, 0, 0}

/* Makes a context.
 *   out      owned (ingot_context_destroy); NULL after failure
 *   options  copied; NULL for the defaults
 * Any thread. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_context_create(ingot_context *INGOT_NULLABLE *INGOT_NONNULL out,
                                                            const ingot_context_options *INGOT_NULLABLE options, ingot_error_out error);

/* Returns what was chosen, as a JSON object: threads, team, isa, memory_budget_bytes, blas_core (whose kernels OpenBLAS runs; null
 * before a matrix method was planned in this process) and blas_hint (what would make it faster, or null). Borrowed from the
 * context; NULL for a bad handle. Any thread. Since 0.1. */
INGOT_API const char *INGOT_NULLABLE ingot_context_json(const ingot_context *context);

/* Releases a context (owned by the caller; NULL is ignored) and joins its own threads; OpenMP's belong to OpenMP and stay. While
 * a call runs on it, as inside a callback, the handle is gone at once and the rest follows when that call returns. Any thread.
 * Since 0.1. */
INGOT_API void ingot_context_destroy(ingot_context *INGOT_NULLABLE context);

/* ---- tensors in memory -------------------------------------------------------------------------------------------------- */

/* Element types: those of the safetensors format. The first six can be merged, the first three can be results; all others can be
 * copied, and then as whole bytes. */
enum {
  INGOT_DTYPE_F32 = 1,
  INGOT_DTYPE_F16 = 2,
  INGOT_DTYPE_BF16 = 3,
  INGOT_DTYPE_F64 = 4,
  INGOT_DTYPE_F8_E4M3 = 5,
  INGOT_DTYPE_F8_E5M2 = 6,
  INGOT_DTYPE_I64 = 10,
  INGOT_DTYPE_I32 = 11,
  INGOT_DTYPE_I16 = 12,
  INGOT_DTYPE_I8 = 13,
  INGOT_DTYPE_U64 = 14,
  INGOT_DTYPE_U32 = 15,
  INGOT_DTYPE_U16 = 16,
  INGOT_DTYPE_U8 = 17,
  INGOT_DTYPE_BOOL = 18,
  INGOT_DTYPE_F8_E8M0 = 20,
  INGOT_DTYPE_F4 = 21,
  INGOT_DTYPE_F6_E2M3 = 22,
  INGOT_DTYPE_F6_E3M2 = 23,
  INGOT_DTYPE_C64 = 24,
  INGOT_DTYPE_F8_E4M3FNUZ = 25,
  INGOT_DTYPE_F8_E5M2FNUZ = 26
};

/* Returns the name in a safetensors header, e.g. "BF16": borrowed, never freed; NULL for another number. Any thread. Since 0.1. */
INGOT_API const char *INGOT_NULLABLE ingot_dtype_name(int32_t dtype);

/* Returns the width of one element in bits, 0 for another number. Any thread. Since 0.1. */
INGOT_API uint32_t ingot_dtype_bits(int32_t dtype);

/* The most axes a tensor may have. */
#define INGOT_RANK_MAX 32

/* ingot_tensor_view.flags */
enum { INGOT_TENSOR_READ_ONLY = 1 }; /* cannot be an output */

/* A tensor somebody else owns. Views, names, shapes and strides are copied by the functions that take them; the elements are
 * borrowed for as long as those functions say. Elements need no alignment beyond one byte. */
typedef struct ingot_tensor_view {
  uint32_t struct_size;
  uint32_t flags;                        /* INGOT_TENSOR_* */
  const char *INGOT_NULLABLE name;       /* NULL only where a function says that names do not matter */
  int32_t dtype;                         /* INGOT_DTYPE_* */
  int32_t rank;                          /* 0 (one element) to INGOT_RANK_MAX */
  const int64_t *INGOT_NULLABLE shape;   /* `rank` extents in elements, outermost first; NULL only if rank is 0 */
  const int64_t *INGOT_NULLABLE strides; /* `rank` steps in elements, any sign; NULL: row-major without gaps */
  void *INGOT_NULLABLE data;             /* the element with index 0 on every axis; NULL only if there are no elements */
  uint64_t byte_count;                   /* 0: not given; else must be the number of elements times their width */
} ingot_tensor_view;
#define INGOT_TENSOR_VIEW_INIT {(uint32_t)sizeof(ingot_tensor_view), 0, NULL, 0, 0, NULL, NULL, NULL, 0}

/* From dlpack.h, which this header neither needs nor defines again. */
struct DLManagedTensor;
struct DLManagedTensorVersioned;

/* Describes a DLPack tensor (the "dltensor" capsule) as a view, without copying.
 *   tensor  borrowed: its deleter stays the caller's to call, and the view is valid until then
 *   out     filled up to its struct_size (set it: INGOT_TENSOR_VIEW_INIT); name is NULL: set it where one is needed
 * Only memory that the CPU can address: INGOT_E_UNSUPPORTED names any other device. INGOT_E_DTYPE for a type that safetensors does
 * not have, and for vector lanes. Any thread. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_tensor_view_from_dlpack(const struct DLManagedTensor *tensor, ingot_tensor_view *out,
                                                                     ingot_error_out error);

/* The same for the "dltensor_versioned" capsule of DLPack 1: its read-only flag sets INGOT_TENSOR_READ_ONLY; a major version other
 * than 1 gives INGOT_E_UNSUPPORTED. Any thread. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_tensor_view_from_dlpack_versioned(const struct DLManagedTensorVersioned *tensor,
                                                                               ingot_tensor_view *out, ingot_error_out error);

/* A model made of tensors in memory (a state dict), which a recipe names like any other. */
typedef struct ingot_model ingot_model;

typedef struct ingot_model_options {
  uint32_t struct_size;
  uint32_t flags;                         /* none yet */
  const char *INGOT_NULLABLE config_json; /* copied; the model's config.json: its layer count, tied weights; NULL: none */
} ingot_model_options;
#define INGOT_MODEL_OPTIONS_INIT {(uint32_t)sizeof(ingot_model_options), 0, NULL}

/* Makes a model of tensors.
 *   name     copied; what a recipe calls it
 *   tensors  array of `count` pointers, all copied; names must be unique and not NULL. The elements are borrowed: they must not move
 *            or change until the model and every plan made with it are destroyed. They are only read
 *   out      owned (ingot_model_destroy); NULL after failure
 *   options  copied; NULL for the defaults
 * Any thread. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_model_create(const char *name,
                                                          const ingot_tensor_view *INGOT_NONNULL const *INGOT_NULLABLE tensors,
                                                          uint64_t count, ingot_model *INGOT_NULLABLE *INGOT_NONNULL out,
                                                          const ingot_model_options *INGOT_NULLABLE options, ingot_error_out error);

/* Returns the model's name: borrowed from the model; NULL for a bad handle. Any thread. Since 0.1. */
INGOT_API const char *INGOT_NULLABLE ingot_model_name(const ingot_model *model);

/* Releases a model (owned by the caller; NULL is ignored). Plans made with it go on working. Any thread. Since 0.1. */
INGOT_API void ingot_model_destroy(ingot_model *INGOT_NULLABLE model);

/* ---- models from elsewhere: byte sources -------------------------------------------------------------------------------- */

/* One file of a model, read through the caller's functions. */
typedef struct ingot_source {
  uint32_t struct_size; /* set by the library before `open`; lower it to what the caller fills if that is less, never raise it */
  uint32_t flags;       /* none yet */
  void *INGOT_NULLABLE user;
  /* Sets *bytes to the file's size. Once, right after `open`. */
  int32_t (*INGOT_NULLABLE size)(void *INGOT_NULLABLE user, uint64_t *bytes);
  /* Reads exactly `bytes` bytes from `offset` into `dst`; nonzero when it cannot. From several threads at once. */
  int32_t (*INGOT_NULLABLE read_at)(void *INGOT_NULLABLE user, uint64_t offset, void *dst, uint64_t bytes);
  /* May be NULL. Returns the address of those bytes, valid until `release`, or NULL to be asked through read_at. From several
   * threads at once. */
  const void *INGOT_NULLABLE (*INGOT_NULLABLE map)(void *INGOT_NULLABLE user, uint64_t offset, uint64_t bytes);
  /* May be NULL. Called exactly once, after the last use, from any thread; also when opening the model fails after `open`
   * returned 0, unless this struct itself is refused (its struct_size, an unknown flag). */
  void (*INGOT_NULLABLE release)(void *INGOT_NULLABLE user);
} ingot_source;
#define INGOT_SOURCE_INIT {(uint32_t)sizeof(ingot_source), 0, NULL, NULL, NULL, NULL, NULL}

/* Takes one file name from a resolver's `list`. `name` is copied. Nonzero: stop and return that value. */
typedef int32_t (*ingot_name_fn)(void *names, const char *name);

/* Opens the files of models by name: an object store, an archive, a private file format. */
typedef struct ingot_resolver {
  uint32_t struct_size;
  uint32_t flags; /* none yet */
  void *INGOT_NULLABLE user;
  /* Fills *out for a file of a model (both as text, borrowed until it returns; `model` is what the recipe says, of BASE+ADAPTER each
   * part by itself), e.g. "model.safetensors", "model.safetensors.index.json", "config.json", "adapter_config.json". Returns 0; INGOT_E_NOT_FOUND when the model has no such
   * file; any other value is a failure. On the thread that makes the plan. */
  int32_t (*INGOT_NULLABLE open)(void *INGOT_NULLABLE user, const char *model, const char *file, ingot_source *out);
  /* May be NULL: then the library tries the usual names. Calls add(names, FILE) for each file of the model, so that its side files
   * (tokenizer, processor) are carried over. Returns 0, INGOT_E_NOT_FOUND for a model it does not know, or what `add` returned. */
  int32_t (*INGOT_NULLABLE list)(void *INGOT_NULLABLE user, const char *model, ingot_name_fn add, void *names);
  /* May be NULL. Called exactly once, when the last plan made with it is destroyed, after the release of its sources; before
   * ingot_plan_create returns if that fails. */
  void (*INGOT_NULLABLE release)(void *INGOT_NULLABLE user);
} ingot_resolver;
#define INGOT_RESOLVER_INIT {(uint32_t)sizeof(ingot_resolver), 0, NULL, NULL, NULL, NULL}

/* ---- recipe ------------------------------------------------------------------------------------------------------------- */

/* What is to be merged, and how: mergekit's YAML (scalars as YAML 1.1) or the same as JSON. */
typedef struct ingot_recipe ingot_recipe;

/* ingot_recipe_options.flags */
enum { INGOT_RECIPE_STRICT = 1 }; /* unknown keys are errors, not notices */

typedef struct ingot_recipe_options {
  uint32_t struct_size;
  uint32_t flags; /* INGOT_RECIPE_* */
} ingot_recipe_options;
#define INGOT_RECIPE_OPTIONS_INIT {(uint32_t)sizeof(ingot_recipe_options), 0}

/* Parses and checks a recipe; opens nothing.
 *   text     copied; `bytes` bytes of UTF-8, NUL not needed, several lines
 *   origin   copied; what errors call the text, a path usually; NULL: "recipe"
 *   out      owned (ingot_recipe_destroy); NULL after failure
 *   options  copied; NULL for the defaults
 * INGOT_E_RECIPE comes with line and column. Any thread. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_recipe_parse(const char *text, uint64_t bytes, const char *INGOT_NULLABLE origin,
                                                          ingot_recipe *INGOT_NULLABLE *INGOT_NONNULL out,
                                                          const ingot_recipe_options *INGOT_NULLABLE options, ingot_error_out error);

/* Returns the notices (ignored keys and the like) as a JSON array of objects: severity, message, subject, position. Borrowed from
 * the recipe; NULL for a bad handle. Any thread. Since 0.1. */
INGOT_API const char *INGOT_NULLABLE ingot_recipe_notices_json(const ingot_recipe *recipe);

/* Returns the name of its merge method: borrowed from the recipe; NULL for a bad handle. Any thread. Since 0.1. */
INGOT_API const char *INGOT_NULLABLE ingot_recipe_method(const ingot_recipe *recipe);

/* Returns how many different models it names; 0 for a bad handle. Any thread. Since 0.1. */
INGOT_API uint64_t ingot_recipe_model_count(const ingot_recipe *recipe);

/* Returns what it calls one of them, in order of first mention: borrowed from the recipe; NULL for an index that is not less than
 * the count. Any thread. Since 0.1. */
INGOT_API const char *INGOT_NULLABLE ingot_recipe_model(const ingot_recipe *recipe, uint64_t index);

/* Releases a recipe (owned by the caller; NULL is ignored). Any thread. Since 0.1. */
INGOT_API void ingot_recipe_destroy(ingot_recipe *INGOT_NULLABLE recipe);

/* ---- plan --------------------------------------------------------------------------------------------------------------- */

/* All that will be done, settled from headers alone: which tensors, from where, to where. A dry run is a plan that is not run. */
typedef struct ingot_plan ingot_plan;

/* ingot_plan_options.flags */
enum {
  INGOT_PLAN_SEED = 1,    /* `seed` counts, also if it is 0; else the recipe's, else 0 */
  INGOT_PLAN_NO_FILES = 2 /* a model that is neither in `models` nor opened by the resolver is an error: read no local file */
};

/* ingot_plan_options.numerics */
enum {
  INGOT_NUMERICS_OF_RECIPE = 0,
  INGOT_NUMERICS_ONCE = 1,    /* float32 throughout, one rounding at the end */
  INGOT_NUMERICS_STEPWISE = 2 /* rounds to the tensors' type after each documented step, as mergekit does; slower */
};

/* ingot_plan_options.missing: what becomes of tensors that some models lack */
enum {
  INGOT_MISSING_OF_RECIPE = 0,
  INGOT_MISSING_ERROR = 1,
  INGOT_MISSING_INTERSECTION = 2, /* they are left out */
  INGOT_MISSING_UNION = 3         /* they are merged from the models that have them, or copied where the method needs more */
};

/* ingot_plan_options.shard_size_bytes for one file. */
#define INGOT_SHARD_SIZE_UNLIMITED UINT64_MAX

typedef struct ingot_plan_options {
  uint32_t struct_size;
  uint32_t flags;            /* INGOT_PLAN_* */
  uint64_t shard_size_bytes; /* a shard's tensors, at most (one larger tensor has a shard of its own); 0: 5,000,000,000 */
  uint64_t seed;             /* of random draws; see INGOT_PLAN_SEED */
  const ingot_model *INGOT_NONNULL const *INGOT_NULLABLE models; /* `model_count` borrowed handles; the plan keeps what it needs */
  uint64_t model_count;
  const ingot_resolver *INGOT_NULLABLE resolver; /* consumed; NULL: models not in `models` are local files */
  uint32_t numerics;                             /* INGOT_NUMERICS_*; takes the place of the recipe's */
  uint32_t missing;                              /* INGOT_MISSING_*; takes the place of the recipe's */
} ingot_plan_options;
#define INGOT_PLAN_OPTIONS_INIT {(uint32_t)sizeof(ingot_plan_options), 0, 0, 0, NULL, 0, NULL, 0, 0}

/* Makes a plan: opens every model, reads headers, checks all that can be checked before the first byte is written.
 *   context  one call at a time
 *   recipe   borrowed
 *   out      owned (ingot_plan_destroy); NULL after failure
 *   options  copied; NULL for the defaults. options->resolver is consumed unless the call returns INGOT_E_INVALID_ARGUMENT or
 *            INGOT_E_UNSUPPORTED because of the options or the resolver struct themselves
 * A model is looked for in options->models, then asked from the resolver if there is one, else taken as a local directory, a file, or
 * `org/name[@revision]` in the local Hugging Face cache. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_plan_create(ingot_context *context, const ingot_recipe *recipe,
                                                         ingot_plan *INGOT_NULLABLE *INGOT_NONNULL out,
                                                         const ingot_plan_options *INGOT_NULLABLE options, ingot_error_out error);

/* Returns the plan as a JSON object: method, models, files, tensors, bytes read and written, memory, seed, notices, digest. Borrowed
 * from the plan; NULL for a bad handle. Any thread. Since 0.1. */
INGOT_API const char *INGOT_NULLABLE ingot_plan_json(const ingot_plan *plan);

/* Returns the plan as a table for people, several lines: borrowed from the plan; NULL for a bad handle. Any thread. Since 0.1. */
INGOT_API const char *INGOT_NULLABLE ingot_plan_table(const ingot_plan *plan);

/* Returns 32 hexadecimal digits that are equal for equal work (paths, threads, budget and instruction set do not count): borrowed
 * from the plan; NULL for a bad handle. Any thread. Since 0.1. */
INGOT_API const char *INGOT_NULLABLE ingot_plan_digest(const ingot_plan *plan);

/* Returns the number of output tensors; 0 for a bad handle. Any thread. Since 0.1. */
INGOT_API uint64_t ingot_plan_tensor_count(const ingot_plan *plan);

/* Describes one output tensor, so that memory for it can be found.
 *   index  less than ingot_plan_tensor_count
 *   out    filled up to its struct_size (set it: INGOT_TENSOR_VIEW_INIT): name, dtype, rank, shape and byte_count, borrowed from the
 *          plan; strides and data are NULL. With data set it can be passed to ingot_plan_run_to_tensors
 * Any thread. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_plan_tensor(const ingot_plan *plan, uint64_t index, ingot_tensor_view *out,
                                                         ingot_error_out error);

/* Releases a plan (owned by the caller; NULL is ignored). A run of it that is under way goes on. Any thread. Since 0.1. */
INGOT_API void ingot_plan_destroy(ingot_plan *INGOT_NULLABLE plan);

/* ---- running a plan ------------------------------------------------------------------------------------------------------ */

/* How far a run is. Counts never fall. */
typedef struct ingot_progress {
  uint32_t struct_size; /* what the library filled; a caller compiled later checks it before it reads a newer field */
  uint32_t flags;       /* 0 */
  uint64_t bytes_done;  /* output bytes, of bytes_total */
  uint64_t bytes_total;
  uint64_t tensors_done; /* output tensors, of tensors_total */
  uint64_t tensors_total;
  const char *INGOT_NULLABLE tensor; /* one that is being worked on; borrowed until the callback returns */
  uint64_t elapsed_ns;               /* since the run began */
} ingot_progress;

/* Is told of progress, on the thread that called the library, at most once per interval, and once more at the end of a run that
 * succeeds. Nonzero cancels. */
typedef int32_t (*ingot_progress_fn)(void *INGOT_NULLABLE user, const ingot_progress *progress);

/* ingot_run_options.flags */
enum {
  INGOT_RUN_RESUME = 1,          /* go on with DIRECTORY.partial of an interrupted run of the same plan */
  INGOT_RUN_OVERWRITE = 2,       /* replace an existing directory, in one step, once the new one is complete */
  INGOT_RUN_ALLOW_NONFINITE = 4, /* NaN and infinity are carried through and counted in the report */
  INGOT_RUN_CACHED_WRITES = 8,   /* write through the page cache, so that what reads the output next finds it in memory */
  INGOT_RUN_CHECK_FINITE = 16,   /* look for NaN and infinity also in tensors that are copied unchanged */
  INGOT_RUN_TENSORS_ONLY = 32,   /* ingot_checkpoint_compare leaves configuration and tokenizer files out */
  INGOT_RUN_CACHED_READS = 64    /* read cold files through the page cache too, so that what reads them next finds them in memory */
};

/* ingot_run_options.sync */
enum {
  INGOT_SYNC_ALL = 0, /* files and directory are on the disk before the output appears */
  INGOT_SYNC_NONE = 1 /* the system writes them when it likes: faster, not safe against a power cut */
};

typedef struct ingot_run_options {
  uint32_t struct_size;
  uint32_t flags; /* INGOT_RUN_*; RESUME, OVERWRITE, CACHED_WRITES, and sync, count for directories only */
  ingot_progress_fn INGOT_NULLABLE progress;
  void *INGOT_NULLABLE progress_user;            /* borrowed until the call returns */
  uint32_t progress_interval_ms;                 /* 0: 100 */
  uint32_t sync;                                 /* INGOT_SYNC_* */
  const volatile int32_t *INGOT_NULLABLE cancel; /* borrowed until the call returns; nonzero, set from any thread or signal
                                                    handler, stops the run at the next tile */
} ingot_run_options;
#define INGOT_RUN_OPTIONS_INIT {(uint32_t)sizeof(ingot_run_options), 0, NULL, NULL, 0, 0, NULL}

/* Runs a plan and writes a model directory: shards, index, config, tokenizer and side files, model card, ingot.json. The output appears
 * under its name only when it is complete; until then it is DIRECTORY.partial, which a failed or cancelled run leaves for
 * INGOT_RUN_RESUME.
 *   context    one call at a time
 *   plan       borrowed
 *   directory  copied; must not exist, unless INGOT_RUN_OVERWRITE
 *   report     NULL to do without; else owned (ingot_string_destroy): a JSON object with bytes_read, bytes_read_direct (of those,
 *              past the page cache), reading, bytes_written, bytes_decoded, seconds, threads, team, isa, blas_core, blas_hint,
 *              peak_memory_bytes, resumed_tensors, memory_nodes, notices, findings; NULL after failure
 *   options    copied; NULL for the defaults
 * Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_plan_run_to_directory(ingot_context *context, const ingot_plan *plan, const char *directory,
                                                                   char *INGOT_NULLABLE *INGOT_NULLABLE report,
                                                                   const ingot_run_options *INGOT_NULLABLE options, ingot_error_out error);

/* Where the files of an output go, through the caller's functions. File names are relative, borrowed until the function returns. */
typedef struct ingot_sink {
  uint32_t struct_size;
  uint32_t flags; /* none yet */
  void *INGOT_NULLABLE user;
  /* May be NULL. Announces a file and its size, once, before anything of it is written. On the calling thread. */
  int32_t (*INGOT_NULLABLE reserve)(void *INGOT_NULLABLE user, const char *file, uint64_t bytes);
  /* Writes `bytes` bytes at `offset`; src is borrowed until it returns. Pieces come in any order, from several threads at once, and
   * cover each file exactly once. */
  int32_t (*INGOT_NULLABLE write_at)(void *INGOT_NULLABLE user, const char *file, uint64_t offset, const void *src, uint64_t bytes);
  /* May be NULL. Everything was written: make the output valid. Once, on the calling thread. */
  int32_t (*INGOT_NULLABLE commit)(void *INGOT_NULLABLE user);
  /* May be NULL. Called exactly once, last, before the run returns; without a commit before it, the output is to be thrown away. */
  void (*INGOT_NULLABLE release)(void *INGOT_NULLABLE user);
} ingot_sink;
#define INGOT_SINK_INIT {(uint32_t)sizeof(ingot_sink), 0, NULL, NULL, NULL, NULL, NULL}

/* Runs a plan and writes its weight files (safetensors shards and, for several, the index) and side files into a sink.
 *   context  one call at a time
 *   plan     borrowed
 *   sink     consumed, unless the call returns INGOT_E_INVALID_ARGUMENT or INGOT_E_UNSUPPORTED because of the struct itself
 *   report, options  as for ingot_plan_run_to_directory
 * Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_plan_run_to_sink(ingot_context *context, const ingot_plan *plan, const ingot_sink *sink,
                                                              char *INGOT_NULLABLE *INGOT_NULLABLE report,
                                                              const ingot_run_options *INGOT_NULLABLE options, ingot_error_out error);

/* Runs a plan and writes its tensors into memory of the caller.
 *   context  one call at a time
 *   plan     borrowed
 *   outputs  array of `count` pointers, all copied: one view for each tensor of the plan (ingot_plan_tensor), found by name, with
 *            its shape and dtype. The elements are written until the call returns; after a failure they hold anything. The memory of
 *            an output, from its first to its last byte, may overlap neither another output's nor an input's
 *   report, options  as for ingot_plan_run_to_directory
 * Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_plan_run_to_tensors(ingot_context *context, const ingot_plan *plan,
                                                                 const ingot_tensor_view *INGOT_NONNULL const *INGOT_NONNULL outputs,
                                                                 uint64_t count, char *INGOT_NULLABLE *INGOT_NULLABLE report,
                                                                 const ingot_run_options *INGOT_NULLABLE options, ingot_error_out error);

/* ---- one tensor ---------------------------------------------------------------------------------------------------------- */

/* ingot_side_input.input of what was taken of the base, for methods to which the base is one more input. */
#define INGOT_SIDE_OF_BASE UINT64_MAX

/* What a method reads of a model besides its tensor (side_inputs in ingot_methods_json). By the side input's form:
 *   tensor          as many values as the tensor, in its shape
 *   tensor_or_sums  the same; or its row sums and its column sums, two side inputs whose tensors are named row_sums and column_sums
 *   channels        one value for each element of the last axis
 *   gram            n x n values for n of those elements, or the n (n + 1) / 2 of the upper triangle, row by row; with a tensor named
 *                   transposed, of the first axis: a weight that is stored as inputs x outputs
 *   output_gram     the same of the first axis; with a tensor named transposed, of the last one
 * F32, F16, BF16 or F64. */
typedef struct ingot_side_input {
  uint32_t struct_size;
  uint32_t flags;                                 /* none yet */
  const char *INGOT_NULLABLE name;                /* copied; never NULL: "fisher", "gram" */
  uint64_t input;                                 /* index of the model among the inputs, or INGOT_SIDE_OF_BASE */
  const ingot_tensor_view *INGOT_NULLABLE tensor; /* borrowed; never NULL. Its name is NULL but as said above. Where a side input
                                                     is a list, there are several of one name and model */
} ingot_side_input;
#define INGOT_SIDE_INPUT_INIT {(uint32_t)sizeof(ingot_side_input), 0, NULL, 0, NULL}

/* ingot_aim.flags */
enum { INGOT_AIM_OMEGA = 1 }; /* `omega` counts, also if it is 0; else 0.4 */

/* Activation-informed merging, a last step behind any method: what changed in the most active channels of the base counts least. */
typedef struct ingot_aim {
  uint32_t struct_size;
  uint32_t flags;                                /* INGOT_AIM_* */
  const ingot_tensor_view *INGOT_NULLABLE norms; /* borrowed; never NULL: one value for each element of the last axis */
  const ingot_tensor_view *INGOT_NULLABLE base;  /* borrowed; NULL: the base of the merge */
  double omega;                                  /* what is left of the difference in the most active channel, 0 to 1 */
} ingot_aim;
#define INGOT_AIM_INIT {(uint32_t)sizeof(ingot_aim), 0, NULL, NULL, 0}

/* ingot_merge_options.flags */
enum { INGOT_MERGE_ALLOW_NONFINITE = 1 }; /* NaN and infinity are carried through */

typedef struct ingot_merge_options {
  uint32_t struct_size;
  uint32_t flags;                                                    /* INGOT_MERGE_* */
  uint64_t seed;                                                     /* of random draws */
  const volatile int32_t *INGOT_NULLABLE cancel;                     /* as in ingot_run_options */
  const ingot_side_input *INGOT_NONNULL const *INGOT_NULLABLE sides; /* `side_count` pointers; copied, but for the elements */
  uint64_t side_count;
  const ingot_aim *INGOT_NULLABLE aim; /* copied, but for the elements; NULL: no such step */
} ingot_merge_options;
#define INGOT_MERGE_OPTIONS_INIT {(uint32_t)sizeof(ingot_merge_options), 0, 0, NULL, NULL, 0, NULL}

/* Merges one tensor.
 *   context          one call at a time
 *   method           copied; a name from ingot_methods_json
 *   parameters_json  copied; an object such as {"density": 0.5, "weight": [0.3, 0.7]}: a parameter that may differ by model takes one
 *                    value or an array with one for each input. NULL: the defaults, and equal weights
 *   base             the base model's tensor, borrowed; NULL for methods that need none
 *   inputs           array of `input_count` pointers, borrowed; shapes as the base's; names do not matter
 *   output           borrowed; shape as the inputs', dtype F32, F16 or BF16. Its name takes part in random draws (NULL: "tensor"; with
 *                    channels, Gram matrices or aim "tensor.weight", and a name of the caller's must end in .weight too). Its memory, from
 *                    its first to its last byte, may not overlap an input's or a side input's
 *   options          copied; NULL for the defaults
 * A method whose scope is the whole model sees a model of this one tensor. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_merge_tensors(ingot_context *context, const char *method,
                                                           const char *INGOT_NULLABLE parameters_json,
                                                           const ingot_tensor_view *INGOT_NULLABLE base,
                                                           const ingot_tensor_view *INGOT_NONNULL const *INGOT_NONNULL inputs,
                                                           uint64_t input_count, const ingot_tensor_view *output,
                                                           const ingot_merge_options *INGOT_NULLABLE options, ingot_error_out error);

/* ---- looking at checkpoints ---------------------------------------------------------------------------------------------- */

/* Reads the headers of a checkpoint: a directory, a file, or a model of the local Hugging Face cache.
 *   path  copied
 *   out   owned (ingot_string_destroy): a JSON object with path, files, dtypes, parameters, bytes, layers, quantization, config,
 *         tensors (name, dtype, shape, ...) and notices; NULL after failure
 * Any thread. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_checkpoint_inspect(const char *path, char *INGOT_NULLABLE *INGOT_NONNULL out,
                                                                ingot_error_out error);

/* Compares two checkpoints tensor by tensor, with their configuration and tokenizer files. Reads every byte of both once.
 *   context  one call at a time
 *   a, b     copied; a directory, a file, a model of the local Hugging Face cache, each also with +ADAPTER
 *   base     copied; the model that both came from: then also what each of them changed about it. NULL to do without
 *   out      owned (ingot_string_destroy): a JSON object with equal, summary, tensors (all of both, the largest difference first),
 *            only_a, only_b, files and notices, as `ingot diff --json` prints it; NULL after failure
 *   options  copied; NULL for the defaults; INGOT_RUN_TENSORS_ONLY, progress and cancel count
 * Models that differ are no failure. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_checkpoint_compare(ingot_context *context, const char *a, const char *b,
                                                                const char *INGOT_NULLABLE base, char *INGOT_NULLABLE *INGOT_NONNULL out,
                                                                const ingot_run_options *INGOT_NULLABLE options, ingot_error_out error);

/* Reads a directory that Ingot wrote and compares every tensor with its digest in ingot.json.
 *   context    one call at a time
 *   directory  copied
 *   report     NULL to do without; else owned (ingot_string_destroy): a JSON object with directory, intact, tensors, bytes and
 *              differences; NULL after failure, unless the failure is that tensors differ
 *   options    copied; NULL for the defaults; progress and cancel count
 * INGOT_E_FORMAT names the first tensor that differs. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_directory_verify(ingot_context *context, const char *directory,
                                                              char *INGOT_NULLABLE *INGOT_NULLABLE report,
                                                              const ingot_run_options *INGOT_NULLABLE options, ingot_error_out error);

/* ---- delta packs: compressed differences to a base --------------------------------------------------------------------------- */

/* Packs what fine-tuning changed about a base into a directory with one file. In recipes BASE+PACK (BASE+PACK#TASK where it has
 * several) is the model that was packed, as nearly as the pack has it. docs/packs.md has methods and layout.
 *   context          one call at a time
 *   method           copied; compeft, bitdelta, tall or emr
 *   parameters_json  copied; an object such as {"density": 0.1}; where models may differ in a parameter also an array with one value
 *                    for each. NULL: the defaults
 *   base             copied; the model that all came from: a directory, a file, a model of the local Hugging Face cache
 *   models           array of `model_count` texts, copied; the fine-tuned models: one, of tall and emr also several
 *   directory        copied; must not exist, unless INGOT_RUN_OVERWRITE. It appears when it is complete; a run that fails leaves nothing
 *   summary          NULL to do without; else owned (ingot_string_destroy): as ingot_delta_inspect gives it; NULL after failure
 *   options          copied; NULL for the defaults; INGOT_RUN_OVERWRITE, sync, progress and cancel count
 * The bytes depend on the models and the parameters alone. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_delta_pack(ingot_context *context, const char *method,
                                                        const char *INGOT_NULLABLE parameters_json, const char *base,
                                                        const char *INGOT_NONNULL const *INGOT_NULLABLE models, uint64_t model_count,
                                                        const char *directory, char *INGOT_NULLABLE *INGOT_NULLABLE summary,
                                                        const ingot_run_options *INGOT_NULLABLE options, ingot_error_out error);

/* Reads what a pack holds.
 *   pack  copied; its directory or its file
 *   out   owned (ingot_string_destroy): a JSON object with method, base_name, base_digest, parameters, tasks (name, relative_error, of
 *         compeft kept_elements), elements, bytes, coded_bytes_per_task, forms and parts; NULL after failure
 * Any thread. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_delta_inspect(const char *pack, char *INGOT_NULLABLE *INGOT_NONNULL out,
                                                           ingot_error_out error);

typedef struct ingot_delta_options {
  uint32_t struct_size;
  uint32_t flags;                  /* none yet */
  const char *INGOT_NULLABLE task; /* copied; by name, or by number from 0 on; NULL: the only one */
  double scale;                    /* what differences are multiplied by, of ingot_delta_plan_apply alone; 0: 1 */
  uint64_t shard_size_bytes;       /* as in ingot_plan_options */
} ingot_delta_options;
#define INGOT_DELTA_OPTIONS_INIT {(uint32_t)sizeof(ingot_delta_options), 0, NULL, 0, 0}

/* Plans the merge that makes a model of a pack and its base; run it as any plan. With a scale it is task arithmetic.
 *   context  one call at a time
 *   pack     copied; its directory or its file
 *   base     copied; the model that it was made with. INGOT_E_SHAPE for another one
 *   out      owned (ingot_plan_destroy); NULL after failure
 *   options  copied; NULL for the defaults
 * Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_delta_plan_apply(ingot_context *context, const char *pack, const char *base,
                                                              ingot_plan *INGOT_NULLABLE *INGOT_NONNULL out,
                                                              const ingot_delta_options *INGOT_NULLABLE options, ingot_error_out error);

/* Plans the copy that writes the differences of a pack as F32 tensors; run it as any plan.
 *   base  copied; needed by packs that have tensors whole (bitdelta), else NULL will do
 *   others  as for ingot_delta_plan_apply
 * Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_delta_plan_unpack(ingot_context *context, const char *pack, const char *INGOT_NULLABLE base,
                                                               ingot_plan *INGOT_NULLABLE *INGOT_NONNULL out,
                                                               const ingot_delta_options *INGOT_NULLABLE options, ingot_error_out error);

/* ---- LoRA adapters ------------------------------------------------------------------------------------------------------------- */

/* Adapters in PEFT's layout, as inputs and outputs: a directory with adapter_config.json and its weights, the weight file, or a model of the
 * local Hugging Face cache. In recipes BASE+ADAPTER is the model with the adapter applied. docs/lora.md has methods and rules. In all of them
 *   context          one call at a time
 *   parameters_json  copied; an object; NULL: the defaults. What there is no parameter of is INGOT_E_INVALID_ARGUMENT
 *   directory        copied; must not exist, unless INGOT_RUN_OVERWRITE. It appears when it is complete; a run that fails leaves nothing
 *   report           NULL to do without; else owned (ingot_string_destroy): a JSON object with output, bytes, modules (name, outputs, inputs,
 *                    rank, norm, relative_error), whole_tensors, run and notices; NULL after failure
 *   options          copied; NULL for the defaults; INGOT_RUN_OVERWRITE, sync, progress and cancel count
 * A rank is chosen by one of rank, energy (share of the squared singular values) and norm_fraction (share of the largest one); dtype is
 * float32, float16 or bfloat16, by default that of the first adapter, and of the fine-tuned model where one is extracted. */

/* What adapters change, module by module, from their factors alone.
 *   parameters_json  {"spectrum": true} for singular values
 *   adapters         array of `adapter_count` texts, copied
 *   out              owned (ingot_string_destroy): as `ingot lora inspect --json` prints it, adapters and overlaps; NULL after failure
 * Any thread. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_lora_inspect(const char *INGOT_NULLABLE parameters_json,
                                                          const char *INGOT_NONNULL const *INGOT_NULLABLE adapters, uint64_t adapter_count,
                                                          char *INGOT_NULLABLE *INGOT_NONNULL out, ingot_error_out error);

/* Merges adapters of one base into a new one.
 *   method           copied; linear, cat, svd, knots, ...: as `ingot lora merge` has them
 *   parameters_json  weight (a number, or an array with one for each adapter), a rank, density, majority, drop, clusters, start, reweight,
 *                    seed, modules_to_save, dtype
 *   adapters         array of `adapter_count` texts, copied
 * Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_lora_merge(ingot_context *context, const char *method,
                                                        const char *INGOT_NULLABLE parameters_json,
                                                        const char *INGOT_NONNULL const *INGOT_NULLABLE adapters, uint64_t adapter_count,
                                                        const char *directory, char *INGOT_NULLABLE *INGOT_NULLABLE report,
                                                        const ingot_run_options *INGOT_NULLABLE options, ingot_error_out error);

/* Makes an adapter of the difference of a fine-tuned model and its base.
 *   parameters_json  a rank; max_rank, rules (an object from patterns of module names to a rank, "energy:0.9", "fraction:0.1", "skip" or
 *                    "whole"; the first that matches counts), skip and only (arrays of patterns), embeddings, others, exact, seed, dtype
 *   base, tuned      copied; a directory, a file, a model of the local Hugging Face cache
 * Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_lora_extract(ingot_context *context, const char *parameters_json, const char *base,
                                                          const char *tuned, const char *directory,
                                                          char *INGOT_NULLABLE *INGOT_NULLABLE report,
                                                          const ingot_run_options *INGOT_NULLABLE options, ingot_error_out error);

/* Brings an adapter to another rank: the best approximation of each module's change.
 *   parameters_json  a rank; dtype
 *   adapter          copied
 * Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_lora_resize(ingot_context *context, const char *parameters_json, const char *adapter,
                                                         const char *directory, char *INGOT_NULLABLE *INGOT_NULLABLE report,
                                                         const ingot_run_options *INGOT_NULLABLE options, ingot_error_out error);

/* ---- rolling merges: models that come one at a time --------------------------------------------------------------------------- */

/* Adds a model to a state: a directory with running sums, an average or a task vector in float32, and rolling.json. The first step makes it,
 * every further one replaces it in one rename, so that a model is either in or not; models that are in are not needed again.
 * docs/rolling.md has the methods.
 *   context          one call at a time
 *   method           copied; needed for the first step; NULL: the state's
 *   parameters_json  copied; an object with weight, the method's own number (alpha, beta or density), side (the model's side file), and again
 *                    (true: although the model is in already); NULL: the defaults
 *   base             copied; the base model of the methods that have one, needed for the first step; NULL: the state's
 *   model            copied; a directory, a file, a model of the local Hugging Face cache, each also with +ADAPTER
 *   state            copied
 *   report           NULL to do without; else owned (ingot_string_destroy): a JSON object with output, method, models (how many are in),
 *                    identity, tensors, run and notices; NULL after failure
 *   options          copied; NULL for the defaults; sync, progress and cancel count, and the flags but RESUME and OVERWRITE
 * INGOT_E_EXISTS for a model that is in already, INGOT_E_STALE for another base than the state's; nothing has changed then. Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_rolling_step(ingot_context *context, const char *INGOT_NULLABLE method,
                                                          const char *INGOT_NULLABLE parameters_json, const char *INGOT_NULLABLE base,
                                                          const char *model, const char *state, char *INGOT_NULLABLE *INGOT_NULLABLE report,
                                                          const ingot_run_options *INGOT_NULLABLE options, ingot_error_out error);

/* Makes a model of a state.
 *   parameters_json  copied; an object with lambda (factor of a merged task vector) and dtype; NULL: the defaults
 *   directory        copied; must not exist, unless INGOT_RUN_OVERWRITE
 *   options          INGOT_RUN_OVERWRITE counts too
 *   others           as for ingot_rolling_step
 * Since 0.1. */
INGOT_API INGOT_NODISCARD ingot_status ingot_rolling_finish(ingot_context *context, const char *INGOT_NULLABLE parameters_json,
                                                            const char *state, const char *directory,
                                                            char *INGOT_NULLABLE *INGOT_NULLABLE report,
                                                            const ingot_run_options *INGOT_NULLABLE options, ingot_error_out error);

INGOT_END_DECLS

#endif
