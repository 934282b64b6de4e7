// The end that is no return. cc -g -fno-omit-frame-pointer -rdynamic 07-no-return.c -pthread (x86_64, glibc)
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

struct frame { struct frame *caller; uintptr_t return_address; };
uintptr_t original, landing; // where the foot led, and where the jump leads
static int drained, also_landing;
extern char trampoline[], landing_trampoline[];
void drain(void) { drained++; }
__asm__(".pushsection .text\n"
        "trampoline:         push original(%rip); push %rax; call drain; pop %rax; ret\n"
        "landing_trampoline: push landing(%rip);  push %rax; call drain; pop %rax; ret\n"
        ".popsection");

static uintptr_t rotate_right(uintptr_t x, int n) { return x >> n | x << (64 - n); }
static uintptr_t demangle(uintptr_t word, uintptr_t guard) { return rotate_right(word, 17) ^ guard; }
static uintptr_t mangle(uintptr_t pointer, uintptr_t guard) { return rotate_right(pointer ^ guard, 64 - 17); }

// `start_thread` keeps a jmp_buf above the foot: rbx rbp r12 r13 r14 r15 rsp rip, of which rbp, rsp
// and rip are mangled. The stack pointer in it is the one after the entry function's return: `base`.
static uintptr_t *find_landing(uintptr_t *foot, uintptr_t *guard) {
    uintptr_t base = (uintptr_t)(foot + 1);
    for (int i = 1; i < 40; i++) {
        *guard = rotate_right(foot[i], 17) ^ base; // if foot[i] is the mangled base
        uintptr_t rip = demangle(foot[i + 1], *guard);
        if (rip - *foot + 4096 < 8192) return &foot[i + 1]; // then the next word leads near the foot's code
    }
    return 0;
}
__attribute__((noinline)) void redirect(uintptr_t *foot, int print) {
    uintptr_t guard, real_guard, *word = find_landing(foot, &guard);
    __asm__("mov %%fs:0x30, %0" : "=r"(real_guard)); // glibc keeps it in the thread's control block
    if (print) {
        printf("the foot is at %#lx, the stack's base at %#lx\n", (uintptr_t)foot, (uintptr_t)(foot + 1));
        printf("  %d bytes above the foot: %#lx  mangled stack pointer\n", (int)((char *)(word - 1) - (char *)foot), word[-1]);
        printf("  %d bytes above the foot: %#lx  mangled program counter\n", (int)((char *)word - (char *)foot), word[0]);
        printf("  the first, rotated right by 17, xor the base: %#lx\n", guard);
        printf("  the pointer guard: %s\n", guard == real_guard ? "the same number" : "another number");
        printf("  the second, demangled: %#lx; the foot holds %#lx\n", demangle(*word, guard), *foot);
    }
    original = *foot;
    *foot = (uintptr_t)trampoline;
    if (!also_landing) return;
    landing = demangle(*word, guard);
    *word = mangle((uintptr_t)landing_trampoline, guard);
}
static int print_once = 1;
static void *by_return(void *x) {
    redirect(&((struct frame *)__builtin_frame_address(0))->return_address, print_once);
    __asm__ volatile("" ::: "memory");
    print_once = 0;
    return x;
}
static void *by_exit(void *x) {
    redirect(&((struct frame *)__builtin_frame_address(0))->return_address, 0);
    pthread_exit(x);
}
static void *by_cancel(void *x) {
    redirect(&((struct frame *)__builtin_frame_address(0))->return_address, 0);
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
    for (also_landing = 0; also_landing < 2; also_landing++) {
        if (also_landing) printf("with foot and landing redirected:\n");
        end("return:", by_return);
        end("pthread_exit:", by_exit);
        if (also_landing) end("cancellation:", by_cancel);
    }
    return 0;
}
