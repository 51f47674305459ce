/* The calls by which a process touches the files of one folder: recorded in their order, and made to fail.
 *
 * To be loaded in front of the C library (LD_PRELOAD); calls.py is the other half of it. Nothing happens before
 * calls_watch. From then on each call that changes the folder, or a file in it, is made under one lock, so that the
 * order of the log is the order of the calls; a call that a fault was armed for fails instead, or afterwards. Forked
 * children go on with the same log and the same fault; the log keeps their order where one waits for the other.
 *
 * The log tells what was done, not what the caller was told. An entry is a struct entry, then `size` bytes: what was written, or the path, or two paths, each with its
 * zero. A file or folder is told by its inode number.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define DESCRIPTORS 4096
#define PARTS 64

/* In the order of Kind in calls.py. */
enum kind { OPEN, CLOSE, READ, WRITE, SYNC, TRUNCATE, ALLOCATE, RENAME, UNLINK, MAKE_FOLDER, REMOVE_FOLDER, MAP, LOCK, MARK, SYNCED_WRITE };

/* What becomes of a call, in the order of Fault in calls.py. */
enum fault { NONE, REFUSED, SHORT, FAILED_AFTERWARDS, KILLED_BEFORE, KILLED_HALFWAY, KILLED_AFTERWARDS, FAILED_THEN_REFUSED };

enum flag { SYNCED = 1, CREATED = 2, EMPTIED = 4, FAILED = 8 };

struct entry {
    uint32_t kind;
    uint32_t flags;
    uint64_t file;
    int64_t offset;
    int64_t length;
    int64_t result;
    uint32_t error;
    uint32_t size;
};

struct watched {
    uint64_t file; /* the inode number; 0: not one of ours */
    int flags;
};

static struct {
    uint32_t kinds;
    int64_t seen;
    int64_t place;
    int64_t times;
    enum fault fault;
    int error;
} armed;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static size_t folder_length;
static int log_descriptor = -1;
static struct watched descriptors[DESCRIPTORS];

static void *find_real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}

