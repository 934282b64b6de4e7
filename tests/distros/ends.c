// Every kind of stack and every end of it, on the C library at hand. `.ci/distros` builds it
// dynamic, `-static` and `-static-pie`, in one distribution after the other; `.ci/musl` with musl,
// which has no fibers of its own.
//
//   ends          runs each case in a process of its own, and prints those that failed
//   ends CASE     is that process: it reports what happens, line by line
//
// The expected lines are the same on every C library: handlers last in first out, then the value,
// each once, and all of them before the thread's pthread keys or the process's `atexit` functions.
#define _GNU_SOURCE
#include <errno.h>
#include <exeunt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <threads.h>
#include <unistd.h>
#include <unwind.h>

#ifdef __GLIBC__
#include <gnu/libc-version.h>
#include <ucontext.h>
#define LIBC "glibc "
#else
#define LIBC "musl"
#define gnu_get_libc_version() ""
#endif

// Writes a line at once, so that the lines of a process that ends are not lost in a buffer.
static void say(const char *line) {
    char text[128];
    int length = snprintf(text, sizeof text, "%s\n", line);
    if (write(STDOUT_FILENO, text, (size_t)length) != length)
        _exit(90);
}

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, strerror(errno));                       \
            _exit(91);                                                                                                 \
        }                                                                                                              \
    } while (0)

// The case.

static int value_key;
static pthread_key_t thread_key;

static void handler(void *name) { say(exeunt_get(&value_key) ? name : "a handler without the value"); }
static void value_gone(void *value) { say(value); }
static void key_gone(void *value) { say(value); }
static void at_process_exit(void) { say("atexit"); }

static void accepted(int code) {
    if (code != 0) {
        char error[4096];
        exeunt_last_error(error, sizeof error);
        fprintf(stderr, "refused: %s\n", error);
        _exit(92);
    }
}

static _Unwind_Reason_Code count(struct _Unwind_Context *context, void *frames) {
    (void)context;
    return ++*(int *)frames < 1000 ? _URC_NO_REASON : _URC_NORMAL_STOP;
}

// Two handlers, a value, and a value of a pthread key. The system's unwinder finds its way on the
// armed stack, and comes to an end.
static void arm(void) {
    MUST(pthread_setspecific(thread_key, "key") == 0);
    accepted(exeunt_at_exit(handler, "first handler"));
    accepted(exeunt_set(&value_key, "value", value_gone));
    accepted(exeunt_at_exit(handler, "second handler"));
    int frames = 0;
    _Unwind_Backtrace(count, &frames);
    MUST(frames > 0 && frames < 1000);
}

static void *returns(void *result) {
    arm();
    return result;
}

static void *exits(void *result) {
    arm();
    pthread_exit(result);
}

static void *waits(void *reached) {
    arm();
    atomic_store((atomic_int *)reached, 1);
    for (;;)
        pause();
    return NULL;
}

static int c11_returns(void *result) {
    arm();
    return *(int *)result;
}

static int c11_exits(void *result) {
    arm();
    thrd_exit(*(int *)result);
}

static void joined(pthread_t thread) {
    void *result;
    MUST(pthread_join(thread, &result) == 0);
    say(result == PTHREAD_CANCELED ? "cancelled" : result == (void *)0x1234567890abcdef ? "joined" : "ANOTHER RESULT");
}

static pthread_t start(void *(*routine)(void *), void *argument) {
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, routine, argument) == 0);
    return thread;
}

static void c11(int (*routine)(void *)) {
    thrd_t thread;
    int value = -7, result = 0;
    MUST(thrd_create(&thread, routine, &value) == thrd_success);
    MUST(thrd_join(thread, &result) == thrd_success);
    say(result == -7 ? "joined" : "ANOTHER RESULT");
}

#ifdef __GLIBC__
static ucontext_t resumer, fiber;

static void fiber_entry(void) {
    arm();
    MUST(swapcontext(&fiber, &resumer) == 0);
    say("resumed");
}

static void *resume(void *argument) {
    MUST(swapcontext(&resumer, &fiber) == 0);
    return argument;
}

// A fiber that is armed where it begins, and ends on this thread or on another. The key is the
// thread's: its value stays there, and this is `main`'s.
static void fiber_returns(int moved) {
    static char memory[256 * 1024] __attribute__((aligned(16)));
    MUST(getcontext(&fiber) == 0);
    fiber.uc_stack.ss_sp = memory;
    fiber.uc_stack.ss_size = sizeof memory;
    fiber.uc_link = &resumer;
    makecontext(&fiber, fiber_entry, 0);
    resume(NULL);
    say("suspended");
    if (moved)
        MUST(pthread_join(start(resume, NULL), NULL) == 0);
    else
        resume(NULL);
    say("through");
}
#endif

static pthread_t main_thread;

static void *outlives_main(void *argument) {
    MUST(pthread_join(main_thread, NULL) == 0);
    say("main is gone");
    return argument;
}

