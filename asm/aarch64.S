// The trampolines and hooks of exeunt, aarch64 (AAPCS64).
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
// exit trampoline (signed, where the entry function signs its return address). There is one
// trampoline for each distinct exit trampoline of the process. All stacks that end there share it.
//
//   in the entry function          after its `ret`                after the common part's `stp`
//
//   |  exit trampoline's  |        |  exit trampoline's  |        |  exit trampoline's  |
//   |  own frame          |        |  own frame          | <- sp  |  own frame          |
//   +---------------------+ base   +---------------------+        +---------------------+
//   | entry function's    |        | (popped)            |        | ...                 |
//   |   x30: trampoline N | foot   |                     |        | x30: original       |
//   |   x29               | <- sp  |                     |        | x29                 | <- sp
//   +---------------------+        +---------------------+        +---------------------+
//                                  x30 = trampoline N
//
// The trampoline loads x30 from its cell, which is exactly what a `bl` from the exit trampoline
// would have left there. From there on it is an ordinary function that the exit trampoline has
// called, and its `ret` is the real exit.

#include "offsets.h"

#if defined(__APPLE__)
#  define SYMBOL(name) _##name
#  define LOCAL(name) L##name
#  define HIDDEN(name) .private_extern _##name
#  define FUNCTION(name)
#  define SIZE(name)
#  define CELLS_SECTION .section __DATA,__data
#  define CODE_SECTION .text
#  define PAGE(name, offset) name@PAGE + (offset)
#  define PAGEOFF(name, offset) name@PAGEOFF + (offset)
#else
#  define SYMBOL(name) name
#  define LOCAL(name) .L##name
#  define HIDDEN(name) .hidden name
#  define FUNCTION(name) .type name, %function
#  define SIZE(name) .size name, . - name
#  define CELLS_SECTION .section .data.exeunt_cells, "aw", %progbits
#  define CODE_SECTION .section .text.exeunt, "ax", %progbits
#  define PAGE(name, offset) name + (offset)
#  define PAGEOFF(name, offset) :lo12:name + (offset)
#endif

// Functions sign the return address that they store (paciasp, autiasp: no-operations without
// pointer authentication). Both are hints, which every assembler and processor accepts, and so are
// the landing pads. paciasp is also a landing pad for a call through a register (`bti c`). On macOS
// the code does not sign: only arm64e does.
#if defined(__APPLE__)
#  define SIGN hint #34
#  define SIGNED
#  define AUTHENTICATE
#  define AUTHENTICATED
#else
#  define SIGN hint #25
#  define SIGNED .cfi_negate_ra_state
#  define AUTHENTICATE hint #29
#  define AUTHENTICATED .cfi_negate_ra_state
#endif

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
//    0  the distance from here to the cell, 8 bytes. The FDE covers them, and so `label - 1`, which
//       is where unwinders look up a return address.
//    8  label: a landing pad; x30 = the cell; branch to the common part
//
// While a stack is armed, none of its words says where the exit trampoline is. Unwinders have only
// the return address that the entry function has saved (x30, the label) and the memory of the
// process. So the rule for x30 is the *value* of a DWARF expression: take x30, clear the bits that
// a signature may have set, round it down to the beginning of the trampoline, add the distance that
// is stored there, and load the cell. The rule applies from the start of the FDE: if it began at
// the label, a look-up at `label - 1` would not find it. The expression reads x30 twice, since
// valgrind does not support DW_OP_dup.
//
// LLVM's libunwind has the label in the program counter alone: a step outwards leaves x30 as it was
// in the innermost frame (`stepWithDwarf` in DwarfInstructions.hpp). It gives the program counter
// the number 32, which libgcc does not have. So there are trampolines for either unwinder
// (src/unwind/link_register.rs). macOS has LLVM's alone.
//
// DW_CFA_val_expression (0x16), register 30, 25 bytes:
//   0x8e 0x00            DW_OP_breg30 0                the label, possibly signed
//   0x08 0x10 0x24       DW_OP_const1u 16, DW_OP_shl   the signature's bits cleared:
//   0x08 0x10 0x25       DW_OP_const1u 16, DW_OP_shr     left and right by 16
//   0x09 0xe0 0x1a       DW_OP_const1s -32, DW_OP_and  & -32: the trampoline's beginning
//   the same again
//   0x06 0x22            DW_OP_deref, DW_OP_plus       + the distance: the cell's address
//   0x06                 DW_OP_deref                   the original return address
.macro ORIGINAL_BY_LINK_REGISTER
        .cfi_escape 0x16, 0x1e, 0x19
        .cfi_escape 0x8e, 0x00, 0x08, 0x10, 0x24, 0x08, 0x10, 0x25, 0x09, 0xe0, 0x1a
        .cfi_escape 0x8e, 0x00, 0x08, 0x10, 0x24, 0x08, 0x10, 0x25, 0x09, 0xe0, 0x1a
        .cfi_escape 0x06, 0x22, 0x06
