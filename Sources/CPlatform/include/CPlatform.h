// System calls in one shape, reads under way, xxHash, and the cancel flag's load.
//
// Every `ingot_sys_*` is one system call (or libc call) and answers a value >= 0, or the negated errno. None retries: EINTR and
// short transfers are the caller's, in one place (IngotStorage/Syscalls.swift). Paths are relative to the directory descriptor
// `at`; INGOT_AT_CWD means the process's working directory.
#ifndef INGOT_PLATFORM_H
#define INGOT_PLATFORM_H

#include <stddef.h>
#include <stdint.h>

enum { INGOT_AT_CWD = -100 };

// ---- errors -----------------------------------------------------------------------------------------------------------

/// The system's words for an errno, in `out`; returns `out`. Safe on any thread.
const char *ingot_sys_error_text(int code, char *out, size_t out_bytes);

// ---- files ------------------------------------------------------------------------------------------------------------

enum { INGOT_KIND_FILE = 0, INGOT_KIND_DIRECTORY = 1, INGOT_KIND_LINK = 2, INGOT_KIND_OTHER = 3 };

/// What stat tells, in a layout of our own: Swift and C agree on it whatever libc does.
typedef struct ingot_file_status {
  uint64_t device;
  uint64_t inode;
  uint64_t size;            // bytes
  uint64_t allocated;       // bytes on the medium
  int64_t modified_seconds; // since 1970
  int32_t modified_nanoseconds;
  int32_t kind; // INGOT_KIND_*
} ingot_file_status;
_Static_assert(sizeof(ingot_file_status) == 48, "Swift reads this struct");
_Static_assert(offsetof(ingot_file_status, modified_seconds) == 32, "Swift reads this struct");
_Static_assert(offsetof(ingot_file_status, kind) == 44, "Swift reads this struct");

typedef struct ingot_space {
  uint64_t available; // bytes that this user may still allocate
  uint64_t total;
} ingot_space;
_Static_assert(sizeof(ingot_space) == 16, "Swift reads this struct");

/// How to open. Every descriptor is close-on-exec and never becomes the controlling terminal.
enum {
  INGOT_OPEN_READ = 0,      // does not block on a FIFO
  INGOT_OPEN_WRITE = 1,     // read and write, created with mode 0666 less the umask, a final symbolic link refused
  INGOT_OPEN_APPEND = 2,    // as WRITE, each write at the end
  INGOT_OPEN_DIRECTORY = 3, // a directory, final symbolic link followed
  INGOT_OPEN_DIRECTORY_NOFOLLOW = 4,
  INGOT_OPEN_WRITE_DIRECT = 5, // an existing file, for writes past the page cache (O_DIRECT); -EINVAL where there is no such thing
};
int64_t ingot_sys_open(int at, const char *path, int how);
/// The file of an open descriptor once more, for reads past the page cache (O_DIRECT): the very same file, whatever its path names by now.
int64_t ingot_sys_open_direct(int fd);
int64_t ingot_sys_close(int fd);
int64_t ingot_sys_read_at(int fd, void *out, size_t bytes, uint64_t offset);
int64_t ingot_sys_write_at(int fd, const void *data, size_t bytes, uint64_t offset);
/// write(2) at the end of a file opened with INGOT_OPEN_APPEND.
int64_t ingot_sys_append(int fd, const void *data, size_t bytes);
int64_t ingot_sys_status(int fd, ingot_file_status *out);
int64_t ingot_sys_status_at(int at, const char *path, int follow_link, ingot_file_status *out);
/// The multiple that offsets and addresses of transfers past the page cache must be of; 0 where the file system has none or does not say.
int64_t ingot_sys_direct_alignment(int fd);
int64_t ingot_sys_truncate(int fd, uint64_t bytes);
/// Reserves blocks for the whole length and sets the size (fallocate, never the emulation that writes).
int64_t ingot_sys_allocate(int fd, uint64_t bytes);
int64_t ingot_sys_sync(int fd);
/// Starts write-back of a range and does not wait.
int64_t ingot_sys_start_write_back(int fd, uint64_t offset, uint64_t bytes);
enum { INGOT_ADVICE_SEQUENTIAL = 0, INGOT_ADVICE_RANDOM = 1, INGOT_ADVICE_WILL_NEED = 2, INGOT_ADVICE_DONT_NEED = 3 };
int64_t ingot_sys_advise(int fd, uint64_t offset, uint64_t bytes, int advice);
/// How many bytes of a range are in the page cache, whole pages of at most 4,096 at its start; where the system does not tell (a file of
/// others that may not be written), all of them.
int64_t ingot_sys_resident(int fd, uint64_t offset, uint64_t bytes);
/// Takes an exclusive flock without waiting; -EWOULDBLOCK when another open file holds one.
int64_t ingot_sys_lock(int fd);
int64_t ingot_sys_unlock(int fd);

