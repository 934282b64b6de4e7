#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

static sem_t watched;

static void *watchdog(void *session) { sem_post(&watched); for (;;) pause(); return session; }
static void *session(void *number) {
    pthread_t thread;                                /* nobody stops it */
    pthread_create(&thread, NULL, watchdog, number);
    sem_wait(&watched);
    return number;
}
int main(void) {
    sem_init(&watched, 0, 0);
    for (long number = 0; number < 20; number++) {
        pthread_t thread;
        pthread_create(&thread, NULL, session, (void *)number);
        pthread_join(thread, NULL);
    }
    return 0;
}
