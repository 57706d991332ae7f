#include <errno.h>
#include <liburing.h>
#include <stdlib.h>

#include "CPlatform.h"

struct ingot_ring {
  struct io_uring ring;
};

int64_t ingot_ring_create(uint32_t entries, ingot_ring **out) {
  *out = NULL;
  ingot_ring *self = calloc(1, sizeof *self);
  if (!self) return -ENOMEM;
  const int failed = io_uring_queue_init(entries, &self->ring, 0);
  if (failed < 0) {
    free(self);
    return failed;
  }
  *out = self;
  return 0;
}

void ingot_ring_destroy(ingot_ring *ring) {
  if (!ring) return;
  io_uring_queue_exit(&ring->ring);
  free(ring);
}

int64_t ingot_ring_queue_read(ingot_ring *ring, int fd, void *out, size_t bytes, uint64_t offset, uint64_t tag) {
  if (bytes > UINT32_MAX || offset > (uint64_t)INT64_MAX) return -EINVAL;
  struct io_uring_sqe *entry = io_uring_get_sqe(&ring->ring);
  if (!entry) return -EBUSY;
  io_uring_prep_read(entry, fd, out, (unsigned)bytes, offset);
  io_uring_sqe_set_data64(entry, tag);
  return 0;
}

int64_t ingot_ring_submit(ingot_ring *ring) { return io_uring_submit(&ring->ring); }

int64_t ingot_ring_wait(ingot_ring *ring) {
  struct io_uring_cqe *entry;
  return io_uring_wait_cqe(&ring->ring, &entry);
}

int ingot_ring_next(ingot_ring *ring, uint64_t *tag, int64_t *result) {
  struct io_uring_cqe *entry;
  if (io_uring_peek_cqe(&ring->ring, &entry) != 0) return 0;
  *tag = io_uring_cqe_get_data64(entry);
  *result = entry->res;
  io_uring_cqe_seen(&ring->ring, entry);
  return 1;
}
