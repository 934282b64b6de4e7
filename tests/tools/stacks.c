// A stack for tools to inspect: `stacks KIND WHERE HOW`.
//
//   KIND    thread, main, fiber, enter; threads: eight at once
//   WHERE   unarmed; armed; handler: in a handler, when the stack ends
//   HOW     stay: works and makes system calls until it is killed, having said that it is there;
//           error: makes one mistake that memcheck reports, and ends
//           end: just ends
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

int exeunt_at_exit(void (*handler)(void *), void *argument);
int exeunt_enter(void *(*entry)(void *), void *argument, void **result);
size_t exeunt_last_error(char *buffer, size_t size);

// No call is the last act of its function, which the compiler would turn into a jump.
#define LAST __asm__ volatile("" ::: "memory")

static const char *kind, *where, *how;
static int handlers_run;
static pthread_mutex_t count = PTHREAD_MUTEX_INITIALIZER;
static volatile long work_done;

__attribute__((noinline)) static void here(void) {
    if (strcmp(how, "stay") == 0) {
        puts("here");
        fflush(stdout);
        for (;;) {
            for (int round = 0; round < 1000000; round++)
                work_done = work_done + round;
            syscall(SYS_getppid);
        }
    }
    if (strcmp(how, "error") == 0) {
        int *volatile freed = malloc(sizeof *freed);
        free(freed);
        work_done = *freed;
    }
    LAST;
}

static void handler(void *argument) {
    (void)argument;
    pthread_mutex_lock(&count);
    handlers_run++;
    pthread_mutex_unlock(&count);
    if (strcmp(where, "handler") == 0)
        here();
    LAST;
}

__attribute__((noinline)) static void middle(void) {
    if (strcmp(where, "unarmed") != 0 && exeunt_at_exit(handler, NULL) != 0) {
        // One of several threads prints this and ends the process. drd does not recognise the lock
        // of a stream.
        static int told;
        pthread_mutex_lock(&count);
        int first = told++ == 0;
        pthread_mutex_unlock(&count);
        while (!first)
            pause();
        char why[2000];
        exeunt_last_error(why, sizeof why);
        printf("not armed: %s\n", why);
        exit(3);
    }
    if (strcmp(where, "handler") != 0)
        here();
    LAST;
}

static void *entry(void *argument) {
    middle();
    LAST;
    return argument;
}

static void *enters(void *argument) {
    void *result = NULL;
    if (exeunt_enter(entry, argument, &result) != 0)
        exit(4);
    LAST;
    return result;
}

static void fiber(void) {
    middle();
    LAST;
}

static ucontext_t back, context;

static void says_how_many(void) { printf("%d handlers\n", handlers_run); }

int main(int number, char **arguments) {
    if (number != 4)
        return 64;
    kind = arguments[1], where = arguments[2], how = arguments[3];
    atexit(says_how_many);
    if (strcmp(kind, "main") == 0) {
        middle();
        LAST;
    } else if (strcmp(kind, "fiber") == 0) {
        const size_t size = 256 * 1024;
        void *stack = malloc(size);
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = size;
        context.uc_link = &back;
        makecontext(&context, fiber, 0);
        swapcontext(&back, &context);
        free(stack);
    } else {
        pthread_t threads[8];
        int started = strcmp(kind, "threads") == 0 ? 8 : 1;
        for (int i = 0; i < started; i++)
            if (pthread_create(&threads[i], NULL, strcmp(kind, "enter") == 0 ? enters : entry, NULL) != 0)
                return 5;
        for (int i = 0; i < started; i++)
            pthread_join(threads[i], NULL);
    }
    return 0;
}
