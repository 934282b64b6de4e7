// The trampolines of exeunt, x86_64 (System V ABI).
//
// An armed stack's foot holds the address of one of these trampolines in place of its return address into the exit
// trampoline. There is one of them per distinct exit trampoline of the process, shared by all stacks that end there.
//
//   before the entry function's `ret`      after it                        after the trampoline's `push`
//
//   |  exit trampoline's  |                |  exit trampoline's  |         |  exit trampoline's  |
//   |  own frame          |                |  own frame          | <- rsp  |  own frame          |
//   +---------------------+                +---------------------+         +---------------------+
//   | trampoline N (foot) | <- rsp         | (popped)            |         | original address    | <- rsp
//   +---------------------+                +---------------------+         +---------------------+
//
// The `push` of the cell rebuilds exactly what a `call` from the exit trampoline would have left. From there on this is
// an ordinary function that was called by the exit trampoline, with an ordinary frame, and its `ret` is the real exit.

#include "offsets.h"

#if defined(__APPLE__)
#  define SYMBOL(name) _##name
#  define LOCAL(name) L##name
#  define HIDDEN(name) .private_extern _##name
#  define FUNCTION(name)
#  define SIZE(name)
#  define CELLS_SECTION .section __DATA,__data
#  define CODE_SECTION .text
#else
#  define SYMBOL(name) name
#  define LOCAL(name) .L##name
#  define HIDDEN(name) .hidden name
#  define FUNCTION(name) .type name, @function
#  define SIZE(name) .size name, . - name
#  define CELLS_SECTION .section .data.exeunt_cells, "aw", @progbits
#  define CODE_SECTION .section .text.exeunt, "ax", @progbits
#endif

// Whatever code a jump or a call through a register or through memory leads to begins with this: where indirect branches are
// tracked (CET's IBT) any other instruction there is a fault. To other processors it is a long nop.
#define LANDING_PAD .byte 0xf3, 0x0f, 0x1e, 0xfa        // endbr64

// The cells: cell N holds the original return address that trampoline N stands for. They have pages of their own, so
// that these can be read-only but for the moment in which a cell is filled (src/exit/trampoline.rs).
        CELLS_SECTION
        .balign CELLS_ALIGN
        .globl  SYMBOL(exeunt_cells)
        HIDDEN(exeunt_cells)
SYMBOL(exeunt_cells):
        .fill   CELLS_ALIGN / 8, 8, 0

        CODE_SECTION

// One trampoline, TRAMPOLINE_SIZE bytes, aligned to as many, with an unwind table entry (FDE) of its own:
//
//    0  the distance from here to the cell, 8 bytes: the only thing in it that differs from the others. The FDE covers it,
//       and so `label - 1`: unwinders look a return address up there
//    8  label: a landing pad; push cell; jmp to the common part
//
// While a stack is armed, nothing on it says where the exit trampoline is, and unwinders have only the program counter
// of this frame (the label) and the memory of the process to go by. So the rule for the return address is the *value*
// of a DWARF expression: round the program counter down to where the trampoline begins, add the distance that is there,
// read the cell. It is in force from the start of the FDE: were it to begin at the label, the look-up at `label - 1`
// would miss it. The program counter is read twice, as valgrind knows no DW_OP_dup.
        .balign TRAMPOLINE_SIZE
        .globl  SYMBOL(exeunt_trampoline)
        HIDDEN(exeunt_trampoline)
        FUNCTION(SYMBOL(exeunt_trampoline))
SYMBOL(exeunt_trampoline):
        .set    n, 0
        .rept   TRAMPOLINES
        .balign TRAMPOLINE_SIZE
        .cfi_startproc
        .cfi_def_cfa %rsp, 0            // the foot has been popped: the caller's frame begins at rsp
        // DW_CFA_val_expression (0x16), register 16 (the return address), 13 bytes:
        //   0x80 0x00       DW_OP_breg16 0       the program counter
        //   0x09 0xe0 0x1a  DW_OP_const1s -32, DW_OP_and   where the trampoline begins: minus TRAMPOLINE_SIZE
        //   the same again
        //   0x06 0x22       DW_OP_deref, DW_OP_plus        with the distance: the cell's address
        //   0x06            DW_OP_deref          the original return address
        .cfi_escape 0x16, 0x10, 0x0d, 0x80, 0x00, 0x09, 0xe0, 0x1a, 0x80, 0x00, 0x09, 0xe0, 0x1a, 0x06, 0x22, 0x06
        .quad   SYMBOL(exeunt_cells) + 8 * n - .
        // label N: an entry function returned to here, or pthread_exit jumped.
        LANDING_PAD
        pushq   SYMBOL(exeunt_cells) + 8 * n (%rip)     // as the exit trampoline's call would have
        .cfi_def_cfa_offset 8
        .cfi_offset %rip, -8            // from here the return address is on the stack again
        jmp     exeunt_trampoline_body
        .cfi_endproc
        .set    n, n + 1
        .endr

