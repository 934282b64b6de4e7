/* The shortest program: main and a thread say when they leave. release/check uses it too. */
#include <exeunt.h>
#include <pthread.h>
#include <stdio.h>

static void leave(void *name) { printf("%s leaves\n", (char *)name); }

static void *work(void *name) {
    int code = exeunt_at_exit(leave, name);
    if (code != 0) fprintf(stderr, "%s: %s\n", (char *)name, exeunt_strerror(code));
    return NULL;
}

int main(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, "a thread") != 0 || pthread_join(thread, NULL) != 0) return 1;
    work("main");
    return 0;
}
