// Shared by the test programs: they report what happened to the test, line by line, on standard
// output.
#ifndef EXEUNT_COMMON_H
#define EXEUNT_COMMON_H
#include <unwind.h>
#include "bridge.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// Writes a line at once. It uses `syscall`, because `write` is a cancellation point, and the
// programs choose theirs.
__attribute__((format(printf, 1, 2), unused)) static void say(const char *format, ...) {
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    line[length++] = '\n';
    if (syscall(SYS_write, 1, line, (size_t)length) != length)
        _exit(90);
}

// A condition without which the program is not worth running. `_exit`, so that no stack of it ends
// in a way that counts.
#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            _exit(91);                                                                                                 \
        }                                                                                                              \
    } while (0)

#ifndef BRIDGE_BY_HAND // a program that loads the bridge cannot call it by name

// Where the test asks for it, threads have been armed and have ended before `main`: then exeunt has
// recognised them, and a cached record exists for the next one.
__attribute__((unused)) static void at_earlier_end(void *argument) { (void)argument; }

__attribute__((unused)) static void *earlier_life(void *argument) {
    MUST(bridge_at_exit(at_earlier_end, NULL) == 0);
    return argument;
}

__attribute__((constructor, unused)) static void earlier_lives(void) {
    for (int life = 0; getenv("EARLIER_STACKS") && life < 2; life++) {
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, earlier_life, NULL) == 0);
        MUST(pthread_join(thread, NULL) == 0);
    }
}

// The functions of the two outermost frames of this stack, which identify a complete walk. They are
// taken before the stack is armed. They are functions and not addresses, because a thread that ends
// without a return drains at another place of the exit trampoline than one that returns.
struct outermost {
    void *outer[2];
};

#ifdef __GLIBC__
__attribute__((unused, noinline)) static struct outermost outermost_here(void) {
    uintptr_t addresses[128];
    size_t count = bridge_walk(addresses, 128);
    MUST(count >= 3 && count < 128);
    struct outermost outermost = {{
        _Unwind_FindEnclosingFunction((void *)(addresses[count - 2] - 1)),
        _Unwind_FindEnclosingFunction((void *)(addresses[count - 1] - 1)),
    }};
    MUST(outermost.outer[0]);
    return outermost;
}

__attribute__((unused, noinline)) static const char *walk_from_here(const struct outermost *outermost) {
    struct outermost now = outermost_here();
    return memcmp(&now, outermost, sizeof now) == 0 ? "complete" : "BROKEN";
}
#else
// musl's exit trampolines have no unwind tables, so that walks end before them. Nothing is compared.
__attribute__((unused)) static struct outermost outermost_here(void) { return (struct outermost){{0, 0}}; }
__attribute__((unused)) static const char *walk_from_here(const struct outermost *outermost) {
    return outermost ? "complete" : "BROKEN";
}
#endif

// A stack's life as most cases have it: two handlers and two values, which report their ends.
struct life {
    struct outermost outermost;
    const char *name;
};

__attribute__((unused)) static void told_handler(void *argument) {
    struct life *life = (struct life *)argument;
    say("handler of %s, walk %s, values %d %d", life->name, walk_from_here(&life->outermost), bridge_has(1), bridge_has(2));
}

__attribute__((unused)) static void told_drop(void *argument) { say("value %s dropped", (const char *)argument); }

// Arms the running stack; `life` must outlive it.
__attribute__((unused, noinline)) static void arm(struct life *life, const char *name) {
    life->name = name;
    life->outermost = outermost_here();
    MUST(bridge_at_exit(told_handler, life) == 0);
    MUST(bridge_is_armed() == 1);
    MUST(bridge_set_dropped(1, told_drop, (void *)"one") == 0);
    MUST(bridge_set_dropped(2, told_drop, (void *)"two") == 0);
    MUST(bridge_set(3, 33) == 0 && bridge_get(3, 0) == 33);
    MUST(bridge_swap_local(44) == 0 && bridge_swap_local(44) == 44);
    MUST(strcmp(walk_from_here(&life->outermost), "complete") == 0);
}

#endif

// Starts a thread with this entry function, and returns its result.
__attribute__((unused)) static void told_thread(void *(*routine)(void *), const char *name) {
    pthread_t thread;
    void *result;
    MUST(pthread_create(&thread, NULL, routine, (void *)100) == 0);
    MUST(pthread_join(thread, &result) == 0);
    say("%s gave %ld", name, (long)result);
}

// A pthread key whose destructor reports its end.
static pthread_key_t told_key;
__attribute__((unused)) static void told_key_gone(void *argument) { say("key %s destroyed", (const char *)argument); }
__attribute__((unused)) static void make_key(void) { MUST(pthread_key_create(&told_key, told_key_gone) == 0); }
__attribute__((unused)) static void use_key(const char *value) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_key);
    MUST(pthread_setspecific(told_key, value) == 0);
}

#endif
