#define _GNU_SOURCE
#include "CTeam.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool read_line(const char *path, char *out, size_t bytes) {
  FILE *file = fopen(path, "re");
  if (!file) return false;
  const bool ok = fgets(out, (int)bytes, file) != NULL;
  fclose(file);
  return ok;
}

static int64_t thousandths(long long quota, long long period) {
  if (quota <= 0 || period <= 0 || quota > LLONG_MAX / 1000) return 0;
  const int64_t value = quota * 1000 / period;
  return value > 0 ? value : 1;
}

/// cpu.max holds "max 100000" or "150000 100000".
static int64_t quota_v2(const char *directory) {
  char path[PATH_MAX], line[128];
  if ((size_t)snprintf(path, sizeof path, "%s/cpu.max", directory) >= sizeof path || !read_line(path, line, sizeof line)) return 0;
  long long quota = 0, period = 0;
  return sscanf(line, "%lld %lld", &quota, &period) == 2 ? thousandths(quota, period) : 0;
}

/// cpu.cfs_quota_us holds -1 for no limit.
static int64_t quota_v1(const char *directory) {
  char path[PATH_MAX], line[64];
  if ((size_t)snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", directory) >= sizeof path || !read_line(path, line, sizeof line)) return 0;
  const long long quota = strtoll(line, NULL, 10);
  if ((size_t)snprintf(path, sizeof path, "%s/cpu.cfs_period_us", directory) >= sizeof path || !read_line(path, line, sizeof line))
    return 0;
  return thousandths(quota, strtoll(line, NULL, 10));
}

/// The least quota of a group and its parents up to the mount. Inside a container the path may not exist below the mount; then
/// only the mount itself, the container's own group, is there to read.
static int64_t least_quota(const char *mount, const char *group, int64_t (*quota)(const char *)) {
  char directory[PATH_MAX];
  if ((size_t)snprintf(directory, sizeof directory, "%s%s", mount, group) >= sizeof directory) return quota(mount);
  const size_t mount_length = strlen(mount);
  int64_t least = 0;
  for (;;) {
    const int64_t found = quota(directory);
    if (found > 0 && (least == 0 || found < least)) least = found;
    char *slash = strrchr(directory, '/');
    if (!slash || (size_t)(slash - directory) < mount_length) return least;
    *slash = 0;
  }
}

static bool lists_controller(const char *controllers, const char *wanted) {
  const size_t length = strlen(wanted);
  for (const char *at = controllers; *at;) {
    const size_t part = strcspn(at, ",");
    if (part == length && strncmp(at, wanted, length) == 0) return true;
    at += part;
    if (*at == ',') at++;
  }
  return false;
}

int64_t ingot_cgroup_cpu_quota(const char *root) {
  if (!root) return 0;
  char path[PATH_MAX], line[PATH_MAX];
  if ((size_t)snprintf(path, sizeof path, "%s/proc/self/cgroup", root) >= sizeof path) return 0;
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  int64_t least = 0;
  while (fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) continue;
    *group++ = 0;
    controllers++;
    static const char *const v2[] = {"%s/sys/fs/cgroup", "%s/sys/fs/cgroup/unified"};
    static const char *const v1[] = {"%s/sys/fs/cgroup/cpu", "%s/sys/fs/cgroup/cpu,cpuacct"};
    const bool unified = *controllers == 0;
    if (!unified && !lists_controller(controllers, "cpu")) continue;
    for (int i = 0; i < 2; i++) {
      char mount[PATH_MAX];
      if ((size_t)snprintf(mount, sizeof mount, unified ? v2[i] : v1[i], root) >= sizeof mount) continue;
      const int64_t found = least_quota(mount, group, unified ? quota_v2 : quota_v1);
      if (found > 0 && (least == 0 || found < least)) least = found;
    }
  }
  fclose(file);
  return least;
}
