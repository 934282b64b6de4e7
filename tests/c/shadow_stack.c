// A shadow stack in software: a child is stepped through the end of an armed stack, one instruction
// at a time. After each `call` the return address is kept, and at each `ret` it is compared, as a
// processor with a shadow stack does (Intel SDM, volume 1, "Shadow Stacks"). x86_64, glibc.
//
// The argument is the case. The program prints how the stack ended, and each `ret` at which a
// processor would have raised #CP. The stepping goes on there, as if nothing had been.
//
// Each thread has a shadow stack, and so has each fiber, by the range of its memory. Entries whose
// word a jump through a register leaves behind are dropped: `longjmp` does that with the instruction
// `incssp`. makecontext puts the first entries on a new fiber's shadow stack.
#define _GNU_SOURCE
#include "common.h"
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>

// The pool of trampolines (asm/x86_64.S): its name is hidden, and this program links it statically.
extern char exeunt_trampoline[] __attribute__((visibility("hidden")));
extern char exeunt_trampoline_body[] __attribute__((visibility("hidden")));
// The assembly that calls a function for `enter`: its exit trampoline.
extern char exeunt_call_entry[] __attribute__((visibility("hidden")));
#define CALL_ENTRY 64 // its size at most
#define TRAMPOLINES (128 * 32)
#define BODY 256 // its size at most

struct entry {
    uintptr_t slot, value; // where `call` has pushed it, and what
};

// The child's side: the cases.

#define BEGINS 0x5ade5ade
#define ENDS 0x5ade0000
#define GOES_ON 0x5ade0001 // with the entries that were there at its end
#define MOST 128
static struct entry outer[MOST];
static int outer_count, is_stepped;

static _Unwind_Reason_Code note(struct _Unwind_Context *context, void *argument) {
    (void)argument;
    // The stack pointer behind the call: `call` has pushed the address below it.
    if (outer_count < MOST && _Unwind_GetIP(context))
        outer[outer_count++] = (struct entry){_Unwind_GetCFA(context) - 8, _Unwind_GetIP(context)};
    return _URC_NO_REASON;
}

static void handler(void *name) { say("handler of %s", (const char *)name); }

// Notes the entries that a shadow stack would have here.
#define NOTE()                                                                                                         \
    do {                                                                                                               \
        outer_count = 0;                                                                                               \
        _Unwind_Backtrace(note, NULL);                                                                                 \
    } while (0)

// From here on this thread is stepped. In a first run it is not, so that no step is spent on what
// happens once in a process.
#define STEP(marker)                                                                                                   \
    do {                                                                                                               \
        if (is_stepped)                                                                                                \
            __asm__ volatile("int3" : : "a"((long)(marker)) : "memory");                                               \
    } while (0)

#define ARM(name)                                                                                                      \
    do {                                                                                                               \
        NOTE();                                                                                                        \
        MUST(bridge_at_exit(handler, (void *)(name)) == 0);                                                            \
        STEP(BEGINS);                                                                                                  \
    } while (0)

static void *returns(void *argument) {
    ARM("a thread");
    return argument;
}

static void *exits(void *argument) {
    ARM("a thread that exits");
    pthread_exit(argument);
}

static void *is_cancelled(void *argument) {
    ARM("a thread that is cancelled");
    MUST(pthread_cancel(pthread_self()) == 0);
    pthread_testcancel();
    return argument;
}

static void entered(void *argument) { ARM((const char *)argument); }

static void *enters(void *argument) {
    MUST(bridge_enter(entered, (void *)"what is entered") == 0);
    return argument;
}

// Two fibers that take turns, so that the shadow stacks are switched in the middle.
static char memory[2][256 << 10] __attribute__((aligned(64)));
static ucontext_t scheduler, fibers[2];

static void fiber(int index) {
    static const char *names[] = {"the first fiber", "the second fiber"};
    STEP(ENDS);
    MUST(bridge_at_exit(handler, (void *)names[index]) == 0);
    STEP(GOES_ON);
    MUST(swapcontext(&fibers[index], &fibers[1 - index]) == 0 || index);
}

static void *runs_fibers(void *argument) {
    for (volatile int index = 0; index < 2; index++) { // `getcontext` returns twice, for all gcc knows
        MUST(getcontext(&fibers[index]) == 0);
        fibers[index].uc_stack.ss_sp = memory[index];
        fibers[index].uc_stack.ss_size = sizeof memory[index];
        fibers[index].uc_link = index == 0 ? &fibers[1] : &scheduler;
        makecontext(&fibers[index], (void (*)(void))fiber, 1, index);
    }
    NOTE();
    STEP(BEGINS);
    MUST(swapcontext(&scheduler, &fibers[0]) == 0);
    return argument;
}

static void run(void *(*routine)(void *)) {
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, routine, NULL) == 0);
    MUST(pthread_join(thread, NULL) == 0);
}

