// The trampolines and hooks of exeunt, x86_64 (System V ABI).
//
//   name                      what it is
//   exeunt_cells              the original addresses, which trampolines and hooks load
//   exeunt_trampoline         the pool of trampolines: armed feet lead here (slot redirect)
//   exeunt_trampoline_body    their common part: calls the drain, then returns to the real exit
//   exeunt_probe              stores the address that it returns to
//   exeunt_call_entry         calls an entry function for `enter`, with a known exit trampoline
//   exeunt_tag_frames         frames whose return addresses are digits of a tag
//   exeunt_exit_hook          the hooks: patched calls lead here (code redirect)
//   exeunt_exit_hook_body     their common part: calls the drain, then jumps to the call's target
//   exeunt_context_hook       the hook in glibc's __start_context
//   exeunt_call_entry_hooked  exeunt_call_entry for code redirect
//
// An armed stack's foot holds the address of a trampoline in place of its return address into the
// exit trampoline. There is one trampoline for each distinct exit trampoline of the process. All
// stacks that end there share it.
//
//   before its `ret`                after it                     after the trampoline's `push`
//
//   |  exit trampoline's  |         |  exit trampoline's  |        |  exit trampoline's  |
//   |  own frame          |         |  own frame          | <- rsp |  own frame          |
//   +---------------------+ base    +---------------------+        +---------------------+
//   | trampoline N (foot) | <- rsp  | (popped)            |        | original address    | <- rsp
//   +---------------------+         +---------------------+        +---------------------+
//
// The `push` of the cell restores exactly the stack that a `call` from the exit trampoline would
// have left. From there on the trampoline is an ordinary function that the exit trampoline has
// called, with an ordinary frame, and its `ret` is the real exit.

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

// Every target of a jump or a call through a register or through memory begins with this
// instruction. Where the processor tracks indirect branches (CET's IBT), any other instruction
// there is a fault. Other processors execute it as a long nop.
#define LANDING_PAD .byte 0xf3, 0x0f, 0x1e, 0xfa        // endbr64

// The cells: cell N holds the original return address that trampoline N stands for. The cells have
// pages of their own. These are read-only except while a cell is filled (src/exit/trampoline.rs).
        CELLS_SECTION
        .balign CELLS_ALIGN
        .globl  SYMBOL(exeunt_cells)
        HIDDEN(exeunt_cells)
SYMBOL(exeunt_cells):
        .fill   CELLS_ALIGN / 8, 8, 0

        CODE_SECTION

// One trampoline: TRAMPOLINE_SIZE bytes, aligned to TRAMPOLINE_SIZE, with an unwind table entry
// (FDE) of its own.
//
//    0  the distance from here to the cell, 8 bytes: all that differs between trampolines.
//       The FDE covers them, and so `label - 1`, which is where unwinders look up a return address.
//    8  label: a landing pad; push the cell; jmp to the common part
//
// While a stack is armed, none of its words says where the exit trampoline is. Unwinders have only
// this frame's program counter (the label) and the memory of the process. So the rule for the
// return address is the *value* of a DWARF expression: round the program counter down to the
// beginning of the trampoline, add the distance that is stored there, and load the cell. The rule
// applies from the start of the FDE: if it began at the label, a look-up at `label - 1` would not
// find it. The expression reads the program counter twice, since valgrind does not support
// DW_OP_dup.
        .balign TRAMPOLINE_SIZE
        .globl  SYMBOL(exeunt_trampoline)
        HIDDEN(exeunt_trampoline)
        FUNCTION(SYMBOL(exeunt_trampoline))
