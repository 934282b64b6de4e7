// Exercise: the entry function returns a pair of doubles, and the drain stores vectors on its stack.
// Mend the trampoline so that the pair arrives.
__asm__(".pushsection .text\n"
        "trampoline:\n"
        "  push original(%rip)\n"
        "  sub $32, %rsp\n"
        "  mov %rax, (%rsp)\n"
        "  movups %xmm0, 16(%rsp)\n"
        "  call drain\n"
        "  mov (%rsp), %rax\n"
        "  movups 16(%rsp), %xmm0\n"
        "  add $32, %rsp\n"
        "  ret\n"
        ".popsection");
