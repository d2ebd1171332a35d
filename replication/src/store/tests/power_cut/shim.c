/* Records what a process does to the files below one directory, in order, so that a test can build the disks that
 * a power cut at any moment could have left.
 *
 *   LD_PRELOAD=shim.so TANDEM_TRACE=<file> TANDEM_TRACE_BASE=<absolute directory> program
 *
 * Each call is carried out and recorded under one lock: the order of the records is the order of the effects, also
 * across threads. Lines written to standard output are recorded between them, so the program can say what it has
 * acknowledged. A record is: magic, operation, inode, offset or length, length of the path, length of the data
 * (32, 32, 64, 64, 32, 32 bits in the machine's order), the path, the data.
 *
 * Calls that are not intercepted are noticed: the test replays the whole trace and compares it with the files.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum operation {
    CREATE = 1,      /* inode, path */
    WRITE = 2,       /* inode, offset, data */
    TRUNCATE = 3,    /* inode, length */
    SYNC = 4,        /* inode */
    SYNC_DIRECTORY = 5, /* path */
    RENAME = 6,      /* path, new path as data */
    UNLINK = 7,      /* path */
    MAKE_DIRECTORY = 8, /* path */
    SAY = 9,         /* data */
};

struct record {
    uint32_t magic;
    uint32_t operation;
    uint64_t inode;
    uint64_t offset;
    uint32_t path_length;
    uint32_t data_length;
};

#define MAGIC 0x54504331u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char base[PATH_MAX];
static size_t base_length;
static int trace = -1;

static void *real(const char *name) {
    void *function = dlsym(RTLD_NEXT, name);
    if (!function)
        abort();
    return function;
}

static void put(const void *bytes, size_t length) {
    ssize_t (*write_really)(int, const void *, size_t) = real("write");
    const char *from = bytes;
    while (length > 0) {
        ssize_t written = write_really(trace, from, length);
        if (written <= 0)
            abort(); /* a trace with a hole would accuse the store */
        from += written;
        length -= (size_t)written;
    }
}

static void record(uint32_t operation, uint64_t inode, uint64_t offset, const char *path, const void *data,
                   size_t length) {
    struct record header = {MAGIC, operation, inode, offset, (uint32_t)strlen(path), (uint32_t)length};
    put(&header, sizeof header);
    put(path, header.path_length);
    put(data, length);
}

static void enter(void) {
    pthread_mutex_lock(&lock);
    if (trace >= 0)
        return;
    const char *file = getenv("TANDEM_TRACE"), *directory = getenv("TANDEM_TRACE_BASE");
    int (*open_really)(const char *, int, ...) = real("open64");
    if (!file || !directory || strlen(directory) >= sizeof base)
        abort();
    strcpy(base, directory);
    base_length = strlen(base);
    trace = open_really(file, O_CREAT | O_WRONLY | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (trace < 0)
        abort();
}

static void leave(void) { pthread_mutex_unlock(&lock); }

static int below_base(const char *path) {
    return strncmp(path, base, base_length) == 0 && (path[base_length] == '/' || path[base_length] == 0);
}

/* The path of an open file, if it is below the base. */
static int place(int fd, char *path, struct stat *status) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return below_base(path) && fstat(fd, status) == 0;
}

static int opened(int fd, int flags, const char *path, int existed) {
    struct stat status;
    char found[PATH_MAX];
    if (fd >= 0 && below_base(path) && place(fd, found, &status)) {
        if ((flags & O_CREAT) && !existed)
            record(CREATE, status.st_ino, 0, path, "", 0);
        else if (flags & O_TRUNC)
            record(TRUNCATE, status.st_ino, 0, "", "", 0);
    }
    return fd;
}

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = (flags & O_CREAT) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    int (*open_really)(const char *, int, ...) = real("open64");
    enter();
    int existed = access(path, F_OK) == 0;
    int fd = opened(open_really(path, flags, mode), flags, path, existed);
    leave();
    return fd;
}

int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = (flags & O_CREAT) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return open64(path, flags, mode);
}

ssize_t write(int fd, const void *data, size_t length) {
    ssize_t (*really)(int, const void *, size_t) = real("write");
    struct stat status;
    char path[PATH_MAX];
    enter();
    int known = place(fd, path, &status);
    off64_t offset = !known                            ? 0
                     : fcntl(fd, F_GETFL) & O_APPEND ? (off64_t)status.st_size
                                                       : lseek64(fd, 0, SEEK_CUR);
    ssize_t written = really(fd, data, length);
    if (written > 0 && fd == STDOUT_FILENO)
        record(SAY, 0, 0, "", data, (size_t)written);
    else if (written > 0 && known)
        record(WRITE, status.st_ino, (uint64_t)offset, "", data, (size_t)written);
    leave();
    return written;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    ssize_t (*really)(int, const void *, size_t, off64_t) = real("pwrite64");
    struct stat status;
    char path[PATH_MAX];
    enter();
    ssize_t written = really(fd, data, length, offset);
    if (written > 0 && place(fd, path, &status))
        record(WRITE, status.st_ino, (uint64_t)offset, "", data, (size_t)written);
    leave();
    return written;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

int ftruncate64(int fd, off64_t length) {
    int (*really)(int, off64_t) = real("ftruncate64");
    struct stat status;
    char path[PATH_MAX];
    enter();
    int result = really(fd, length);
    if (result == 0 && place(fd, path, &status))
        record(TRUNCATE, status.st_ino, (uint64_t)length, "", "", 0);
    leave();
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

/* The recorded process is not slowed down by the disk: what a sync means is decided when images are built. */
static int synced(int fd) {
    struct stat status;
    char path[PATH_MAX];
    enter();
    if (place(fd, path, &status)) {
        if (S_ISDIR(status.st_mode))
            record(SYNC_DIRECTORY, 0, 0, path, "", 0);
        else
            record(SYNC, status.st_ino, 0, "", "", 0);
    }
    leave();
    return 0;
}

int fsync(int fd) { return synced(fd); }
int fdatasync(int fd) { return synced(fd); }

/* Writes back some pages: neither the disk's cache nor metadata, so it promises nothing. */
int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags) {
    (void)fd, (void)offset, (void)length, (void)flags;
    return 0;
}

int rename(const char *from, const char *to) {
    int (*really)(const char *, const char *) = real("rename");
    enter();
    int result = really(from, to);
    if (result == 0 && below_base(from))
        record(RENAME, 0, 0, from, to, strlen(to));
    leave();
    return result;
}

int unlink(const char *path) {
    int (*really)(const char *) = real("unlink");
    enter();
    int result = really(path);
    if (result == 0 && below_base(path))
        record(UNLINK, 0, 0, path, "", 0);
    leave();
    return result;
}

int mkdir(const char *path, mode_t mode) {
    int (*really)(const char *, mode_t) = real("mkdir");
    enter();
    int result = really(path, mode);
    if (result == 0 && below_base(path))
        record(MAKE_DIRECTORY, 0, 0, path, "", 0);
    leave();
    return result;
}
