// Coroutines that a signal handler makes on an alternate signal stack, which the program then
// switches off, as QEMU and GNU Pth do. Their outermost frame is the kernel's, and names a place on
// their creator's stack as the interrupted one.
#define _GNU_SOURCE
#include "bridge.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SIZE = 256 * 1024, KEY = 1 };

static sigjmp_buf in_handler, creator, coroutine;
static volatile sig_atomic_t made;

static void say(const char *what, long number) {
    printf("%s %ld\n", what, number);
    fflush(stdout);
}

static void ran(void *argument) {
    say(argument, 0);
}

__attribute__((noinline)) static void body(void) {
    say("coroutine reads", bridge_get(KEY, 0));
    say("coroutine armed", bridge_at_exit(ran, "handler of the coroutine") == 0);
    say("coroutine set", bridge_set(KEY, 2) == 0);
}

// The handler. It returns once, so that the kernel ends the signal, and is then entered again.
__attribute__((noinline)) static void on_signal(int signal) {
    (void)signal;
    if (sigsetjmp(in_handler, 0) == 0) {
        made = 1;
        return;
    }
    if (sigsetjmp(coroutine, 0) == 0)
        siglongjmp(creator, 1);
    body();
    siglongjmp(creator, 2);
}

static void make(void *memory) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    stack_t on = {.ss_sp = memory, .ss_size = SIZE}, off = {.ss_flags = SS_DISABLE};
    sigaction(SIGUSR2, &action, NULL);
    sigaltstack(&on, NULL);
    raise(SIGUSR2);
    if (!made)
        abort();
    sigaltstack(&off, NULL);
    if (sigsetjmp(creator, 0) == 0)
        siglongjmp(in_handler, 1);
}

static int arms_first;

static void *life(void *memory) {
    make(memory);
    if (arms_first)
        say("creator armed", bridge_set(KEY, 1) == 0 && bridge_at_exit(ran, "handler of the creator") == 0);
    if (sigsetjmp(creator, 0) == 0)
        siglongjmp(coroutine, 1);
    say("creator reads", bridge_get(KEY, 0));
    return NULL;
}

// A handler on its thread's own stack reads the thread's values, however deep it is. One on an
// alternate stack that is in use has no values.
static volatile long seen;

static void reads(int signal) {
    (void)signal;
    volatile char deep[2048];
    memset((void *)deep, 1, sizeof deep);
    seen = bridge_get(KEY, 0);
}

static void *interrupted(void *memory) {
    struct sigaction action = {.sa_handler = reads, .sa_flags = arms_first ? SA_ONSTACK : 0};
    stack_t on = {.ss_sp = memory, .ss_size = SIZE};
    sigaction(SIGUSR1, &action, NULL);
    sigaltstack(&on, NULL);
    say("armed", bridge_set(KEY, 3) == 0);
    raise(SIGUSR1);
    say("handler reads", seen);
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 3)
        return 2;
    arms_first = atoi(arguments[2]);
    void *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // One stack must be armed, or a read returns without a look-up.
    bridge_set(KEY, 9);
    pthread_t thread;
    pthread_create(&thread, NULL, strcmp(arguments[1], "coroutine") == 0 ? life : interrupted, memory);
    pthread_join(thread, NULL);
    fflush(stdout);
    return 0;
}
