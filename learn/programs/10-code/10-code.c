// Changes one call in running code. cc -g 10-code.c -pthread (x86_64 and aarch64)
#define _GNU_SOURCE
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

long target(void) { return 1; }
long hook(void) { return 1000 + target(); } // its work, then the old target. (A real hook jumps there)
extern char site[]; // the call instruction
long exit_code(void); // stands for libc's exit trampoline: it calls `target`
#if defined(__x86_64__)
__asm__(".pushsection .text\n.globl site, exit_code\n.balign 16\n"
        "exit_code: sub $8, %rsp\n nop; nop; nop\n" // so that the call's distance is an aligned word
        "site: call target\n"                       // e8, and four bytes of distance
        "  add $8, %rsp\n ret\n.popsection");
static uint32_t *place(void) { return (uint32_t *)(site + 1); }
static char *destination(uint32_t word) { return site + 5 + (int32_t)word; }
static uint32_t encode(char *to) { return to - (site + 5); }
#else
__asm__(".pushsection .text\n.globl site, exit_code\n.balign 16\n"
        "exit_code: stp x29, x30, [sp, #-16]!\n"
        "site: bl target\n" // six bits 100101, and 26 bits of distance in words
        "  ldp x29, x30, [sp], #16\n ret\n.popsection");
static uint32_t *place(void) { return (uint32_t *)site; }
static char *destination(uint32_t word) { return site + ((int32_t)(word << 6) >> 4); }
static uint32_t encode(char *to) { return 0x94000000 | ((to - site) >> 2 & 0x3ffffff); }
#endif

static int stop;
static long seen_old, seen_new, seen_else;
static void *runs_it(void *x) { // another thread runs that code all the time
    long old = 0, new = 0, other = 0;
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
        long result = exit_code();
        if (result == 1) old++;
        else if (result == 1001) new++;
        else other++;
        if (result == 1) __atomic_store_n(&seen_old, old, __ATOMIC_RELEASE);
        else __atomic_store_n(&seen_new, new, __ATOMIC_RELEASE);
    }
    seen_else = other;
    return x;
}
static void await(long *counter) { while (!__atomic_load_n(counter, __ATOMIC_ACQUIRE)) usleep(100); }

int main(void) {
    syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0);
    printf("the four bytes are aligned: %s\n", (uintptr_t)place() % 4 == 0 ? "yes" : "no");
    printf("before: the call leads to target: %s\n", destination(*place()) == (char *)target ? "yes" : "no");
    pthread_t thread;
    pthread_create(&thread, 0, runs_it, 0);
    await(&seen_old);

    char *page = (char *)((uintptr_t)site & -4096UL);
    if (mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC)) return perror("mprotect"), 1;
    __atomic_store_n(place(), encode((char *)hook), __ATOMIC_RELEASE); // the one store
    __builtin___clear_cache((char *)place(), (char *)place() + 4);     // aarch64: caches; x86_64: nothing
    mprotect(page, 8192, PROT_READ | PROT_EXEC);
    long barrier = syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0);
    printf("membarrier: %s\n", barrier ? "refused" : "every thread's processor has dropped what it had fetched");
    printf("after: the call leads to hook: %s\n", destination(*place()) == (char *)hook ? "yes" : "no");
    await(&seen_new);
    __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
    pthread_join(thread, 0);
    printf("the other thread saw: the old call %s, the new one %s, anything else %ld times\n",
           seen_old ? "at first" : "never", seen_new ? "then" : "never", seen_else);

#if defined(__x86_64__) // how far such a call reaches, and how far away libc is
    long distance = (char *)printf - site;
    printf("reach: 2 GiB; libc's printf is in reach: %s\n", distance == (int32_t)distance ? "yes" : "no");
#endif
    return 0;
}
