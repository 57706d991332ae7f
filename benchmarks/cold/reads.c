/* How fast cold files can be read at all, without a merge: every FILE once, from its beginning to its end, by THREADS threads.
 *
 *   reads cached|direct|ring|fixed PIECE_KIB DEPTH THREADS FILE...
 *
 * cached: pread through the page cache. direct: pread past it (O_DIRECT), one piece at a time for each thread. ring: io_uring past it, DEPTH
 * pieces under way for each thread. fixed: the same with registered buffers. The files are taken out of the page cache first. Prints one
 * JSON object.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MOST_FILES = 64, MOST_THREADS = 64, MOST_DEPTH = 256 };

static int descriptors[MOST_FILES];
static int64_t sizes[MOST_FILES];
static int file_count, depth;
static int64_t piece;
static const char *way;
static atomic_long next_piece;

static void fail(const char *what, int code) {
  fprintf(stderr, "reads: %s: %s\n", what, strerror(code));
  exit(1);
}

/* The file and the offset of piece `number`; 0 behind the last. */
static int locate(int64_t number, int *file, int64_t *offset) {
  for (int i = 0; i < file_count; i++) {
    const int64_t pieces = (sizes[i] + piece - 1) / piece;
    if (number < pieces) {
      *file = descriptors[i];
      *offset = number * piece;
      return 1;
    }
    number -= pieces;
  }
  return 0;
}

static void one_by_one(char *room) {
  int file;
  int64_t offset;
  while (locate(atomic_fetch_add(&next_piece, 1), &file, &offset)) {
    if (pread(file, room, (size_t)piece, offset) < 0) fail("pread", errno);
  }
}

static void under_way(char *room) {
  struct io_uring ring;
  int code = io_uring_queue_init((unsigned)depth, &ring, 0);
  if (code < 0) fail("io_uring", -code);
  const int is_fixed = strcmp(way, "fixed") == 0;
  struct iovec all = {room, (size_t)(piece * depth)};
  if (is_fixed && (code = io_uring_register_buffers(&ring, &all, 1)) < 0) fail("registering buffers", -code);
  int idle[MOST_DEPTH], idle_count = depth, busy = 0, file, has_more = 1;
  int64_t offset;
  for (int i = 0; i < depth; i++) idle[i] = i;
  for (;;) {
    while (has_more && idle_count > 0) {
      has_more = locate(atomic_fetch_add(&next_piece, 1), &file, &offset);
      if (!has_more) break;
      const int slot = idle[--idle_count];
      struct io_uring_sqe *entry = io_uring_get_sqe(&ring);
      if (is_fixed)
        io_uring_prep_read_fixed(entry, file, room + slot * piece, (unsigned)piece, (uint64_t)offset, 0);
      else
        io_uring_prep_read(entry, file, room + slot * piece, (unsigned)piece, (uint64_t)offset);
      io_uring_sqe_set_data64(entry, (uint64_t)slot);
      if ((code = io_uring_submit(&ring)) < 0) fail("submitting", -code);
      busy++;
    }
    if (busy == 0) break;
    struct io_uring_cqe *result;
    if ((code = io_uring_wait_cqe(&ring, &result)) < 0) fail("waiting", -code);
    if (result->res < 0) fail("reading", -result->res);
    idle[idle_count++] = (int)io_uring_cqe_get_data64(result);
    io_uring_cqe_seen(&ring, result);
    busy--;
  }
  io_uring_queue_exit(&ring);
}

static void *work(void *unused) {
  (void)unused;
  const size_t bytes = (size_t)(piece * depth);
  char *room = aligned_alloc(4096, bytes);
  if (!room) fail("memory", ENOMEM);
  memset(room, 1, bytes);
  if (strcmp(way, "ring") == 0 || strcmp(way, "fixed") == 0)
    under_way(room);
  else
    one_by_one(room);
  free(room);
  return NULL;
}

int main(int count, char **arguments) {
  if (count < 6 || count - 5 > MOST_FILES) {
    fprintf(stderr, "usage: reads cached|direct|ring|fixed PIECE_KIB DEPTH THREADS FILE...\n");
    return 2;
  }
  way = arguments[1];
  piece = atol(arguments[2]) * 1024;
  depth = atoi(arguments[3]);
  const int threads = atoi(arguments[4]);
  if (piece < 4096 || depth < 1 || depth > MOST_DEPTH || threads < 1 || threads > MOST_THREADS) return 2;
  file_count = count - 5;
  double all = 0;
  for (int i = 0; i < file_count; i++) {
    const int file = open(arguments[5 + i], O_RDONLY | (strcmp(way, "cached") == 0 ? 0 : O_DIRECT));
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) fail(arguments[5 + i], errno);
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    descriptors[i] = file;
    sizes[i] = status.st_size;
    all += (double)status.st_size;
  }
  struct timespec start, end;
  struct rusage usage;
  pthread_t team[MOST_THREADS];
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (int i = 0; i < threads; i++) pthread_create(&team[i], NULL, work, NULL);
  for (int i = 0; i < threads; i++) pthread_join(team[i], NULL);
  clock_gettime(CLOCK_MONOTONIC, &end);
  getrusage(RUSAGE_SELF, &usage);
  const double wall = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
  const double cpu =
      (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + 1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  printf("{\"seconds\": %.3f, \"cpu\": %.3f, \"gigabytes_per_second\": %.3f}\n", wall, cpu, all / wall / 1e9);
  return 0;
}
