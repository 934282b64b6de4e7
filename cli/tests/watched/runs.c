/* Programs that run already when `exeunt watch --pid` comes. The first argument chooses one. They
 * write "ready" and go on at each line that they read. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#ifdef LIKE_GO
__attribute__((section(".go.buildinfo"), used)) static char go[16];
#endif

static void ready(void) {
    if (write(1, "ready\n", 6) != 6) exit(99);
}

/* Waits for a line, and returns whether one came. */
static int line(void) {
    char byte = 0;
    ssize_t got;
    do got = read(0, &byte, 1);
    while (got == 1 ? byte != '\n' : got < 0 && errno == EINTR);
    return got == 1;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int stage;

static void await(int wanted) {
    pthread_mutex_lock(&lock);
    while (stage < wanted) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void *returns(void *value) {
    await(1);
    return value;
}

static void *exits(void *value) {
    await(1);
    pthread_exit(value);
}

static void *waits(void *value) {
    for (;;) pause();
    return value;
}

static void *computes(void *value) {
    volatile double sum = 0;
    volatile int *on = &stage;
    while (!*on) sum = sum * 0.5 + 1;
    return sum > 1.99 ? value : NULL;
}

static void *allocates(void *value) {
    volatile int *on = &stage;
    unsigned long size = 1;
    while (!*on) {
        size = size * 5 % 4099;
        char *memory = malloc(size + 1);
        memory[size] = 1;
        free(memory);
    }
    return value;
}

static void *new_one(void *value) {
    prctl(PR_SET_NAME, "renamed");
    return value;
}

static pthread_t start(void *(*function)(void *), long value) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, (void *)value)) exit(98);
    return thread;
}

static void joined(pthread_t thread, void *expected) {
    void *value;
    if (pthread_join(thread, &value) || value != expected) exit(97);
}

/* Threads that are there, that end in each way, and that come later. */
static int ends(void) {
    pthread_t there[] = {start(returns, 1), start(exits, 2), start(waits, 3), start(computes, 4), start(allocates, 5)};
    start(waits, 6);
    ready();
    line();
    pthread_mutex_lock(&lock);
    stage = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    pthread_cancel(there[2]);
    for (long i = 0; i < 5; i++) joined(there[i], i == 2 ? PTHREAD_CANCELED : (void *)(i + 1));
    joined(start(new_one, 7), (void *)7);
    pid_t child = fork();
    if (child == 0) {
        joined(start(new_one, 8), (void *)8);
        _exit(5);
    }
    int status;
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 5) exit(96);
    ready();
    line();
    return 7;
}

/* Many threads that end at once. */
static int churn(void) {
    ready();
    while (line()) {
        for (int round = 0; round < 125; round++) {
            pthread_t threads[8];
            for (long i = 0; i < 8; i++) threads[i] = start(new_one, i);
            for (long i = 0; i < 8; i++) joined(threads[i], (void *)i);
        }
        ready();
    }
    return 0;
}

/* Threads that end while no descriptor is free. */
static int full(void) {
    pthread_t there = start(returns, 1);
    ready();
    line();
    struct rlimit few = {0, 0};
    if (getrlimit(RLIMIT_NOFILE, &few)) return 85;
    few.rlim_cur = 0;
    if (setrlimit(RLIMIT_NOFILE, &few) || open("/dev/null", O_RDONLY) >= 0) return 84;
    pthread_mutex_lock(&lock);
    stage = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    joined(there, (void *)1);
    joined(start(new_one, 7), (void *)7);
    few.rlim_cur = few.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &few)) return 83;
    ready();
    line();
    return 7;
}

static void *outlives(void *main_thread) {
    joined((pthread_t)main_thread, (void *)1);
    ready();
    line();
    return NULL;
}

/* The main thread ends, and another one goes on. The process ends with it, with status 0. */
static int leaves(void) {
    start(outlives, (long)pthread_self());
    ready();
    line();
    pthread_exit((void *)1);
}

/* The main thread calls exit, or has a function of libc's call it. */
static int calls_exit(int by_libc) {
    ready();
    line();
    if (by_libc) errx(3, "it ends");
    exit(3);
}

/* Sleeps in steps of 100 ms for ever, and computes: the values and the times must be right. */
static void *sleeps(void *value) {
    volatile int *on = &stage;
    while (!*on) {
        double before = now();
        struct timespec time = {0, 100000000};
        while (nanosleep(&time, &time) && errno == EINTR);
        if (now() - before < 0.0999) exit(95);
    }
    return value;
}

static int steady(void) {
    pthread_t there[] = {start(sleeps, 1), start(returns, 2), start(computes, 3), start(allocates, 4)};
    ready();
    while (line()) {
        joined(start(new_one, 9), (void *)9);
        /* Each thread must answer, also one of exeunt's. A thread that does not is the end. */
        alarm(60);
        if (setuid(getuid())) exit(89);
        alarm(0);
        ready();
    }
    pthread_mutex_lock(&lock);
    stage = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    for (long i = 0; i < 4; i++) joined(there[i], (void *)(i + 1));
    return 7;
}

static ucontext_t outside;
static char *below;
enum { BELOW = 64 << 10 };

static void reads(void) {
    ready();
    line();
}

/* The main thread waits on a fiber whose stack has other data below it, in the same mapping. */
static int on_fiber(int with_another) {
    ucontext_t fiber;
    /* Two blocks of the heap, each below the size from which libc maps it apart. */
    below = malloc(BELOW);
    char *stack = malloc(16 << 10);
    if (!below || !stack || getcontext(&fiber)) return 88;
    memset(below, 'x', BELOW);
    fiber.uc_stack = (stack_t){.ss_sp = stack, .ss_size = 16 << 10};
    fiber.uc_link = &outside;
    makecontext(&fiber, reads, 0);
    if (with_another) start(waits, 1);
    if (swapcontext(&outside, &fiber)) return 87;
    for (int at = 0; at < BELOW; at++)
        if (below[at] != 'x') return 86;
    return 7;
}

