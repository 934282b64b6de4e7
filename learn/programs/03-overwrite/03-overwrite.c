// Overwrites the foot, with no unwind table. cc -g -fno-omit-frame-pointer -rdynamic 03-overwrite.c -pthread
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct frame { struct frame *caller; uintptr_t return_address; };
static uintptr_t exit_address;
uintptr_t original; // what the foot held: one cell is enough here, as all threads end in one place
extern char trampoline[];

static void name(uintptr_t address) { // looked up at address - 1: chapter 4 says why
    Dl_info info;
    if (!dladdr((void *)(address - 1), &info)) { printf(" ?"); return; }
    const char *slash = strrchr(info.dli_fname, '/');
    if (slash && !strncmp(slash, "/libc.so", 8)) printf(" libc");
    else printf(" %s", info.dli_sname ? info.dli_sname : "?");
}
__attribute__((noinline)) void backtrace_here(const char *when) {
    void *addresses[32];
    int n = backtrace(addresses, 32);
    printf("  backtrace %s:", when);
    for (int i = 1; i < n; i++) name((uintptr_t)addresses[i]);
    printf("\n");
}
__attribute__((noinline)) void drain(void) {
    printf("  drain: the entry function has returned\n");
    backtrace_here("in the drain");
    __asm__ volatile(""); // so that the call above is a call and no jump
}

// The entry function returns to here, with its result in rax (aarch64: x0).
__asm__(".pushsection .text\n.globl trampoline\n"
#if defined(__x86_64__)
        ".skip 16, 0x90\n"        // nops: so that no function's table covers the byte before the label
        "trampoline:\n"
        "  push original(%rip)\n" // put back the word that `ret` has popped
        "  push %rax\n"           // keep the result; and rsp is a multiple of 16 now
        "  call drain\n"
        "  pop %rax\n"
        "  ret\n"                 // to the exit trampoline
#else
        "nop; nop; nop; nop\n"
        "trampoline:\n"
        "  adrp x30, original\n"  // the original address, where `bl` would have put it
        "  ldr x30, [x30, :lo12:original]\n"
        "  stp x30, x0, [sp, #-16]!\n"
        "  bl drain\n"
        "  ldp x30, x0, [sp], #16\n"
        "  ret\n"
#endif
        ".type trampoline, %function\n.size trampoline, . - trampoline\n.popsection");

__attribute__((noinline)) void *probe(void *x) {
    exit_address = (uintptr_t)__builtin_return_address(0);
    return x;
}
__attribute__((noinline)) void hijack(void) {
    struct frame *frame = __builtin_frame_address(0);
    while (frame->return_address != exit_address) frame = frame->caller; // found and recognised: the foot
    backtrace_here("before");
    original = frame->return_address;
    frame->return_address = (uintptr_t)trampoline;
    backtrace_here("after");
    __asm__ volatile("" ::: "memory");
}
__attribute__((noinline)) void *entry(void *x) { hijack(); __asm__ volatile(""); return x; }

int main(void) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, 0, probe, 0);
    pthread_join(thread, 0);
    pthread_create(&thread, 0, entry, (void *)42);
    pthread_join(thread, &result);
    printf("joined, the result is %ld\n", (long)result);
    return 0;
}
