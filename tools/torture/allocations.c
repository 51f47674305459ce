/* The allocations of a process: counted, and made to fail. To be loaded in front of the C library (LD_PRELOAD);
 * allocations.py is the other half of it. Nothing fails before allocations_arm.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static _Atomic int is_armed;
static _Atomic int64_t seen;
static int64_t first;
static int64_t behind_last;

static int fails(void) {
    if (!atomic_load_explicit(&is_armed, memory_order_acquire))
        return 0;
    int64_t number = atomic_fetch_add(&seen, 1) + 1;
    if (number < first || number >= behind_last)
        return 0;
    errno = ENOMEM;
    return 1;
}

/* From now on, let allocation number `place`, from 1, fail, and `times` in a row. */
void allocations_arm(int64_t place, int64_t times) {
    first = place;
    behind_last = place + times;
    atomic_store(&seen, 0);
    atomic_store(&is_armed, 1);
}

/* Let no more fail. Returns how many there were since allocations_arm. */
int64_t allocations_disarm(void) {
    atomic_store(&is_armed, 0);
    return atomic_load(&seen);
}

void *malloc(size_t size) {
    return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    return fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    return fails() ? NULL : __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    return fails() ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **found, size_t alignment, size_t size) {
    void *made = fails() ? NULL : __libc_memalign(alignment, size);
    if (!made)
        return ENOMEM;
    *found = made;
    return 0;
}
