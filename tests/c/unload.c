// Loads the library's shared object by hand, arms, unloads it, and ends. The code to which the foot
// leads must still be there. The arguments are the shared object's file and the case.
#include <dlfcn.h>
#define BRIDGE_BY_HAND
#include "common.h"

static void *library;
static int (*at_exit_there)(void (*)(void *), void *);
static int (*set_dropped_there)(uint64_t, void (*)(void *), void *);

static void load(const char *file) {
    library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fprintf(stderr, "%s\n", dlerror());
    MUST(library);
    *(void **)&at_exit_there = dlsym(library, "bridge_at_exit");
    *(void **)&set_dropped_there = dlsym(library, "bridge_set_dropped");
    MUST(at_exit_there && set_dropped_there);
}

// Closes it until it is gone, or reports that it stays.
static void close_for_good(const char *file) {
    void *again;
    int rounds = 0;
    MUST(dlclose(library) == 0);
    while ((again = dlopen(file, RTLD_NOW | RTLD_NOLOAD)) != NULL && rounds++ < 3) {
        MUST(dlclose(again) == 0);
        dlclose(again);
    }
    say("closed");
}

static void tell(void *what) { say("%s", (const char *)what); }

static void arm_there(void) {
    MUST(at_exit_there(tell, (void *)"handler") == 0);
    MUST(set_dropped_there(1, tell, (void *)"value") == 0);
}

static void *thread(void *file) {
    load(file);
    arm_there();
    close_for_good(file);
    return NULL;
}

static void *exiting_thread(void *file) {
    thread(file);
    pthread_exit(NULL);
}

// Loaded and closed by another thread, while this one is armed.
static pthread_barrier_t armed, closed;

static void *armed_meanwhile(void *argument) {
    arm_there();
    pthread_barrier_wait(&armed);
    pthread_barrier_wait(&closed);
    return argument;
}

static void run(void *(*routine)(void *), void *argument) {
    pthread_t id;
    MUST(pthread_create(&id, NULL, routine, argument) == 0);
    MUST(pthread_join(id, NULL) == 0);
    say("joined");
}

int main(int count, char **arguments) {
    MUST(count == 3);
    char *file = arguments[1];
#define CASE(name) if (strcmp(arguments[2], name) == 0)
    CASE("thread") run(thread, file);
    CASE("thread exits") run(exiting_thread, file);
    CASE("main") {
        thread(file);
        return 5;
    }
    CASE("main exits") {
        thread(file);
        exit(6);
    }
    CASE("twice") {
        run(thread, file);
        run(thread, file);
    }
    CASE("another closes") {
        pthread_t id;
        load(file);
        MUST(pthread_barrier_init(&armed, NULL, 2) == 0 && pthread_barrier_init(&closed, NULL, 2) == 0);
        MUST(pthread_create(&id, NULL, armed_meanwhile, NULL) == 0);
        pthread_barrier_wait(&armed);
        close_for_good(file);
        pthread_barrier_wait(&closed);
        MUST(pthread_join(id, NULL) == 0);
        say("joined");
    }
    CASE("unused") {
        load(file);
        MUST(dlclose(library) == 0);
        say(dlopen(file, RTLD_NOW | RTLD_NOLOAD) ? "stays" : "gone");
    }
    return 0;
}
