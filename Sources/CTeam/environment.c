#define _GNU_SOURCE
#include "CTeam.h"
#include "companion.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// LLVM's OpenMP runtime reads its variables when it starts, and ends the process over some values: an empty OMP_NUM_THREADS, a number that
// does not fit, a stack that no thread gets. Whatever it may take badly keeps it from being started; threads of our own run then.

/// Longer numbers wrap around or fail an assertion in the runtime.
enum { MOST_DIGITS = 9 };

static const char *skip_spaces(const char *text) { return text + strspn(text, " \t"); }

static bool has_long_number(const char *text) {
  while (*text) {
    const size_t digits = strspn(text, "0123456789");
    if (digits > MOST_DIGITS) return true;
    text += digits ? digits : 1;
  }
  return false;
}

/// Numbers from 1 to a million with commas between them.
static bool is_thread_list(const char *text) {
  for (;;) {
    text = skip_spaces(text);
    if (!isdigit((unsigned char)*text)) return false;
    char *end = NULL;
    const long value = strtol(text, &end, 10);
    if (value < 1 || value > 1000000) return false;
    text = skip_spaces(end);
    if (!*text) return true;
    if (*text++ != ',') return false;
  }
}

int ingot_host_thread_count(const char *text) {
  if (!text || !is_thread_list(text)) return 0;
  const long value = strtol(text, NULL, 10);
  return value > INGOT_TEAM_MAX_THREADS ? INGOT_TEAM_MAX_THREADS : (int)value;
}

/// A number with a unit of B, K, M or G, K if there is none; of at most a gigabyte.
static bool is_stack_size(const char *text) {
  text = skip_spaces(text);
  if (!isdigit((unsigned char)*text)) return false;
  char *end = NULL;
  const long value = strtol(text, &end, 10);
  text = skip_spaces(end);
  int shift = 10;
  switch (toupper((unsigned char)*text)) {
  case 0: text--; break;
  case 'B': shift = 0; break;
  case 'K': break;
  case 'M': shift = 20; break;
  case 'G': shift = 30; break;
  default: return false;
  }
  return !*skip_spaces(text + 1) && value <= (1L << 30) >> shift;
}

/// The runtime's own variables that programs set and that no value was seen to end it; others are for its developers.
static bool is_known(const char *name, size_t length) {
  static const char *const known[] = {
      "KMP_AFFINITY",
      "KMP_ALL_THREADS",
      "KMP_BLOCKTIME",
      "KMP_DETERMINISTIC_REDUCTION",
      "KMP_DEVICE_THREAD_LIMIT",
      "KMP_DUPLICATE_LIB_OK",
      "KMP_HW_SUBSET",
      "KMP_INIT_AT_FORK",
      "KMP_LIBRARY",
      "KMP_SETTINGS",
      "KMP_STACKSIZE",
      "KMP_TEAMS_THREAD_LIMIT",
      "KMP_TOPOLOGY_METHOD",
      "KMP_USE_YIELD",
      "KMP_VERSION",
      "KMP_WARNINGS",
  };
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (strlen(known[i]) == length && strncmp(known[i], name, length) == 0) return true;
  }
  return false;
}

static bool is_called(const char *name, size_t length, const char *wanted) {
  return strlen(wanted) == length && strncmp(name, wanted, length) == 0;
}

bool ingot_companion_fits_environment(char *const *variables, char *why, size_t why_bytes) {
  for (char *const *variable = variables; variable && *variable; variable++) {
    const char *name = *variable;
    const bool is_own = strncmp(name, "KMP_", 4) == 0;
    const char *equals = strchr(name, '=');
    if (!equals || (!is_own && strncmp(name, "OMP_", 4) != 0)) continue;
    const size_t length = (size_t)(equals - name);
    const char *value = equals + 1;
    bool fits = !has_long_number(value) && (!is_own || is_known(name, length));
    if (is_called(name, length, "OMP_NUM_THREADS")) fits = fits && is_thread_list(value);
    if (is_called(name, length, "OMP_STACKSIZE") || is_called(name, length, "KMP_STACKSIZE")) fits = fits && is_stack_size(value);
    if (fits) continue;
    snprintf(why, why_bytes, "%.*s is \"%.40s\", over which LLVM's OpenMP runtime may end the process", (int)length, name, value);
    return false;
  }
  return true;
}

bool ingot_companion_has_shared_memory(const char *directory, char *why, size_t why_bytes) {
  struct timespec now = {0, 0};
  clock_gettime(CLOCK_MONOTONIC, &now);
  char path[256];
  snprintf(path, sizeof path, "%s/ingot-%d-%llx", directory, (int)getpid(),
           (unsigned long long)now.tv_sec * 1000000000u + (unsigned long long)now.tv_nsec);
  const int file = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
  int code = file < 0 ? errno : 0;
  if (file >= 0) {
    unlink(path);
    // A full one gives pages that end the process when they are written.
    code = posix_fallocate(file, 0, 4096);
    close(file);
  }
  if (code == 0) return true;
  char text[128];
  snprintf(why, why_bytes, "LLVM's OpenMP runtime ends the process without shared memory, and %s gives none: %s", directory,
           strerror_r(code, text, sizeof text));
  return false;
}