static void run_twice(void *(*routine)(void *)) {
    run(routine);
    is_stepped = 1;
    run(routine);
}

// Behind the end of main's stack the process ends, which is long and not the question: `exit` calls
// destructors of thread-locals first, and the one that was registered last.
int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);
extern void *__dso_handle;
static void stop_stepping(void *argument) {
    (void)argument;
    STEP(ENDS);
}

// The parent's side: the shadow stacks. The child is a fork, so its code and statics are where this
// process has them.

#define DEPTH 4096
#define STACKS 16
struct shadow {
    pid_t thread; // of a thread's own stack
    int fiber;    // or which fiber's memory, from 1 on
    uintptr_t exit_trampoline;
    int depth, in_use, is_used;
    struct entry entries[DEPTH];
};
static struct shadow shadows[STACKS];

static uintptr_t word(pid_t child, uintptr_t address) {
    return (uintptr_t)ptrace(PTRACE_PEEKDATA, child, (void *)address, NULL);
}

static struct shadow *shadow_of(pid_t thread, uintptr_t stack_pointer) {
    int fiber = 0;
    for (int index = 0; index < 2; index++)
        if (stack_pointer - (uintptr_t)memory[index] <= sizeof memory[index])
            fiber = index + 1;
    for (int at = 0; at < STACKS; at++) {
        struct shadow *shadow = &shadows[at];
        if (!shadow->in_use)
            *shadow = (struct shadow){.thread = thread, .fiber = fiber, .in_use = 1};
        if (fiber ? shadow->fiber == fiber : shadow->thread == thread && !shadow->fiber)
            return shadow;
    }
    MUST(!"more stacks than expected");
    return NULL;
}

static const char *place(uintptr_t address, uintptr_t exit_trampoline) {
    if (address == 0)
        return "nothing";
    if (address == exit_trampoline || address - (uintptr_t)exeunt_call_entry < CALL_ENTRY)
        return "the exit trampoline";
    if (address - (uintptr_t)exeunt_trampoline < TRAMPOLINES)
        return "a trampoline";
    return address - (uintptr_t)exeunt_trampoline_body < BODY ? "the trampolines' body" : "other code";
}

enum kind { OTHER, CALL, RETURN, JUMP };

static enum kind read_kind(pid_t child, uintptr_t address) {
    uintptr_t first = word(child, address), second = word(child, address + 8);
    uint8_t code[16], *byte = code;
    memcpy(code, &first, 8);
    memcpy(code + 8, &second, 8);
    while (*byte == 0xf2 || *byte == 0xf3 || *byte == 0x3e || *byte == 0x66 || (*byte & 0xf0) == 0x40)
        byte++; // prefixes
    if (*byte == 0xe8 || (*byte == 0xff && (byte[1] & 0x38) == 0x10))
        return CALL;
    if (*byte == 0xff && (byte[1] & 0x38) == 0x20)
        return JUMP; // through a register or memory
    return *byte == 0xc3 || *byte == 0xc2 ? RETURN : OTHER;
}

// A look at the child's code costs more than a step. (A patch changes where a call leads, and makes
// no other kind of instruction of it.)
static enum kind kind_at(pid_t child, uintptr_t address) {
    static struct {
        uintptr_t address;
        enum kind kind;
    } known[1 << 16];
    size_t at = address & 0xffff;
    if (known[at].address != address) {
        known[at].address = address;
        known[at].kind = read_kind(child, address);
    }
    return known[at].kind;
}

struct stepping {
    pid_t thread;
    enum kind last;
    uintptr_t at; // the last instruction
};
static long steps, compared, mismatches;

static void look(pid_t thread, struct stepping *stepping, const struct user_regs_struct *registers) {
    uintptr_t stack_pointer = registers->rsp;
    // Where `call` has pushed, or `ret` popped.
    uintptr_t slot = stepping->last == RETURN ? stack_pointer - 8 : stack_pointer;
    if (stepping->last == OTHER)
        return;
    struct shadow *shadow = shadow_of(thread, slot);
    while (stepping->last == JUMP && shadow->depth && shadow->entries[shadow->depth - 1].slot < stack_pointer)
        shadow->depth--;
    if (stepping->last == JUMP)
        return;
    while (shadow->depth && shadow->entries[shadow->depth - 1].slot < slot + (stepping->last == CALL))
        shadow->depth--;
    struct entry *top = shadow->depth ? &shadow->entries[shadow->depth - 1] : NULL;
    if (stepping->last == CALL) {
        MUST(shadow->depth < DEPTH);
        shadow->entries[shadow->depth++] = (struct entry){stack_pointer, word(thread, stack_pointer)};
    } else if (stepping->last == RETURN && shadow->fiber && !shadow->is_used) {
        // A new fiber: makecontext gives it the function, which this `ret` has taken, and where that
        // returns to.
        shadow->entries[shadow->depth++] = (struct entry){stack_pointer, word(thread, stack_pointer)};
        shadow->exit_trampoline = word(thread, stack_pointer);
    } else if (stepping->last == RETURN) {
        uintptr_t want = top && top->slot == slot ? top->value : 0;
        shadow->depth -= want != 0;
        compared++;
        if (want != registers->rip) {
            mismatches++;
            uintptr_t exit = shadow->exit_trampoline;
            say("#CP: a ret in %s leads to %s; the shadow stack has %s", place(stepping->at, exit),
                place(registers->rip, exit), place(want, exit));
        }
    }
    shadow->is_used = 1;
}

