// All entries into the library's assembly, on guarded pages. A jump or a call through a register
// may only lead to a landing pad there, or the processor reports an illegal instruction (aarch64,
// BTI). Linked with guarded.ld.
#include "common.h"
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>

#ifndef PROT_BTI
#define PROT_BTI 0x10
#endif
#ifndef HWCAP2_BTI
#define HWCAP2_BTI (1 << 17)
#endif

extern char exeunt_code_begin[], exeunt_code_end[];

// Before anything else: an emulator checks the guard when it translates code, and so before the
// code runs for the first time.
__attribute__((constructor(101))) static void guard(void) {
    if (!(getauxval(AT_HWCAP2) & HWCAP2_BTI)) {
        say("this processor guards no pages");
        _exit(0);
    }
    MUST(exeunt_code_end > exeunt_code_begin);
    size_t size = (size_t)(exeunt_code_end - exeunt_code_begin);
    MUST(mprotect(exeunt_code_begin, size, PROT_READ | PROT_EXEC | PROT_BTI) == 0);
}

static void handler(void *argument) { say("handler of %s", (const char *)argument); }

static void *returns(void *argument) {
    MUST(bridge_at_exit(handler, argument) == 0);
    return argument;
}

static void *exits(void *argument) {
    MUST(bridge_at_exit(handler, argument) == 0);
    pthread_exit(argument);
}

static void *is_cancelled(void *argument) {
    MUST(bridge_at_exit(handler, argument) == 0);
    MUST(pthread_cancel(pthread_self()) == 0);
    pthread_testcancel();
    return argument;
}

static void run(void *(*routine)(void *), const char *name) {
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, routine, (void *)name) == 0);
    MUST(pthread_join(thread, NULL) == 0);
}

static ucontext_t back, fiber;

static void on_a_fiber(void) { MUST(bridge_at_exit(handler, (void *)"a fiber") == 0); }

static void entered(void *argument) { MUST(bridge_at_exit(handler, argument) == 0); }

static void *enters(void *argument) {
    MUST(bridge_enter(entered, argument) == 0);
    return argument;
}

static void tagged(void *argument) { say("%s %d", (const char *)argument, (int)bridge_tag(0)); }

int main(void) {
    run(returns, "a thread that returns");
    run(exits, "a thread that exits");
    run(is_cancelled, "a thread that is cancelled");
    run(enters, "what is entered");
    static char memory[256 * 1024] __attribute__((aligned(16)));
    MUST(getcontext(&fiber) == 0);
    fiber.uc_stack.ss_sp = memory;
    fiber.uc_stack.ss_size = sizeof memory;
    fiber.uc_link = &back;
    makecontext(&fiber, on_a_fiber, 0);
    MUST(swapcontext(&back, &fiber) == 0);
    bridge_tagged(77, tagged, (void *)"the tag is");
    MUST(bridge_at_exit(handler, (void *)"main") == 0);
    return 0;
}