/* The function of the C library that is called so. */
#define REAL(name)                           \
    ({                                       \
        static __typeof__(&name) found_;     \
        if (!found_)                         \
            found_ = find_real(#name);       \
        found_;                              \
    })

static void take_lock(void) { pthread_mutex_lock(&lock); }
static void give_lock(void) { pthread_mutex_unlock(&lock); }
/* A child must not inherit the lock from a thread that it does not have. */
__attribute__((constructor)) static void begin(void) { pthread_atfork(take_lock, give_lock, give_lock); }

/* ---- what is watched ---- */

static int is_watched(int descriptor) { return descriptor >= 0 && descriptor < DESCRIPTORS && descriptors[descriptor].file; }

/* Tells whether the path is one in the folder, and writes it to `absolute`. */
static int is_inside(int at, const char *path, char *absolute) {
    char start[PATH_MAX] = "";
    if (!folder_length || !path)
        return 0;
    if (path[0] != '/') {
        char link[64] = "/proc/self/cwd";
        if (at != AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t length = readlink(link, start, sizeof start - 2);
        if (length < 0)
            return 0;
        start[length] = '/';
        start[length + 1] = 0;
    }
    if (snprintf(absolute, PATH_MAX, "%s%s", start, path) >= PATH_MAX || strncmp(absolute, folder, folder_length))
        return 0;
    return absolute[folder_length] == '/' || !absolute[folder_length];
}

static uint64_t file_of(const char *path) {
    struct stat status;
    int saved = errno;
    uint64_t file = lstat(path, &status) ? 0 : status.st_ino;
    errno = saved;
    return file;
}

/* ---- the log ---- */

static void note(struct entry entry, const struct iovec *parts, int count) {
    struct iovec all[PARTS + 1] = {{&entry, sizeof entry}};
    int saved = errno;
    if (log_descriptor >= 0) {
        entry.error = entry.result < 0 ? (uint32_t)saved : 0;
        for (int i = 0; i < count; i++) {
            all[i + 1] = parts[i];
            entry.size += (uint32_t)parts[i].iov_len;
        }
        if (REAL(writev)(log_descriptor, all, count + 1) != (ssize_t)(sizeof entry + entry.size))
            abort();
    }
    errno = saved;
}

static void note_paths(struct entry entry, const char *path, const char *other) {
    struct iovec parts[2] = {{(void *)path, strlen(path) + 1}, {(void *)other, other ? strlen(other) + 1 : 0}};
    note(entry, parts, other ? 2 : 1);
}

/* ---- faults ---- */

/* Returns what is to become of this call. Counts it. A write that is synced is of two kinds. */
static enum fault fault_of(enum kind kind) {
    uint32_t kinds = 1u << kind | (kind == SYNCED_WRITE ? 1u << WRITE : 0);
    if (!(armed.kinds & kinds))
        return NONE;
    int64_t behind = ++armed.seen - armed.place;
    if (behind < 0 || behind >= armed.times)
        return NONE;
    if (armed.fault == FAILED_THEN_REFUSED)
        return behind ? REFUSED : FAILED_AFTERWARDS;
    return armed.fault;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static int is_refused(enum fault fault) {
    if (fault == KILLED_BEFORE)
        die();
    if (fault != REFUSED && fault != SHORT)
        return 0;
    errno = armed.error;
    return 1;
}

/* What the caller is told, when the call was made and noted. */
static int64_t told(enum fault fault, int64_t result) {
    if (fault == KILLED_HALFWAY || fault == KILLED_AFTERWARDS)
        die();
    if (fault != FAILED_AFTERWARDS || result < 0)
        return result;
    errno = armed.error;
    return -1;
}

/* For calls that may wait, or that change nothing on a disk: made without the lock, and not noted. */
static enum fault fault_outside(enum kind kind) {
    take_lock();
    enum fault fault = fault_of(kind);
    give_lock();
    return fault;
}

/* Makes a call under the lock: `result` is what it returns, then `notes` is done, whatever it returned. */
#define MAKE(kind, result, call, notes)       \
    do {                                      \
        take_lock();                          \
        enum fault fault_ = fault_of(kind);   \
        result = -1;                          \
        if (!is_refused(fault_))              \
            result = call;                    \
        notes;                                \
        result = told(fault_, result);        \
        give_lock();                          \
    } while (0)

/* ---- writes ---- */

/* Sets `cut` to the first `length` bytes of the parts, and returns its number of parts. */
static int cut_parts(const struct iovec *parts, int count, int64_t length, struct iovec *cut) {
    int used = 0;
    for (int i = 0; i < count && length > 0; i++) {
        cut[used] = parts[i];
        if ((int64_t)cut[used].iov_len > length)
            cut[used].iov_len = (size_t)length;
        length -= (int64_t)cut[used++].iov_len;
    }
    return used;
}

/* Writes at the offset, or where the descriptor stands if that is negative. */
static ssize_t write_watched(int descriptor, const struct iovec *parts, int count, off_t offset) {
    struct iovec cut[PARTS];
    struct watched file = descriptors[descriptor];
    struct entry entry = {.kind = WRITE, .file = file.file, .offset = offset};
    if (count > PARTS) /* the caller writes the rest with another call */
        count = PARTS;
    for (int i = 0; i < count; i++)
        entry.length += (int64_t)parts[i].iov_len;
    take_lock();
    if (offset < 0)
        entry.offset = lseek(descriptor, 0, file.flags & O_APPEND ? SEEK_END : SEEK_CUR);
    enum fault fault = fault_of(file.flags & O_DSYNC ? SYNCED_WRITE : WRITE);
    int64_t length = fault == SHORT || fault == KILLED_HALFWAY ? entry.length / 2 : entry.length;
    int used = cut_parts(parts, count, length, cut);
    if ((fault == SHORT && length) || !is_refused(fault))
        entry.result = offset < 0 ? REAL(writev)(descriptor, cut, used) : REAL(pwritev)(descriptor, cut, used, offset);
    else
        entry.result = -1;
    /* What a call wrote that was killed or failed may still be lost. */
    if (file.flags & O_DSYNC)
        entry.flags = fault < FAILED_AFTERWARDS ? SYNCED : fault == FAILED_AFTERWARDS ? FAILED : 0;
    note(entry, cut, cut_parts(cut, used, entry.result, cut));
    entry.result = told(fault, entry.result);
    give_lock();
    return entry.result;
}

ssize_t write(int descriptor, const void *bytes, size_t length) {
    struct iovec part = {(void *)bytes, length};
    return is_watched(descriptor) ? write_watched(descriptor, &part, 1, -1) : REAL(write)(descriptor, bytes, length);
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    return is_watched(descriptor) ? write_watched(descriptor, parts, count, -1) : REAL(writev)(descriptor, parts, count);
}

ssize_t pwrite(int descriptor, const void *bytes, size_t length, off_t offset) {
    struct iovec part = {(void *)bytes, length};
    return is_watched(descriptor) ? write_watched(descriptor, &part, 1, offset)
                                  : REAL(pwrite)(descriptor, bytes, length, offset);
}

ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset) {
    return is_watched(descriptor) ? write_watched(descriptor, parts, count, offset)
                                  : REAL(pwritev)(descriptor, parts, count, offset);
}

/* The flags ask for speed, or to be refused where it would wait: nothing that a log needs to know. */
ssize_t pwritev2(int descriptor, const struct iovec *parts, int count, off_t offset, int flags) {
    return is_watched(descriptor) ? write_watched(descriptor, parts, count, offset)
                                  : REAL(pwritev2)(descriptor, parts, count, offset, flags);
}

/* ---- syncs and sizes ---- */

static int sync_watched(int descriptor, int (*sync)(int)) {
    int result;
    struct entry entry = {.kind = SYNC, .file = descriptors[descriptor].file};
    MAKE(SYNC, result, sync(descriptor),
         (entry.result = result, entry.flags = fault_ == FAILED_AFTERWARDS ? FAILED : 0, note(entry, NULL, 0)));
    return result;
}

int fsync(int descriptor) {
    return is_watched(descriptor) ? sync_watched(descriptor, REAL(fsync)) : REAL(fsync)(descriptor);
}

int fdatasync(int descriptor) {
    return is_watched(descriptor) ? sync_watched(descriptor, REAL(fdatasync)) : REAL(fdatasync)(descriptor);
}

int ftruncate(int descriptor, off_t length) {
    int result;
    if (!is_watched(descriptor))
        return REAL(ftruncate)(descriptor, length);
    struct entry entry = {.kind = TRUNCATE, .file = descriptors[descriptor].file, .length = length};
    MAKE(TRUNCATE, result, REAL(ftruncate)(descriptor, length), (entry.result = result, note(entry, NULL, 0)));
    return result;
}

int fallocate(int descriptor, int mode, off_t offset, off_t length) {
    int result;
    if (!is_watched(descriptor))
        return REAL(fallocate)(descriptor, mode, offset, length);
    struct entry entry = {.kind = ALLOCATE, .file = descriptors[descriptor].file, .offset = offset, .length = length};
    MAKE(ALLOCATE, result, REAL(fallocate)(descriptor, mode, offset, length), (entry.result = result, note(entry, NULL, 0)));
    return result;
}

int posix_fallocate(int descriptor, off_t offset, off_t length) {
    int result;
    if (!is_watched(descriptor))
        return REAL(posix_fallocate)(descriptor, offset, length);
    struct entry entry = {.kind = ALLOCATE, .file = descriptors[descriptor].file, .offset = offset, .length = length};
    int saved = errno, error = 0;
    MAKE(ALLOCATE, result, (error = REAL(posix_fallocate)(descriptor, offset, length)) ? (errno = error, -1) : 0,
         (entry.result = result, note(entry, NULL, 0)));
    error = result < 0 ? errno : 0; /* this one returns what others leave in errno */
    errno = saved;
    return error;
}

/* ---- names ---- */

static int open_inside(int at, const char *path, const char *absolute, int flags, mode_t mode) {
    int result;
    struct entry entry = {.kind = OPEN};
    struct stat status;
    take_lock();
    int is_new = flags & O_CREAT && !file_of(absolute);
    enum fault fault = fault_of(OPEN);
    result = is_refused(fault) ? -1 : REAL(openat)(at, path, flags, mode);
    entry.flags = (is_new ? CREATED : 0) | (flags & O_TRUNC ? EMPTIED : 0);
    if (result >= 0 && !fstat(result, &status))
        entry.file = status.st_ino;
    entry.result = result;
    note_paths(entry, absolute, NULL);
    int answer = (int)told(fault, result);
    if (answer >= 0 && answer < DESCRIPTORS)
        descriptors[answer] = (struct watched){entry.file, flags};
    if (answer < 0 && result >= 0) {
        int saved = errno;
        REAL(close)(result);
        errno = saved;
    }
    give_lock();
    return answer;
}

int openat(int at, const char *path, int flags, ...) {
    char absolute[PATH_MAX];
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return is_inside(at, path, absolute) ? open_inside(at, path, absolute, flags, mode)
                                         : REAL(openat)(at, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return openat(AT_FDCWD, path, flags, mode);
}

int creat(const char *path, mode_t mode) { return openat(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* A descriptor is gone whatever its closing returns. */
int close(int descriptor) {
    if (!is_watched(descriptor))
        return REAL(close)(descriptor);
    take_lock();
    struct entry entry = {.kind = CLOSE, .file = descriptors[descriptor].file};
    enum fault fault = fault_of(CLOSE);
    int is_failing = is_refused(fault);
    descriptors[descriptor].file = 0;
    entry.result = REAL(close)(descriptor);
    note(entry, NULL, 0);
    int answer = (int)told(is_failing ? FAILED_AFTERWARDS : fault, entry.result);
    give_lock();
    return answer;
}

int renameat(int at, const char *path, int other_at, const char *other) {
    char absolute[PATH_MAX], other_absolute[PATH_MAX];
    int result;
    if (!is_inside(at, path, absolute) || !is_inside(other_at, other, other_absolute))
        return REAL(renameat)(at, path, other_at, other);
    struct entry entry = {.kind = RENAME, .file = file_of(absolute)};
    MAKE(RENAME, result, REAL(renameat)(at, path, other_at, other),
         (entry.result = result, note_paths(entry, absolute, other_absolute)));
    return result;
}

int rename(const char *path, const char *other) { return renameat(AT_FDCWD, path, AT_FDCWD, other); }

int unlinkat(int at, const char *path, int flags) {
    char absolute[PATH_MAX];
    int result;
    if (!is_inside(at, path, absolute))
        return REAL(unlinkat)(at, path, flags);
    enum kind kind = flags & AT_REMOVEDIR ? REMOVE_FOLDER : UNLINK;
    struct entry entry = {.kind = kind, .file = file_of(absolute)};
    MAKE(kind, result, REAL(unlinkat)(at, path, flags), (entry.result = result, note_paths(entry, absolute, NULL)));
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int at, const char *path, mode_t mode) {
    char absolute[PATH_MAX];
    int result;
    if (!is_inside(at, path, absolute))
        return REAL(mkdirat)(at, path, mode);
    struct entry entry = {.kind = MAKE_FOLDER};
    MAKE(MAKE_FOLDER, result, REAL(mkdirat)(at, path, mode),
         (entry.result = result, entry.file = file_of(absolute), note_paths(entry, absolute, NULL)));
    return result;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* ---- calls that change nothing on the disk: they fail, and are not noted ---- */

static ssize_t read_watched(int descriptor, void *bytes, size_t length, off_t offset) {
    enum fault fault = fault_outside(READ);
    if (fault == SHORT)
        length /= 2;
    else if (is_refused(fault))
        return -1;
    return told(fault, offset < 0 ? REAL(read)(descriptor, bytes, length) : REAL(pread)(descriptor, bytes, length, offset));
}

ssize_t read(int descriptor, void *bytes, size_t length) {
    return is_watched(descriptor) ? read_watched(descriptor, bytes, length, -1) : REAL(read)(descriptor, bytes, length);
}

ssize_t pread(int descriptor, void *bytes, size_t length, off_t offset) {
    return is_watched(descriptor) ? read_watched(descriptor, bytes, length, offset)
                                  : REAL(pread)(descriptor, bytes, length, offset);
}

void *mmap(void *address, size_t length, int protection, int flags, int descriptor, off_t offset) {
    if (is_watched(descriptor)) {
        enum fault fault = fault_outside(MAP);
        if (is_refused(fault) || told(fault, 0) < 0)
            return MAP_FAILED;
    }
    return REAL(mmap)(address, length, protection, flags, descriptor, offset);
}

int flock(int descriptor, int operation) {
    if (!is_watched(descriptor))
        return REAL(flock)(descriptor, operation);
    enum fault fault = fault_outside(LOCK);
    return is_refused(fault) ? -1 : (int)told(fault, REAL(flock)(descriptor, operation));
}

int fcntl(int descriptor, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    int is_lock = command == F_SETLK || command == F_SETLKW || command == F_GETLK || command == F_OFD_SETLK ||
                  command == F_OFD_SETLKW || command == F_OFD_GETLK;
    if (!is_lock || !is_watched(descriptor))
        return REAL(fcntl)(descriptor, command, argument);
    enum fault fault = fault_outside(LOCK);
    return is_refused(fault) ? -1 : (int)told(fault, REAL(fcntl)(descriptor, command, argument));
}

/* ---- the names of the same functions for large files ---- */

#define SAME(name, other) __typeof__(other) name __attribute__((alias(#other)))
SAME(open64, open);
SAME(openat64, openat);
SAME(creat64, creat);
SAME(pwrite64, pwrite);
SAME(pwritev64, pwritev);
SAME(pwritev64v2, pwritev2);
SAME(pread64, pread);
SAME(ftruncate64, ftruncate);
SAME(fallocate64, fallocate);
SAME(posix_fallocate64, posix_fallocate);
SAME(mmap64, mmap);
SAME(fcntl64, fcntl);

/* ---- what calls.py calls ---- */

/* Watch what happens in the folder (an absolute path without links) to descriptors that are opened from now on. */
void calls_watch(const char *path) {
    take_lock();
    snprintf(folder, sizeof folder, "%s", path);
    folder_length = strlen(folder);
    give_lock();
}

/* Append to this log from now on, or to none (NULL). Returns 0, or -1 and errno. */
int calls_record(const char *path) {
    take_lock();
    if (log_descriptor >= 0)
        REAL(close)(log_descriptor);
    log_descriptor = path ? REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    int result = path && log_descriptor < 0 ? -1 : 0;
    give_lock();
    return result;
}

/* Put an entry of the caller's own into the log. */
void calls_mark(const void *bytes, size_t length) {
    struct iovec part = {(void *)bytes, length};
    take_lock();
    note((struct entry){.kind = MARK}, &part, 1);
    give_lock();
}

/* From the call number `place` of these kinds, counted from 1 and from now, let `times` of them fail. */
void calls_arm(uint32_t kinds, int64_t place, int64_t times, int fault, int error) {
    take_lock();
    armed.kinds = kinds;
    armed.seen = 0;
    armed.place = place;
    armed.times = times;
    armed.fault = fault;
    armed.error = error;
    give_lock();
}

/* Let no more calls fail. Returns how many of those kinds there were. */
int64_t calls_disarm(void) {
    take_lock();
    int64_t seen = armed.seen;
    armed.kinds = 0;
    give_lock();
    return seen;
}