// The others, for stacks where a word above the top, 8 * n away, keeps the original address: one that exit trampolines have
// to spare in their own frame (src/exit/landing/glibc.rs), or one of enter's frame. Here the unwind table needs no expression, and
// unwinders no more than the stack: profilers unwind a copy of it, later, without the process.
        .set    n, 0
        .rept   KEPT
        .balign TRAMPOLINE_SIZE
        .cfi_startproc
        .cfi_def_cfa %rsp, 0
        .cfi_offset %rip, 8 * n         // the spare word
        .quad   0                       // as above, so that labels are at the same place
        // label: an entry function returned to here.
        LANDING_PAD
        pushq   8 * n (%rsp)            // as the exit trampoline's call would have
        .cfi_def_cfa_offset 8
        .cfi_offset %rip, -8
        jmp     exeunt_trampoline_body
        .cfi_endproc
        .set    n, n + 1
        .endr
        .balign TRAMPOLINE_SIZE
        SIZE(SYMBOL(exeunt_trampoline))

// The common part: an ordinary function from here on. `exeunt_drain` is src/life/drain.rs; saying here that it is hidden keeps
// it out of what a shared library exports.
//
//   |  exit trampoline's  |
//   |  own frame          |
//   +---------------------+
//   | original address    | <- rsp on entry, 8 below a multiple of 16; the foot. During the drain: its mark
//   +---------------------+
//   | original address    | rsp + 48
//   | xmm1                | rsp + 32
//   | xmm0                | rsp + 16
//   | rdx                 | rsp + 8
//   | rax                 | <- rsp at the call
//   +---------------------+
//
// What is saved is where the System V ABI returns integers, pointers, float and double, and vectors of up to 128 bits: rax and rdx,
// xmm0 and xmm1. A long double, in st(0), stays where it is: handlers leave the x87 registers' stack as they find it, as the ABI
// wants. The upper parts of wider vectors are lost where handlers change them.
//
// The drain needs a word that says "this stack is draining", and that any next stack on this memory overwrites when it
// begins, should this one be abandoned in a handler. That is the foot alone, so the original address moves down for the
// time, and the unwind table follows it.
        .p2align 4
        HIDDEN(exeunt_drain)
        .globl  SYMBOL(exeunt_trampoline_body)
        HIDDEN(exeunt_trampoline_body)
        FUNCTION(SYMBOL(exeunt_trampoline_body))
SYMBOL(exeunt_trampoline_body):
exeunt_trampoline_body:
        .cfi_startproc
        subq    $56, %rsp               // 8 + 56 = 64: the call below is made on a multiple of 16
        .cfi_adjust_cfa_offset 56
        movq    %rax, (%rsp)            // the entry function's result, integer
        movq    %rdx, 8(%rsp)           // and its second half
        movups  %xmm0, 16(%rsp)         // the same, floating point
        movups  %xmm1, 32(%rsp)
        movq    56(%rsp), %rax          // the original address
        movq    %rax, 48(%rsp)          // is kept here while the foot holds the mark
        .cfi_offset %rip, -16
        leaq    56(%rsp), %rdi          // 1st argument: where the drain puts its mark: the foot
        leaq    64(%rsp), %rsi          // 2nd argument: the top of this stack
        cld                             // the ABI wants the direction flag clear at a call; the result needs no flag
        call    SYMBOL(exeunt_drain)    // runs the handlers, drops the values
        movq    48(%rsp), %rax
        movq    %rax, 56(%rsp)          // the original address is in the foot again
        .cfi_offset %rip, -8
        movq    (%rsp), %rax
        movq    8(%rsp), %rdx
        movups  16(%rsp), %xmm0
        movups  32(%rsp), %xmm1
        addq    $56, %rsp
        .cfi_adjust_cfa_offset -56
        ret                             // to the exit trampoline: the real exit
        .cfi_endproc
        SIZE(SYMBOL(exeunt_trampoline_body))

// void exeunt_probe(void **result): a start routine that stores the address it will return to, and returns it (as a
// thread's result; 0 would do). It tells which address the system's exit trampolines are entered at.
        .p2align 4
        .globl  SYMBOL(exeunt_probe)
        HIDDEN(exeunt_probe)
        FUNCTION(SYMBOL(exeunt_probe))