.endm
// The same, 15 bytes:
//   0x92 0x20 0x00       DW_OP_bregx 32 0              the label, without a signature
//   0x09 0xe0 0x1a       DW_OP_const1s -32, DW_OP_and  & -32: the trampoline's beginning
//   the same again, and the rest as above
.macro ORIGINAL_BY_PROGRAM_COUNTER
        .cfi_escape 0x16, 0x1e, 0x0f
        .cfi_escape 0x92, 0x20, 0x00, 0x09, 0xe0, 0x1a
        .cfi_escape 0x92, 0x20, 0x00, 0x09, 0xe0, 0x1a
        .cfi_escape 0x06, 0x22, 0x06
.endm

.macro TRAMPOLINES_WITH rule
        .set    n, 0
        .rept   TRAMPOLINES
        .balign TRAMPOLINE_SIZE
        .cfi_startproc
        .cfi_def_cfa sp, 0              // the entry function's frame is gone: the caller's is at sp
        \rule
        .quad   SYMBOL(exeunt_cells) + 8 * n - .
        // label N: an entry function has returned to here, or pthread_exit has jumped here; x30 is
        // this label.
        hint    #36                     // bti j: pthread_exit jumps by `br x30`
        // the page of the cell; x16 (IP0) is free at a return
        adrp    x16, PAGE(SYMBOL(exeunt_cells), 8 * n)
        // the original address
        ldr     x16, [x16, PAGEOFF(SYMBOL(exeunt_cells), 8 * n)]
        mov     x30, x16                // as the exit trampoline's bl left it
        .cfi_same_value x30             // the return address is in x30, as at any function's entry
        b       SYMBOL(exeunt_trampoline_body) // to the common part
        .cfi_endproc
        .set    n, n + 1
        .endr
.endm

        .balign TRAMPOLINE_SIZE
        .globl  SYMBOL(exeunt_trampoline)
        HIDDEN(exeunt_trampoline)
        FUNCTION(SYMBOL(exeunt_trampoline))
SYMBOL(exeunt_trampoline):
#if defined(__APPLE__)
        TRAMPOLINES_WITH ORIGINAL_BY_PROGRAM_COUNTER
#else
        TRAMPOLINES_WITH ORIGINAL_BY_LINK_REGISTER
#endif

