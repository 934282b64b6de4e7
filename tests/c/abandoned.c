// Fibers that are suspended for ever, and others that begin on their memory: with the same function
// or with another one. On aarch64 each function stores its return address in a place of its own
// choice. So the frames of the next fiber may leave untouched the words by which exeunt detects an
// abandoned stack. The first argument selects the case.
#include "common.h"
#include <ucontext.h>

#define APART __attribute__((noinline, noclone))
// So that no call is the last act of its function, which the compiler would turn into a jump.
#define NO_JUMP __asm__ volatile("")
// Room in a frame that is not written to.
#define SPARED(bytes)                                                                                                  \
    char spared[bytes];                                                                                                \
    __asm__ volatile("" : : "r"(spared) : "memory")

static ucontext_t back, fiber;
static char memory[256 * 1024] __attribute__((aligned(65536)));
static long number;

static void handler(void *argument) {
    say("handler of fiber %ld while fiber %ld runs", (long)argument, number);
}

static void dropped(void *argument) { say("value of fiber %ld dropped while fiber %ld runs", (long)argument, number); }

// Reads in each frame from here to some frames further in. From then on exeunt has all of them as
// this stack's.
APART static void read_further_down(int times) {
    bridge_get(3, 0);
    if (times > 0)
        read_further_down(times - 1);
    NO_JUMP;
}

APART static void arm_fiber(void) {
    SPARED(1500);
    MUST(bridge_at_exit(handler, (void *)number) == 0);
    MUST(bridge_set_dropped(1, dropped, (void *)number) == 0);
    MUST(bridge_set(3, 30 + number) == 0);
    say("fiber %ld is armed and reads %ld", number, (long)bridge_get(3, 0));
    NO_JUMP;
}

static void suspend(void) { MUST(swapcontext(&fiber, &back) == 0); }

// --- the same function again, which then jumps to another one

APART static void work(void) {
    SPARED(500);
    read_further_down(100);
    if (number == 1)
        suspend();
    say("fiber %ld reads %ld at its end", number, (long)bridge_get(3, 0));
    NO_JUMP;
}

static void worker(void) {
    arm_fiber();
    work();
}

// --- another function, whose frame leaves the return address of the first one untouched

static void first(void) {
    arm_fiber();
    read_further_down(100);
    suspend();
}

static void another(void) {
    SPARED(1000);
    arm_fiber();
    say("fiber %ld reads %ld at its end", number, (long)bridge_get(3, 0));
    NO_JUMP;
}

// The same, with nothing but the calls that drop something.
static void another_resets(void) {
    SPARED(1000);
    bridge_unload();
    say("fiber %ld is armed %d, reads %ld", number, bridge_is_armed(), (long)bridge_get(3, 0));
    NO_JUMP;
}

// --- a fiber that is abandoned in a handler, where a mark takes the place of its foot

static void suspends_for_ever(void *argument) {
    say("first handler of fiber %ld", (long)argument);
    read_further_down(100);
    suspend();
}

static void ends_and_is_suspended(void) {
    arm_fiber();
    MUST(bridge_at_exit(suspends_for_ever, (void *)number) == 0);
    NO_JUMP;
}

static void run(void (*entry)(void)) {
    number++;
    MUST(getcontext(&fiber) == 0);
    fiber.uc_stack.ss_sp = memory;
    fiber.uc_stack.ss_size = sizeof memory;
    fiber.uc_link = &back;
    makecontext(&fiber, entry, 0);
    MUST(swapcontext(&back, &fiber) == 0);
    say("back from fiber %ld", number);
}

// --- the functions that find the foot after a jump

// The function to which the entry function has jumped calls this and does nothing else.
__attribute__((always_inline)) static inline void unload_and_arm(void) {
    SPARED(64);
    MUST(bridge_unload() == 0);
    say("unloaded, armed %d", bridge_is_armed());
    arm_fiber();
    NO_JUMP;
}

APART static void unload_on_a_fiber(void) { unload_and_arm(); }

static void fiber_unloads(void) {
    arm_fiber();
    read_further_down(20);
    unload_on_a_fiber();
}

APART static void *unload_on_a_thread(void *argument) {
    unload_and_arm();
    return argument;
}

static void *thread_unloads(void *argument) {
    arm_fiber();
    read_further_down(20);
    return unload_on_a_thread(argument);
}

APART static void ask(void) {
    SPARED(64);
    struct bridge_foot foot;
    MUST(bridge_foot(&foot) == 0);
    // Next to the frame pointer that this function has saved.
    ptrdiff_t distance = (char *)foot.address - (char *)__builtin_frame_address(0);
    say("the foot is in this frame: %d", distance == sizeof(void *));
    NO_JUMP;
}

static void fiber_asks(void) {
    arm_fiber();
    read_further_down(20);
    ask();
}

int main(int count, char **arguments) {
    MUST(count == 2);
    if (strcmp(arguments[1], "same function after a jump") == 0) {
        run(worker);
        run(worker);
    } else if (strcmp(arguments[1], "another function") == 0) {
        run(first);
        run(another);
    } else if (strcmp(arguments[1], "another function unloads") == 0) {
        run(first);
        run(another_resets);
        run(another);
    } else if (strcmp(arguments[1], "abandoned in a handler") == 0) {
        run(ends_and_is_suspended);
        run(another);
    } else if (strcmp(arguments[1], "unload after a jump") == 0) {
        run(fiber_unloads);
        number++;
        told_thread(thread_unloads, "thread");
    } else if (strcmp(arguments[1], "foot after a jump") == 0) {
        run(fiber_asks);
    } else {
        return 92;
    }
    return 0;
}
