/* Threads that end in each way, and a process that ends in the way that the first argument names. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

#ifdef LIKE_GO
/* By this section Go's programs are recognised. */
__attribute__((used, section(".note.go.buildid"))) static const char note[] = "Go";
#endif

void *returns(void *word) {
    prctl(PR_SET_NAME, "renamed");
    return word;
}
void *exits(void *word) { pthread_exit(word); }
void *waits(void *ready) {
    if (write(*(int *)ready, "", 1) != 1) abort();
    for (;;) pause();
}
void *waits_for_nothing(void *word) {
    pause();
    return word;
}
void *goes_deep(void *word) {
    volatile char bytes[1 << 20];
    for (size_t at = 0; at < sizeof bytes; at += 512) bytes[at] = 1;
    return word;
}
__attribute__((noinline)) void touches_below(void) {
    volatile char byte = 1;
    (void)byte;
}
void *leaves_a_gap(void *word) {
    /* A frame of which nothing is touched but its ends. */
    volatile char *bytes = __builtin_alloca(2 << 20);
    bytes[0] = 1;
    touches_below();
    return word;
}
int is_c11(void *word) { return *(int *)word; }
void *creates(void *word) {
    pthread_t thread;
    pthread_create(&thread, NULL, returns, word);
    pthread_join(thread, NULL);
    return NULL;
}
void *calls_exit(void *word) {
    (void)word;
    exit(5);
}
void *joins(void *word) {
    pthread_join(*(pthread_t *)word, NULL);
    printf("main has ended\n");
    return NULL;
}

static void run(void *(*routine)(void *), void *word) {
    pthread_t thread;
    void *result;
    if (pthread_create(&thread, NULL, routine, word) || pthread_join(thread, &result)) abort();
    printf("%ld\n", (long)result);
}

/* Starts a thread that waits, and returns when it does. */
static pthread_t waiting(void) {
    static int ends[2];
    pthread_t thread;
    char byte;
    if (pipe(ends) || pthread_create(&thread, NULL, waits, &ends[1]) || read(ends[0], &byte, 1) != 1) abort();
    return thread;
}

void *computes(void *word) {
    volatile unsigned long sum = 0;
    for (unsigned long each = 0; each < 200000000; each++) sum += each;
    return word;
}

void *prints_errno(void *word) {
    printf("thread %d\n", errno);
    return word;
}

void *needs_some(void *word) {
    volatile char bytes[7000];
    for (size_t at = 0; at < sizeof bytes; at += 512) bytes[at] = 1;
    return word;
}
void *needs_some_and_exits(void *word) { pthread_exit(needs_some(word)); }
void *ends_all(void *word) {
    needs_some(word);
    _exit(6);
}

static int number;
void *notes_its_number(void *word) {
    number = (int)syscall(SYS_gettid);
    return word;
}
void *exits_if_it_has_the_number(void *word) {
    if ((int)syscall(SYS_gettid) != number) return word;
    computes(NULL);
    exit(5);
}

static void expires(union sigval ready) { waits(ready.sival_ptr); }

static void handled(int signal) {
    (void)signal;
    _exit(9);
}

