// The ways in which stacks of a C program end. The first argument selects the case; the program
// reports what happens line by line.
#include "common.h"
#include <semaphore.h>
#include <signal.h>
#include <threads.h>
#include <time.h>

static struct life life;

static void cleanup(void *name) { say("cleanup %s", (const char *)name); }

static void *start(void *(*routine)(void *), void *argument) {
    pthread_t thread;
    void *result;
    MUST(pthread_create(&thread, NULL, routine, argument) == 0);
    MUST(pthread_join(thread, &result) == 0);
    return result;
}

// Threads.

static void *returns(void *argument) {
    use_key("k");
    arm(&life, "thread");
    return argument;
}

// Calls `end` from some frames further in.
__attribute__((noinline)) static int deep(int depth, void (*end)(void *), void *argument) {
    volatile char here[512];
    here[depth] = (char)depth;
    if (depth == 0)
        end(argument);
    else
        here[0] = (char)deep(depth - 1, end, argument);
    return here[depth];
}

static void exit_thread(void *value) { pthread_exit(value); }

static void *exits(void *argument) {
    use_key("k");
    pthread_cleanup_push(cleanup, "outer");
    arm(&life, "thread");
    pthread_cleanup_push(cleanup, "inner");
    deep(20, exit_thread, argument);
    pthread_cleanup_pop(0);
    pthread_cleanup_pop(0);
    return NULL;
}

// Armed inside a cleanup region that the thread leaves before its end.
static void *exits_after_a_region(void *argument) {
    pthread_cleanup_push(cleanup, "left");
    arm(&life, "thread");
    pthread_cleanup_pop(0);
    pthread_exit(argument);
}

static void *exits_unarmed(void *argument) {
    pthread_exit(argument);
}

static void *exits_unloaded(void *argument) {
    arm(&life, "thread");
    struct bridge_foot foot;
    MUST(bridge_unload() == 0);
    MUST(bridge_is_armed() == 0);
    MUST(bridge_foot(&foot) == 0);
    say("foot %s", foot.kind == 1 ? "of a thread" : "?");
    pthread_exit(argument);
}

static int c11_returns(void *argument) {
    arm(&life, "C11 thread");
    return *(int *)argument;
}

static int c11_exits(void *argument) {
    arm(&life, "C11 thread");
    thrd_exit(*(int *)argument);
}

static void c11(int (*routine)(void *)) {
    thrd_t thread;
    int value = -7, result = 0;
    MUST(thrd_create(&thread, routine, &value) == thrd_success);
    MUST(thrd_join(thread, &result) == thrd_success);
    say("result %d", result);
}

// A thread that glibc itself starts, to call back for a timer, and that the program never sees.
static sem_t called_back;

static void library_thread_gone(void *argument) {
    (void)argument;
    say("the library's thread ends");
    MUST(sem_post(&called_back) == 0);
}

static void on_timer(union sigval value) {
    MUST(bridge_is_armed() == 0);
    MUST(bridge_set_dropped(9, library_thread_gone, NULL) == 0);
    arm(&life, value.sival_ptr);
}

static void callback(void) {
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_value.sival_ptr = "callback"};
    event.sigev_notify_function = on_timer;
    struct itimerspec soon = {.it_value.tv_nsec = 1};
    MUST(sem_init(&called_back, 0, 0) == 0);
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    MUST(timer_settime(timer, 0, &soon, NULL) == 0);
    while (sem_wait(&called_back) != 0)
        ;
}

// The main thread.

static void at_process_exit(void) { say("atexit"); }

static void exits_process(void *argument) { exit((int)(intptr_t)argument); }

static void *ends_process(void *argument) {
    static struct life mine;
    arm(&mine, "thread");
    exit((int)(intptr_t)argument);
}

static pthread_t main_thread;

static void *outlives_main(void *argument) {
    MUST(pthread_join(main_thread, NULL) == 0);
    say("main is gone");
    return argument;
}

int main(int count, char **arguments) {
    MUST(count == 2);
#define CASE(name) if (strcmp(arguments[1], name) == 0)
    void *value = (void *)0x1234567890abcdef;
    CASE("thread returns") say("result %p", start(returns, value));
    CASE("thread exits") say("result %p", start(exits, value));
    CASE("thread exits after a region") say("result %p", start(exits_after_a_region, value));
    CASE("thread exits unarmed") {
        start(returns, value); // so that the library has recognised threads
        say("result %p", start(exits_unarmed, value));
    }
    CASE("thread exits unloaded") say("result %p", start(exits_unloaded, value));
    CASE("C11 thread returns") c11(c11_returns);
    CASE("C11 thread exits") c11(c11_exits);
    CASE("callback") callback();
    CASE("main returns") {
        atexit(at_process_exit);
        arm(&life, "main");
        return 42;
    }
    CASE("main exits") {
        atexit(at_process_exit);
        arm(&life, "main");
        deep(20, exits_process, (void *)43);
    }
    CASE("main's handler exits") {
        atexit(at_process_exit);
        arm(&life, "main");
        MUST(bridge_at_exit(exits_process, (void *)44) == 0);
        return 1;
    }
    CASE("main exits its thread") {
        main_thread = pthread_self();
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, outlives_main, NULL) == 0);
        arm(&life, "main");
        deep(20, exit_thread, NULL);
    }
    CASE("thread exits the process") {
        arm(&life, "main");
        start(ends_process, (void *)45);
    }
    CASE("main exits at once") {
        arm(&life, "main");
        _exit(46);
    }
    CASE("handlers panic") {
        arm(&life, "main");
        MUST(bridge_panic_at_exit() == 0);
        MUST(bridge_panic_at_exit() == 0);
        return 47;
    }
    return 0;
}
