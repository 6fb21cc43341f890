/*
 * The wall clock of a server under test: preloaded into its processes, it adds to the real time what a file says, which
 * the test may change at any time. Every other clock, and with it every sleep, stays as it is.
 *
 * libfaketime can't be used: while a process waits in epoll_wait, its clock shows the real time to signal handlers,
 * and there PostgreSQL finds out which of its timeouts has come, so that none ever does.
 *
 * All functions here may be called in a signal handler: they call the kernel and nothing else.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Microseconds, in the mapped file; a server's processes have the mapping from the postmaster. */
static const int64_t *offset_us;

__attribute__((constructor)) static void map_offset(void)
{
    const char *path = getenv("PROCESS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *map;

    if (file < 0)
        return;
    map = mmap(NULL, sizeof *offset_us, PROT_READ, MAP_SHARED, file, 0);
    if (map != MAP_FAILED)
        offset_us = map;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int64_t nanoseconds;

    if (syscall(SYS_clock_gettime, clock, now) != 0)
        return -1;
    if ((clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) || offset_us == NULL)
        return 0;
    nanoseconds = ((int64_t) now->tv_sec * 1000000 + __atomic_load_n(offset_us, __ATOMIC_RELAXED)) * 1000 + now->tv_nsec;
    now->tv_sec = nanoseconds / 1000000000;
    now->tv_nsec = nanoseconds % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;

    (void) zone;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
        return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result)
{
    struct timespec precise;

    if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
        return -1;
    if (result != NULL)
        *result = precise.tv_sec;
    return precise.tv_sec;
}
