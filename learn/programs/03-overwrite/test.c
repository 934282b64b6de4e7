#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include EXERCISE
uintptr_t original;
static int drained;
extern char trampoline[];
void drain(void) { drained++; }
__asm__(".pushsection .text\n.globl trampoline\n.type trampoline, %function\n"
#if defined(__x86_64__)
        "trampoline: push original(%rip); push %rax; call drain; pop %rax; ret\n"
#else
        "trampoline: adrp x30, original; ldr x30, [x30, :lo12:original]; stp x30, x0, [sp, #-16]!\n"
        "  bl drain; ldp x30, x0, [sp], #16; ret\n"
#endif
        ".popsection");
struct frame { struct frame *caller; uintptr_t return_address; };
static int wrong;
__attribute__((noinline)) void *entry(void *x) {
    uintptr_t *foot = &((struct frame *)__builtin_frame_address(0))->return_address;
    original = *foot;
    *foot = (uintptr_t)trampoline;
    if (!x) {
        if (undo(foot, (uintptr_t)trampoline, original) != 1 || *foot != original) {
            printf("not undone\n");
            wrong = 1;
        }
    } else {
        uintptr_t other = 12345; // stands for another hijacker's address
        if (undo(&other, (uintptr_t)trampoline, original) != 0 || other != 12345) {
            printf("wrote over another one's address\n");
            wrong = 1;
        }
    }
    __asm__ volatile("" ::: "memory"); // the compiler takes stores to this frame for dead ones
    return x;
}
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, entry, 0); pthread_join(thread, 0);
    if (drained != 0) { printf("drained after undo\n"); wrong = 1; }
    pthread_create(&thread, 0, entry, (void *)1); pthread_join(thread, 0);
    if (drained != 1) { printf("the other thread was not drained\n"); wrong = 1; }
    return wrong;
}
