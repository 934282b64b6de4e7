// A program to inspect with a debugger or a profiler: a thread and then main, each before it is
// armed, armed, and in a handler. The argument is the number of rounds of work at each place, so
// that a profiler samples it.
#include "common.h"

volatile long work_done;

#define PLACE(name)                                                                                                    \
    __attribute__((noinline)) void name(long rounds) {                                                                 \
        for (long round = 0; round < rounds; round++)                                                                  \
            work_done = work_done + round;                                                                             \
        __asm__ volatile(""); /* so that no call here is the last thing that its function does, and a jump */         \
    }
PLACE(unarmed_here)
PLACE(armed_here)
PLACE(draining_here)

static long rounds;

static void handler(void *argument) {
    (void)argument;
    draining_here(rounds);
    __asm__ volatile("");
}

__attribute__((noinline)) static void middle(void) {
    unarmed_here(rounds);
    MUST(bridge_at_exit(handler, NULL) == 0);
    armed_here(rounds);
    __asm__ volatile("");
}

static void *thread_entry(void *argument) {
    middle();
    return argument;
}

int main(int count, char **arguments) {
    rounds = count > 1 ? atol(arguments[1]) : 0;
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, thread_entry, NULL) == 0);
    MUST(pthread_join(thread, NULL) == 0);
    middle();
    return 0;
}
