// A handler of `fork` that arms a stack. It is registered before those of exeunt, so it runs while
// exeunt holds its lock for the fork.
#include "common.h"
#include <sys/wait.h>

static void told(void *name) { say("handler of %s", (const char *)name); }

static void *begins(void *name) {
    MUST(bridge_at_exit(told, name) == 0);
    return NULL;
}

static void before_fork(void) { say("before the fork: %s", bridge_at_exit(told, "main, from there") == 0 ? "armed" : "refused"); }

int main(void) {
    MUST(pthread_atfork(before_fork, NULL, NULL) == 0);
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, begins, (void *)"a thread") == 0 && pthread_join(thread, NULL) == 0);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0)
        _exit(begins("main, in the child") == NULL ? 5 : 6);
    int status;
    MUST(waitpid(child, &status, 0) == child);
    say("child: %d", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    begins((void *)"main");
    return 0;
}
