// The process's first use of exeunt comes while a resource is exhausted, which is available again
// later. The first argument selects the case.
#include "common.h"
#include <errno.h>
#include <sys/resource.h>
#include <threads.h>
#include <ucontext.h>

static void told(void *name) { say("handler of %s", (const char *)name); }

static void attempt(const char *name) { say("%s: %s", name, bridge_at_exit(told, (void *)name) == 0 ? "armed" : "refused"); }

static struct rlimit before;
static int limited;

static void limit(int what, rlim_t most) {
    limited = what;
    MUST(getrlimit(what, &before) == 0);
    struct rlimit now = {.rlim_cur = most, .rlim_max = before.rlim_max};
    MUST(setrlimit(what, &now) == 0);
}

static void lift(void) { MUST(setrlimit(limited, &before) == 0); }

static void *unused(void *argument) { return argument; }

// The number of processes is not limited for root.
static void become_unprivileged(void) {
    if (geteuid() == 0)
        MUST(setuid(65534) == 0);
}

static void no_more_threads(void) {
    limit(RLIMIT_NPROC, 0);
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, unused, NULL) == EAGAIN);
}

static void *twice(void *name) {
    no_more_threads();
    attempt(name);
    lift();
    attempt(name);
    return NULL;
}

static void join_one(void *(*routine)(void *), const char *name) {
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, routine, (void *)name) == 0 && pthread_join(thread, NULL) == 0);
}

static void *once(void *name) {
    attempt(name);
    return NULL;
}

static int c11_twice(void *name) {
    twice(name);
    return 0;
}

static ucontext_t back, fiber;

static void on_fiber(void) {
    attempt("fiber");
    lift();
    attempt("fiber");
}

// Runs on the fiber while `what` is limited. A thread's stack of the size that the library requests
// is cached from before.
static void *resumes(void *argument) {
    (void)argument;
    static char memory[256 * 1024];
    MUST(getcontext(&fiber) == 0);
    fiber.uc_stack.ss_sp = memory;
    fiber.uc_stack.ss_size = sizeof memory;
    fiber.uc_link = &back;
    makecontext(&fiber, on_fiber, 0);
    pthread_attr_t small;
    pthread_t thread;
    MUST(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 256 * 1024) == 0);
    MUST(pthread_create(&thread, &small, unused, NULL) == 0 && pthread_join(thread, NULL) == 0);
    limit(RLIMIT_AS, 4096);
    MUST(swapcontext(&back, &fiber) == 0);
    return NULL;
}

static void *files(void *name) {
    limit(RLIMIT_NOFILE, 3);
    attempt(name);
    lift();
    attempt(name);
    return NULL;
}

int main(int count, char **arguments) {
    MUST(count == 2);
#define CASE(name) if (strcmp(arguments[1], name) == 0)
    CASE("threads") {
        become_unprivileged();
        join_one(twice, "thread");
        join_one(once, "the next thread");
    }
    CASE("C11 threads") {
        become_unprivileged();
        join_one(once, "thread");
        thrd_t thread;
        MUST(thrd_create(&thread, c11_twice, (void *)"C11 thread") == thrd_success);
        MUST(thrd_join(thread, NULL) == thrd_success);
    }
    CASE("main without threads") {
        become_unprivileged();
        no_more_threads();
        attempt("main");
        lift();
        attempt("main");
    }
    CASE("memory") resumes(NULL);
    CASE("files") join_one(files, "thread");
    return 0;
}
