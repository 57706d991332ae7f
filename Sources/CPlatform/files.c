#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "CPlatform.h"

_Static_assert(INGOT_AT_CWD == AT_FDCWD, "one number for the working directory");
_Static_assert(sizeof(off_t) == 8, "offsets are 64 bits");

static int64_t answer(int64_t result) { return result < 0 ? -(int64_t)errno : result; }

/// Offsets come as unsigned; the kernel's are signed.
static int fits(uint64_t offset) { return offset <= (uint64_t)INT64_MAX; }

const char *ingot_sys_error_text(int code, char *out, size_t out_bytes) {
  if (out_bytes == 0) return "";
  char own[256];
  const char *text = strerror_r(code, own, sizeof own);
  snprintf(out, out_bytes, "%s", text ? text : "unknown error");
  return out;
}

int64_t ingot_sys_open(int at, const char *path, int how) {
  int flags = O_CLOEXEC | O_NOCTTY;
  switch (how) {
  case INGOT_OPEN_READ: flags |= O_RDONLY | O_NONBLOCK; break;
  case INGOT_OPEN_WRITE: flags |= O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK; break;
  case INGOT_OPEN_APPEND: flags |= O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_APPEND; break;
  case INGOT_OPEN_DIRECTORY: flags |= O_RDONLY | O_DIRECTORY; break;
  case INGOT_OPEN_DIRECTORY_NOFOLLOW: flags |= O_RDONLY | O_DIRECTORY | O_NOFOLLOW; break;
  case INGOT_OPEN_WRITE_DIRECT: flags |= O_WRONLY | O_DIRECT | O_NOFOLLOW | O_NONBLOCK; break;
  default: return -EINVAL;
  }
  return answer(openat(at, path, flags, 0666));
}

int64_t ingot_sys_open_direct(int fd) {
  char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  // Without O_NONBLOCK: io_uring would give up on a read that has to wait for a lock.
  return answer(open(path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NOCTTY));
}

int64_t ingot_sys_close(int fd) { return answer(close(fd)); }

int64_t ingot_sys_read_at(int fd, void *out, size_t bytes, uint64_t offset) {
  return fits(offset) ? answer(pread(fd, out, bytes, (off_t)offset)) : -EINVAL;
}

int64_t ingot_sys_write_at(int fd, const void *data, size_t bytes, uint64_t offset) {
  return fits(offset) ? answer(pwrite(fd, data, bytes, (off_t)offset)) : -EINVAL;
}

int64_t ingot_sys_append(int fd, const void *data, size_t bytes) { return answer(write(fd, data, bytes)); }

static void fill(const struct stat *s, ingot_file_status *out) {
  out->device = (uint64_t)s->st_dev;
  out->inode = (uint64_t)s->st_ino;
  out->size = s->st_size > 0 ? (uint64_t)s->st_size : 0;
  out->allocated = (uint64_t)s->st_blocks * 512;
  out->modified_seconds = s->st_mtim.tv_sec;
  out->modified_nanoseconds = (int32_t)s->st_mtim.tv_nsec;
  out->kind = S_ISREG(s->st_mode)   ? INGOT_KIND_FILE
              : S_ISDIR(s->st_mode) ? INGOT_KIND_DIRECTORY
              : S_ISLNK(s->st_mode) ? INGOT_KIND_LINK
                                    : INGOT_KIND_OTHER;
}

int64_t ingot_sys_status(int fd, ingot_file_status *out) {
  struct stat s;
  if (fstat(fd, &s) != 0) return -(int64_t)errno;
  fill(&s, out);
  return 0;
}

int64_t ingot_sys_status_at(int at, const char *path, int follow_link, ingot_file_status *out) {
  struct stat s;
  if (fstatat(at, path, &s, follow_link ? 0 : AT_SYMLINK_NOFOLLOW) != 0) return -(int64_t)errno;
  fill(&s, out);
  return 0;
}

int64_t ingot_sys_direct_alignment(int fd) {
  // Linux 6.1 and later; the numbers are of the kernel's interface, which older headers do not have.
  enum { DIOALIGN = 0x2000, MEMORY_AT = 152, OFFSET_AT = 156 };
  struct statx s;
  memset(&s, 0, sizeof s);
  if (statx(fd, "", AT_EMPTY_PATH, DIOALIGN, &s) != 0) return -(int64_t)errno;
  uint32_t memory, offset;
  memcpy(&memory, (const char *)&s + MEMORY_AT, sizeof memory);
  memcpy(&offset, (const char *)&s + OFFSET_AT, sizeof offset);
  if (!(s.stx_mask & DIOALIGN) || memory == 0 || offset == 0) return 0;
  return memory > offset ? memory : offset;
}

int64_t ingot_sys_truncate(int fd, uint64_t bytes) { return fits(bytes) ? answer(ftruncate(fd, (off_t)bytes)) : -EFBIG; }