SYMBOL(exeunt_trampoline):
        .set    n, 0
        .rept   TRAMPOLINES
        .balign TRAMPOLINE_SIZE
        .cfi_startproc
        .cfi_def_cfa %rsp, 0            // the foot is popped: the caller's frame begins at rsp
        // DW_CFA_val_expression (0x16), register 16 (the return address), 13 bytes:
        //   0x80 0x00       DW_OP_breg16 0                 the program counter
        //   0x09 0xe0 0x1a  DW_OP_const1s -32, DW_OP_and   & -32: the trampoline's beginning
        //   the same again
        //   0x06 0x22       DW_OP_deref, DW_OP_plus        plus the distance: the cell's address
        //   0x06            DW_OP_deref                    the original return address
        .cfi_escape 0x16, 0x10, 0x0d
        .cfi_escape 0x80, 0x00, 0x09, 0xe0, 0x1a
        .cfi_escape 0x80, 0x00, 0x09, 0xe0, 0x1a
        .cfi_escape 0x06, 0x22, 0x06
        .quad   SYMBOL(exeunt_cells) + 8 * n - .
        // label N: an entry function has returned to here, or pthread_exit has jumped here.
        LANDING_PAD
        // rebuild what the exit trampoline's call pushed: the original address, from the cell
        pushq   SYMBOL(exeunt_cells) + 8 * n (%rip)
        .cfi_def_cfa_offset 8
        .cfi_offset %rip, -8            // from here on the return address is on the stack again
        jmp     SYMBOL(exeunt_trampoline_body) // to the common part
        .cfi_endproc
        .set    n, n + 1
        .endr

// Further trampolines, for stacks where the word 8 * n above the base keeps the original address.
// It is a word that the exit trampoline does not use in its own frame (src/exit/landing/glibc.rs),
// or a word of exeunt_call_entry's frame. Here the unwind table needs no expression, and unwinders
// need nothing but the stack: profilers unwind a copy of it, later, without the process.
        .set    n, 0
        .rept   KEPT
        .balign TRAMPOLINE_SIZE
        .cfi_startproc
        .cfi_def_cfa %rsp, 0
        .cfi_offset %rip, 8 * n         // the word that keeps it
        .quad   0                       // so that labels have the same offset as above
        // label: an entry function has returned to here.
        LANDING_PAD
        pushq   8 * n (%rsp)            // push the original address, as above
        .cfi_def_cfa_offset 8
        .cfi_offset %rip, -8
        jmp     SYMBOL(exeunt_trampoline_body) // to the common part
        .cfi_endproc
        .set    n, n + 1
        .endr
        .balign TRAMPOLINE_SIZE
        SIZE(SYMBOL(exeunt_trampoline))

// The common part of the trampolines: from here on an ordinary function. `exeunt_drain` is in
// src/life/drain.rs. HIDDEN keeps its name out of the exports of a shared library.
//
//   on entry                                 at the call
//
//   |  exit trampoline's  |                  |  exit trampoline's  |
//   |  own frame          |                  |  own frame          |
//   +---------------------+ base             +---------------------+ base: rsp + 64
//   | original address    | <- rsp           | foot: drain's mark  | rsp + 56
//   +---------------------+                  +---------------------+
//                                            | original address    | rsp + 48
//                                            | xmm1                | rsp + 32
//                                            | xmm0                | rsp + 16
//                                            | rdx                 | rsp + 8
//                                            | rax                 | <- rsp, a multiple of 16
//                                            +---------------------+
//
// It saves the registers in which the System V ABI returns integers, pointers, float and double,
// and vectors of up to 128 bits: rax and rdx, xmm0 and xmm1. A long double stays in st(0): the ABI
// requires handlers to leave the x87 register stack as they find it. The upper parts of wider
// vectors are lost where handlers change them.
//
// The drain needs a word that says "this stack is draining". If a handler abandons this stack, the
// next stack on this memory must overwrite that word when it begins. Only the foot is such a word.
// So the original address moves to rsp + 48 meanwhile, and the unwind table follows it.
        .p2align 4
        HIDDEN(exeunt_drain)
        .globl  SYMBOL(exeunt_trampoline_body)
        HIDDEN(exeunt_trampoline_body)
        FUNCTION(SYMBOL(exeunt_trampoline_body))