__attribute__((noinline)) static void end_process(int status) { exit(status); }

static int play(const char *name) {
    void *result = (void *)0x1234567890abcdef;
    MUST(pthread_key_create(&thread_key, key_gone) == 0);
    MUST(atexit(at_process_exit) == 0);
#define CASE(of) if (strcmp(name, of) == 0)
    CASE("thread, return") joined(start(returns, result));
    CASE("thread, pthread_exit") joined(start(exits, result));
    CASE("thread, cancel") {
        atomic_int reached = 0;
        pthread_t thread = start(waits, &reached);
        while (!atomic_load(&reached))
            sched_yield();
        MUST(pthread_cancel(thread) == 0);
        joined(thread);
    }
    CASE("C11 thread, return") c11(c11_returns);
    CASE("C11 thread, thrd_exit") c11(c11_exits);
#ifdef __GLIBC__
    CASE("fiber, return") fiber_returns(0);
    CASE("fiber, return on another thread") fiber_returns(1);
#endif
    CASE("main, return") {
        arm();
        return 42;
    }
    CASE("main, exit") {
        arm();
        end_process(43);
    }
    CASE("main, pthread_exit") {
        main_thread = pthread_self();
        start(outlives_main, NULL);
        arm();
        pthread_exit(NULL);
    }
    // The same where the exit trampolines of threads are recognised already.
    CASE("main, pthread_exit after a thread") {
        joined(start(exits, result));
        main_thread = pthread_self();
        start(outlives_main, NULL);
        arm();
        pthread_exit(NULL);
    }
    return 0;
}

// The parent.

#define DRAINED "second handler\nfirst handler\nvalue\n"

static const struct {
    const char *name;
    int status;
    const char *told;
} cases[] = {
    {"thread, return", 0, DRAINED "key\njoined\natexit\n"},
    {"thread, pthread_exit", 0, DRAINED "key\njoined\natexit\n"},
    {"thread, cancel", 0, DRAINED "key\ncancelled\natexit\n"},
    {"C11 thread, return", 0, DRAINED "key\njoined\natexit\n"},
    {"C11 thread, thrd_exit", 0, DRAINED "key\njoined\natexit\n"},
#ifdef __GLIBC__
    {"fiber, return", 0, "suspended\nresumed\n" DRAINED "through\natexit\n"},
    {"fiber, return on another thread", 0, "suspended\nresumed\n" DRAINED "through\natexit\n"},
#endif
    {"main, return", 42, DRAINED "atexit\n"},
    {"main, exit", 43, DRAINED "atexit\n"},
    {"main, pthread_exit", 0, DRAINED "key\nmain is gone\natexit\n"},
    {"main, pthread_exit after a thread", 0,
     DRAINED "key\njoined\n" DRAINED "key\nmain is gone\natexit\n"},
};

// After these seconds a case hangs, and `SIGALRM` ends it.
#define PATIENCE 60

static const char *myself;

static int passes(const char *program, size_t number) {
    static char told[4096];
    size_t length = 0;
    int ends[2], status;
    MUST(pipe(ends) == 0);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        MUST(dup2(ends[1], STDOUT_FILENO) >= 0 && close(ends[0]) == 0 && close(ends[1]) == 0);
        alarm(PATIENCE);
        // An emulator does not run the program by that name.
        const char *emulator = getenv("EMULATOR");
        if (emulator)
            execl(emulator, emulator, "-cpu", "max", myself, cases[number].name, (char *)NULL);
        else
            execl(program, program, cases[number].name, (char *)NULL);
        _exit(93);
    }
    MUST(close(ends[1]) == 0);
    for (ssize_t count; length < sizeof told - 1; length += (size_t)count) {
        count = read(ends[0], told + length, sizeof told - 1 - length);
        MUST(count >= 0);
        if (count == 0)
            break;
    }
    told[length] = 0;
    MUST(close(ends[0]) == 0 && waitpid(child, &status, 0) == child);
    int right = WIFEXITED(status) && WEXITSTATUS(status) == cases[number].status;
    if (right && strcmp(told, cases[number].told) == 0)
        return 1;
    printf("FAILED: %s: it ended with %s %d instead of status %d; it printed\n%sand must print\n%s", cases[number].name,
           WIFEXITED(status) ? "status" : "signal", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status),
           cases[number].status, told, cases[number].told);
    return 0;
}

int main(int count, char **arguments) {
    if (count == 2)
        return play(arguments[1]);
    myself = arguments[0];
    size_t all = sizeof cases / sizeof *cases, passed = 0;
    for (size_t number = 0; number < all; number++)
        passed += (size_t)passes("/proc/self/exe", number);
    const char *redirect = getenv("EXEUNT_REDIRECT");
    printf(LIBC "%s, redirect %s: %zu of %zu ends passed\n", gnu_get_libc_version(),
           redirect ? redirect : "slot", passed, all);
    return passed == all ? 0 : 1;
}