/* One blocking call of 3 s, by the only thread. Returns 0 if it does what it does alone. */
static const char *names[] = {"read", "poll", "ppoll", "select", "pselect", "nanosleep", "clock_nanosleep", "sem",
                              "cond", "waitpid", "msgrcv", "join", "epoll_wait", "sigtimedwait", "semtimedop", "recv"};
enum { CALLS = sizeof names / sizeof *names };

static void *later(void *pipe) {
    usleep(3000000);
    if (pipe && write((int)(long)pipe, "x", 1) != 1) exit(94);
    return pipe;
}

static int one_call(const char *name) {
    int call = 0;
    while (call < CALLS && strcmp(name, names[call])) call++;
    int both[2], sockets[2], status;
    if (pipe(both) || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets)) return 93;
    struct timespec time = {3, 0}, until, clock;
    clock_gettime(CLOCK_REALTIME, &until);
    clock_gettime(CLOCK_MONOTONIC, &clock);
    until.tv_sec += 3;
    clock.tv_sec += 3;
    struct timeval limit = {3, 0};
    struct pollfd one = {both[0], POLLIN, 0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(both[0], &set);
    sem_t semaphore;
    sem_init(&semaphore, 0, 0);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    int queue = msgget(IPC_PRIVATE, 0600), semaphores = semget(IPC_PRIVATE, 1, 0600), events = epoll_create1(0);
    struct {
        long type;
        char text[8];
    } message = {1, ""};
    struct sembuf down = {0, -1, 0};
    struct epoll_event event;
    char byte;
    pid_t child = -1;
    pthread_t helper = 0;
    if (call == 0 || call == 9 || call == 10) {
        /* Not a thread, so that the call's is the only one. */
        child = fork();
        if (child == 0) {
            usleep(3000000);
            if (call == 0 && write(both[1], "x", 1) != 1) _exit(1);
            if (call == 10 && msgsnd(queue, &message, 1, 0)) _exit(1);
            _exit(42);
        }
    }
    if (call == 11) helper = start(later, 0);
    ready();
    double before = now();
    int fine = 0;
    switch (call) {
    case 0: fine = read(both[0], &byte, 1) == 1; break;
    case 1: fine = poll(&one, 1, 3000) == 0; break;
    case 2: fine = ppoll(&one, 1, &time, NULL) == 0; break;
    case 3: fine = select(both[0] + 1, &set, NULL, NULL, &limit) == 0; break;
    case 4: fine = pselect(both[0] + 1, &set, NULL, NULL, &time, NULL) == 0; break;
    case 5: fine = nanosleep(&time, NULL) == 0; break;
    case 6: fine = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &clock, NULL) == 0; break;
    case 7: fine = sem_timedwait(&semaphore, &until) && errno == ETIMEDOUT; break;
    case 8:
        pthread_mutex_lock(&lock);
        fine = pthread_cond_timedwait(&changed, &lock, &until) == ETIMEDOUT;
        break;
    case 9: fine = waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 42; break;
    case 10: fine = msgrcv(queue, &message, 8, 0, 0) == 1; break;
    case 11: fine = pthread_join(helper, NULL) == 0; break;
    case 12: fine = epoll_wait(events, &event, 1, 3000) == 0; break;
    case 13: fine = sigtimedwait(&signals, NULL, &time) && errno == EAGAIN; break;
    case 14: fine = semtimedop(semaphores, &down, 1, &time) && errno == EAGAIN; break;
    case 15:
        setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        before = now();
        fine = recv(sockets[0], &byte, 1, 0) < 0 && errno == EAGAIN;
        break;
    }
    int error = errno;
    double took = now() - before;
    msgctl(queue, IPC_RMID, NULL);
    semctl(semaphores, 0, IPC_RMID);
    printf("%s: %s after %.3f s (%s)\n", name, fine ? "fine" : "failed", took, strerror(error));
    /* It may be a slow machine. */
    return fine && took > 2.9 && took < 60 ? 0 : 1;
}

/* A filter that allows all. */
static int filtered(void) {
    struct sock_filter all[] = {{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
    struct sock_fprog program = {1, all};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) return 92;
    ready();
    line();
    return 7;
}

static int apart(void) {
    if (unshare(CLONE_NEWUSER)) return 91;
    ready();
    line();
    return 7;
}

/* Becomes another program, with the same number. */
static int executes(void) {
    start(waits, 1);
    ready();
    line();
    execl("/proc/self/exe", "runs", "filtered", (char *)NULL);
    return 90;
}

int main(int count, char **words) {
    const char *how = count > 1 ? words[1] : "";
    if (!strcmp(how, "ends")) return ends();
    if (!strcmp(how, "churn")) return churn();
    if (!strcmp(how, "steady")) return steady();
    if (!strcmp(how, "filtered")) return filtered();
    if (!strcmp(how, "executes")) return executes();
    if (!strcmp(how, "full")) return full();
    if (!strcmp(how, "leaves")) return leaves();
    if (!strcmp(how, "calls_exit")) return calls_exit(0);
    if (!strcmp(how, "calls_errx")) return calls_exit(1);
    if (!strcmp(how, "apart")) return apart();
    if (!strcmp(how, "on_fiber")) return on_fiber(0);
    if (!strcmp(how, "on_fiber_and_thread")) return on_fiber(1);
    if (!strcmp(how, "computes")) {
        ready();
        computes(NULL);
    }
    return one_call(how);
}
