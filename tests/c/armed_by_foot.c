// Stacks that another thread arms by the address of their foot, while they wait. The first argument
// selects the case.
#include "common.h"
#include <threads.h>

static pthread_barrier_t barrier;
static uintptr_t foot, base;

static void handler(void *name) {
    uintptr_t value = 0;
    int has_value = bridge_returned_value(&value);
    if (has_value)
        say("%s: %s %#lx", (const char *)name, bridge_ending(), (unsigned long)value);
    else
        say("%s: %s", (const char *)name, bridge_ending());
}

// Waits in a barrier until it is armed.
static void wait_until_armed(void) {
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    MUST(bridge_is_armed() == 1);
    use_key("of it");
}

static void *returns(void *argument) {
    MUST(bridge_place(&foot, &base) == 0);
    wait_until_armed();
    return argument;
}

static void *exits(void *argument) {
    returns(argument);
    pthread_exit(argument);
}

static void *waits(void *argument) {
    returns(argument);
    for (;;)
        pause();
    return argument;
}

static void *unloads(void *argument) {
    returns(argument);
    MUST(bridge_unload() == 0 && bridge_is_armed() == 0);
    return argument;
}

static void *adds(void *argument) {
    returns(argument);
    MUST(bridge_at_exit(handler, "added") == 0);
    return argument;
}

static int c11_returns(void *argument) {
    returns(argument);
    return -7;
}

static void *arms(void *name) {
    pthread_barrier_wait(&barrier);
    MUST(bridge_arm_at(foot, base, handler, name) == 0);
    MUST(bridge_arm_at(foot, base, handler, name) < 0); // it is armed already
    pthread_barrier_wait(&barrier);
    return NULL;
}

static void run(void *(*routine)(void *), int cancel) {
    pthread_t thread;
    void *result;
    MUST(pthread_create(&thread, NULL, routine, (void *)0x1234) == 0);
    arms("it");
    if (cancel)
        MUST(pthread_cancel(thread) == 0);
    MUST(pthread_join(thread, &result) == 0);
    MUST(result == (cancel ? PTHREAD_CANCELED : (void *)0x1234));
}

#ifdef __x86_64__
// No code of exeunt's has seen this thread.
static void *returns_unseen(void *argument) {
    base = (uintptr_t)__builtin_frame_address(0) + 16;
    foot = base - 8;
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    return argument;
}

static void arm_with_cancellation_due(void) {
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, returns_unseen, (void *)0x1234) == 0);
    pthread_barrier_wait(&barrier);
    MUST(pthread_cancel(pthread_self()) == 0);
    MUST(bridge_reserve(foot, base, handler, "it") == 0);
    MUST(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL) == 0);
    say("main goes on");
    MUST(bridge_arm_reserved() == 0);
    pthread_barrier_wait(&barrier);
    MUST(pthread_join(thread, NULL) == 0);
}
#endif

static void arms_late(void) { say("late: %s", bridge_arm_reserved() < 0 ? "refused" : "armed"); }

int main(int count, char **arguments) {
    MUST(count == 2);
    const char *which = arguments[1];
    pthread_t armer;
    MUST(pthread_barrier_init(&barrier, NULL, 2) == 0);
    if (strcmp(which, "main is armed after its last net") == 0) {
        MUST(atexit(arms_late) == 0);
        MUST(bridge_place(&foot, &base) == 0); // registers exeunt's own, which runs first
        MUST(bridge_reserve(foot, base, handler, "main") == 0);
        exit(44);
    }
    if (strncmp(which, "main", 4) == 0) {
        MUST(bridge_place(&foot, &base) == 0);
        MUST(pthread_create(&armer, NULL, arms, "main") == 0);
        wait_until_armed();
        MUST(pthread_join(armer, NULL) == 0);
        if (strcmp(which, "main returns") == 0)
            return -42;
        if (strcmp(which, "main exits") == 0)
            exit(43);
        MUST(strcmp(which, "main exits its thread") == 0);
        pthread_exit((void *)7);
    }
    if (strcmp(which, "thread returns") == 0) {
        for (int life = 0; life < 3; life++)
            run(returns, 0);
    } else if (strcmp(which, "thread exits") == 0) {
        run(exits, 0);
    } else if (strcmp(which, "thread is cancelled") == 0) {
        run(waits, 1);
    } else if (strcmp(which, "thread unloads") == 0) {
        run(unloads, 0);
    } else if (strcmp(which, "thread adds a handler") == 0) {
        run(adds, 0);
    } else if (strcmp(which, "C11 thread returns") == 0) {
        thrd_t thread;
        int result;
        MUST(thrd_create(&thread, c11_returns, NULL) == thrd_success);
        arms("it");
        MUST(thrd_join(thread, &result) == thrd_success && result == -7);
#ifdef __x86_64__
    } else if (strcmp(which, "cancellation is due") == 0) {
        arm_with_cancellation_due();
#endif
    } else {
        MUST(!"a known case");
    }
    return 0;
}
