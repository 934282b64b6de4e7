// A thread that walks to its foot while another one is the first in the process to recognise exit
// trampolines.
//
// The first thread's walk is held up at a look-up of an unwind table, at look-up number COUNT:
// `first COUNT`. Meanwhile the other thread is armed and runs to its end. The walk may already have
// passed the exit trampoline, which was not recognised then.
#define _GNU_SOURCE // RTLD_NEXT
#include "common.h"
#include <dlfcn.h>
#include <link.h>
#include <semaphore.h>

static sem_t held_up, go_on;
static _Thread_local int left; // look-ups of this thread until it is held up

// The library's look-ups of an object by its code come here, one for each frame. libgcc's do as
// well, on threads that are not held up.
#if __GLIBC_PREREQ(2, 35)
#define LOOK_UP _dl_find_object
#define PARAMETERS void *pc, struct dl_find_object *found
#define ARGUMENTS pc, found
#else
#define LOOK_UP dl_iterate_phdr
#define PARAMETERS int (*each)(struct dl_phdr_info *, size_t, void *), void *with
#define ARGUMENTS each, with
#endif
#define TEXT(name) #name
#define NAME(name) TEXT(name)

int LOOK_UP(PARAMETERS) {
    static int (*real)(PARAMETERS);
    if (!real)
        real = (int (*)(PARAMETERS))dlsym(RTLD_NEXT, NAME(LOOK_UP));
    MUST(real);
    if (left && !--left) {
        MUST(sem_post(&held_up) == 0);
        MUST(sem_wait(&go_on) == 0);
    }
    return real(ARGUMENTS);
}

static void nothing(void *argument) { (void)argument; }

static void *slow(void *count) {
    left = *(int *)count;
    int refused = bridge_at_exit(nothing, NULL);
    if (left) // it needed fewer
        MUST(sem_post(&held_up) == 0);
    return refused ? "refused" : left ? "not held up" : "armed";
}

static void *quick(void *argument) {
    (void)argument;
    return bridge_at_exit(nothing, NULL) ? "refused" : "armed";
}

int main(int count, char **arguments) {
    MUST(count == 2);
    int number = atoi(arguments[1]);
    MUST(sem_init(&held_up, 0, 0) == 0 && sem_init(&go_on, 0, 0) == 0);
    pthread_t threads[2];
    void *told[2];
    MUST(pthread_create(&threads[0], NULL, slow, &number) == 0);
    MUST(sem_wait(&held_up) == 0);
    MUST(pthread_create(&threads[1], NULL, quick, NULL) == 0);
    MUST(pthread_join(threads[1], &told[1]) == 0);
    MUST(sem_post(&go_on) == 0);
    MUST(pthread_join(threads[0], &told[0]) == 0);
    say("%s, meanwhile %s", (char *)told[0], (char *)told[1]);
}
