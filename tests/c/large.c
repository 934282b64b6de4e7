// Thread-locals that are larger than a small stack: glibc puts them onto each thread's stack.
#include "common.h"

static __thread volatile char large[400 * 1024];

static void told(void *name) { say("handler of %s", (const char *)name); }

static void *begins(void *name) {
    large[sizeof large - 1] = 1;
    MUST(bridge_at_exit(told, name) == 0);
    return NULL;
}

int main(void) {
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, begins, (void *)"a thread") == 0 && pthread_join(thread, NULL) == 0);
    return 0;
}
