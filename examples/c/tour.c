/* Storage and exit handlers on a thread that no code prepared for it.
 *
 *   cc tour.c $(pkg-config --cflags --libs exeunt) -pthread && ./a.out
 */
#define _POSIX_C_SOURCE 200809L /* strdup */
#include <exeunt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char connection; /* only its address counts: it is the key (not const: such ones may be merged) */

static void close_connection(void *name) {
    printf("  the value is destroyed: closing %s\n", (char *)name);
    free(name);
}

static void report(void *arg) {
    printf("  handler %s: the connection is still %s\n", (const char *)arg, (char *)exeunt_get(&connection));
}

static void must(int code) {
    if (code != EXEUNT_OK) {
        fprintf(stderr, "no storage here: %s\n", exeunt_strerror(code));
        exit(1);
    }
}

/* Deep in some library that did not start the thread. */
static void connect_lazily(void) {
    if (exeunt_get(&connection) != NULL)
        return;
    must(exeunt_set(&connection, strdup("db-1"), close_connection));
    must(exeunt_at_exit(report, "1"));
    must(exeunt_at_exit(report, "2"));
}

static void *work(void *arg) {
    (void)arg;
    connect_lazily();
    connect_lazily();
    printf("  stack %llu works with %s\n", (unsigned long long)exeunt_id(), (char *)exeunt_get(&connection));
    return NULL;
}

int main(void) {
    pthread_t thread;
    printf("a thread:\n");
    if (pthread_create(&thread, NULL, work, NULL) != 0 || pthread_join(thread, NULL) != 0)
        return 1;
    printf("the main thread:\n");
    work(NULL);
    printf("  main returns\n");
    return 0;
}