SYMBOL(exeunt_probe):
        .cfi_startproc
        LANDING_PAD                     // called through a pointer
        movq    (%rsp), %rax            // at entry the return address is the word at the stack pointer
        movq    %rax, (%rdi)
        xorl    %eax, %eax
        ret
        .cfi_endproc
        SIZE(SYMBOL(exeunt_probe))

// void exeunt_call_entry(void (*call)(void *), void *data, uintptr_t *top): calls `call(data)` as an entry function,
// with the address behind the call being an exit trampoline that is always known. Before the call it stores in `*top` the
// stack pointer at which `call` will return.
//
//   | return address      |
//   | rbp                 | <- rbp
//   | (alignment)         |
//   | exeunt_enter_return | <- rsp before the call: the top
//   +---------------------+
//   | exeunt_enter_return | the foot, as `call` finds it
//   +---------------------+
//
// The word at the top says where `call` returns to in any case, also while the foot says something else: there unwinders that have
// nothing but the stack find it.
        .p2align 4
        .globl  SYMBOL(exeunt_call_entry)
        HIDDEN(exeunt_call_entry)
        FUNCTION(SYMBOL(exeunt_call_entry))
SYMBOL(exeunt_call_entry):
        .cfi_startproc
        LANDING_PAD                     // a linker may make it a call through a table
        pushq   %rbp                    // also brings the stack pointer back to a multiple of 16
        .cfi_adjust_cfa_offset 8
        .cfi_offset %rbp, -16
        movq    %rsp, %rbp
        .cfi_def_cfa_register %rbp
        pushq   $0                      // alignment
        leaq    LOCAL(enter_return)(%rip), %rax
        pushq   %rax
        movq    %rsp, (%rdx)
        movq    %rdi, %rax
        movq    %rsi, %rdi
        call    *%rax
LOCAL(enter_return):                    // armed, the trampoline drains and then goes on to here
        movq    %rbp, %rsp
        popq    %rbp
        .cfi_def_cfa %rsp, 8
        .cfi_restore %rbp
        ret
        .cfi_endproc
        SIZE(SYMBOL(exeunt_call_entry))
// The name is given here: Mach-O's assembler takes none in the middle of a function.
        .globl  SYMBOL(exeunt_enter_return)
        HIDDEN(exeunt_enter_return)
        .set    SYMBOL(exeunt_enter_return), LOCAL(enter_return)

// void exeunt_tag_frames(void *data, void (*call)(void *)), 17 times: calls `call(data)` from a frame of its own. Which of
// them a frame is of can be told by its return address alone (src/face/tag.rs): 0 to 15 are digits, 16 begins a number.
        .balign 32
        .globl  SYMBOL(exeunt_tag_frames)
        HIDDEN(exeunt_tag_frames)
        FUNCTION(SYMBOL(exeunt_tag_frames))
SYMBOL(exeunt_tag_frames):
        .rept   17
        .balign 32
        .cfi_startproc
        LANDING_PAD                     // 4 bytes: called through a pointer
        pushq   %rbp                    // 1 byte; also brings the stack pointer back to a multiple of 16
        .cfi_adjust_cfa_offset 8
        .cfi_offset %rbp, -16
        movq    %rsp, %rbp              // 3 bytes
        .cfi_def_cfa_register %rbp
        call    *%rsi                   // 2 bytes: returns to 10 from the start
        popq    %rbp
        .cfi_def_cfa %rsp, 8
        .cfi_restore %rbp
        ret
        .cfi_endproc
        .endr
        SIZE(SYMBOL(exeunt_tag_frames))

// Code redirect (src/exit/redirect/code.rs): the return addresses on the stack stay as they were, and a call in the exit
// trampoline leads here instead of to its target. Hook N is for the N-th such call, and its cell holds that target.
//
//   at the call                  on entry to the hook              in the common part
//
//   |  exit trampoline's  |      |  exit trampoline's  |           |  exit trampoline's  |
//   |  own frame          |      |  own frame          |           |  own frame          |
//   +---------------------+      +---------------------+           +---------------------+
//                         <- rsp | behind the call     | <- rsp    | behind the call     |
//                                +---------------------+           | target              |
//                                                                  | saved registers     | <- rsp
//
// To the system's unwind tables this is a function that the exit trampoline calls, as it called the target.
        .balign 32
        .globl  SYMBOL(exeunt_exit_hook)
        HIDDEN(exeunt_exit_hook)
        FUNCTION(SYMBOL(exeunt_exit_hook))