SYMBOL(exeunt_trampoline_body):
        .cfi_startproc
        subq    $56, %rsp               // room for 7 words; 8 + 56 = 64, so rsp is a multiple of 16
        .cfi_adjust_cfa_offset 56
        movq    %rax, (%rsp)            // save the entry function's result: integer,
        movq    %rdx, 8(%rsp)           // its second half,
        movups  %xmm0, 16(%rsp)         // floating point,
        movups  %xmm1, 32(%rsp)         // its second half
        movq    56(%rsp), %rax          // the original address
        movq    %rax, 48(%rsp)          // is kept here while the foot holds the mark
        .cfi_offset %rip, -16
        leaq    56(%rsp), %rdi          // 1st argument: where the drain puts its mark: the foot
        leaq    64(%rsp), %rsi          // 2nd argument: the base of this stack
        cld                             // direction flag clear, as the ABI requires at a call
        call    SYMBOL(exeunt_drain)    // runs the handlers, drops the values
        movq    48(%rsp), %rax          // the original address
        movq    %rax, 56(%rsp)          // is in the foot again
        .cfi_offset %rip, -8
        movq    (%rsp), %rax            // restore the result: integer,
        movq    8(%rsp), %rdx           // its second half,
        movups  16(%rsp), %xmm0         // floating point,
        movups  32(%rsp), %xmm1         // its second half
        addq    $56, %rsp               // free the 7 words: rsp is at the foot
        .cfi_adjust_cfa_offset -56
        ret                             // to the exit trampoline: the real exit
        .cfi_endproc
        SIZE(SYMBOL(exeunt_trampoline_body))

// void *exeunt_probe(void **result): a start routine that stores in `*result` the address that it
// will return to, and returns null. It shows where the system's exit trampolines call entry
// functions.
        .p2align 4
        .globl  SYMBOL(exeunt_probe)
        HIDDEN(exeunt_probe)
        FUNCTION(SYMBOL(exeunt_probe))
SYMBOL(exeunt_probe):
        .cfi_startproc
        LANDING_PAD                     // called through a pointer
        movq    (%rsp), %rax            // at entry the return address is the word at rsp
        movq    %rax, (%rdi)            // *result = the return address
        xorl    %eax, %eax              // the result: null
        ret                             // to the exit trampoline
        .cfi_endproc
        SIZE(SYMBOL(exeunt_probe))

// void exeunt_call_entry(void (*call)(void *), void *data, uintptr_t *base): calls `call(data)` as
// an entry function. The address behind that call is an exit trampoline that is always known.
// Before the call it stores in `*base` the stack pointer at which `call` will return.
//
//   on entry                          when `call` begins
//
//   | return address      | <- rsp    | return address      |
//   +---------------------+           | rbp                 | <- rbp
//                                     | 0 (alignment)       |
//                                     | exeunt_enter_return | kept for unwinders
//                                     +---------------------+ base
//                                     | exeunt_enter_return | <- rsp: the foot
//                                     +---------------------+
//
// The word at the base always says where `call` returns to, also while the foot holds a trampoline.
// Unwinders that have nothing but the stack find it there.
        .p2align 4
        .globl  SYMBOL(exeunt_call_entry)
        HIDDEN(exeunt_call_entry)
        FUNCTION(SYMBOL(exeunt_call_entry))
SYMBOL(exeunt_call_entry):
        .cfi_startproc
        LANDING_PAD                     // a linker may turn the call into one through a table
        pushq   %rbp                    // save rbp; rsp is a multiple of 16 again
        .cfi_adjust_cfa_offset 8
        .cfi_offset %rbp, -16
        movq    %rsp, %rbp              // this frame by rbp, as the callee may end with any rsp
        .cfi_def_cfa_register %rbp
        pushq   $0                      // alignment
        leaq    LOCAL(enter_return)(%rip), %rax // the address behind the call below
        pushq   %rax                    // is kept in the word at the base
        movq    %rsp, (%rdx)            // *base = the stack pointer at which `call` returns
        movq    %rdi, %rax              // `call`, out of the way of its argument
        movq    %rsi, %rdi              // 1st argument: data
        call    *%rax                   // pushes the foot
LOCAL(enter_return):                    // an armed stack drains first, then continues here
        movq    %rbp, %rsp              // rsp as after the first push
        popq    %rbp                    // restore rbp
        .cfi_def_cfa %rsp, 8
        .cfi_restore %rbp
        ret                             // to the caller
        .cfi_endproc
        SIZE(SYMBOL(exeunt_call_entry))
// The name is defined here: Mach-O's assembler allows no symbol in the middle of a function.
        .globl  SYMBOL(exeunt_enter_return)
        HIDDEN(exeunt_enter_return)
        .set    SYMBOL(exeunt_enter_return), LOCAL(enter_return)

