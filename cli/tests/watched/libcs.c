/* Threads that libc starts itself, and that end before the process does. It prints how many functions of
   the program's ran on them. */
#define _GNU_SOURCE
#include <aio.h>
#include <dirent.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static int calls;
static void called(union sigval word) {
    (void)word;
    __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST);
}
static void leaves(union sigval word) {
    called(word);
    pthread_exit((void *)9);
}

static int threads(void) {
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;
    if (!tasks) abort();
    for (struct dirent *task; (task = readdir(tasks));) count += task->d_name[0] != '.';
    closedir(tasks);
    return count;
}

/* Waits until there are so many calls, and no more threads than that. */
static void wait_for(int number, int most) {
    for (int tries = 0; __atomic_load_n(&calls, __ATOMIC_SEQ_CST) < number || threads() > most; tries++) {
        if (tries == 6000) abort();
        usleep(10000);
    }
}

static struct sigevent by_thread(void (*function)(union sigval)) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD};
    event.sigev_notify_function = function;
    return event;
}

/* How often a thread but this one has used the allocator. */
static pthread_t first;
static int uses;
extern void *__libc_malloc(size_t), *__libc_realloc(void *, size_t);
static void used(void) {
    if (first && !pthread_equal(first, pthread_self())) __atomic_fetch_add(&uses, 1, __ATOMIC_SEQ_CST);
}
void *malloc(size_t size) {
    used();
    return __libc_malloc(size);
}
void *realloc(void *memory, size_t size) {
    used();
    return __libc_realloc(memory, size);
}

static void *joins(void *word) { return word; }

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "";
    if (!strcmp(how, "timer")) {
        timer_t timer;
        struct sigevent event = by_thread(called), other = by_thread(leaves);
        struct itimerspec soon = {.it_value = {.tv_nsec = 1000000}};
        if (timer_create(CLOCK_MONOTONIC, &event, &timer)) abort();
        for (int number = 1; number <= 3; number++) {
            if (timer_settime(timer, 0, &soon, NULL)) abort();
            wait_for(number, 2);
        }
        if (timer_create(CLOCK_MONOTONIC, &other, &timer) || timer_settime(timer, 0, &soon, NULL)) abort();
        wait_for(4, 2);
    } else if (!strcmp(how, "aio")) {
        /* The threads that read and write end after a second without work. */
        char bytes[16];
        struct aiocb read = {.aio_fildes = open("/proc/self/exe", O_RDONLY)};
        read.aio_buf = bytes;
        read.aio_nbytes = sizeof bytes;
        read.aio_sigevent = by_thread(called);
        if (aio_read(&read)) abort();
        wait_for(1, 1);
        if (aio_return(&read) != sizeof bytes) abort();
    } else if (!strcmp(how, "allocator")) {
        /* A thread with 24 KiB of stack, which the allocator might need. */
        char bytes[16];
        struct aiocb read = {.aio_fildes = open("/proc/self/exe", O_RDONLY)};
        read.aio_buf = bytes;
        read.aio_nbytes = sizeof bytes;
        read.aio_sigevent.sigev_notify = SIGEV_NONE;
        first = pthread_self();
        if (aio_read(&read)) abort();
        wait_for(0, 1);
        if (aio_return(&read) != sizeof bytes) abort();
        printf("%d\n", uses);
    } else if (!strcmp(how, "names")) {
        struct gaicb name = {.ar_name = "127.0.0.1"}, *list[] = {&name};
        struct sigevent event = by_thread(called);
        if (getaddrinfo_a(GAI_NOWAIT, list, 1, &event)) abort();
        wait_for(1, 1);
        if (gai_error(&name)) abort();
        freeaddrinfo(name.ar_result);
    } else if (!strcmp(how, "queue")) {
        char path[32];
        snprintf(path, sizeof path, "/exeunt-%d", (int)getpid());
        mqd_t queue = mq_open(path, O_CREAT | O_EXCL | O_RDWR, 0600, NULL);
        if (queue == (mqd_t)-1) return 77;
        mq_unlink(path);
        struct sigevent event = by_thread(called);
        if (mq_notify(queue, &event) || mq_send(queue, "x", 1, 0)) abort();
        wait_for(1, 2);
    } else if (!strcmp(how, "late")) {
        /* The process ends while libc's threads begin and end. */
        timer_t timer;
        struct sigevent event = by_thread(called);
        struct itimerspec often = {.it_value = {.tv_nsec = 200000}, .it_interval = {.tv_nsec = 200000}};
        if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &often, NULL)) abort();
        usleep(30000);
    } else if (!strcmp(how, "full")) {
        /* More fibers than there are rows for them. */
        static char memory[128 << 10];
        timer_t timer;
        ucontext_t fiber;
        struct sigevent event = by_thread(called);
        struct itimerspec soon = {.it_value = {.tv_nsec = 1000000}};
        if (getcontext(&fiber)) abort();
        fiber.uc_stack.ss_sp = memory;
        fiber.uc_stack.ss_size = sizeof memory;
        fiber.uc_link = NULL;
        for (int number = 0; number < 1 << 17; number++) makecontext(&fiber, abort, 0);
        if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &soon, NULL)) abort();
        wait_for(1, 2);
    } else if (!strcmp(how, "refused")) {
        /* A row that was given back, for a thread of libc's. */
        pthread_t thread;
        pthread_attr_t huge;
        pthread_attr_init(&huge);
        pthread_attr_setstacksize(&huge, (size_t)1 << 46);
        if (!pthread_create(&thread, &huge, joins, NULL)) abort();
        struct gaicb name = {.ar_name = "127.0.0.1"}, *list[] = {&name};
        if (getaddrinfo_a(GAI_WAIT, list, 1, NULL)) abort();
        wait_for(0, 1);
    } else if (!strcmp(how, "mixed")) {
        pthread_t thread;
        struct gaicb name = {.ar_name = "127.0.0.1"}, *list[] = {&name};
        if (pthread_create(&thread, NULL, joins, NULL) || pthread_join(thread, NULL)) abort();
        if (getaddrinfo_a(GAI_WAIT, list, 1, NULL)) abort();
        wait_for(0, 1);
    }
    printf("%d\n", calls);
    return 0;
}