SYMBOL(exeunt_exit_hook):
        .set    n, 0
        .rept   HOOKS
        .balign TRAMPOLINE_SIZE
        .cfi_startproc
        LANDING_PAD                     // the relay in reach of the call jumps here through memory
        pushq   SYMBOL(exeunt_cells) + 8 * (TRAMPOLINES + n) (%rip)     // the target, for the end
        .cfi_adjust_cfa_offset 8
        jmp     exeunt_hook_body
        .cfi_endproc
        .set    n, n + 1
        .endr
        .balign TRAMPOLINE_SIZE
        SIZE(SYMBOL(exeunt_exit_hook))

// The common part of the hooks.
//
//   |  exit trampoline's own frame    |
//   +---------------------------------+ the top of this stack
//   | behind the call                 | rsp + 200
//   | target                          | rsp + 192, rsp on entry, a multiple of 16
//   | xmm0 .. xmm7                    | rsp + 64
//   | (alignment)                     | rsp + 56
//   | rdi rsi rdx rcx r8 r9 rax       | <- rsp at the call
//   +---------------------------------+
//
// What is saved is what a function may take its arguments from; al counts the vectors among them, of which the low 128
// bits are kept: libc's functions take none, and wrappers of runtimes that do are not known. The target is
// reached by a jump and not by a return: a shadow stack has seen no call to it.
        .p2align 4
        HIDDEN(exeunt_hook)
        .globl  SYMBOL(exeunt_exit_hook_body)
        HIDDEN(exeunt_exit_hook_body)
        FUNCTION(SYMBOL(exeunt_exit_hook_body))
SYMBOL(exeunt_exit_hook_body):
exeunt_hook_body:
        .cfi_startproc
        .cfi_def_cfa_offset 16          // entered with the target pushed
        subq    $192, %rsp
        .cfi_adjust_cfa_offset 192
        movq    %rdi, (%rsp)
        movq    %rsi, 8(%rsp)
        movq    %rdx, 16(%rsp)
        movq    %rcx, 24(%rsp)
        movq    %r8, 32(%rsp)
        movq    %r9, 40(%rsp)
        movq    %rax, 48(%rsp)
        movaps  %xmm0, 64(%rsp)
        movaps  %xmm1, 80(%rsp)
        movaps  %xmm2, 96(%rsp)
        movaps  %xmm3, 112(%rsp)
        movaps  %xmm4, 128(%rsp)
        movaps  %xmm5, 144(%rsp)
        movaps  %xmm6, 160(%rsp)
        movaps  %xmm7, 176(%rsp)
        leaq    200(%rsp), %rdi         // 1st argument: where the return address of this call is
        leaq    208(%rsp), %rsi         // 2nd argument: the top of this stack
        movq    %rbp, %rdx              // 3rd argument: the exit trampoline's frame pointer, which x86_64 does not ask
        cld                             // the ABI wants the direction flag clear at a call
        call    SYMBOL(exeunt_hook)     // drains, if this stack is armed
        movaps  176(%rsp), %xmm7
        movaps  160(%rsp), %xmm6
        movaps  144(%rsp), %xmm5
        movaps  128(%rsp), %xmm4
        movaps  112(%rsp), %xmm3
        movaps  96(%rsp), %xmm2
        movaps  80(%rsp), %xmm1
        movaps  64(%rsp), %xmm0
        movq    48(%rsp), %rax
        movq    40(%rsp), %r9
        movq    32(%rsp), %r8
        movq    24(%rsp), %rcx
        movq    16(%rsp), %rdx
        movq    8(%rsp), %rsi
        movq    (%rsp), %rdi
        addq    $192, %rsp
        .cfi_adjust_cfa_offset -192
        popq    %r11                    // the target; r11 is nobody's at a call
        .cfi_adjust_cfa_offset -8
        jmp     *%r11                   // on as if there were no hook, with the same return address
        .cfi_endproc
        SIZE(SYMBOL(exeunt_exit_hook_body))

// The hook in glibc's __start_context, which calls it as `setcontext(uc_link)`, with rsp at the stack word that uc_link is
// in. On an armed stack that word is a mark of ours, which is odd (src/exit/redirect/mark.rs).
//
//   | uc_link, or our mark       | the 1st argument was loaded from here
//   +----------------------------+
//   | behind the call            | rsp on entry
//   | rbp                        | <- rbp
//   | (alignment)                | <- rsp at the call
//   +----------------------------+
//
// That word can be at any multiple of 8: arguments of the entry function lie below it.
        .p2align 4
        HIDDEN(exeunt_context_hook_ends)
        .globl  SYMBOL(exeunt_context_hook)
        HIDDEN(exeunt_context_hook)
        FUNCTION(SYMBOL(exeunt_context_hook))