// void exeunt_tag_frames(void *data, void (*call)(void *)), 17 times: calls `call(data)` from a
// frame of its own. The return address alone shows which of the 17 a frame belongs to
// (src/face/tag.rs): 0 to 15 are digits, 16 begins a number.
//
//   on entry                          when `call` begins
//
//   | return address      | <- rsp    | return address      |
//   +---------------------+           | rbp                 | <- rbp
//                                     | digit's address     | <- rsp
//                                     +---------------------+
        .balign 32
        .globl  SYMBOL(exeunt_tag_frames)
        HIDDEN(exeunt_tag_frames)
        FUNCTION(SYMBOL(exeunt_tag_frames))
SYMBOL(exeunt_tag_frames):
        .rept   17
        .balign 32
        .cfi_startproc
        LANDING_PAD                     // 4 bytes: called through a pointer
        pushq   %rbp                    // 1 byte: save rbp; rsp is a multiple of 16 again
        .cfi_adjust_cfa_offset 8
        .cfi_offset %rbp, -16
        movq    %rsp, %rbp              // 3 bytes: the frame record
        .cfi_def_cfa_register %rbp
        call    *%rsi                   // 2 bytes: returns to 10 from the start
        popq    %rbp                    // restore rbp
        .cfi_def_cfa %rsp, 8
        .cfi_restore %rbp
        ret                             // to the caller
        .cfi_endproc
        .endr
        SIZE(SYMBOL(exeunt_tag_frames))

// The hooks of code redirect (src/exit/redirect/code.rs). The return addresses on the stack stay as
// they were. A patched call in the exit trampoline leads here instead of to its target. Hook N
// belongs to the N-th such call, and its cell holds that target.
//
//   at the call                    on entry to the hook             in the common part
//
//   |  exit trampoline's  |        |  exit trampoline's  |          |  exit trampoline's  |
//   |  own frame          | <- rsp |  own frame          |          |  own frame          |
//   +---------------------+        +---------------------+          +---------------------+
//                                  | behind the call     | <- rsp   | behind the call     |
//                                  +---------------------+          | target              |
//                                                                   | saved registers     | <- rsp
//
// To the system's unwind tables the hook is a function that the exit trampoline has called, in
// place of the target.
        .balign 32
        .globl  SYMBOL(exeunt_exit_hook)
        HIDDEN(exeunt_exit_hook)
        FUNCTION(SYMBOL(exeunt_exit_hook))
SYMBOL(exeunt_exit_hook):
        .set    n, 0
        .rept   HOOKS
        .balign TRAMPOLINE_SIZE
        .cfi_startproc
        LANDING_PAD                     // the relay near the call jumps here through memory
        // push the target, which the common part jumps to at its end
        pushq   SYMBOL(exeunt_cells) + 8 * (TRAMPOLINES + n) (%rip)
        .cfi_adjust_cfa_offset 8
        jmp     exeunt_hook_body        // to the common part
        .cfi_endproc
        .set    n, n + 1
        .endr
        .balign TRAMPOLINE_SIZE
        SIZE(SYMBOL(exeunt_exit_hook))

// The common part of the hooks.
//
//   on entry                                  at the call
//
//   | exit trampoline's own frame |           | exit trampoline's own frame |
//   +-----------------------------+ base      +-----------------------------+ base: rsp + 208
//   | behind the call             |           | behind the call             | rsp + 200
//   | target                      | <- rsp    | target                      | rsp + 192
//   +-----------------------------+           | xmm0 .. xmm7                | rsp + 64
//                                             | (alignment)                 | rsp + 56
//                                             | rdi rsi rdx rcx r8 r9 rax   | <- rsp
//                                             +-----------------------------+
//
// rsp is a multiple of 16 on entry and at the call. It saves the registers that a function may take
// its arguments from; al counts the vectors among these. Of a vector it saves the low 128 bits:
// libc's functions take none, and no known wrapper of a runtime does. The target is reached by a
// jump instead of a return: the shadow stack has no entry for it.
        .p2align 4
        HIDDEN(exeunt_hook)
        .globl  SYMBOL(exeunt_exit_hook_body)
        HIDDEN(exeunt_exit_hook_body)
        FUNCTION(SYMBOL(exeunt_exit_hook_body))
