/* What the C tests share: checks that count, and model directories written by hand. */
#ifndef INGOT_TEST_SUPPORT_H
#define INGOT_TEST_SUPPORT_H

#include <ingot/ingot.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>

static int checks, failures;

#define CHECK(condition)                                                      \
  do {                                                                        \
    ++checks;                                                                 \
    if (!(condition)) {                                                       \
      ++failures;                                                             \
      fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                         \
  } while (0)

/* Checks a call's status; the call puts its error into `error`, which must agree and is released. */
#define CHECK_STATUS(expected, call) check_status(expected, call, &error, __FILE__, __LINE__, #call)
#define CHECK_OK(call) CHECK_STATUS(INGOT_OK, call)
/* The same, and the error's message, hint or subject must contain a text. */
#define CHECK_ERROR(expected, text, call)                                                          \
  do {                                                                                             \
    last_error_text[0] = 0;                                                                        \
    CHECK_STATUS(expected, call);                                                                  \
    if (!strstr(last_error_text, text)) {                                                          \
      ++failures;                                                                                  \
      fprintf(stderr, "%s:%d: \"%s\" is not in: %s\n", __FILE__, __LINE__, text, last_error_text); \
    }                                                                                              \
  } while (0)

static char last_error_text[4096];
static int32_t last_user_code;

static inline void check_status(ingot_status expected, ingot_status found, ingot_error **error, const char *file, int line,
                                const char *call) {
  ++checks;
  if (found != expected) {
    ++failures;
    fprintf(stderr, "%s:%d: %s gave %s, expected %s\n  %s\n", file, line, call, ingot_status_name(found), ingot_status_name(expected),
            ingot_error_json(*error));
  }
  if ((found == INGOT_OK) != (*error == NULL) || ingot_error_status(*error) != found) {
    ++failures;
    fprintf(stderr, "%s:%d: the error object does not agree with the status %d\n", file, line, (int)found);
  }
  snprintf(last_error_text, sizeof last_error_text, "%s", ingot_error_json(*error));
  last_user_code = ingot_error_user_code(*error);
  ingot_error_destroy(*error);
  *error = NULL;
}

static inline int finish(const char *name) {
  printf("%s: %d checks, %d failed\n", name, checks, failures);
  return failures != 0;
}

/* ---- files --------------------------------------------------------------------------------------------------------------- */

static inline char *joined(const char *a, const char *b) {
  size_t size = strlen(a) + strlen(b) + 2;
  char *path = malloc(size);
  snprintf(path, size, "%s/%s", a, b);
  return path;
}

static inline void write_file(const char *directory, const char *name, const void *bytes, size_t count) {
  char *path = joined(directory, name);
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(bytes, 1, count, file) != count || fclose(file)) exit(90);
  free(path);
}

/* The whole file, or NULL; the caller frees it. */
static inline char *read_file(const char *directory, const char *name, size_t *count) {
  char *path = joined(directory, name);
  FILE *file = fopen(path, "rb");
  free(path);
  if (!file) return NULL;
  fseek(file, 0, SEEK_END);
  *count = (size_t)ftell(file);
  rewind(file);
  char *bytes = malloc(*count + 1);
  if (fread(bytes, 1, *count, file) != *count) exit(91);
  bytes[*count] = 0;
  fclose(file);
  return bytes;
}

static inline int exists(const char *directory, const char *name) {
  struct stat status;
  char *path = joined(directory, name);
  int found = stat(path, &status) == 0;
  free(path);
  return found;
}

/* ---- a small model: three tensors, one of them longer than a block of the engine and not a multiple of it --------------------- */

enum { EMBED = 8 * 4, LAYER = 300 * 301, NORM = 5, MODEL_ELEMENTS = EMBED + LAYER + NORM };

static inline float model_value(int model, int index) { return (float)((index * 7 + model * 13) % 101 - 50) / 64.0f; }

static inline size_t model_header(char *text, size_t room) {
  return (size_t)snprintf(text, room,
                          "{\"embed.weight\":{\"dtype\":\"F32\",\"shape\":[8,4],\"data_offsets\":[0,%d]},"
                          "\"layers.0.weight\":{\"dtype\":\"F32\",\"shape\":[300,301],\"data_offsets\":[%d,%d]},"
                          "\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[5],\"data_offsets\":[%d,%d]}}",
                          4 * EMBED, 4 * EMBED, 4 * (EMBED + LAYER), 4 * (EMBED + LAYER), 4 * MODEL_ELEMENTS);
}

/* The bytes of model.safetensors; the caller frees them. */
static inline char *model_bytes(int model, size_t *count) {
  char header[1024];
  size_t length = model_header(header, sizeof header);
  uint64_t prefix = length;
  char *bytes = malloc(8 + length + 4 * MODEL_ELEMENTS);
  memcpy(bytes, &prefix, 8);
  memcpy(bytes + 8, header, length);
  for (int i = 0; i < MODEL_ELEMENTS; ++i) {
    float value = model_value(model, i);
    memcpy(bytes + 8 + length + 4 * (size_t)i, &value, 4);
  }
  *count = 8 + length + 4 * MODEL_ELEMENTS;
  return bytes;
}

/* A model directory; the caller frees the path. */
static inline char *make_model(const char *root, const char *name, int model) {
  char *directory = joined(root, name);
  size_t count;
  char *bytes = model_bytes(model, &count);
  mkdir(directory, 0777);
  write_file(directory, "model.safetensors", bytes, count);
  write_file(directory, "config.json", "{\"model_type\":\"test\"}", 21);
  write_file(directory, "tokenizer.json", "{}", 2);
  free(bytes);
  return directory;
}

/* A linear merge of two models with weights 1/4 and 3/4, which floats hold exactly. */
static inline char *linear_recipe(const char *a, const char *b) {
  size_t size = strlen(a) + strlen(b) + 200;
  char *text = malloc(size);
  snprintf(text, size,
           "merge_method: linear\nmodels:\n  - model: %s\n    parameters: {weight: 0.25}\n  - model: %s\n"
           "    parameters: {weight: 0.75}\ndtype: float32\n",
           a, b);
  return text;
}

static inline ingot_recipe *parsed(const char *text) {
  ingot_recipe *recipe = NULL;
  ingot_error *error = NULL;
  CHECK_OK(ingot_recipe_parse(text, strlen(text), "test.yml", &recipe, NULL, &error));
  return recipe;
}

static inline int near(float found, float expected) {
  float difference = found - expected;
  return difference <= 1e-6f && difference >= -1e-6f;
}

/* The start of a tensor's elements in the bytes of a weight file; NULL if it is not there. Reads only what Ingot wrote. */
static inline const char *find_tensor(const char *bytes, const char *name) {
  uint64_t length;
  memcpy(&length, bytes, 8);
  char key[128];
  snprintf(key, sizeof key, "\"%s\"", name);
  const char *place = strstr(bytes + 8, key);
  if (!place || !(place = strstr(place, "data_offsets"))) return NULL;
  return bytes + 8 + length + strtoull(strchr(place, '[') + 1, NULL, 10);
}

#endif
