#include <pthread.h>
#include <unistd.h>

static void *session(void *number) { usleep(20000); return number; }
static void *cleaner(void *nothing) { for (;;) sleep(1); return nothing; }
int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, cleaner, NULL);
    for (long number = 1;; number++) {               /* a thread for each request */
        pthread_create(&thread, NULL, session, (void *)number);
        pthread_join(thread, NULL);
        usleep(200000);
    }
}
