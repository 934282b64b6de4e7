// Cancellation of armed threads: requests that are pending at the worst moments. The first argument
// selects the case.
#include "common.h"
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

static struct life life;

static void cancel_myself(void) { MUST(pthread_cancel(pthread_self()) == 0); }

// Prints which of the C library's cancellation points it has passed.
static void pass_cancellation_points(void *name) {
    char byte = '.';
    int pipe_ends[2];
    MUST(pipe(pipe_ends) == 0);
    MUST(write(pipe_ends[1], &byte, 1) == 1);
    MUST(read(pipe_ends[0], &byte, 1) == 1);
    MUST(close(pipe_ends[0]) == 0 && close(pipe_ends[1]) == 0);
    usleep(1);
    struct timespec moment = {0, 1};
    nanosleep(&moment, NULL);
    pthread_testcancel();
    say("%s passed cancellation points", (const char *)name);
}

static void handlers_that_pass(void) {
    MUST(bridge_at_exit(pass_cancellation_points, (void *)"first handler") == 0);
    MUST(bridge_at_exit(pass_cancellation_points, (void *)"second handler") == 0);
    MUST(bridge_set_dropped(5, pass_cancellation_points, (void *)"value") == 0);
}

static void cancel_me_in_a_handler(void *argument) {
    (void)argument;
    cancel_myself();
    say("cancelled while draining");
}

// A request that is pending from before the first call to the library: it must not take effect
// inside of it.
static void *pending_before_arming(void *argument) {
    cancel_myself();
    arm(&life, "thread");
    handlers_that_pass();
    bridge_id();
    bridge_get(3, 0);
    say("armed, and read");
    pthread_testcancel();
    say("not reached");
    return argument;
}

// The same where arming is refused: there the library looks up names and files.
static void refuse_once(void);
static void *pending_while_refused(void *argument) {
    cancel_myself();
    refuse_once();
    say("refused");
    pthread_testcancel();
    say("not reached");
    return argument;
}

static void *pending_while_unloading(void *argument) {
    arm(&life, "thread");
    MUST(bridge_set_dropped(5, pass_cancellation_points, (void *)"value") == 0);
    cancel_myself();
    MUST(bridge_unload() == 0);
    say("unloaded");
    pthread_testcancel();
    say("not reached");
    return argument;
}

static void *pending_at_return(void *argument) {
    arm(&life, "thread");
    handlers_that_pass();
    cancel_myself();
    return argument;
}

static void *requested_in_a_handler(void *argument) {
    handlers_that_pass();
    arm(&life, "thread");
    MUST(bridge_at_exit(cancel_me_in_a_handler, NULL) == 0);
    return argument;
}

static void *requested_in_a_handler_of_pthread_exit(void *argument) {
    requested_in_a_handler(argument);
    pthread_exit(argument);
}

static void *at_a_cancellation_point(void *argument) {
    arm(&life, "thread");
    handlers_that_pass();
    *(atomic_int *)argument = 1;
    for (;;)
        pause();
    return NULL;
}

static void *while_disabled(void *argument) {
    int before;
    MUST(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before) == 0);
    cancel_myself();
    arm(&life, "thread");
    MUST(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before) == 0);
    say("still %s", before == PTHREAD_CANCEL_DISABLE ? "disabled" : "ENABLED");
    handlers_that_pass();
    return argument;
}

// Requests from another thread, at any moment of arming, reading, changing and draining. They take
// effect only at the thread's own cancellation point, or never if it has returned before.
static atomic_long lives_drained, lives_armed, lives_cancelled;

static void count_drained(void *argument) {
    (void)argument;
    atomic_fetch_add(&lives_drained, 1);
    struct timespec moment = {0, 1};
    nanosleep(&moment, NULL);
}

static void *hunted(void *argument) {
    MUST(bridge_at_exit(count_drained, NULL) == 0);
    atomic_fetch_add(&lives_armed, 1);
    for (uint64_t key = 0; key < 20; key++) {
        MUST(bridge_set(key, key) == 0);
        MUST(bridge_get(key, 99) == key);
        MUST(bridge_swap_local(key) != UINT64_MAX);
    }
    pthread_testcancel();
    return argument;
}

static void hunt(long rounds) {
    for (long round = 0; round < rounds; round++) {
        pthread_t thread;
        void *result;
        MUST(pthread_create(&thread, NULL, hunted, NULL) == 0);
        // From no time at all to about the duration of such a thread.
        for (volatile long pause = 0; pause < round % 64 * 500; pause = pause + 1)
            ;
        // It has ended already, as glibc reports before 2.35, or it is asked to end.
        int error = pthread_cancel(thread);
        MUST(error == 0 || error == ESRCH);
        MUST(pthread_join(thread, &result) == 0);
        if (result == PTHREAD_CANCELED)
            atomic_fetch_add(&lives_cancelled, 1);
    }
    // All were cancelled after they had begun, so all were armed.
    MUST(lives_cancelled > 0);
    say("%ld armed, %ld drained", lives_armed, lives_drained);
}

// A stack that the library does not recognise: the thread's entry function returns into code
// without unwind tables.
static void *called_from_nowhere(void *argument);
static void refuse_once(void) {
    called_from_nowhere(NULL);
}

#if defined(__x86_64__)
// A copy of `call *%rdi; ret` on a page of its own, which no table covers.
#include <sys/mman.h>
static const unsigned char nowhere[] = {0x48, 0x83, 0xec, 0x08, 0xff, 0xd7, 0x48, 0x83, 0xc4, 0x08, 0xc3};
#elif defined(__aarch64__)
#include <sys/mman.h>
// stp x29, x30, [sp, #-16]!; blr x0; ldp x29, x30, [sp], #16; ret
static const unsigned int nowhere[] = {0xa9bf7bfd, 0xd63f0000, 0xa8c17bfd, 0xd65f03c0};
#endif

static void try_there(void) { MUST(bridge_at_exit(count_drained, NULL) == -1); }

static void *called_from_nowhere(void *argument) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(page != MAP_FAILED);
    memcpy(page, nowhere, sizeof nowhere);
    MUST(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
    __builtin___clear_cache((char *)page, (char *)page + sizeof nowhere);
    ((void (*)(void (*)(void)))page)(try_there);
    return argument;
}

static void join(pthread_t thread) {
    void *result;
    MUST(pthread_join(thread, &result) == 0);
    say(result == PTHREAD_CANCELED ? "cancelled" : "result %ld", (long)result);
}

static void start(void *(*routine)(void *)) {
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, routine, (void *)7) == 0);
    join(thread);
}

int main(int count, char **arguments) {
    MUST(count >= 2);
#define CASE(routine) if (strcmp(arguments[1], #routine) == 0) start(routine);
    CASE(pending_before_arming)
    CASE(pending_while_refused)
    CASE(pending_while_unloading)
    CASE(pending_at_return)
    CASE(requested_in_a_handler)
    CASE(requested_in_a_handler_of_pthread_exit)
    CASE(while_disabled)
    if (strcmp(arguments[1], "at_a_cancellation_point") == 0) {
        static atomic_int waiting;
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, at_a_cancellation_point, &waiting) == 0);
        while (!waiting)
            sched_yield();
        MUST(pthread_cancel(thread) == 0);
        join(thread);
    }
    if (strcmp(arguments[1], "hunt") == 0) {
        MUST(count == 3);
        hunt(atol(arguments[2]));
    }
    return 0;
}
