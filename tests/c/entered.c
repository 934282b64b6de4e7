// A thread whose function runs inside `enter`, to inspect with a profiler or under valgrind: before
// it is armed, and then. The argument is the number of rounds of work at each place.
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

static long rounds;

static void handler(void *argument) { say("handler of %s", (const char *)argument); }

static void inner_entry(void *argument) {
    unarmed_here(rounds);
    MUST(bridge_at_exit(handler, argument) == 0);
    armed_here(rounds);
    __asm__ volatile("");
}

static void *thread_entry(void *argument) {
    MUST(bridge_enter(inner_entry, argument) == 0);
    return argument;
}

int main(int count, char **arguments) {
    rounds = count > 1 ? atol(arguments[1]) : 0;
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, thread_entry, (void *)"what is entered") == 0);
    MUST(pthread_join(thread, NULL) == 0);
    MUST(bridge_at_exit(handler, (void *)"main") == 0);
    return 0;
}
