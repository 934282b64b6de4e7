/* The median time from `pthread_create` to the end of `pthread_join`, in nanoseconds, of the number of
   threads that the argument gives: one after the other, and all on one processor, so that it is the time
   of the calls and not of a processor that wakes up. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void *nothing(void *word) { return word; }

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static int order(const void *a, const void *b) {
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 20000;
    long *times = malloc(sizeof *times * count);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    for (int each = 0; each < count; each++) {
        pthread_t thread;
        long begin = now();
        if (pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL)) return 1;
        times[each] = now() - begin;
    }
    qsort(times, count, sizeof *times, order);
    printf("%ld\n", times[count / 2]);
    return 0;
}