// Further trampolines, for stacks where the word 8 * n above the base keeps the original address.
// It is a word that the exit trampoline does not use in its own frame (src/exit/landing/glibc.rs),
// or a word of exeunt_call_entry's frame. Here the unwind table needs no expression, and unwinders
// need nothing but the stack: profilers unwind a copy of it, later, without the process.
        .set    n, 0
        .rept   KEPT
        .balign TRAMPOLINE_SIZE
        .cfi_startproc
        .cfi_def_cfa sp, 0
        .cfi_offset x30, 8 * n          // the word that keeps it
        .quad   0                       // so that labels have the same offset as above
        // label: an entry function has returned to here.
        hint    #36                     // bti j: as above
        ldr     x30, [sp, #8 * n]       // the original address, as the exit trampoline's bl left it
        .cfi_same_value x30
        b       SYMBOL(exeunt_trampoline_body) // to the common part
        .cfi_endproc
        .set    n, n + 1
        .endr

#if !defined(__APPLE__)
// The first ones again, with the same cells, for LLVM's libunwind.
        TRAMPOLINES_WITH ORIGINAL_BY_PROGRAM_COUNTER
#endif
        .balign TRAMPOLINE_SIZE
        SIZE(SYMBOL(exeunt_trampoline))

// The common part of the trampolines: from here on an ordinary function. `exeunt_drain` is in
// src/life/drain.rs. HIDDEN keeps its name out of the exports of a shared library.
//
//   on entry                                 at the call
//
//   |  exit trampoline's  |                  |  exit trampoline's  |
//   |  own frame          | <- sp            |  own frame          |
//   +---------------------+ base             +---------------------+ base: sp + 160
//   x30 = the original address               | the drain's mark    | sp + 152
//                                            | x8                  | sp + 144
//                                            | q0 .. q3            | sp + 80
//                                            | x0 .. x7            | sp + 16
//                                            | x30: original       | sp + 8
//                                            | x29                 | <- sp, x29
//                                            +---------------------+
//
// It saves the registers in which the AAPCS64 returns values: x0 to x7 (x0 and x1 for most types),
// q0 to q3, and x8. It does not save those of the variants for vectors: scalable results (SVE: z0
// to z7 beyond q0 to q3, and p0 to p3), and the registers beyond d8 to d15 that functions with such
// results, or with `aarch64_vector_pcs`, preserve for their callers.
        .p2align 4
        HIDDEN(exeunt_drain)
        .globl  SYMBOL(exeunt_trampoline_body)
        HIDDEN(exeunt_trampoline_body)
        FUNCTION(SYMBOL(exeunt_trampoline_body))
SYMBOL(exeunt_trampoline_body):
        .cfi_startproc
        SIGN                            // sign the return address
        SIGNED
        stp     x29, x30, [sp, #-160]!  // room for 20 words, and a frame record
        .cfi_def_cfa_offset 160
        .cfi_offset x29, -160
        .cfi_offset x30, -152
        mov     x29, sp                 // this frame's record
        stp     x0, x1, [sp, #16]       // save the entry function's result: integers,
        stp     x2, x3, [sp, #32]       // up to eight words of them,
        stp     x4, x5, [sp, #48]       // the 5th and the 6th,
        stp     x6, x7, [sp, #64]       // the 7th and the 8th,
        stp     q0, q1, [sp, #80]       // floating point and vectors,
        stp     q2, q3, [sp, #112]      // up to four of them,
        str     x8, [sp, #144]          // and x8
        add     x0, sp, #152            // 1st argument: where the drain puts its mark
        add     x1, sp, #160            // 2nd argument: the base of this stack
        bl      SYMBOL(exeunt_drain)    // runs the handlers, drops the values
        ldr     x8, [sp, #144]          // restore x8,
        ldp     q2, q3, [sp, #112]      // the vectors,
        ldp     q0, q1, [sp, #80]       // the first two,
        ldp     x6, x7, [sp, #64]       // and the integers: the 7th and the 8th,
        ldp     x4, x5, [sp, #48]       // the 5th and the 6th,
        ldp     x2, x3, [sp, #32]       // the 3rd and the 4th,
        ldp     x0, x1, [sp, #16]       // the 1st and the 2nd
        ldp     x29, x30, [sp], #160    // free the 20 words: sp is at the base
        .cfi_restore x29
        .cfi_restore x30
        .cfi_def_cfa_offset 0
        AUTHENTICATE                    // check the return address's signature
        AUTHENTICATED
        ret                             // to the exit trampoline: the real exit
        .cfi_endproc
        SIZE(SYMBOL(exeunt_trampoline_body))

// int exeunt_probe(void **result): a start routine that stores in `*result` the address that it
// will return to, and returns 0. It shows where the system's exit trampolines call entry functions.
        .p2align 4
        .globl  SYMBOL(exeunt_probe)
        HIDDEN(exeunt_probe)
        FUNCTION(SYMBOL(exeunt_probe))
SYMBOL(exeunt_probe):
        .cfi_startproc
        hint    #34                     // bti c: it is called through a pointer
        str     x30, [x0]               // at entry the return address is in x30
        mov     x0, #0                  // the result: 0
        ret                             // to the exit trampoline
        .cfi_endproc
        SIZE(SYMBOL(exeunt_probe))

// void exeunt_call_entry(void (*call)(void *), void *data, uintptr_t *base): calls `call(data)` as
// an entry function. The address behind that call is an exit trampoline that is always known.
// Before the call it stores in `*base` the stack pointer at which `call` will return.
//
//   on entry                          when `call` begins
//
//   |  caller's frame     | <- sp     |  caller's frame     |
//   +---------------------+           +---------------------+
//   x30 = return address              | x30                 |
//                                     | x29                 | <- x29
//                                     | 0 (alignment)       |
//                                     | exeunt_enter_return | <- sp: kept for unwinders
//                                     +---------------------+ base
//                                     x30 = exeunt_enter_return; the word of `call`'s frame that
//                                     stores it is the foot
//
// The word at the base always says where `call` returns to, also while the foot holds a trampoline.
// Unwinders that have nothing but the stack find it there.
        .p2align 4
        .globl  SYMBOL(exeunt_call_entry)
        HIDDEN(exeunt_call_entry)
        FUNCTION(SYMBOL(exeunt_call_entry))
SYMBOL(exeunt_call_entry):
        .cfi_startproc
        SIGN                            // sign the return address
        SIGNED
        stp     x29, x30, [sp, #-16]!   // push a frame record
        .cfi_def_cfa_offset 16
        .cfi_offset x29, -16
        .cfi_offset x30, -8
        mov     x29, sp                 // this frame's record
        .cfi_def_cfa_register x29
        adr     x9, LOCAL(enter_return) // the address behind the call below
        stp     x9, xzr, [sp, #-16]!    // is kept in the word at the base
        mov     x9, sp                  // the stack pointer at which `call` returns
        str     x9, [x2]                // is stored in *base
        mov     x9, x0                  // `call`, out of the way of its argument
        mov     x0, x1                  // 1st argument: data
        blr     x9                      // x30 = the address behind this call
LOCAL(enter_return):                    // an armed stack drains first, then continues here
        mov     sp, x29                 // free the word at the base
        ldp     x29, x30, [sp], #16     // pop the frame record
        .cfi_def_cfa sp, 0
        .cfi_restore x29
        .cfi_restore x30
        AUTHENTICATE                    // check the return address's signature
        AUTHENTICATED
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
//   |  caller's frame     | <- sp     |  caller's frame     |
//   +---------------------+           +---------------------+
//   x30 = return address              | x30                 |
//                                     | x29                 | <- sp, x29
//                                     +---------------------+
//                                     x30 = the digit's address
        .balign 32
        .globl  SYMBOL(exeunt_tag_frames)
        HIDDEN(exeunt_tag_frames)
        FUNCTION(SYMBOL(exeunt_tag_frames))
SYMBOL(exeunt_tag_frames):
        .rept   17
        .balign 32
        .cfi_startproc
        SIGN                            // also a landing pad: called through a pointer
        SIGNED
        stp     x29, x30, [sp, #-16]!   // push a frame record
        .cfi_def_cfa_offset 16
        .cfi_offset x29, -16
        .cfi_offset x30, -8
        mov     x29, sp                 // this frame's record
        blr     x1                      // the fourth instruction: returns to 16 from the start
        ldp     x29, x30, [sp], #16     // pop the frame record
        .cfi_restore x29
        .cfi_restore x30
        .cfi_def_cfa_offset 0
        AUTHENTICATE                    // check the return address's signature
        AUTHENTICATED
        ret                             // to the caller
        .cfi_endproc
        .endr
        SIZE(SYMBOL(exeunt_tag_frames))

// The hooks of code redirect (src/exit/redirect/code.rs). The return addresses on the stack stay as
// they were. A patched call in the exit trampoline leads here instead of to its target. Hook N
// belongs to the N-th such call, and its cell holds that target.
//
//   at the call                   on entry to the hook            in the common part
//
//   |  exit trampoline's  |       |  exit trampoline's  |         |  exit trampoline's  |
//   |  own frame          | <- sp |  own frame          | <- sp   |  own frame          |
//   +---------------------+       +---------------------+         +---------------------+
//                                 x30 = behind the call           | saved registers     |
//                                                                 | x30: behind the call|
//                                                                 | x29                 | <- sp
//                                                                 +---------------------+
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
        hint    #34                     // bti c: the relay near the call jumps here through x16
        // the page of the cell
        adrp    x16, PAGE(SYMBOL(exeunt_cells), 8 * (TRAMPOLINES + n))
        // the target, which the common part jumps to at its end
        ldr     x16, [x16, PAGEOFF(SYMBOL(exeunt_cells), 8 * (TRAMPOLINES + n))]
        b       exeunt_hook_body        // to the common part
        .cfi_endproc
        .set    n, n + 1
        .endr
        .balign TRAMPOLINE_SIZE
        SIZE(SYMBOL(exeunt_exit_hook))

// The common part of the hooks.
//
//   on entry                                  at the call
//
//   | exit trampoline's own frame | <- sp     | exit trampoline's own frame |
//   +-----------------------------+ base      +-----------------------------+ base: sp + 224
//   x30 = behind the call                     | q0 .. q7                    | sp + 96
//   x16 = the target                          | x8, x16: the target         | sp + 80
//                                             | x0 .. x7                    | sp + 16
//                                             | x30: behind the call        | sp + 8
//                                             | x29                         | <- sp, x29
//                                             +-----------------------------+
//
// It saves the registers that a function may take its arguments from, except scalable vectors. The
// target is reached by a jump instead of a return: the guarded control stack has no entry for it.
        .p2align 4
        HIDDEN(exeunt_hook)
        .globl  SYMBOL(exeunt_exit_hook_body)
        HIDDEN(exeunt_exit_hook_body)
        FUNCTION(SYMBOL(exeunt_exit_hook_body))
SYMBOL(exeunt_exit_hook_body):
exeunt_hook_body:
        .cfi_startproc
        SIGN                            // sign the return address
        SIGNED
        stp     x29, x30, [sp, #-224]!  // room for 28 words, and a frame record
        .cfi_def_cfa_offset 224
        .cfi_offset x29, -224
        .cfi_offset x30, -216
        mov     x29, sp                 // this frame's record
        stp     x0, x1, [sp, #16]       // save the arguments: integers and pointers
        stp     x2, x3, [sp, #32]       // the 3rd and the 4th
        stp     x4, x5, [sp, #48]       // the 5th and the 6th
        stp     x6, x7, [sp, #64]       // the 7th and the 8th
        stp     x8, x16, [sp, #80]      // the result's address, and the target
        stp     q0, q1, [sp, #96]       // save the arguments: floating point and vectors
        stp     q2, q3, [sp, #128]      // the 3rd and the 4th
        stp     q4, q5, [sp, #160]      // the 5th and the 6th
        stp     q6, q7, [sp, #192]      // the 7th and the 8th
        add     x0, sp, #8              // 1st argument: where this call's return address is
        add     x1, sp, #224            // 2nd argument: the base of this stack
        ldr     x2, [sp]                // 3rd argument: the exit trampoline's x29
        bl      SYMBOL(exeunt_hook)     // drains, if this stack is armed
        ldp     q6, q7, [sp, #192]      // restore the vectors, the 7th and the 8th
        ldp     q4, q5, [sp, #160]      // the 5th and the 6th
        ldp     q2, q3, [sp, #128]      // the 3rd and the 4th
        ldp     q0, q1, [sp, #96]       // the 1st and the 2nd
        ldp     x8, x16, [sp, #80]      // the result's address, and the target
        ldp     x6, x7, [sp, #64]       // restore the integers, the 7th and the 8th
        ldp     x4, x5, [sp, #48]       // the 5th and the 6th
        ldp     x2, x3, [sp, #32]       // the 3rd and the 4th
        ldp     x0, x1, [sp, #16]       // the 1st and the 2nd
        ldp     x29, x30, [sp], #224    // free the 28 words: sp is at the base
        .cfi_restore x29
        .cfi_restore x30
        .cfi_def_cfa_offset 0
        AUTHENTICATE                    // check the return address's signature
        AUTHENTICATED
        br      x16                     // as if there were no hook: the return address is the same
        .cfi_endproc
        SIZE(SYMBOL(exeunt_exit_hook_body))

// The hook in glibc's __start_context. That has no call in reach on every way out, but it begins
// with a `nop`, which can become a branch. So the hook is entered as if the entry function had
// returned to it: sp is the base, x19 is uc_link, and x29 is what the entry function's epilogue has
// loaded. On an armed stack that is a mark of exeunt's (src/exit/redirect/mark.rs).
//
//   on entry                                  at the call
//
//   | (no frame)                  | <- sp     | (no frame)                  |
//   +-----------------------------+ base      +-----------------------------+ base: sp + 16
//   x29 = the mark                            | x30: behind the nop         | sp + 8
//                                             | x29: the mark               | <- sp, x29
//                                             +-----------------------------+
        .p2align 4
        .globl  SYMBOL(exeunt_context_hook)
        HIDDEN(exeunt_context_hook)
        FUNCTION(SYMBOL(exeunt_context_hook))
SYMBOL(exeunt_context_hook):
        .cfi_startproc
        .cfi_undefined x30              // __start_context has no caller either
        hint    #34                     // bti c: the stub near the nop jumps here through x16
        // the page of the cell with the address behind the nop
        adrp    x16, PAGE(SYMBOL(exeunt_cells), 8 * (TRAMPOLINES + HOOKS + 1))
        // x30 = that address, as if the nop had been a call
        ldr     x30, [x16, PAGEOFF(SYMBOL(exeunt_cells), 8 * (TRAMPOLINES + HOOKS + 1))]
        .cfi_same_value x30             // the return address is in x30 from here on
        stp     x29, x30, [sp, #-16]!   // push a frame record
        .cfi_def_cfa_offset 16
        .cfi_offset x29, -16
        .cfi_offset x30, -8
        mov     x2, x29                 // 3rd argument: the mark
        mov     x29, sp                 // this frame's record
        add     x0, sp, #8              // 1st argument: where the return address is
        add     x1, sp, #16             // 2nd argument: the base of this stack
        bl      SYMBOL(exeunt_hook)     // drains, if this stack is armed
        ldp     x29, x30, [sp], #16     // pop the frame record
        .cfi_restore x29
        .cfi_restore x30
        .cfi_def_cfa_offset 0
        // the page of the cell with the stub's address
        adrp    x16, PAGE(SYMBOL(exeunt_cells), 8 * (TRAMPOLINES + HOOKS))
        // that address
        ldr     x16, [x16, PAGEOFF(SYMBOL(exeunt_cells), 8 * (TRAMPOLINES + HOOKS))]
        // to the stub: the nop, and a branch to behind it. A `ret` would fault where a guarded
        // control stack is in use: it has no entry for a call.
        br      x16
        .cfi_endproc
        SIZE(SYMBOL(exeunt_context_hook))

// void exeunt_call_entry_hooked(void (*call)(void *), void *data, uintptr_t *base):
// exeunt_call_entry for code redirect. `call` returns into code of exeunt's, so the hook is a part
// of it. The second word from the base is 0 until the stack is armed, and then a mark of exeunt's.
//
//   on entry                          when `call` begins
//
//   |  caller's frame     | <- sp     |  caller's frame     |
//   +---------------------+           +---------------------+
//   x30 = return address              | x30                 | sp + 24
//                                     | x29                 | sp + 16, x29
//                                     | 0, or the mark      | sp + 8
//                                     | 0 (alignment)       | <- sp
//                                     +---------------------+ base
//                                     x30 = exeunt_hooked_return; the word of `call`'s frame that
//                                     stores it is the foot
        .p2align 4
        .globl  SYMBOL(exeunt_call_entry_hooked)
        HIDDEN(exeunt_call_entry_hooked)
        FUNCTION(SYMBOL(exeunt_call_entry_hooked))
SYMBOL(exeunt_call_entry_hooked):
        .cfi_startproc
        SIGN                            // sign the return address
        SIGNED
        stp     x29, x30, [sp, #-16]!   // push a frame record
        .cfi_def_cfa_offset 16
        .cfi_offset x29, -16
        .cfi_offset x30, -8
        mov     x29, sp                 // this frame's record
        .cfi_def_cfa_register x29
        stp     xzr, xzr, [sp, #-16]!   // no mark yet
        mov     x9, sp                  // the stack pointer at which `call` returns
        str     x9, [x2]                // is stored in *base
        mov     x9, x0                  // `call`, out of the way of its argument
        mov     x0, x1                  // 1st argument: data
        blr     x9                      // x30 = the address behind this call
LOCAL(hooked_return):                   // `call` returns to here
        ldr     x9, [sp, #8]            // the mark
        cbz     x9, LOCAL(not_armed)    // without one there is nothing to drain
        add     x0, sp, #8              // 1st argument: a word that does not change: the mark
        mov     x1, sp                  // 2nd argument: the base of this stack
        mov     x2, x29                 // 3rd argument: unused here
        bl      SYMBOL(exeunt_hook)     // drains
LOCAL(not_armed):                       // also the address behind the call
        mov     sp, x29                 // free the words at the base
        ldp     x29, x30, [sp], #16     // pop the frame record
        .cfi_def_cfa sp, 0
        .cfi_restore x29
        .cfi_restore x30
        AUTHENTICATE                    // check the return address's signature
        AUTHENTICATED
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
        .section .note.GNU-stack, "", %progbits         // no executable stack

// The features that this code supports. A linker marks its output with those that all of its inputs
// have.
        .section .note.gnu.property, "a", %note
        .balign 8
        // Bytes of the name, bytes of what follows it, NT_GNU_PROPERTY_TYPE_0.
        .word   4, 16, 5
        .asciz  "GNU"
        // GNU_PROPERTY_AARCH64_FEATURE_1_AND: BTI (1) and PAC (2); then four bytes of padding.
        .word   0xc0000000, 4, 3, 0
#endif
