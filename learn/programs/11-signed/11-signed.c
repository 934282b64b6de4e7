// Signed return addresses. aarch64-linux-gnu-gcc -g 11-signed.c; qemu-aarch64-static -cpu max ./a.out
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>

struct frame { struct frame *caller; uintptr_t return_address; };
static uintptr_t strip(uintptr_t x) { // xpaclri clears the signature in x30
    register uintptr_t lr __asm__("x30") = x;
    __asm__("xpaclri" : "+r"(lr));
    return lr;
}
static uintptr_t sign(uintptr_t x, uintptr_t modifier) { // pacia1716: key A, address x17, modifier x16
    register uintptr_t address __asm__("x17") = x, m __asm__("x16") = modifier;
    __asm__("pacia1716" : "+r"(address) : "r"(m));
    return address;
}
static int shown;
static uintptr_t other_end; // what a rewritten return address leads to
static sigjmp_buf before;
static void fault(int signal) { siglongjmp(before, signal); }
void landed(void) { siglongjmp(before, 100); }
extern char lands[]; // where the new address leads: it or one of the next instructions
__asm__(".pushsection .text\n.globl lands\nlands: nop; nop; nop; nop; nop; nop; b landed\n.popsection");

// The caller's frame record, and the stack pointer at that function's entry: the modifier.
__attribute__((noinline)) void rewrite(struct frame *frame, uintptr_t modifier, int how) {
    uintptr_t stored = frame->return_address, plain = strip(stored);
    if (how == 0) {
        if (stored == plain) return; // the signature is 0 by chance: nothing to see, `main` tries again
        shown = 1;
        printf("stored:   %#018lx\nstripped: %#018lx\n", stored, plain);
        printf("the signature is in bits 54 to 48 alone: %s; the lower 48 are the address: %s\n",
               stored >> 55 ? "no" : "yes", (stored ^ plain) << 16 ? "no" : "yes");
        printf("signed again with the stack pointer at entry: %s\n",
               sign(plain, modifier) == stored ? "the same" : "another");
        int same = 0;
        for (int i = 1; i <= 1000; i++) same += sign(plain, modifier + 16 * i) == stored;
        printf("signed with 1000 other modifiers: the same in fewer than 50 cases: %s\n", same < 50 ? "yes" : "no");
    }
    // Of 128 signatures one is 0, and then a bare address passes the check. Take another address then.
    while (sign(other_end, modifier) == other_end) other_end += 4;
    if (how == 1) *(volatile uintptr_t *)&frame->return_address = other_end;
    if (how == 2) *(volatile uintptr_t *)&frame->return_address = sign(other_end, modifier);
}
// Signed by its prologue: paciasp signs x30 with sp as the modifier, and autiasp checks it before ret.
// The frame is a known one, so that the modifier can be computed: at entry sp was 32 higher.
void signed_function(long how);
__asm__(".pushsection .text\n.globl signed_function\nsigned_function:\n"
        "  paciasp\n"
        "  stp x29, x30, [sp, #-32]!\n"
        "  mov x29, sp\n"
        "  mov x2, x0\n"
        "  mov x0, x29\n"
        "  add x1, sp, #32\n"
        "  bl rewrite\n"
        "  ldp x29, x30, [sp], #32\n"
        "  autiasp\n"
        "  ret\n.popsection");

static void show(void) { // once more from deeper in the stack: another modifier, another signature
    volatile char room[48] = {0};
    signed_function(0);
    if (!shown) show();
    (void)room[0];
}
int main(void) {
    signal(SIGSEGV, fault);
    signal(SIGILL, fault);
    signal(SIGBUS, fault);
    show();
    other_end = (uintptr_t)lands;
    const char *what[] = {0, "a bare address in the foot: ", "an address signed likewise: "};
    for (volatile int how = 1; how <= 2; how++) {
        int end = sigsetjmp(before, 1);
        if (!end) signed_function(how);
        else printf("%s%s\n", what[how], end == 100 ? "the hijack works" : "the function's own check ends it");
    }
    return 0;
}