int main(int argc, char **argv) {
    int at_the_beginning = errno;
    const char *how = argc > 1 ? argv[1] : "return";
    if (!strcmp(how, "signal")) {
        signal(SIGTERM, handled);
        printf("ready\n");
        fflush(stdout);
        for (;;) pause();
    }
    if (!strcmp(how, "one")) {
        char byte;
        pthread_t thread;
        if (pthread_create(&thread, NULL, returns, NULL) || pthread_join(thread, NULL)) abort();
        return read(0, &byte, 1) != 0;
    }
    if (!strcmp(how, "timer")) {
        /* libc starts a thread of its own for this, and that one starts a thread for each expiration. When
           the second waits, both have begun. */
        int ends[2];
        char byte;
        if (pipe(ends)) abort();
        struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = expires};
        event.sigev_value.sival_ptr = &ends[1];
        struct itimerspec soon = {.it_value = {.tv_nsec = 1}};
        struct pollfd waited = {.fd = ends[0], .events = POLLIN};
        timer_t timer;
        if (timer_create(CLOCK_MONOTONIC, &event, &timer)) abort();
        /* Before 2.34 glibc loses an expiration that comes before its own thread waits for it. */
        for (int tries = 0; tries < 60; tries++) {
            if (timer_settime(timer, 0, &soon, NULL)) abort();
            if (poll(&waited, 1, 1000) == 1) return read(ends[0], &byte, 1) != 1;
        }
        abort();
    }
    if (!strcmp(how, "eight")) {
        run(returns, (void *)8);
        return 0;
    }
    if (!strcmp(how, "execute")) {
        execl("/proc/self/exe", argv[0], "eight", (char *)NULL);
        return 1;
    }
    if (!strcmp(how, "environment")) {
        for (char **entry = environ; *entry; entry++) printf("%s\n", *entry);
        return 0;
    }
    if (!strcmp(how, "many")) {
        for (int round = 0; round < 2000; round++) {
            pthread_t thread;
            if (pthread_create(&thread, NULL, returns, NULL) || pthread_join(thread, NULL)) abort();
        }
        return 0;
    }
    if (!strcmp(how, "depths")) {
        /* One after the other on the same stack. */
        for (int round = 0; round < 3; round++) {
            run(goes_deep, NULL);
            run(returns, NULL);
            run(leaves_a_gap, NULL);
            run(returns, NULL);
            run(returns, NULL);
        }
        return 0;
    }
    if (!strcmp(how, "again")) {
        /* A thread with the number of one that is over ends the process. It needs rights to choose. */
        for (int each = 0; each < 50; each++) {
            run(returns, NULL);
            run(notes_its_number, NULL);
            int file = open("/proc/sys/kernel/ns_last_pid", O_WRONLY);
            if (file < 0) return 0;
            if (dprintf(file, "%d", number - 1) < 0) return 0;
            close(file);
            run(exits_if_it_has_the_number, NULL);
        }
        return 0;
    }
    if (!strcmp(how, "bare fork")) {
        /* No handler of pthread_atfork runs. */
        if (!syscall(SYS_fork)) {
            run(returns, (void *)8);
            return 5;
        }
        int status;
        wait(&status);
        return WEXITSTATUS(status) + 1;
    }
    if (!strcmp(how, "errno")) {
        printf("main %d\n", at_the_beginning);
        run(prints_errno, NULL);
        pthread_t thread;
        errno = 77;
        if (pthread_create(&thread, NULL, returns, NULL)) abort();
        printf("success %d\n", errno);
        pthread_join(thread, NULL);
        /* More than there is. */
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 1ul << 46);
        errno = 77;
        int code = pthread_create(&thread, &attributes, returns, NULL);
        printf("failure %d %d\n", code, errno);
        return 0;
    }
    if (!strcmp(how, "small")) {
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 16 << 10);
        void *(*routines[])(void *) = {needs_some, needs_some_and_exits};
        for (int each = 0; each < 2; each++)
            if (pthread_create(&thread, &attributes, routines[each], NULL) || pthread_join(thread, NULL)) abort();
        char *memory = mmap(NULL, 32 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, 16 << 10, PROT_NONE)) abort();
        pthread_attr_setstack(&attributes, memory + (16 << 10), 16 << 10);
        for (int each = 0; each < 2; each++)
            if (pthread_create(&thread, &attributes, routines[each], NULL) || pthread_join(thread, NULL)) abort();
        /* A small stack that creates one. */
        if (pthread_create(&thread, &attributes, creates, NULL) || pthread_join(thread, NULL)) abort();
        if (pthread_create(&thread, &attributes, ends_all, NULL) || pthread_join(thread, NULL)) abort();
    }
    if (!strcmp(how, "refused")) {
        pthread_t thread;
        pthread_attr_t large;
        pthread_attr_init(&large);
        pthread_attr_setstacksize(&large, 1ul << 46);
        for (int each = 0; each < 100; each++)
            if (pthread_create(&thread, &large, returns, NULL) != EAGAIN) abort();
        run(returns, (void *)8);
        return 0;
    }
    if (!strcmp(how, "burst")) {
        /* The process ends while some of these have not begun. */
        for (int each = 0; each < 64; each++) {
            pthread_t thread;
            if (pthread_create(&thread, NULL, waits_for_nothing, NULL)) abort();
        }
        return 0;
    }
    if (!strcmp(how, "busy")) {
        pthread_t threads[3];
        for (int each = 0; each < 3; each++) pthread_create(&threads[each], NULL, computes, NULL);
        for (int each = 0; each < 3; each++) pthread_join(threads[each], NULL);
        return 0;
    }
    if (!strcmp(how, "daemon")) {
        /* What a server does: no descriptors but the standard ones, another title, and a child that goes
           on when its parent has ended. */
        for (int each = 3; each < 1000; each++) close(each);
        memset(argv[0], 'x', strlen(argv[0]));
        for (char **entry = environ; *entry; entry++) memset(*entry, 0, strlen(*entry));
        if (fork()) {
            wait(NULL);
            return 6;
        }
        run(returns, (void *)8);
        exit(0);
    }
    run(returns, (void *)42);
    run(exits, (void *)43);
    run(goes_deep, (void *)44);
    run(creates, NULL);
    pthread_t thread = waiting();
    pthread_cancel(thread);
    pthread_join(thread, NULL);
    thrd_t c11;
    int result = 7;
    thrd_create(&c11, is_c11, &result);
    thrd_join(c11, &result);
    printf("%d\n", result);
    if (!strcmp(how, "pthread_exit")) {
        static pthread_t self;
        self = pthread_self();
        pthread_create(&thread, NULL, joins, &self);
        pthread_exit(NULL);
    }
    waiting();
    fflush(stdout);
    if (!strcmp(how, "abort")) abort();
    if (!strcmp(how, "_exit")) _exit(4);
    if (!strcmp(how, "exit")) exit(8);
    if (!strcmp(how, "thread")) run(calls_exit, NULL);
    return 3;
}
