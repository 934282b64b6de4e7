// Code that runs before a stack's function has begun, and after it has ended. Each line names the
// place, and the result of an attempt to arm the stack.
#include "bridge.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const names[] = {"armed", "has ended", "too early", "refused"};

static void handler(void *argument) {
    if (write(1, "handler\n", 8) != 8)
        _exit(99);
    (void)argument;
}

// By `write`, because a stream may not be open yet, or be closed already.
static void attempt(const char *where) {
    char line[128];
    int result = bridge_attempt(handler);
    int length = snprintf(line, sizeof line, "%s: %s\n", where, names[result]);
    if (write(1, line, (size_t)length) != length)
        _exit(99);
}

static int is(const char *name) {
    const char *wanted = getenv("CASE");
    return wanted && strcmp(wanted, name) == 0;
}

// libc has not stored the environment yet.
static void before_initialisers(int count, char **arguments, char **environment) {
    (void)count, (void)arguments;
    for (; *environment; environment++)
        if (!strcmp(*environment, "CASE=early"))
            attempt("preinit");
}
__attribute__((section(".preinit_array"), used)) static void (*preinit)(int, char **, char **) = before_initialisers;

__attribute__((constructor)) static void before_main(void) {
    if (!strncmp(getenv("CASE"), "early", 5))
        attempt("constructor");
}

// Another thread than main's ends the process, so `exit` runs these on that thread's stack.
static int left_by_other;

__attribute__((destructor)) static void after_main(void) {
    if (!left_by_other && !strncmp(getenv("CASE"), "main", 4))
        attempt("destructor");
}

static void at_exit_of_process(void) {
    if (!left_by_other)
        attempt("atexit");
}

static pthread_key_t key;

static void key_destructor(void *value) {
    (void)value;
    attempt("key destructor");
}

static void *on_a_thread(void *argument) {
    pthread_setspecific(key, &key);
    if (strstr(getenv("CASE"), "armed "))
        bridge_at_exit(handler, NULL);
    if (strstr(getenv("CASE"), "exits"))
        pthread_exit(argument);
    return argument;
}

static void *waits_for_main(void *main_thread) {
    pthread_join(*(pthread_t *)main_thread, NULL);
    left_by_other = 1;
    exit(0);
}

int main(void) {
    pthread_key_create(&key, key_destructor);
    if (!strncmp(getenv("CASE"), "early", 5))
        attempt("main");
    else if (!strncmp(getenv("CASE"), "thread", 6)) {
        pthread_t thread;
        pthread_create(&thread, NULL, on_a_thread, NULL);
        pthread_join(thread, NULL);
    } else if (is("main, only a destructor arms"))
        exit(0);
    else {
        atexit(at_exit_of_process);
        if (strstr(getenv("CASE"), "armed "))
            bridge_at_exit(handler, NULL);
        if (strstr(getenv("CASE"), "calls exit"))
            exit(0);
        if (strstr(getenv("CASE"), "pthread_exit")) {
            static pthread_t self, other;
            self = pthread_self();
            pthread_setspecific(key, &key);
            pthread_create(&other, NULL, waits_for_main, &self);
            pthread_exit(NULL);
        }
    }
    return 0;
}
