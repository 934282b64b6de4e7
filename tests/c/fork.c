// Processes that fork while their threads are armed. The child reports what it does. The parent
// waits for it, and kills one that hangs. The first argument selects the case.
#include "common.h"
#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

static pid_t first;

static const char *who(void) { return getpid() == first ? "parent" : "child"; }

static void told_here(void *name) { say("%s: %s", who(), (const char *)name); }

// Waits for a child. Kills one that takes far too long; then the case has failed.
static void await(pid_t child) {
    int status;
    for (int tick = 0; tick < 6000; tick++) {
        pid_t ended = waitpid(child, &status, WNOHANG);
        MUST(ended == 0 || ended == child);
        if (ended == child) {
            if (WIFEXITED(status))
                say("child exited with %d", WEXITSTATUS(status));
            else
                say("child was ended by signal %d", WTERMSIG(status));
            return;
        }
        usleep(10000);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    say("child hung");
}

// Other threads of the parent: armed, with handlers that must never run in the child.
enum { OTHERS = 4 };
static sem_t others_are_armed, others_may_go;
static pthread_t others[OTHERS];

static void other_handler(void *argument) {
    (void)argument;
    if (getpid() != first)
        say("child: handler of a thread that it does not have");
}

static void *other(void *argument) {
    MUST(bridge_at_exit(other_handler, NULL) == 0);
    MUST(bridge_set_dropped(1, other_handler, NULL) == 0);
    MUST(sem_post(&others_are_armed) == 0);
    while (sem_wait(&others_may_go) != 0)
        ;
    return argument;
}

static void start_others(void) {
    MUST(sem_init(&others_are_armed, 0, 0) == 0 && sem_init(&others_may_go, 0, 0) == 0);
    for (int i = 0; i < OTHERS; i++)
        MUST(pthread_create(&others[i], NULL, other, NULL) == 0);
    for (int i = 0; i < OTHERS; i++)
        while (sem_wait(&others_are_armed) != 0)
            ;
}

static void end_others(void) {
    for (int i = 0; i < OTHERS; i++)
        MUST(sem_post(&others_may_go) == 0);
    for (int i = 0; i < OTHERS; i++)
        MUST(pthread_join(others[i], NULL) == 0);
}

// In a child, new threads are armed and drained as anywhere. The memory of the parent's threads is
// used again for them.
static void *short_life(void *argument) {
    MUST(bridge_is_armed() == 0);
    MUST(bridge_get(3, 99) == 99 && bridge_swap_local(1) == 0);
    MUST(bridge_at_exit(told_here, (void *)"handler of a new thread") == 0);
    return argument;
}

static void threads_work(void) {
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, short_life, NULL) == 0);
    MUST(pthread_join(thread, NULL) == 0);
}

static void arm_and_tell(void) {
    MUST(bridge_at_exit(told_here, (void *)"handler") == 0);
    MUST(bridge_set_dropped(2, told_here, (void *)"value dropped") == 0);
    MUST(bridge_set(3, 33) == 0 && bridge_swap_local(44) == 0);
}

// The child has everything as it was, and can change it without an effect on the parent.
static void use_in_child(void) {
    MUST(bridge_is_armed() == 1);
    MUST(bridge_get(3, 0) == 33 && bridge_swap_local(45) == 44);
    MUST(bridge_set(3, 34) == 0 && bridge_get(3, 0) == 34);
    MUST(bridge_at_exit(told_here, (void *)"handler of its own") == 0);
    threads_work();
}

static void use_in_parent(void) {
    MUST(bridge_get(3, 0) == 33 && bridge_swap_local(46) == 44);
}

// The main thread forks; parent and child both return from main.
static int main_forks(int exits) {
    start_others();
    arm_and_tell();
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        use_in_child();
        if (exits)
            exit(11);
        return 11;
    }
    await(child);
    use_in_parent();
    end_others();
    return 12;
}

// A thread forks. In the child it is the only one, and the process ends when its entry function has
// returned.
static void *thread_forks(void *argument) {
    arm_and_tell();
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        use_in_child();
        if (argument == (void *)2)
            exit(14);
        if (argument)
            pthread_exit(NULL);
        return NULL;
    }
    await(child);
    use_in_parent();
    return NULL;
}

static void a_thread_forks(void *argument) {
    pthread_t thread;
    start_others();
    MUST(pthread_create(&thread, NULL, thread_forks, argument) == 0);
    MUST(pthread_join(thread, NULL) == 0);
    end_others();
}

// A handler forks, in the middle of a drain: both processes continue the drain.
static void forking_handler(void *argument) {
    (void)argument;
    pid_t child = fork();
    MUST(child >= 0);
    if (child != 0)
        await(child);
    else
        told_here("in the handler");
}

static void *handler_forks(void *argument) {
    arm_and_tell();
    MUST(bridge_at_exit(forking_handler, NULL) == 0);
    return argument;
}

// A thread is in the library for the very first time in this process, and recognises exit
// trampolines, when another forks.
static atomic_int go;

static void *first_use(void *argument) {
    while (!go)
        ;
    MUST(bridge_at_exit(other_handler, NULL) == 0);
    return argument;
}

static int forks_during_recognition(long delay) {
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, first_use, NULL) == 0);
    go = 1;
    for (volatile long pause = 0; pause < delay; pause = pause + 1)
        ;
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        threads_work();
        MUST(bridge_at_exit(told_here, (void *)"handler of main") == 0);
        return 13;
    }
    await(child);
    MUST(pthread_join(thread, NULL) == 0);
    return 0;
}

int main(int count, char **arguments) {
    MUST(count >= 2);
    first = getpid();
#define CASE(name) if (strcmp(arguments[1], name) == 0)
    CASE("main forks") return main_forks(0);
    CASE("main forks and exits") return main_forks(1);
    CASE("a thread forks") a_thread_forks(NULL);
    CASE("a thread forks and exits") a_thread_forks((void *)1);
    CASE("a thread forks and ends the child") a_thread_forks((void *)2);
    CASE("a handler forks") {
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, handler_forks, NULL) == 0);
        MUST(pthread_join(thread, NULL) == 0);
    }
    CASE("first use") {
        MUST(count == 3);
        return forks_during_recognition(atol(arguments[2]));
    }
    return 0;
}
