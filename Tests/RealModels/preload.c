// Put before libc with LD_PRELOAD, in front of the command under test.
//
// COUNT_FILE: counts what is asked of malloc and its kin and writes the numbers there when the process ends.
// STOP_AT:    kills the process, as by kill -9, in place of the Nth call that changes a file or a directory.
//             Those calls are counted in COUNT_FILE too ("changes"), so that a first run tells how many there are.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static atomic_ulong allocations, bytes, changes;

static void count(size_t size) {
  atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&bytes, size, memory_order_relaxed);
}

void *malloc(size_t size) {
  count(size);
  return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
  count(number * size);
  return __libc_calloc(number, size);
}

void *realloc(void *old, size_t size) {
  count(size);
  return __libc_realloc(old, size);
}

void *memalign(size_t alignment, size_t size) {
  count(size);
  return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **out, size_t alignment, size_t size) {
  void *result = memalign(alignment, size);
  if (!result) return ENOMEM;
  *out = result;
  return 0;
}

static void change(void) {
  static _Atomic long limit = -1;
  long stop = limit;
  if (stop < 0) {
    const char *text = getenv("STOP_AT");
    limit = stop = text ? atol(text) : 0;
  }
  if (atomic_fetch_add(&changes, 1) + 1 == (unsigned long)stop) kill(getpid(), SIGKILL);
}

// Every function of libc through which the command changes the file system. A new one must be added here: the test checks the imports.
#define CHANGING(result, name, parameters, arguments)     \
  result name parameters {                                \
    static result(*real) parameters;                      \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name); \
    change();                                             \
    return real arguments;                                \
  }

CHANGING(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t offset), (fd, data, size, offset))
CHANGING(int, ftruncate, (int fd, off_t size), (fd, size))
CHANGING(int, fallocate, (int fd, int mode, off_t offset, off_t size), (fd, mode, offset, size))
CHANGING(int, fsync, (int fd), (fd))
CHANGING(int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
CHANGING(int, unlinkat, (int at, const char *path, int flags), (at, path, flags))
CHANGING(int, renameat, (int from_at, const char *from, int to_at, const char *to), (from_at, from, to_at, to))
CHANGING(int, renameat2, (int from_at, const char *from, int to_at, const char *to, unsigned flags), (from_at, from, to_at, to, flags))

ssize_t write(int fd, const void *data, size_t size) {
  static ssize_t (*real)(int, const void *, size_t);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "write");
  if (fd > STDERR_FILENO) change();
  return real(fd, data, size);
}

int openat(int at, const char *path, int flags, ...) {
  static int (*real)(int, const char *, int, ...);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "openat");
  if (!(flags & O_CREAT)) return real(at, path, flags);
  change();
  return real(at, path, flags, 0666);
}

__attribute__((destructor)) static void report(void) {
  const char *path = getenv("COUNT_FILE");
  if (!path) return;
  const unsigned long now[] = {allocations, bytes, changes};
  FILE *file = fopen(path, "w");
  if (!file) return;
  fprintf(file, "{\"allocations\": %lu, \"bytes\": %lu, \"changes\": %lu}\n", now[0], now[1], now[2]);
  fclose(file);
}
