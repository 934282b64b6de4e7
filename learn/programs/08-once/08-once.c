// Two ends, one stack, each handler once. cc -g 08-once.c -pthread
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct handler { const char *name; void (*run)(struct handler *); int ran; struct handler *next; };
// What the library keeps for one stack.
struct record { struct handler *handlers; void (*drain)(struct record *); };
static pthread_key_t safety_net; // a key is a value for each thread, and a destructor that runs at the thread's end

static void push(struct record *record, struct handler *handler) {
    handler->next = record->handlers;
    record->handlers = handler;
}

// Looks right: run them all, then forget them.
static void run_then_forget(struct record *record) {
    for (struct handler *h = record->handlers; h; h = h->next) h->run(h);
    record->handlers = 0;
}
// A handler leaves the list before it runs.
static void forget_then_run(struct record *record) {
    while (record->handlers) {
        struct handler *h = record->handlers;
        record->handlers = h->next;
        h->run(h);
    }
}

static void count(struct handler *h) { h->ran++; }
static void ends_its_thread(struct handler *h) {
    if (h->ran++ == 0) pthread_exit(0); // a handler may do what any function may do
}

static void *entry(void *x) {
    struct record *record = x;
    pthread_setspecific(safety_net, record); // makes `net` run with `record` if the thread ends by pthread_exit
    record->drain(record);                   // stands for the trampoline
    return 0;
}
static void net(void *x) { ((struct record *)x)->drain(x); }

static void try(const char *name, void (*drain)(struct record *)) {
    struct record record = {0, drain};
    struct handler first = {"first", count, 0, 0}, second = {"second", ends_its_thread, 0, 0};
    struct handler third = {"third", count, 0, 0};
    push(&record, &first);
    push(&record, &second);
    push(&record, &third);
    pthread_t thread;
    pthread_create(&thread, 0, entry, &record);
    pthread_join(thread, 0);
    printf("%s: third ran %d times, second %d, first %d\n", name, third.ran, second.ran, first.ran);
}

int main(void) {
    pthread_key_create(&safety_net, net);
    try("run, then forget", run_then_forget);
    try("forget, then run", forget_then_run);
    return 0;
}
