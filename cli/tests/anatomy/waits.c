// A program whose stacks are known: two threads and main wait in `wait_here`, until a byte comes on
// standard input. It prints, for each stack, what the test compares the anatomy with.
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS 2
static sem_t reported, go;
static void *allocated;

__attribute__((noinline)) static void wait_here(int is_main) {
    volatile uintptr_t words[8] = {0x8877665544332211, 0, 0, 0, (uintptr_t)&words, (uintptr_t)allocated,
                                   (uintptr_t)&wait_here, (uintptr_t)&go};
    uintptr_t *frame = __builtin_frame_address(0); // the caller's frame pointer; the return address
    printf("%ld %p %p\n", (long)syscall(SYS_gettid), (void *)words, (void *)frame);
    fflush(stdout);
    if (is_main) {
        char byte;
        if (read(0, &byte, 1) != 1) exit(3);
    } else {
        sem_post(&reported);
        if (sem_wait(&go) != 0) exit(4); // EINTR would be harm
    }
    if (words[4] != (uintptr_t)words) exit(5);
}

static void *worker(void *argument) {
    wait_here(0);
    return argument;
}

int main(void) {
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY); // Yama would let the parent alone read this process
    allocated = malloc(100);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, worker, (void *)(intptr_t)(i + 1))) return 6;
        sem_wait(&reported);
    }
    wait_here(1);
    for (int i = 0; i < THREADS; i++) sem_post(&go);
    for (int i = 0; i < THREADS; i++) {
        void *result;
        if (pthread_join(threads[i], &result) || (intptr_t)result != i + 1) return 7;
    }
    puts("went on");
    return 0;
}
