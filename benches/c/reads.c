/* `exeunt_get` beside `pthread_getspecific`, in a loop on a thread. Batches of both run in turns; of
   each, the best twentieth counts, as other work on the machine only adds time. The clock is the
   thread's processor time. */
#define _GNU_SOURCE
#include <exeunt.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { READS = 10000, BATCHES = 1000, READERS = 3 };

static const char key;
static uint32_t slot;
static pthread_key_t pthread_key;
static long value = 1;

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

/* The compiler must assume that this changes memory, so it repeats each read. */
#define ROUND(NAME, READ)                                                                                              \
    static long NAME(void) {                                                                                           \
        long sum = 0;                                                                                                  \
        for (int count = 0; count < READS; count++) {                                                                  \
            sum += *(long *)(READ);                                                                                    \
            __asm__ volatile("" : "+r"(sum) : : "memory");                                                             \
        }                                                                                                              \
        return sum;                                                                                                    \
    }

static inline void *slot_get(void) {
    void *found = NULL;
    exeunt_slot_get(slot, &found);
    return found;
}

ROUND(read_pthread, pthread_getspecific(pthread_key))
ROUND(read_keyed, exeunt_get(&key))
ROUND(read_slot, slot_get())

static const struct {
    const char *name, *bar;
    long (*round)(void);
} readers[READERS] = {
    {"`pthread_getspecific`", "", read_pthread}, {"C `exeunt_get`", "3", read_keyed}, {"C `exeunt_slot_get`", "", read_slot}};

static int order(const void *a, const void *b) {
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

static void *thread(void *argument) {
    static long took[READERS][BATCHES];
    if (exeunt_set(&key, &value, NULL) || exeunt_slot_set(slot, &value)) exit(1);
    pthread_setspecific(pthread_key, &value);
    for (int batch = 0; batch < BATCHES; batch++) {
        for (int reader = 0; reader < READERS; reader++) {
            long begin = now();
            if (readers[reader].round() != READS) exit(1);
            took[reader][batch] = now() - begin;
        }
    }
    double unit = 0;
    for (int reader = 0; reader < READERS; reader++) {
        qsort(took[reader], BATCHES, sizeof(long), order);
        double each = (double)took[reader][BATCHES / 20] / READS;
        if (reader == 0) unit = each;
        printf("| %s, %s | %.2f ns | %.2f | %s |\n", readers[reader].name, (const char *)argument, each, each / unit,
               readers[reader].bar);
    }
    return argument;
}

int main(int argc, char **argv) {
    static char unnamed[] = "";
    pthread_t id;
    if (pthread_key_create(&pthread_key, NULL) || exeunt_slot_alloc(&slot, NULL)) return 1;
    if (pthread_create(&id, NULL, thread, argc > 1 ? argv[1] : unnamed)) return 1;
    return pthread_join(id, NULL);
}
