// The ends of threads and of main, as a function is told that is called at each of them. The first
// argument selects the case. The second one says where the function is registered: on the main
// thread, or on another one, so that no stack of the other kinds was ever armed.
#define _GNU_SOURCE
#include "common.h"
#include <link.h>
#include <threads.h>

static int has(const ElfW(Phdr) *header, uintptr_t start, uintptr_t address) {
    return header->p_type == PT_LOAD && (header->p_flags & PF_X) && address - start < header->p_memsz;
}

// Adds the bytes of this object's code, if it is libc's. Before 2.34 glibc's code of threads is in a
// library of its own.
static int add_code(struct dl_phdr_info *object, size_t size, void *sum) {
    (void)size;
    for (int number = 0; number < object->dlpi_phnum; number++) {
        const ElfW(Phdr) *header = &object->dlpi_phdr[number];
        uintptr_t start = object->dlpi_addr + header->p_vaddr;
        if (!has(header, start, (uintptr_t)&exit) && !has(header, start, (uintptr_t)&pthread_join))
            continue;
        uint64_t hash = *(uint64_t *)sum;
        for (size_t at = 0; at < header->p_filesz; at++)
            hash = (hash ^ ((const unsigned char *)start)[at]) * 1099511628211u;
        *(uint64_t *)sum = hash;
    }
    return 0;
}

static uint64_t code(void) {
    uint64_t sum = 14695981039346656037u;
    dl_iterate_phdr(add_code, &sum);
    return sum;
}

static _Thread_local const char *name = "main";

static void ends(int kind, const char *ending, int has_value, uintptr_t value, int armed) {
    const char *kinds[] = {"?", "thread", "main"};
    if (has_value)
        say("%s: %s %s %#lx%s", name, kinds[kind], ending, (unsigned long)value, armed ? ", armed" : "");
    else
        say("%s: %s %s%s", name, kinds[kind], ending, armed ? ", armed" : "");
}

static void *registers(void *on_thread) {
    if (on_thread)
        name = "registers";
    MUST(bridge_on_every_end(ends) == 0);
    return NULL;
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
    name = "it";
    use_key("of it");
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

static int c11_returns(void *argument) {
    returns(argument);
    return -7;
}

static void handler(void *argument) { say("handler %s", (const char *)argument); }

static void *arms(void *argument) {
    returns(argument);
    MUST(bridge_at_exit(handler, (void *)"of it") == 0);
    return argument;
}

static pthread_barrier_t barrier;

static void *is_there_already(void *argument) {
    returns(argument);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    return argument;
}

static void *joins_main(void *main) {
    name = "joins";
    MUST(pthread_join(*(pthread_t *)main, NULL) == 0);
    return NULL;
}

static void at_exit_of_process(void) { say("atexit"); }

int main(int count, char **arguments) {
    MUST(count == 3);
    const char *which = arguments[1];
    uint64_t before = code();
    pthread_t there;
    if (strcmp(which, "thread is there already") == 0) {
        MUST(pthread_barrier_init(&barrier, NULL, 2) == 0);
        MUST(pthread_create(&there, NULL, is_there_already, (void *)8) == 0);
        pthread_barrier_wait(&barrier);
    }
    if (strcmp(arguments[2], "on main") == 0)
        registers(NULL);
    else
        start(registers, "thread", 0);
    MUST(code() != before);
    MUST(atexit(at_exit_of_process) == 0);

    void *value = (void *)0x1234;
    if (strcmp(which, "thread returns") == 0) {
        MUST(start(returns, value, 0) == value);
    } else if (strcmp(which, "thread exits") == 0) {
        MUST(start(exits, value, 0) == value);
    } else if (strcmp(which, "thread is cancelled") == 0) {
        MUST(start(waits, value, 1) == PTHREAD_CANCELED);
    } else if (strcmp(which, "C11 thread returns") == 0) {
        thrd_t thread;
        int result;
        MUST(thrd_create(&thread, c11_returns, NULL) == thrd_success);
        MUST(thrd_join(thread, &result) == thrd_success && result == -7);
    } else if (strcmp(which, "thread is armed") == 0) {
        MUST(start(arms, value, 0) == value);
        MUST(bridge_restore_code_sites() == 1);
    } else if (strcmp(which, "thread is there already") == 0) {
        pthread_barrier_wait(&barrier);
        MUST(pthread_join(there, NULL) == 0);
    } else if (strcmp(which, "main returns") == 0) {
        return -42;
    } else if (strcmp(which, "main is armed") == 0) {
        MUST(bridge_at_exit(handler, (void *)"of main") == 0);
        return 3;
    } else if (strcmp(which, "main exits") == 0) {
        exit(43);
    } else if (strcmp(which, "main exits its thread") == 0) {
        pthread_exit((void *)7);
    } else if (strcmp(which, "main exits its thread first") == 0) {
        static pthread_t self;
        pthread_t joins;
        self = pthread_self();
        MUST(pthread_create(&joins, NULL, joins_main, &self) == 0);
        pthread_exit((void *)7);
    } else if (strcmp(which, "taken back") == 0) {
        MUST(bridge_on_every_end(ends) < 0); // one at a time
        MUST(bridge_restore_code_sites() == 1);
        MUST(bridge_stop_every_end() == 0);
        MUST(start(returns, value, 0) == value);
        MUST(bridge_restore_code_sites() == 0);
        MUST(code() == before);
        say("restored");
        MUST(start(returns, value, 0) == value);
        MUST(start(arms, value, 0) == value);
        MUST(code() != before);
        MUST(bridge_restore_code_sites() == 0);
        MUST(code() == before);
        MUST(bridge_on_every_end(ends) == 0);
        MUST(start(returns, value, 0) == value);
        MUST(bridge_stop_every_end() == 0);
        MUST(bridge_restore_code_sites() == 0);
    } else {
        MUST(!"a known case");
    }
    MUST(bridge_stop_every_end() == 0);
    MUST(bridge_restore_code_sites() == 0);
    MUST(code() == before);
    return 0;
}