// ---- reads under way (io_uring) ---------------------------------------------------------------------------------------

/// A queue of reads that go on while the caller does something else. One thread at a time may queue and submit, one at a time may wait and
/// take results; the two may be different.
typedef struct ingot_ring ingot_ring;
/// Room for `entries` reads at once. -ENOSYS, -EPERM or -ENOMEM where the kernel, a filter of system calls or a limit refuses.
int64_t ingot_ring_create(uint32_t entries, ingot_ring **out);
/// Reads that are under way must have ended; takes null.
void ingot_ring_destroy(ingot_ring *ring);
/// Queues a read; `tag` comes back with its result. -EBUSY when there is no room. Makes no system call.
int64_t ingot_ring_queue_read(ingot_ring *ring, int fd, void *out, size_t bytes, uint64_t offset, uint64_t tag);
/// Hands what is queued to the kernel; how many reads that was.
int64_t ingot_ring_submit(ingot_ring *ring);
/// Waits until there is a result.
int64_t ingot_ring_wait(ingot_ring *ring);
/// Takes a result that is there: bytes, or the negated errno. 0 when there is none; makes no system call.
int ingot_ring_next(ingot_ring *ring, uint64_t *tag, int64_t *result);

// ---- directories ------------------------------------------------------------------------------------------------------

int64_t ingot_sys_make_directory(int at, const char *path);
int64_t ingot_sys_remove(int at, const char *path, int is_directory);
enum { INGOT_RENAME_REPLACE = 0, INGOT_RENAME_NO_REPLACE = 1, INGOT_RENAME_EXCHANGE = 2 };
int64_t ingot_sys_rename(int from_at, const char *from, int to_at, const char *to, int how);
int64_t ingot_sys_space(int fd, ingot_space *out);
/// The next entries of an open directory: names, each ended by a zero byte, without "." and "..". Returns the bytes used, 0 at
/// the end. `out_bytes` must be at least 4,096.
int64_t ingot_sys_list(int fd, char *out, size_t out_bytes);
/// Back to the first entry.
int64_t ingot_sys_rewind(int fd);

// ---- process ----------------------------------------------------------------------------------------------------------

int32_t ingot_sys_process(void);
/// The host's name in `out`, "" when it is not known; returns `out`.
const char *ingot_sys_host_name(char *out, size_t out_bytes);

// ---- threads ----------------------------------------------------------------------------------------------------------

/// A thread that runs `body(context)` once, with all signals blocked: they are for the host's threads. Null when there can be none.
typedef struct ingot_thread ingot_thread;
ingot_thread *ingot_thread_start(void (*body)(void *), void *context);
/// Waits for the thread's end and frees it; takes null.
void ingot_thread_join(ingot_thread *thread);

// ---- xxHash -----------------------------------------------------------------------------------------------------------

/// XXH3-128 with seed 0, canonical: 16 bytes, big-endian.
void ingot_xxh3_128(const void *data, size_t bytes, uint8_t out[16]);
/// XXH3-64 with seed 0.
uint64_t ingot_xxh3_64(const void *data, size_t bytes);

/// A running XXH3-128. Create returns null when out of memory; destroy takes null.
typedef struct ingot_xxh3_state ingot_xxh3_state;
ingot_xxh3_state *ingot_xxh3_create(void);
void ingot_xxh3_destroy(ingot_xxh3_state *state);
void ingot_xxh3_reset(ingot_xxh3_state *state);
void ingot_xxh3_update(ingot_xxh3_state *state, const void *data, size_t bytes);
/// The digest of what was given so far; more may follow.
void ingot_xxh3_digest(const ingot_xxh3_state *state, uint8_t out[16]);

// ---- cancel flag ------------------------------------------------------------------------------------------------------

/// A relaxed load of a flag that another thread or a signal handler sets.
int32_t ingot_load_flag(const volatile int32_t *flag);
void ingot_store_flag(volatile int32_t *flag, int32_t value);

#endif
