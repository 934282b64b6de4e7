// A `pthread_create` that is not libc's, as objects in LD_PRELOAD define it: each thread begins in
// a function of this object, which has a frame of its own there.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

struct work {
    void *(*routine)(void *);
    void *argument;
};

static void *begins(void *argument) {
    struct work work = *(struct work *)argument;
    free(argument);
    volatile char frame[200];
    frame[0] = 1;
    void *result = work.routine(work.argument);
    frame[1] = 2;
    return result;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*routine)(void *), void *argument) {
    static int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "pthread_create");
    struct work *work = malloc(sizeof *work);
    if (!next || !work)
        abort();
    *work = (struct work){routine, argument};
    return next(thread, attributes, begins, work);
}
