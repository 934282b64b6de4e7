// A plugin that is unloaded and loaded again as another build of itself: SIZE is the size of its
// frames.

struct call {
    void (*function)(void *);
    void *argument;
};

// Calls back twice, with some work in between, during which signals can arrive.
__attribute__((noinline)) void run(const struct call *call) {
    volatile char frame[SIZE];
    call->function(call->argument);
    for (int round = 0; round < 2000; round++)
        frame[round % SIZE] = (char)round;
    call->function(call->argument);
    frame[0] = 0;
}

// The same as a thread's entry function.
void *entry(void *call) {
    volatile char frame[SIZE];
    frame[0] = 1;
    run(call);
    frame[0] = 2;
    return 0;
}
