// Two copies of the library in one process both arm its main thread, which then ends as the case
// requires. The arguments are the files of the copies and the case.
#define BRIDGE_BY_HAND
#include "common.h"
#include <dlfcn.h>

static void told(void *name) { say("handler of the %s", (const char *)name); }

static pthread_t main_thread;

static void *outlives_main(void *argument) {
    MUST(pthread_join(main_thread, NULL) == 0);
    say("main is gone");
    return argument;
}

static void key_gone(void *value) { say("key %s destroyed", (const char *)value); }

int main(int count, char **arguments) {
    MUST(count == 4);
    static const char *const names[] = {"first copy", "second copy"};
    for (int copy = 0; copy < 2; copy++) {
        void *library = dlopen(arguments[1 + copy], RTLD_NOW);
        MUST(library);
        int (*at_exit)(void (*)(void *), void *);
        *(void **)&at_exit = dlsym(library, "bridge_at_exit");
        MUST(at_exit);
        if (at_exit(told, (void *)names[copy]) != 0)
            say("the %s is refused", names[copy]);
    }
    if (strcmp(arguments[3], "exits its thread") == 0) {
        pthread_key_t key;
        MUST(pthread_key_create(&key, key_gone) == 0 && pthread_setspecific(key, "k") == 0);
        main_thread = pthread_self();
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, outlives_main, NULL) == 0);
        pthread_exit(NULL);
    }
    return 7;
}