SYMBOL(exeunt_exit_hook_body):
exeunt_hook_body:
        .cfi_startproc
        .cfi_def_cfa_offset 16          // entered with the target pushed
        subq    $192, %rsp              // room for 24 words
        .cfi_adjust_cfa_offset 192
        movq    %rdi, (%rsp)            // save the arguments: integers and pointers
        movq    %rsi, 8(%rsp)           // the 2nd
        movq    %rdx, 16(%rsp)          // the 3rd
        movq    %rcx, 24(%rsp)          // the 4th
        movq    %r8, 32(%rsp)           // the 5th
        movq    %r9, 40(%rsp)           // the 6th
        movq    %rax, 48(%rsp)          // and al, the number of vector arguments
        movaps  %xmm0, 64(%rsp)         // save the arguments: vectors
        movaps  %xmm1, 80(%rsp)         // the 2nd
        movaps  %xmm2, 96(%rsp)         // the 3rd
        movaps  %xmm3, 112(%rsp)        // the 4th
        movaps  %xmm4, 128(%rsp)        // the 5th
        movaps  %xmm5, 144(%rsp)        // the 6th
        movaps  %xmm6, 160(%rsp)        // the 7th
        movaps  %xmm7, 176(%rsp)        // the 8th
        leaq    200(%rsp), %rdi         // 1st argument: where this call's return address is
        leaq    208(%rsp), %rsi         // 2nd argument: the base of this stack
        movq    %rbp, %rdx              // 3rd: the exit trampoline's rbp, unused on x86_64
        cld                             // direction flag clear, as the ABI requires at a call
        call    SYMBOL(exeunt_hook)     // drains, if this stack is armed
        movaps  176(%rsp), %xmm7        // restore the vectors, the 8th
        movaps  160(%rsp), %xmm6        // the 7th
        movaps  144(%rsp), %xmm5        // the 6th
        movaps  128(%rsp), %xmm4        // the 5th
        movaps  112(%rsp), %xmm3        // the 4th
        movaps  96(%rsp), %xmm2         // the 3rd
        movaps  80(%rsp), %xmm1         // the 2nd
        movaps  64(%rsp), %xmm0         // the 1st
        movq    48(%rsp), %rax          // restore al,
        movq    40(%rsp), %r9           // the 6th argument
        movq    32(%rsp), %r8           // the 5th
        movq    24(%rsp), %rcx          // the 4th
        movq    16(%rsp), %rdx          // the 3rd
        movq    8(%rsp), %rsi           // the 2nd
        movq    (%rsp), %rdi            // the 1st
        addq    $192, %rsp              // free the 24 words: rsp is at the target
        .cfi_adjust_cfa_offset -192
        popq    %r11                    // the target; no argument is in r11
        .cfi_adjust_cfa_offset -8
        jmp     *%r11                   // as if there were no hook: the return address is the same
        .cfi_endproc
        SIZE(SYMBOL(exeunt_exit_hook_body))

// The hook in glibc's __start_context, which calls it as `setcontext(uc_link)`, with rsp at the
// stack word that holds uc_link. On an armed stack that word is a mark of exeunt's, which is odd
// (src/exit/redirect/mark.rs).
//
//   on entry                               at the call
//
//   | uc_link, or the mark |               | uc_link, or the mark |
//   +----------------------+               +----------------------+
//   | behind the call      | <- rsp        | behind the call      |
//   +----------------------+               | rbp                  | <- rbp
//                                          | (alignment)          | <- rsp
//                                          +----------------------+
//
// The 1st argument was loaded from that word. The word may be at any multiple of 8, as stack
// arguments of the entry function lie below it.
        .p2align 4
        HIDDEN(exeunt_context_hook_ends)
        .globl  SYMBOL(exeunt_context_hook)
        HIDDEN(exeunt_context_hook)
        FUNCTION(SYMBOL(exeunt_context_hook))
