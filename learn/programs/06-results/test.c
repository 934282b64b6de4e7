#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
uintptr_t original;
extern char trampoline[];
#include EXERCISE
__asm__(".pushsection .text\n"
        "drain: sub $24,%rsp; movaps %xmm0,(%rsp); add $24,%rsp\n"
        "mov $-1,%rax; pxor %xmm0,%xmm0; pxor %xmm1,%xmm1; ret\n"
        ".popsection");
struct frame { struct frame *caller; uintptr_t return_address; };
struct pair { double a, b; };
__attribute__((noinline)) struct pair pair(double x) {
    struct frame *frame = __builtin_frame_address(0);
    original = frame->return_address;
    *(volatile uintptr_t *)&frame->return_address = (uintptr_t)trampoline;
    return (struct pair){x, x + 1};
}
static void fault(int s) { (void)s; (void)!write(1, "SIGSEGV\n", 8); _exit(1); }
int main(void) {
    signal(SIGSEGV, fault);
    struct pair p = pair(1.5);
    if (p.a == 1.5 && p.b == 2.5) return 0;
    printf("{1.5, 2.5} became {%f, %f}\n", p.a, p.b);
    return 1;
}
