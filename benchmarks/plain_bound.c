/* The plain bound of a merge: what one thread needs to read the inputs and write an output of the same size.
 *
 *   plain_bound [--fsync] [--piece BYTES] [--read BYTES] OUT BYTES INPUT...
 *
 * Reads every INPUT from its beginning to its end into one reused buffer, then preallocates OUT and writes BYTES of
 * that buffer into it. With --read it goes on from the first INPUT again, or stops, when that many bytes are read: the
 * bound of a merge that passes over its inputs more than once, or over a part of them. No arithmetic, no overlap of reading and writing. Prints one JSON object with the seconds of
 * each part. A merge that overlaps reading, computing and writing on two threads should take no longer than this.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fail(const char *what) {
  fprintf(stderr, "plain_bound: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t number(const char *text) {
  char *end = NULL;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || value == 0) {
    fprintf(stderr, "plain_bound: '%s' is not a positive number of bytes\n", text);
    exit(2);
  }
  return value;
}

/* Reads the file to its end, or `most` bytes of it. */
static uint64_t read_file(const char *path, char *buffer, size_t piece, uint64_t most) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(path);
  uint64_t total = 0;
  while (total < most) {
    ssize_t got = read(file, buffer, most - total < piece ? (size_t)(most - total) : piece);
    if (got < 0) {
      if (errno == EINTR) continue;
      fail(path);
    }
    if (got == 0) break;
    total += (uint64_t)got;
  }
  close(file);
  return total;
}

static int write_preallocated(const char *path, const char *buffer, size_t piece, uint64_t bytes) {
  int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) fail(path);
  int error = posix_fallocate(file, 0, (off_t)bytes);
  if (error != 0) {
    errno = error;
    fail("preallocation");
  }
  for (uint64_t done = 0; done < bytes;) {
    uint64_t left = bytes - done;
    ssize_t put = write(file, buffer, left < piece ? (size_t)left : piece);
    if (put < 0) {
      if (errno == EINTR) continue;
      fail(path);
    }
    done += (uint64_t)put;
  }
  return file;
}

int main(int argc, char **argv) {
  int sync = 0;
  uint64_t piece = 8u << 20, wanted = 0;
  int at = 1;
  for (; at < argc && strncmp(argv[at], "--", 2) == 0; at++) {
    if (strcmp(argv[at], "--fsync") == 0)
      sync = 1;
    else if (strcmp(argv[at], "--piece") == 0 && at + 1 < argc)
      piece = number(argv[++at]);
    else if (strcmp(argv[at], "--read") == 0 && at + 1 < argc)
      wanted = number(argv[++at]);
    else
      break;
  }
  if (argc - at < 3) {
    fprintf(stderr, "usage: plain_bound [--fsync] [--piece BYTES] [--read BYTES] OUT BYTES INPUT...\n");
    return 2;
  }
  const char *out = argv[at];
  uint64_t bytes = number(argv[at + 1]);
  char *buffer = NULL;
  if (posix_memalign((void **)&buffer, 4096, piece) != 0) {
    fprintf(stderr, "plain_bound: no memory for a piece of %llu bytes\n", (unsigned long long)piece);
    return 1;
  }
  memset(buffer, 1, piece); /* the first touch of the buffer is not part of the work */

  double start = now();
  uint64_t read_bytes = 0;
  for (uint64_t before = 0;;) {
    for (int i = at + 2; i < argc; i++) read_bytes += read_file(argv[i], buffer, piece, wanted == 0 ? UINT64_MAX : wanted - read_bytes);
    if (read_bytes >= wanted || read_bytes == before) break;
    before = read_bytes;
  }
  double after_read = now();
  int file = write_preallocated(out, buffer, piece, bytes);
  double after_write = now();
  if (sync && fsync(file) != 0) fail("fsync");
  if (close(file) != 0) fail("close");
  double end = now();
  free(buffer);
  printf("{\"read_bytes\": %llu, \"written_bytes\": %llu, \"read_s\": %.4f, \"write_s\": %.4f, \"sync_s\": %.4f, "
         "\"wall_s\": %.4f}\n",
         (unsigned long long)read_bytes, (unsigned long long)bytes, after_read - start, after_write - after_read, end - after_write,
         end - start);
  return 0;
}