SYMBOL(exeunt_context_hook):
        .cfi_startproc
        LANDING_PAD                     // as the other hooks
        testb   $1, %dil                // a context's address is even: this stack is not armed
        jz      LOCAL(go_on)
        pushq   %rbp
        .cfi_adjust_cfa_offset 8
        .cfi_offset %rbp, -16
        movq    %rsp, %rbp
        .cfi_def_cfa_register %rbp
        movq    %rdi, %rdx              // 3rd argument: the mark
        leaq    8(%rsp), %rdi           // 1st argument: where the return address of this call is
        leaq    16(%rsp), %rsi          // 2nd argument: where the mark is
        andq    $-16, %rsp              // as the ABI wants it at a call
        cld
        call    SYMBOL(exeunt_context_hook_ends)        // drains; the result is what the mark stood for
        movq    %rbp, %rsp
        popq    %rbp
        .cfi_def_cfa %rsp, 8
        .cfi_restore %rbp
        movq    %rax, %rdi
        testq   %rdi, %rdi
        jnz     LOCAL(go_on)
        ret                             // no uc_link: 0 goes on to be the argument of exit, as __start_context has it
LOCAL(go_on):
        jmp     *(SYMBOL(exeunt_cells) + 8 * (TRAMPOLINES + HOOKS))(%rip)       // setcontext
        .cfi_endproc
        SIZE(SYMBOL(exeunt_context_hook))

// void exeunt_call_entry_hooked(void (*call)(void *), void *data, uintptr_t *top): as exeunt_call_entry, for code
// redirect: the code that `call` returns into is ours, so that the hook can be a part of it. The word at the top is 0
// until the stack is armed, and then a mark of ours.
//
//   | return address      |
//   | rbp                 | <- rbp
//   | (alignment)         |
//   | mark                | <- rsp before the call: the top
//   +---------------------+
//   | hooked_return       | the foot, as `call` finds it
//   +---------------------+
        .p2align 4
        .globl  SYMBOL(exeunt_call_entry_hooked)
        HIDDEN(exeunt_call_entry_hooked)
        FUNCTION(SYMBOL(exeunt_call_entry_hooked))
SYMBOL(exeunt_call_entry_hooked):
        .cfi_startproc
        LANDING_PAD
        pushq   %rbp
        .cfi_adjust_cfa_offset 8
        .cfi_offset %rbp, -16
        movq    %rsp, %rbp
        .cfi_def_cfa_register %rbp
        pushq   $0                      // alignment
        pushq   $0                      // no mark
        movq    %rsp, (%rdx)
        movq    %rdi, %rax
        movq    %rsi, %rdi
        call    *%rax
LOCAL(hooked_return):
        cmpq    $0, (%rsp)
        je      LOCAL(not_armed)
        movq    %rsp, %rdi              // 1st argument: a word that does not change: the mark
        movq    %rsp, %rsi              // 2nd argument: the top of this stack
        movq    %rbp, %rdx              // 3rd argument: not asked here
        call    SYMBOL(exeunt_hook)
LOCAL(not_armed):                      // and behind the call
        movq    %rbp, %rsp
        popq    %rbp
        .cfi_def_cfa %rsp, 8
        .cfi_restore %rbp
        ret
        .cfi_endproc
        SIZE(SYMBOL(exeunt_call_entry_hooked))
        .globl  SYMBOL(exeunt_hooked_behind)
        HIDDEN(exeunt_hooked_behind)
        .set    SYMBOL(exeunt_hooked_behind), LOCAL(not_armed)
        .globl  SYMBOL(exeunt_hooked_return)
        HIDDEN(exeunt_hooked_return)
        .set    SYMBOL(exeunt_hooked_return), LOCAL(hooked_return)

#if !defined(__APPLE__)
        .section .note.GNU-stack, "", @progbits         // no executable stack

// What this code is fit for. A linker marks what it links by the least of all its objects.
        .section .note.gnu.property, "a", @note
        .balign 8
        .long   4, 16, 5                // bytes of the name, bytes of what follows it, NT_GNU_PROPERTY_TYPE_0
        .asciz  "GNU"
        .long   0xc0000002, 4, 3, 0     // GNU_PROPERTY_X86_FEATURE_1_AND: IBT (1) and SHSTK (2); and four bytes of padding
#endif
