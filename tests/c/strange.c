// Threads on whose stacks something is strange. The first argument selects the case. The program
// reports the result of an attempt to arm the stack, with the reason on standard error.
#define _GNU_SOURCE
#include "bridge.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define MUST(done)                                                                                                     \
    do {                                                                                                               \
        if (!(done)) {                                                                                                 \
            perror(#done);                                                                                             \
            exit(99);                                                                                                  \
        }                                                                                                              \
    } while (0)

static void handler(void *argument) { (void)argument; }

__attribute__((noinline)) static void attempt(void) { printf("%d\n", bridge_attempt(handler)); }

static void attempt_and_exit(void) {
    attempt();
    exit(0);
}

static void *attempts(void *argument) {
    attempt();
    return argument;
}

// A function without an unwind table, generated at run time, that calls its argument.
static void calls_from_nowhere(void (*function)(void)) {
#ifdef __x86_64__
    // push %rbp; call *%rdi; pop %rbp; ret
    static const unsigned char code[] = {0x55, 0xff, 0xd7, 0x5d, 0xc3};
#else
    // stp x29, x30, [sp, #-16]!; blr x0; ldp x29, x30, [sp], #16; ret
    static const unsigned code[] = {0xa9bf7bfd, 0xd63f0000, 0xa8c17bfd, 0xd65f03c0};
#endif
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(page != MAP_FAILED);
    memcpy(page, code, sizeof code);
    __builtin___clear_cache((char *)page, (char *)page + sizeof code);
    MUST(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
    ((void (*)(void (*)(void)))page)(function);
}

static void *attempts_from_nowhere(void *argument) {
    calls_from_nowhere(attempt);
    return argument;
}

// Attempts on a stack of its own, whose function would return to `foot`, as fiber libraries make
// them that never return from it.
static void attempts_above(unsigned long foot) {
    static char stack[256 << 10] __attribute__((aligned(16)));
    unsigned long *base = (unsigned long *)(stack + sizeof stack) - 8;
    base[-1] = foot;
#ifdef __x86_64__
    __asm__ volatile("mov %0, %%rsp\n\txor %%ebp, %%ebp\n\tjmp *%1" ::"r"(base - 1), "r"(attempt_and_exit) : "memory");
#else
    __asm__ volatile("mov sp, %0\n\tmov x29, xzr\n\tmov x30, %1\n\tbr %2" ::"r"(base), "r"(foot), "r"(attempt_and_exit)
                     : "memory");
#endif
    __builtin_unreachable();
}

static void start(int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *),
                  int (*join)(pthread_t, void **), void *(*routine)(void *)) {
    pthread_t thread;
    MUST(create(&thread, NULL, routine, NULL) == 0);
    MUST(join(thread, NULL) == 0);
}

int main(int count, char **arguments) {
    MUST(count == 2 || count == 3);
    if (count == 3)
        attempts_above(strtoul(arguments[2], NULL, 16));
    else if (!strcmp(arguments[1], "plain"))
        start(pthread_create, pthread_join, attempts);
    else if (!strcmp(arguments[1], "nowhere"))
        start(pthread_create, pthread_join, attempts_from_nowhere);
    else if (!strcmp(arguments[1], "no files")) {
        struct rlimit limit, none;
        MUST(getrlimit(RLIMIT_NOFILE, &limit) == 0);
        none = limit;
        none.rlim_cur = 0;
        MUST(setrlimit(RLIMIT_NOFILE, &none) == 0);
        start(pthread_create, pthread_join, attempts);
        MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        start(pthread_create, pthread_join, attempts);
    } else if (!strcmp(arguments[1], "other libc")) {
        void *other = dlmopen(LM_ID_NEWLM, "libc.so.6", RTLD_NOW);
        MUST(other);
        void *create = dlsym(other, "pthread_create"), *join = dlsym(other, "pthread_join");
        if (!create) {
            puts("no threads in libc itself");
            return 0;
        }
        start((int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))create,
              (int (*)(pthread_t, void **))join, attempts);
    }
    return 0;
}
