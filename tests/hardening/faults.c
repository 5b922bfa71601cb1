/* Faults at file operations: preloaded, it stands between a process and its C library.

   Once armed, calls on paths below a folder are counted, from 1. At one of them the call fails
   (EIO, EINTR), the disk is full from there on (ENOSPC), or a signal arrives. Where none is chosen,
   all are told: each writes a line and the stack of Python, and stops the process if it changes
   anything, so that another can look at the folder. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[PATH_MAX], struck[PATH_MAX + 64];
static int at, fault, armed, count;

/* Number the operations on paths below `place`; the one `number` meets `what`: an error, or minus a signal.
   Without a number, tell of all in the file `what`. */
void arm(const char *place, int number, int what) {
    strncpy(folder, place, sizeof folder - 1);
    at = number, fault = what, count = 0, armed = 1;
}

/* Tell which operation was struck. */
const char *disarm(void) { armed = 0; return struck; }

/* An operation reads, takes space, or changes something else: r, w, c. */
enum { READS, WRITES, CHANGES };

static int strikes(const char *name, const char *path, int kind) {
    if (!armed || !path || (path[0] == '/' && strncmp(path, folder, strlen(folder)))) return 0;
    if (!at) {
        armed = 0;
        dprintf(fault, "\n%c %s %s\n", "rwc"[kind], name, path);
        raise(SIGUSR1);
        if (kind != READS) raise(SIGSTOP);
        return armed = 1, 0;
    }
    if (++count < at) return 0;
    if (count == at) snprintf(struck, sizeof struck, "%s %s", name, path);
    if (count > at) return fault == ENOSPC && kind == WRITES ? errno = ENOSPC : 0;
    if (fault < 0) { armed = 0; kill(getpid(), -fault); return 0; }
    return errno = fault;
}

static int strikes_open_file(const char *name, int fd, int kind) {
    char link[64], path[PATH_MAX];
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int kept = armed;
    armed = 0;
    ssize_t size = readlink(link, path, sizeof path - 1);
    armed = kept;
    if (size <= 0 || path[0] != '/') return 0;
    path[size] = 0;
    return strikes(name, path, kind);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define ON_PATH(type, name, kind, declared, given, path) \
    type name declared { return strikes(#name, path, kind) ? (type)-1 : REAL(name) given; }
#define ON_FILE(type, name, kind, declared, given) \
    type name declared { return strikes_open_file(#name, fd, kind) ? (type)-1 : REAL(name) given; }
#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        if (strikes(#name, path, flags & O_CREAT ? WRITES : READS)) return -1; \
        return REAL(name)(path, flags, mode); }
#define OPENS_AT(name) \
    int name(int fd, const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        if (strikes(#name, path, flags & O_CREAT ? WRITES : READS)) return -1; \
        return REAL(name)(fd, path, flags, mode); }
#define OPENS_STREAM(type, name, declared, given, kind) \
    type *name declared { return strikes(#name, path, kind) ? NULL : REAL(name) given; }

OPENS(open) OPENS(open64) OPENS_AT(openat) OPENS_AT(openat64)
OPENS_STREAM(FILE, fopen, (const char *path, const char *mode), (path, mode), mode[0] == 'r' ? READS : WRITES)
OPENS_STREAM(FILE, fopen64, (const char *path, const char *mode), (path, mode), mode[0] == 'r' ? READS : WRITES)
OPENS_STREAM(DIR, opendir, (const char *path), (path), READS)
ON_PATH(int, stat, READS, (const char *path, struct stat *out), (path, out), path)
ON_PATH(int, lstat, READS, (const char *path, struct stat *out), (path, out), path)
ON_PATH(int, stat64, READS, (const char *path, struct stat64 *out), (path, out), path)
ON_PATH(int, lstat64, READS, (const char *path, struct stat64 *out), (path, out), path)
ON_PATH(int, fstatat, READS, (int fd, const char *path, struct stat *out, int flags), (fd, path, out, flags), path)
ON_PATH(int, fstatat64, READS, (int fd, const char *path, struct stat64 *out, int flags), (fd, path, out, flags), path)
ON_PATH(int, access, READS, (const char *path, int mode), (path, mode), path)
ON_PATH(ssize_t, readlink, READS, (const char *path, char *out, size_t size), (path, out, size), path)
ON_PATH(int, rename, CHANGES, (const char *path, const char *to), (path, to), path)
ON_PATH(int, link, WRITES, (const char *path, const char *to), (path, to), path)
ON_PATH(int, linkat, WRITES, (int fd, const char *path, int other, const char *to, int flags), (fd, path, other, to, flags), path)
ON_PATH(int, symlink, WRITES, (const char *path, const char *to), (path, to), to)
ON_PATH(int, unlink, CHANGES, (const char *path), (path), path)
ON_PATH(int, unlinkat, CHANGES, (int fd, const char *path, int flags), (fd, path, flags), path)
ON_PATH(int, remove, CHANGES, (const char *path), (path), path)
ON_PATH(int, mkdir, WRITES, (const char *path, mode_t mode), (path, mode), path)
ON_PATH(int, rmdir, CHANGES, (const char *path), (path), path)
ON_PATH(int, chmod, CHANGES, (const char *path, mode_t mode), (path, mode), path)
ON_FILE(int, fstat, READS, (int fd, struct stat *out), (fd, out))
ON_FILE(int, fstat64, READS, (int fd, struct stat64 *out), (fd, out))
ON_FILE(ssize_t, read, READS, (int fd, void *out, size_t size), (fd, out, size))
ON_FILE(ssize_t, pread, READS, (int fd, void *out, size_t size, off_t from), (fd, out, size, from))
ON_FILE(ssize_t, pread64, READS, (int fd, void *out, size_t size, off64_t from), (fd, out, size, from))
ON_FILE(ssize_t, write, WRITES, (int fd, const void *text, size_t size), (fd, text, size))
ON_FILE(ssize_t, pwrite, WRITES, (int fd, const void *text, size_t size, off_t to), (fd, text, size, to))
ON_FILE(ssize_t, pwrite64, WRITES, (int fd, const void *text, size_t size, off64_t to), (fd, text, size, to))
ON_FILE(int, ftruncate, WRITES, (int fd, off_t size), (fd, size))
ON_FILE(int, ftruncate64, WRITES, (int fd, off64_t size), (fd, size))
ON_FILE(int, fchmod, CHANGES, (int fd, mode_t mode), (fd, mode))
ON_FILE(int, flock, CHANGES, (int fd, int how), (fd, how))

/* Nobody's machine goes down here, so nothing need reach its disk. */
int fsync(int fd) { return strikes_open_file("fsync", fd, WRITES) ? -1 : 0; }
int fdatasync(int fd) { return strikes_open_file("fdatasync", fd, WRITES) ? -1 : 0; }

/* A file that fails to close is closed. */
int close(int fd) {
    int failed = strikes_open_file("close", fd, CHANGES), kept = errno, result = REAL(close)(fd);
    if (failed) errno = kept;
    return failed ? -1 : result;
}

struct dirent64 *readdir64(DIR *listed) {
    return strikes_open_file("readdir", dirfd(listed), READS) ? NULL : REAL(readdir64)(listed);
}
