// Entry functions that arm their stack and then jump to another function: the call is their last
// act (a tail call). On aarch64 that function stores the return address in a place of its own
// choice, which may differ from the first one's.
#include "common.h"
#include <ucontext.h>

#define APART __attribute__((noinline, noclone))

static struct life life;

static void told_later(void *argument) { say("later handler, value %d", (int)bridge_get(3, 0)); (void)argument; }

// The first use of the storage after the jump.
enum first { READ, READ_LOCAL, REGISTER, ASK, UNLOAD, EXIT_THREAD, EXIT_PROCESS };

// Continues after the jump. Its frame is larger than the previous one, and all of it is written to.
// There are two of them, because the compiler only turns a call into a jump if the result types are
// equal.
#define FURTHER(name, type)                                                                                            \
    APART static type name(type argument, enum first first) {                                                          \
        volatile char block[3000];                                                                                     \
        for (size_t i = 0; i < sizeof block; i++)                                                                      \
            block[i] = 0x5a;                                                                                           \
        use_first(first, (void *)(intptr_t)argument);                                                                  \
        return argument + block[5] - 0x5a;                                                                             \
    }

static void use_first(enum first first, void *argument) {
    switch (first) {
    case READ: say("read %d", (int)bridge_get(3, 0)); break;
    case READ_LOCAL: say("local %d", (int)bridge_swap_local(44)); break;
    case REGISTER: break;
    case ASK: say("armed %d", bridge_is_armed()); break;
    case UNLOAD:
        MUST(bridge_unload() == 0);
        say("unloaded, armed %d", bridge_is_armed());
        return;
    case EXIT_THREAD: pthread_exit(argument);
    case EXIT_PROCESS: exit(61);
    }
    MUST(bridge_at_exit(told_later, NULL) == 0);
    say("read %d, local %d, armed %d", (int)bridge_get(3, 0), (int)bridge_swap_local(44), bridge_is_armed());
}

FURTHER(further, char *)
FURTHER(further_in_main, int)

#define ENTRY(name, first)                                                                                             \
    static void *name(void *argument) {                                                                                \
        arm(&life, #name);                                                                                             \
        return further(argument, first);                                                                               \
    }
ENTRY(reads, READ)
ENTRY(reads_local, READ_LOCAL)
ENTRY(registers, REGISTER)
ENTRY(asks, ASK)
ENTRY(unloads, UNLOAD)
ENTRY(exits, EXIT_THREAD)

static ucontext_t back, fiber;

static void told_fiber(void *argument) { say("handler of %s, value %d", (const char *)argument, (int)bridge_get(3, 0)); }

APART static void arm_fiber(const char *name) {
    MUST(bridge_at_exit(told_fiber, (void *)name) == 0);
    MUST(bridge_set_dropped(1, told_drop, (void *)"of the fiber") == 0);
    MUST(bridge_set(3, 33) == 0 && bridge_swap_local(44) == 0);
}

static char *fiber_reads(void) {
    arm_fiber("fiber");
    return further(NULL, READ);
}

// A fiber that is abandoned after the jump. The next one on its memory starts empty, as its first
// read shows. (On aarch64 only after something was stored there: abandoned.c. A read makes no
// walk.)
#ifdef __x86_64__
APART static char *abandoned(char *argument) {
    volatile char block[2000];
    block[3] = 1;
    say("read %d", (int)bridge_get(3, 0));
    MUST(swapcontext(&fiber, &back) == 0);
    return argument + block[3];
}
static char *fiber_is_abandoned(void) {
    arm_fiber("abandoned");
    return abandoned(NULL);
}
static char *fiber_after(void) {
    static char result;
    say("the next one reads %d, armed %d", (int)bridge_get(3, 0), bridge_is_armed());
    MUST(bridge_at_exit(told_later, NULL) == 0);
    say("and is armed %d", bridge_is_armed());
    return &result;
}
#endif

static void run(char *(*entry)(void)) {
    static char memory[256 * 1024] __attribute__((aligned(16)));
    MUST(getcontext(&fiber) == 0);
    fiber.uc_stack.ss_sp = memory;
    fiber.uc_stack.ss_size = sizeof memory;
    fiber.uc_link = &back;
    makecontext(&fiber, (void (*)(void))entry, 0);
    MUST(swapcontext(&back, &fiber) == 0);
}

int main(int count, char **arguments) {
    if (count > 1) {
        arm(&life, "main");
        return further_in_main(62, strcmp(arguments[1], "exit") == 0 ? EXIT_PROCESS : READ);
    }
#define THREAD(routine) told_thread(routine, #routine)
    THREAD(reads);
    THREAD(reads_local);
    THREAD(registers);
    THREAD(asks);
    THREAD(unloads);
    THREAD(exits);
    run(fiber_reads);
    say("the fiber is over");
#ifdef __x86_64__
    run(fiber_is_abandoned);
    run(fiber_after);
#endif
    return 0;
}
