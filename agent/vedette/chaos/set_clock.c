/* A wall clock that a test sets, and a kernel that says whether it is disciplined, for a process that has this library
   preloaded. The file $SET_CLOCK_FILE holds two 64-bit numbers: nanoseconds to add, and 1 for disciplined. CLOCK_MONOTONIC
   and CLOCK_BOOTTIME stay the kernel's. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *said;

__attribute__((constructor)) static void look(void)
{
    int fd = open(getenv("SET_CLOCK_FILE"), O_RDONLY | O_CLOEXEC);
    said = mmap(NULL, 16, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (said == MAP_FAILED)
        abort();
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    int failed = syscall(SYS_clock_gettime, clock, at);
    if (failed || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return failed;
    int64_t ns = at->tv_sec * 1000000000LL + at->tv_nsec + said[0];
    at->tv_sec = ns / 1000000000LL;
    at->tv_nsec = ns % 1000000000LL;
    return 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}

int adjtimex(struct timex *timex)
{
    memset(timex, 0, sizeof *timex);
    timex->status = said[1] ? STA_PLL : STA_UNSYNC;
    timex->maxerror = said[1] ? 1000 : 16000000; /* microseconds; the latter is the kernel's NTP_PHASE_LIMIT */
    return said[1] ? TIME_OK : TIME_ERROR;
}