SYMBOL(exeunt_context_hook):
        .cfi_startproc
        LANDING_PAD                     // as in the other hooks
        testb   $1, %dil                // a context's address is even:
        jz      LOCAL(go_on)            // this stack is not armed
        pushq   %rbp                    // save rbp
        .cfi_adjust_cfa_offset 8
        .cfi_offset %rbp, -16
        movq    %rsp, %rbp              // this frame by rbp, as rsp is aligned below
        .cfi_def_cfa_register %rbp
        movq    %rdi, %rdx              // 3rd argument: the mark
        leaq    8(%rsp), %rdi           // 1st argument: where this call's return address is
        leaq    16(%rsp), %rsi          // 2nd argument: where the mark is
        andq    $-16, %rsp              // a multiple of 16, as the ABI requires at a call
        cld                             // direction flag clear, as the ABI requires at a call
        // drains; the result is the uc_link that the mark stood for
        call    SYMBOL(exeunt_context_hook_ends)
        movq    %rbp, %rsp              // rsp as after the push
        popq    %rbp                    // restore rbp
        .cfi_def_cfa %rsp, 8
        .cfi_restore %rbp
        movq    %rax, %rdi              // the argument of setcontext: uc_link
        testq   %rdi, %rdi              // is there a context to continue with?
        jnz     LOCAL(go_on)            // then setcontext
        ret                             // no: 0 in rdi is the argument of exit, as without the hook
LOCAL(go_on):
        // to setcontext, with the same return address
        jmp     *(SYMBOL(exeunt_cells) + 8 * (TRAMPOLINES + HOOKS))(%rip)
        .cfi_endproc
        SIZE(SYMBOL(exeunt_context_hook))

// void exeunt_call_entry_hooked(void (*call)(void *), void *data, uintptr_t *base):
// exeunt_call_entry for code redirect. `call` returns into code of exeunt's, so the hook is a part
// of it. The word at the base is 0 until the stack is armed, and then a mark of exeunt's.
//
//   on entry                          when `call` begins
//
//   | return address      | <- rsp    | return address       |
//   +---------------------+           | rbp                  | <- rbp
//                                     | 0 (alignment)        |
//                                     | 0, or the mark       |
//                                     +----------------------+ base
//                                     | exeunt_hooked_return | <- rsp: the foot
//                                     +----------------------+
        .p2align 4
        .globl  SYMBOL(exeunt_call_entry_hooked)
        HIDDEN(exeunt_call_entry_hooked)
        FUNCTION(SYMBOL(exeunt_call_entry_hooked))
SYMBOL(exeunt_call_entry_hooked):
        .cfi_startproc
        LANDING_PAD                     // a linker may turn the call into one through a table
        pushq   %rbp                    // save rbp; rsp is a multiple of 16 again
        .cfi_adjust_cfa_offset 8
        .cfi_offset %rbp, -16
        movq    %rsp, %rbp              // this frame by rbp
        .cfi_def_cfa_register %rbp
        pushq   $0                      // alignment
        pushq   $0                      // no mark yet
        movq    %rsp, (%rdx)            // *base = the stack pointer at which `call` returns
        movq    %rdi, %rax              // `call`, out of the way of its argument
        movq    %rsi, %rdi              // 1st argument: data
        call    *%rax                   // pushes the foot
LOCAL(hooked_return):                   // `call` returns to here
        cmpq    $0, (%rsp)              // is there a mark?
        je      LOCAL(not_armed)        // without one there is nothing to drain
        movq    %rsp, %rdi              // 1st argument: a word that does not change: the mark
        movq    %rsp, %rsi              // 2nd argument: the base of this stack
        movq    %rbp, %rdx              // 3rd argument: unused here
        call    SYMBOL(exeunt_hook)     // drains
LOCAL(not_armed):                       // also the address behind the call
        movq    %rbp, %rsp              // rsp as after the first push
        popq    %rbp                    // restore rbp
        .cfi_def_cfa %rsp, 8
        .cfi_restore %rbp
        ret                             // to the caller
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

// The features that this code supports. A linker marks its output with those that all of its inputs
// have.
        .section .note.gnu.property, "a", @note
        .balign 8
        // Bytes of the name, bytes of what follows it, NT_GNU_PROPERTY_TYPE_0.
        .long   4, 16, 5
        .asciz  "GNU"
        // GNU_PROPERTY_X86_FEATURE_1_AND: IBT (1) and SHSTK (2); then four bytes of padding.
        .long   0xc0000002, 4, 3, 0
#endif