static void begin(pid_t thread, const struct user_regs_struct *registers) {
    int count = (int)ptrace(PTRACE_PEEKDATA, thread, &outer_count, NULL);
    struct shadow *shadow = shadow_of(thread, registers->rsp);
    shadow->depth = 0;
    for (int at = count - 1; at >= 0; at--) {
        struct entry entry = {word(thread, (uintptr_t)&outer[at].slot), word(thread, (uintptr_t)&outer[at].value)};
        if (entry.slot >= registers->rsp)
            shadow->entries[shadow->depth++] = entry;
    }
    // The entry function is the one that notes: its caller is the exit trampoline.
    MUST(shadow->depth > 0);
    shadow->exit_trampoline = shadow->entries[shadow->depth - 1].value;
}

static int watch(pid_t child) {
    static struct stepping all[STACKS];
    int status, end = -1;
    pid_t thread;
    while ((thread = waitpid(-1, &status, __WALL)) > 0) {
        if (!WIFSTOPPED(status)) {
            if (thread == child)
                end = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
            continue;
        }
        int signal = status >> 16 ? 0 : WSTOPSIG(status); // an event of ptrace's is no signal
        struct stepping *stepping = NULL;
        for (int at = 0; at < STACKS; at++)
            if (all[at].thread == thread)
                stepping = &all[at];
        if (signal == SIGTRAP) {
            struct user_regs_struct registers;
            MUST(ptrace(PTRACE_GETREGS, thread, NULL, &registers) == 0);
            int is_marker = registers.rax >> 16 == BEGINS >> 16 && (uint8_t)word(thread, registers.rip - 1) == 0xcc;
            if (is_marker && (registers.rax == BEGINS || registers.rax == GOES_ON)) {
                if (registers.rax == BEGINS)
                    begin(thread, &registers);
                for (int at = 0; at < STACKS && !stepping; at++)
                    if (!all[at].thread)
                        stepping = &all[at];
                MUST(stepping);
                *stepping = (struct stepping){.thread = thread};
            } else if (is_marker && registers.rax == ENDS && stepping) {
                *stepping = (struct stepping){0};
                stepping = NULL;
            }
            if (stepping) {
                look(thread, stepping, &registers);
                stepping->last = kind_at(thread, registers.rip);
                stepping->at = registers.rip;
            }
        }
        MUST(++steps < 20000000);
        if (signal == SIGTRAP || signal == SIGSTOP)
            signal = 0;
        ptrace(stepping ? PTRACE_SINGLESTEP : PTRACE_CONT, thread, NULL, (void *)(long)signal);
    }
    return end;
}

int main(int count, char **arguments) {
    MUST(count == 2);
    // Tracer and child take turns: on one processor that is many times faster.
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    MUST(sched_setaffinity(0, sizeof one, &one) == 0);
    pid_t child = fork();
    MUST(child >= 0);
    if (child) {
        int status;
        MUST(waitpid(child, &status, 0) == child);
        if (WIFEXITED(status)) // ptrace is not permitted
            return WEXITSTATUS(status);
        MUST(ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)(PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL)) == 0);
        MUST(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
        int end = watch(child);
        say("status %d, %s returns compared, mismatches %ld", end, compared > 20 ? "many" : "too few", mismatches);
        fprintf(stderr, "%ld steps, %ld returns\n", steps, compared);
        return 0;
    }
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(77);
    raise(SIGSTOP);
#define CASE(name) if (strcmp(arguments[1], name) == 0)
    CASE("thread") run_twice(returns);
    CASE("pthread_exit") run_twice(exits);
    CASE("cancel") run_twice(is_cancelled);
    CASE("enter") run_twice(enters);
    CASE("fiber") run_twice(runs_fibers);
    CASE("main") {
        run(returns);
        is_stepped = 1;
        NOTE();
        MUST(bridge_at_exit(handler, (void *)"main") == 0);
        MUST(__cxa_thread_atexit_impl(stop_stepping, NULL, &__dso_handle) == 0);
        STEP(BEGINS);
    }
    return 0;
}
