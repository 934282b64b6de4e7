// Chapter 3's trampoline, with an unwind table. cc -g -fno-omit-frame-pointer -rdynamic 05-expression.c -pthread
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct frame { struct frame *caller; uintptr_t return_address; };
static uintptr_t exit_address;
uintptr_t original;
extern char trampoline[];
extern const uint8_t expression[13];

// DW_OP_breg16 (aarch64: breg30) -8; dup; deref_size 4; const1u 32; shl; const1u 32; shra; plus; deref
#define REST "0x78, 0x12, 0x94,0x04, 0x08,0x20, 0x24, 0x08,0x20, 0x26, 0x22, 0x06\n"
#if defined(__x86_64__)
#define COLUMN "16"
#define STACK_POINTER "%rsp"
#define EXPRESSION "0x80," REST
#define CODE "push original(%rip)\n .cfi_def_cfa_offset 8\n .cfi_offset %rip, -8\n" /* on the stack again */ \
    "push %rax\n .cfi_adjust_cfa_offset 8\n call drain\n pop %rax\n .cfi_adjust_cfa_offset -8\n ret\n"
#else
#define COLUMN "30"
#define STACK_POINTER "sp"
#define EXPRESSION "0x8e," REST
#define CODE "adrp x30, original\n ldr x30, [x30, :lo12:original]\n .cfi_same_value x30\n" /* in x30 again */ \
    "stp x30, x0, [sp, #-16]!\n .cfi_def_cfa_offset 16\n .cfi_offset x30, -16\n bl drain\n" \
    "ldp x30, x0, [sp], #16\n .cfi_def_cfa_offset 0\n .cfi_same_value x30\n ret\n"
#endif
__asm__(".pushsection .text\n.globl trampoline, expression\n.balign 8\n"
        ".cfi_startproc\n"
        ".cfi_def_cfa " STACK_POINTER ", 0\n"                    // `ret` has popped the foot: the frame is gone
        ".cfi_escape 0x16, " COLUMN ", 13, " EXPRESSION           // 0x16 is DW_CFA_val_expression; 13 bytes
        ".long original - .\n"                                   // a distance, known when the program is linked
        ".balign 8, 0\n"
        "trampoline: " CODE
        ".cfi_endproc\n"
        ".type trampoline, %function\n.size trampoline, . - trampoline\n"
        ".section .rodata\nexpression: .byte " EXPRESSION
        ".popsection");

static void evaluate(uint64_t pc) { // what an unwinder does with the expression
    uint64_t s[8]; // the expression's stack
    int n = 0;
    const uint8_t *p = expression, *end = p + 13;
    while (p < end) {
        const char *what = "";
        switch (*p++) {
        case 0x80: case 0x8e: what = "breg -8"; s[n++] = pc + ((int8_t)(*p++ << 1) >> 1); break;
        case 0x12: what = "dup"; s[n] = s[n - 1]; n++; break;
        case 0x94: what = "deref_size 4"; s[n - 1] = *(uint32_t *)s[n - 1]; p++; break;
        case 0x08: what = "const1u 32"; s[n++] = *p++; break;
        case 0x24: what = "shl"; n--; s[n - 1] <<= s[n]; break;
        case 0x26: what = "shra"; n--; s[n - 1] = (int64_t)s[n - 1] >> s[n]; break;
        case 0x22: what = "plus"; n--; s[n - 1] += s[n]; break;
        case 0x06: what = "deref"; s[n - 1] = *(uint64_t *)s[n - 1]; break;
        }
        printf("    %-13s", what);
        for (int i = 0; i < n; i++) printf(" %#lx", s[i]);
        printf("\n");
    }
    printf("  the original return address: %s\n", s[0] == original ? "yes" : "no");
}
static void backtrace_here(const char *when) {
    void *addresses[32];
    int n = backtrace(addresses, 32);
    printf("  backtrace %s:", when);
    for (int i = 0; i < n; i++) {
        Dl_info info = {0};
        dladdr((char *)addresses[i] - 1, &info);
        if (info.dli_fname && strstr(info.dli_fname, "/libc.so")) printf(" libc");
        else if (info.dli_sname && (char *)addresses[i] >= trampoline) printf(" %s", info.dli_sname);
        else if ((char *)addresses[i] == trampoline) printf(" trampoline");
    }
    printf("\n");
}
__attribute__((noinline)) void drain(void) { backtrace_here("in the drain"); __asm__ volatile(""); }
__attribute__((noinline)) void *probe(void *x) { exit_address = (uintptr_t)__builtin_return_address(0); return x; }
__attribute__((noinline)) void *entry(void *x) {
    struct frame *frame = __builtin_frame_address(0);
    if (frame->return_address != exit_address) return 0; // chapter 2's check: this is the foot
    original = frame->return_address;
    backtrace_here("before");
    *(volatile uintptr_t *)&frame->return_address = (uintptr_t)trampoline;
    backtrace_here("after");
    printf("  the trampoline is at %#lx, its cell at %#lx; the expression:\n", (uintptr_t)trampoline,
           (uintptr_t)&original);
    evaluate((uintptr_t)trampoline);
    return x;
}
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, probe, 0);
    pthread_join(thread, 0);
    pthread_create(&thread, 0, entry, 0);
    pthread_join(thread, 0);
    return 0;
}
