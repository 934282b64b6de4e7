// The end that is no return. cc -g -fno-omit-frame-pointer -rdynamic 07-no-return.c -pthread (glibc)
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

struct frame { struct frame *caller; uintptr_t return_address; };
uintptr_t original, landing; // where the foot led, and where the jump leads
static uintptr_t exit_address;
static int drained, also_landing;
extern char trampoline[], landing_trampoline[];
void drain(void) { drained++; }
#if defined(__x86_64__) // jmp_buf: rbx rbp r12 r13 r14 r15 rsp rip
#define ROTATION 17
#define FROM_SP_TO_PC 1
#define TRAMPOLINE(cell) "push " cell "(%rip); push %rax; call drain; pop %rax; ret\n"
#else                   // jmp_buf: x19 to x29, x30, a free word, sp
#define ROTATION 0
#define FROM_SP_TO_PC -2
#define TRAMPOLINE(cell) "adrp x30, " cell "; ldr x30, [x30, :lo12:" cell "]; stp x30, x0, [sp, #-16]!\n" \
    "bl drain; ldp x30, x0, [sp], #16; ret\n"
#endif
__asm__(".pushsection .text\n.globl trampoline, landing_trampoline\nnop; nop\n"
        "trampoline: " TRAMPOLINE("original") "landing_trampoline: " TRAMPOLINE("landing") ".popsection");

static uintptr_t rotate_right(uintptr_t x, int n) { return n % 64 ? x >> n | x << (64 - n) : x; }
static uintptr_t demangle(uintptr_t word, uintptr_t guard) { return rotate_right(word, ROTATION) ^ guard; }
static uintptr_t mangle(uintptr_t pointer, uintptr_t guard) { return rotate_right(pointer ^ guard, 64 - ROTATION); }

// `start_thread` keeps the jmp_buf above the base. The stack pointer in it is the one after the entry
// function's return, which is the base. Return the word with the program counter.
static uintptr_t *find_landing(uintptr_t *base, uintptr_t foot, uintptr_t *guard) {
    for (int i = 2; i < 40; i++) {
        *guard = rotate_right(base[i], ROTATION) ^ (uintptr_t)base; // if base[i] is the mangled stack pointer
        uintptr_t *pc = &base[i + FROM_SP_TO_PC];                   // then this leads near the foot's code
        if (demangle(*pc, *guard) - foot + 4096 < 8192) return pc;
    }
    return 0;
}
__attribute__((noinline)) void redirect(uintptr_t *foot, void *base, int print) {
    uintptr_t guard, *word = find_landing(base, *foot, &guard);
    if (*foot != exit_address || !word) return; // chapter 2's check
    if (print) {
        printf("the base is %#lx\n", (uintptr_t)base);
        uintptr_t *sp = word - FROM_SP_TO_PC;
        printf("  %d bytes above it: %#lx  mangled stack pointer\n", (int)((char *)sp - (char *)base), *sp);
        printf("  %d bytes above it: %#lx  mangled program counter\n", (int)((char *)word - (char *)base), *word);
        printf("  the first, rotated right by %d, xor the base: %#lx\n", ROTATION, guard);
#if defined(__x86_64__)
        uintptr_t real_guard; // glibc keeps it in the thread's control block
        __asm__("mov %%fs:0x30, %0" : "=r"(real_guard));
        printf("  the pointer guard: %s\n", guard == real_guard ? "the same number" : "another number");
#endif
        printf("  the second, demangled: %#lx; the foot holds %#lx\n", demangle(*word, guard), *foot);
    }
    original = *foot;
    *foot = (uintptr_t)trampoline;
    if (!also_landing) return;
    landing = demangle(*word, guard);
    *word = mangle((uintptr_t)landing_trampoline, guard);
}
#define REDIRECT(print) \
    redirect(&((struct frame *)__builtin_frame_address(0))->return_address, __builtin_dwarf_cfa(), print)
static int print_once = 1;
static void *probe(void *x) { exit_address = (uintptr_t)__builtin_return_address(0); return x; }
static void *by_return(void *x) {
    REDIRECT(print_once);
    __asm__ volatile("" ::: "memory");
    print_once = 0;
    return x;
}
static void *by_exit(void *x) {
    REDIRECT(0);
    pthread_exit(x);
}
static void *by_cancel(void *x) {
    REDIRECT(0);
    for (;;) pause();
    return x;
}
static void end(const char *how, void *(*routine)(void *)) {
    pthread_t thread;
    void *result;
    drained = 0;
    pthread_create(&thread, 0, routine, (void *)42);
    if (routine == by_cancel) pthread_cancel(thread);
    pthread_join(thread, &result);
    printf("  %-13s drained %d times, result %ld\n", how, drained, (long)result);
}
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, probe, 0), pthread_join(thread, 0);
    for (also_landing = 0; also_landing < 2; also_landing++) {
        if (also_landing) printf("with foot and landing redirected:\n");
        end("return:", by_return);
        end("pthread_exit:", by_exit);
        if (also_landing) end("cancellation:", by_cancel);
    }
    return 0;
}
