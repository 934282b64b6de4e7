// How stacks of a C program end, as their handlers are told. The first argument selects the case.
#include "common.h"
#include <threads.h>

static void tell(void *name) {
    uintptr_t value = 0;
    int has_value = bridge_returned_value(&value);
    if (has_value)
        say("%s: %s %#lx", (const char *)name, bridge_ending(), (unsigned long)value);
    else
        say("%s: %s", (const char *)name, bridge_ending());
}

// Values tell it as well, after the handlers.
static void arm_and_tell(void *name) {
    MUST(strcmp(bridge_ending(), "None") == 0);
    MUST(bridge_set_dropped(1, tell, "value") == 0);
    MUST(bridge_at_exit(tell, name) == 0);
}

static void *start(void *(*routine)(void *), void *argument, int cancel) {
    pthread_t thread;
    void *result;
    MUST(pthread_create(&thread, NULL, routine, argument) == 0);
    if (cancel)
        MUST(pthread_cancel(thread) == 0);
    MUST(pthread_join(thread, &result) == 0);
    return result;
}

static void *returns(void *argument) {
    arm_and_tell("thread");
    return argument;
}

static void *exits(void *argument) {
    arm_and_tell("thread");
    pthread_exit(argument);
}

static void *waits(void *argument) {
    arm_and_tell("thread");
    for (;;)
        pause();
    return argument;
}

static void *spins(void *argument) {
    int old;
    arm_and_tell("thread");
    MUST(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old) == 0);
    for (volatile unsigned long turns = 0;; turns++)
        ;
    return argument;
}

// The request stays pending, so these two end as they would without it.
static void *returns_with_a_request(void *argument) {
    int old;
    MUST(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old) == 0);
    MUST(pthread_cancel(pthread_self()) == 0);
    return returns(argument);
}

static void *exits_with_a_request(void *argument) {
    int old;
    MUST(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old) == 0);
    MUST(pthread_cancel(pthread_self()) == 0);
    return exits(argument);
}

static void request(void *thread) { MUST(pthread_cancel(*(pthread_t *)thread) == 0); }

// The request arrives while the stack drains.
static void *exits_and_is_requested(void *argument) {
    static pthread_t self;
    self = pthread_self();
    arm_and_tell("thread");
    MUST(bridge_at_exit(request, &self) == 0);
    pthread_exit(argument);
}

static int c11_returns(void *argument) {
    arm_and_tell("C11 thread");
    return *(int *)argument;
}

static int c11_exits(void *argument) {
    arm_and_tell("C11 thread");
    thrd_exit(*(int *)argument);
}

static void c11(int (*routine)(void *)) {
    thrd_t thread;
    int value = -7, result = 0;
    MUST(thrd_create(&thread, routine, &value) == thrd_success);
    MUST(thrd_join(thread, &result) == thrd_success);
    MUST(result == value);
}

static void *ends_process(void *argument) {
    arm_and_tell("thread");
    exit((int)(intptr_t)argument);
}

static void exit_process(void *status) { exit((int)(intptr_t)status); }

static pthread_t main_thread;

static void *cancels_main(void *argument) {
    if (argument)
        MUST(pthread_cancel(main_thread) == 0);
    MUST(pthread_join(main_thread, NULL) == 0);
    return NULL;
}

static void with_another_thread(void *argument) {
    pthread_t thread;
    main_thread = pthread_self();
    MUST(pthread_create(&thread, NULL, cancels_main, argument) == 0);
}

static void unload_and_tell(void *name) {
    MUST(bridge_set_dropped(2, tell, name) == 0);
    MUST(bridge_unload() == 0);
}

static void *unloads(void *argument) {
    unload_and_tell("unloaded");
    return argument;
}

int main(int count, char **arguments) {
    MUST(count == 2);
#define CASE(name) if (strcmp(arguments[1], name) == 0)
    void *value = (void *)0x1234567890abcdef;
    CASE("thread returns") start(returns, value, 0);
    CASE("thread exits") start(exits, value, 0);
    CASE("thread is cancelled") MUST(start(waits, value, 1) == PTHREAD_CANCELED);
    CASE("thread is cancelled at any time") MUST(start(spins, value, 1) == PTHREAD_CANCELED);
    CASE("thread returns with a request") MUST(start(returns_with_a_request, value, 0) == value);
    CASE("thread exits with a request") MUST(start(exits_with_a_request, value, 0) == value);
    CASE("thread exits and is requested") MUST(start(exits_and_is_requested, value, 0) == value);
    CASE("thread exits as if cancelled") start(exits, PTHREAD_CANCELED, 0);
    CASE("thread unloads") start(unloads, value, 0);
    CASE("C11 thread returns") c11(c11_returns);
    CASE("C11 thread exits") c11(c11_exits);
    CASE("thread ends process") {
        arm_and_tell("main");
        start(ends_process, (void *)45, 0);
    }
    CASE("main returns") {
        arm_and_tell("main");
        return -42;
    }
    CASE("main exits") {
        arm_and_tell("main");
        exit(43);
    }
    CASE("main's handler exits") {
        arm_and_tell("main");
        MUST(bridge_at_exit(exit_process, (void *)44) == 0);
        MUST(bridge_at_exit(tell, "main, first") == 0);
        return 1;
    }
    CASE("main exits its thread") {
        with_another_thread(NULL);
        arm_and_tell("main");
        pthread_exit((void *)7);
    }
    CASE("main is cancelled") {
        arm_and_tell("main");
        with_another_thread("cancel");
        for (;;)
            pause();
    }
    return 0;
}