int64_t ingot_sys_allocate(int fd, uint64_t bytes) {
  if (!fits(bytes)) return -EFBIG;
  return bytes ? answer(fallocate(fd, 0, 0, (off_t)bytes)) : 0;
}

int64_t ingot_sys_sync(int fd) { return answer(fsync(fd)); }

int64_t ingot_sys_start_write_back(int fd, uint64_t offset, uint64_t bytes) {
  if (!fits(offset) || !fits(bytes)) return -EINVAL;
  return answer(sync_file_range(fd, (off_t)offset, (off_t)bytes, SYNC_FILE_RANGE_WRITE));
}

int64_t ingot_sys_advise(int fd, uint64_t offset, uint64_t bytes, int advice) {
  static const int advices[] = {POSIX_FADV_SEQUENTIAL, POSIX_FADV_RANDOM, POSIX_FADV_WILLNEED, POSIX_FADV_DONTNEED};
  if (advice < 0 || advice > 3 || !fits(offset) || !fits(bytes)) return -EINVAL;
  return -(int64_t)posix_fadvise(fd, (off_t)offset, (off_t)bytes, advices[advice]);
}

int64_t ingot_sys_resident(int fd, uint64_t offset, uint64_t bytes) {
  enum { MOST_PAGES = 4096 };
  const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  if (!fits(offset) || bytes == 0) return -EINVAL;
  const uint64_t skew = offset % page;
  uint64_t length = bytes > MOST_PAGES * page - skew ? MOST_PAGES * page : skew + bytes;
  // The mapping is only asked about and never touched, so that it does not matter when the file shrinks.
  void *map = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, (off_t)(offset - skew));
  if (map == MAP_FAILED) return -(int64_t)errno;
  unsigned char pages[MOST_PAGES];
  const int64_t failed = answer(mincore(map, length, pages));
  munmap(map, length);
  if (failed < 0) return failed;
  uint64_t count = 0;
  for (uint64_t i = 0; i < (length + page - 1) / page; i++) count += pages[i] & 1;
  return (int64_t)(count * page);
}

int64_t ingot_sys_lock(int fd) { return answer(flock(fd, LOCK_EX | LOCK_NB)); }

int64_t ingot_sys_unlock(int fd) { return answer(flock(fd, LOCK_UN)); }

int64_t ingot_sys_make_directory(int at, const char *path) { return answer(mkdirat(at, path, 0777)); }

int64_t ingot_sys_remove(int at, const char *path, int is_directory) { return answer(unlinkat(at, path, is_directory ? AT_REMOVEDIR : 0)); }

int64_t ingot_sys_rename(int from_at, const char *from, int to_at, const char *to, int how) {
  static const unsigned flags[] = {0, RENAME_NOREPLACE, RENAME_EXCHANGE};
  if (how < 0 || how > 2) return -EINVAL;
  // Without a flag the old call: some file systems know no other.
  if (how == INGOT_RENAME_REPLACE) return answer(renameat(from_at, from, to_at, to));
  return answer(renameat2(from_at, from, to_at, to, flags[how]));
}

int64_t ingot_sys_space(int fd, ingot_space *out) {
  struct statvfs s;
  if (fstatvfs(fd, &s) != 0) return -(int64_t)errno;
  const uint64_t block = s.f_frsize ? s.f_frsize : s.f_bsize;
  if (__builtin_mul_overflow((uint64_t)s.f_bavail, block, &out->available)) out->available = UINT64_MAX;
  if (__builtin_mul_overflow((uint64_t)s.f_blocks, block, &out->total)) out->total = UINT64_MAX;
  return 0;
}

int64_t ingot_sys_list(int fd, char *out, size_t out_bytes) {
  if (out_bytes < 4096) return -EINVAL;
  // A record is at least as long as its name and zero byte, so half of `out` holds the names of any half-filled buffer.
  const size_t half = out_bytes / 2 & ~(size_t)15;
  char *records = out + (out_bytes - half);
  records = (char *)((uintptr_t)records & ~(uintptr_t)15);
  for (;;) {
    const long got = syscall(SYS_getdents64, fd, records, half);
    if (got < 0) return -(int64_t)errno;
    if (got == 0) return 0;
    size_t used = 0;
    for (long at = 0; at < got;) {
      const struct dirent64 *entry = (const struct dirent64 *)(records + at);
      at += entry->d_reclen;
      if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
      const size_t length = strlen(entry->d_name) + 1;
      memcpy(out + used, entry->d_name, length);
      used += length;
    }
    if (used) return (int64_t)used;
  }
}

int64_t ingot_sys_rewind(int fd) { return answer(lseek(fd, 0, SEEK_SET)); }

int32_t ingot_sys_process(void) { return (int32_t)getpid(); }

const char *ingot_sys_host_name(char *out, size_t out_bytes) {
  if (out_bytes == 0) return "";
  if (gethostname(out, out_bytes) != 0) out[0] = 0;
  out[out_bytes - 1] = 0;
  return out;
}
