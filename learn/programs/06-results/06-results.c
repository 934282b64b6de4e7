// Four trampolines, and what becomes of a result. cc -g -fno-omit-frame-pointer 06-results.c (x86_64)
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>

struct frame { struct frame *caller; uintptr_t return_address; };
uintptr_t original;
extern char saves_nothing[], saves_rax[], saves_all[], misaligned[];
// Each begins with rsp a multiple of 16: the call has pushed 8 bytes, and `ret` has popped them.
__asm__(".pushsection .text\n"
        "saves_nothing: push original(%rip); sub $8, %rsp; call *drain(%rip); add $8, %rsp; ret\n"
        "saves_rax: push original(%rip); push %rax; call *drain(%rip); pop %rax; ret\n"
        "saves_all:\n"
        "  push original(%rip)\n"
        "  sub $56, %rsp\n"        // 8 + 56 bytes: a multiple of 16
        "  mov %rax, (%rsp)\n"
        "  mov %rdx, 8(%rsp)\n"
        "  movaps %xmm0, 16(%rsp)\n"
        "  movaps %xmm1, 32(%rsp)\n"
        "  call *drain(%rip)\n"
        "  mov (%rsp), %rax\n"
        "  mov 8(%rsp), %rdx\n"
        "  movaps 16(%rsp), %xmm0\n"
        "  movaps 32(%rsp), %xmm1\n"
        "  add $56, %rsp\n"
        "  ret\n"
        "misaligned: push original(%rip); call *drain(%rip); ret\n" // 8 bytes are missing
        ".popsection");

// Two drains. Both use the registers that any function may use. One stores a vector on its stack.
void plain_drain(void), vector_drain(void);
void (*drain)(void);
__asm__(".pushsection .text\n"
        "plain_drain: mov $-1, %rax; mov $-1, %rdx; pxor %xmm0, %xmm0; pxor %xmm1, %xmm1; ret\n"
        "vector_drain:\n"
        "  sub $24, %rsp\n"            // right, where rsp + 8 was a multiple of 16 on entry
        "  movaps %xmm0, (%rsp)\n"     // faults at an address that is no multiple of 16
        "  add $24, %rsp\n"
        "  jmp plain_drain\n"
        ".popsection");

// No foot here: any function has a return address, so a call of this program is hijacked instead.
__attribute__((noinline)) void redirect_caller(char *trampoline) {
    struct frame *frame = ((struct frame *)__builtin_frame_address(0))->caller;
    original = frame->return_address;
    *(volatile uintptr_t *)&frame->return_address = (uintptr_t)trampoline;
}
struct two { long a, b; };     // returned in rax and rdx
struct mixed { long a; double b; }; // returned in rax and xmm0
__attribute__((noinline)) struct two two(char *t) { redirect_caller(t); return (struct two){1, 2}; }
__attribute__((noinline)) struct mixed mixed(char *t) { redirect_caller(t); return (struct mixed){3, 4.5}; }

static sigjmp_buf before;
static void fault(int signal) { siglongjmp(before, signal); }
static void row(const char *name, char *trampoline) {
    drain = plain_drain;
    struct two t = two(trampoline);
    struct mixed m = mixed(trampoline);
    printf("%-14s {1, 2} -> {%ld, %ld}   {3, 4.5} -> {%ld, %.1f}   ", name, t.a, t.b, m.a, m.b);
    drain = vector_drain;
    if (sigsetjmp(before, 1)) printf("movaps in the drain: SIGSEGV\n");
    else { two(trampoline); printf("movaps in the drain: fine\n"); }
}
int main(void) {
    signal(SIGSEGV, fault);
    row("saves_nothing", saves_nothing);
    row("saves_rax", saves_rax);
    row("saves_all", saves_all);
    row("misaligned", misaligned);
    return 0;
}
