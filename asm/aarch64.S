// The trampolines of exeunt, aarch64 (AAPCS64).
//
// An armed stack's foot holds the address of one of these trampolines in place of its return address into the exit
// trampoline (signed, where the entry function signs its return address). There is one of them per distinct exit
// trampoline of the process, shared by all stacks that end there.
//
//   before the entry function's epilogue   after its `ret`                 after the common part's `stp`
//
//   |  exit trampoline's  |                |  exit trampoline's  |         |  exit trampoline's  |
//   |  own frame          |                |  own frame          | <- sp   |  own frame          |
//   +---------------------+                +---------------------+         +---------------------+
//   | entry function's    |                | (popped)            |         | ...                 |
//   |   x30: trampoline N |  the foot      |                     |         | x30: original       |
//   |   x29               | <- sp, x29     |                     |         | x29                 | <- sp, x29
//   +---------------------+                +---------------------+         +---------------------+
//                                          x30 = trampoline N
//
// The trampoline loads x30 from its cell: that is exactly what a `bl` from the exit trampoline would have left. From
// there on this is an ordinary function that was called by the exit trampoline, and its `ret` is the real exit.

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

// Functions sign the return address that they store (paciasp, autiasp; no-operations without pointer authentication). Both are
// hints, which every assembler and processor takes, and so are the landing pads. The first one is also what a call through a
// register may lead to (`bti c`). On macOS the code is plain: only arm64e signs there.
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
//    0  the distance from here to the cell, 8 bytes. The FDE covers it, and so `label - 1`: unwinders look a return address up
//       there
//    8  label: a landing pad; x30 = cell; branch to the common part
//
// While a stack is armed, nothing on it says where the exit trampoline is, and unwinders have only the return address
// that the entry function saved (x30, the label) and the memory of the process to go by. So the rule for x30 is the
// *value* of a DWARF expression: take x30, clear the bits that a signature may have set, round it down to where the
// trampoline begins, add the distance that is there, read the cell. It is in force from the start of the FDE: were it to
// begin at the label, the look-up at `label - 1` would miss it. x30 is read twice, as valgrind knows no DW_OP_dup.
        .balign TRAMPOLINE_SIZE
        .globl  SYMBOL(exeunt_trampoline)
        HIDDEN(exeunt_trampoline)
        FUNCTION(SYMBOL(exeunt_trampoline))
SYMBOL(exeunt_trampoline):
        .set    n, 0
        .rept   TRAMPOLINES
        .balign TRAMPOLINE_SIZE
        .cfi_startproc
        .cfi_def_cfa sp, 0              // the entry function's frame is gone: the caller's begins at sp
        // DW_CFA_val_expression (0x16), register 30, 25 bytes:
        //   0x8e 0x00            DW_OP_breg30 0       the label, maybe signed
        //   0x08 0x10 0x24       DW_OP_const1u 16, DW_OP_shl
        //   0x08 0x10 0x25       DW_OP_const1u 16, DW_OP_shr   the signature's bits cleared
        //   0x09 0xe0 0x1a       DW_OP_const1s -32, DW_OP_and  where the trampoline begins: minus TRAMPOLINE_SIZE
        //   the same again
        //   0x06 0x22            DW_OP_deref, DW_OP_plus       with the distance: the cell's address
        //   0x06                 DW_OP_deref          the original return address
        .cfi_escape 0x16, 0x1e, 0x19, 0x8e, 0x00, 0x08, 0x10, 0x24, 0x08, 0x10, 0x25, 0x09, 0xe0, 0x1a, 0x8e, 0x00, 0x08, 0x10, 0x24, 0x08, 0x10, 0x25, 0x09, 0xe0, 0x1a, 0x06, 0x22, 0x06
        .quad   SYMBOL(exeunt_cells) + 8 * n - .
        // label N: an entry function returned to here, or pthread_exit jumped; x30 is this label.
        hint    #36                     // bti j: pthread_exit jumps by `br x30`
        adrp    x16, PAGE(SYMBOL(exeunt_cells), 8 * n)         // x16 is free at a return (IP0)
        ldr     x16, [x16, PAGEOFF(SYMBOL(exeunt_cells), 8 * n)]
        mov     x30, x16                // as the exit trampoline's bl would have left it
        .cfi_same_value x30             // from here the return address is in x30, as at any function's entry
        b       exeunt_trampoline_body
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
        .cfi_def_cfa sp, 0
        .cfi_offset x30, 8 * n          // the spare word
        .quad   0                       // as above, so that labels are at the same place
        // label: an entry function returned to here.
        hint    #36                     // bti j
        ldr     x30, [sp, #8 * n]       // as the exit trampoline's bl would have left it
        .cfi_same_value x30
        b       exeunt_trampoline_body
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
//   +---------------------+ sp on entry: the top of this stack
//   | the drain's mark    | sp + 152
//   | x8                  | sp + 144
//   | q0 .. q3            | sp + 80
//   | x0 .. x7            | sp + 16
//   | x30: original       | sp + 8
//   | x29                 | <- sp at the call
//   +---------------------+
//
// What is saved is where the AAPCS64 returns values: x0 to x7 (x0 and x1 for most), q0 to q3, and x8. Not those of its variants for
// vectors: scalable results (SVE: z0 to z7 beyond q0 to q3, and p0 to p3), and what functions with such results, or with
// `aarch64_vector_pcs`, keep for their callers beyond d8 to d15.
        .p2align 4
        HIDDEN(exeunt_drain)
        .globl  SYMBOL(exeunt_trampoline_body)
        HIDDEN(exeunt_trampoline_body)
        FUNCTION(SYMBOL(exeunt_trampoline_body))
SYMBOL(exeunt_trampoline_body):
exeunt_trampoline_body:
        .cfi_startproc
        SIGN
        SIGNED
        stp     x29, x30, [sp, #-160]!  // a frame record, as any function keeps
        .cfi_def_cfa_offset 160
        .cfi_offset x29, -160
        .cfi_offset x30, -152
        mov     x29, sp
        stp     x0, x1, [sp, #16]       // the entry function's result
        stp     x2, x3, [sp, #32]
        stp     x4, x5, [sp, #48]
        stp     x6, x7, [sp, #64]
        stp     q0, q1, [sp, #80]       // the same, floating point and vectors
        stp     q2, q3, [sp, #112]
        str     x8, [sp, #144]
        add     x0, sp, #152            // 1st argument: where the drain puts its mark
        add     x1, sp, #160            // 2nd argument: the top of this stack
        bl      SYMBOL(exeunt_drain)    // runs the handlers, drops the values
        ldr     x8, [sp, #144]
        ldp     q2, q3, [sp, #112]
        ldp     q0, q1, [sp, #80]
        ldp     x6, x7, [sp, #64]
        ldp     x4, x5, [sp, #48]
        ldp     x2, x3, [sp, #32]
        ldp     x0, x1, [sp, #16]
        ldp     x29, x30, [sp], #160
        .cfi_restore x29
        .cfi_restore x30
        .cfi_def_cfa_offset 0
        AUTHENTICATE
        AUTHENTICATED
        ret                             // to the exit trampoline: the real exit
        .cfi_endproc
        SIZE(SYMBOL(exeunt_trampoline_body))

// int exeunt_probe(void **result): a start routine that stores the address it will return to, and returns 0.
// It tells which address the system's exit trampolines are entered at.
        .p2align 4
        .globl  SYMBOL(exeunt_probe)
        HIDDEN(exeunt_probe)
        FUNCTION(SYMBOL(exeunt_probe))
SYMBOL(exeunt_probe):
        .cfi_startproc
        hint    #34                     // bti c: it is called through a pointer
        str     x30, [x0]               // at entry the return address is in x30
        mov     x0, #0
        ret
        .cfi_endproc
        SIZE(SYMBOL(exeunt_probe))

// void exeunt_call_entry(void (*call)(void *), void *data, uintptr_t *top): calls `call(data)` as an entry function,
// with the address behind the call being an exit trampoline that is always known. Before the call it stores in `*top` the
// stack pointer at which `call` will return.
//
//   | x30                 |
//   | x29                 | <- x29
//   | (alignment)         |
//   | exeunt_enter_return | <- sp during the call: the top
//   +---------------------+
//   | frame of `call`, where it stores x30 = exeunt_enter_return: the foot
//
// The word at the top says where `call` returns to in any case, also while the foot says something else: there unwinders that have
// nothing but the stack find it.
        .p2align 4
        .globl  SYMBOL(exeunt_call_entry)
        HIDDEN(exeunt_call_entry)
        FUNCTION(SYMBOL(exeunt_call_entry))
SYMBOL(exeunt_call_entry):
        .cfi_startproc
        SIGN
        SIGNED
        stp     x29, x30, [sp, #-16]!
        .cfi_def_cfa_offset 16
        .cfi_offset x29, -16
        .cfi_offset x30, -8
        mov     x29, sp
        .cfi_def_cfa_register x29
        adr     x9, LOCAL(enter_return)
        stp     x9, xzr, [sp, #-16]!
        mov     x9, sp
        str     x9, [x2]
        mov     x9, x0
        mov     x0, x1
        blr     x9
LOCAL(enter_return):                    // armed, the trampoline drains and then goes on to here
        mov     sp, x29
        ldp     x29, x30, [sp], #16
        .cfi_def_cfa sp, 0
        .cfi_restore x29
        .cfi_restore x30
        AUTHENTICATE
        AUTHENTICATED
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
        SIGN                            // also a landing pad: called through a pointer
        SIGNED
        stp     x29, x30, [sp, #-16]!
        .cfi_def_cfa_offset 16
        .cfi_offset x29, -16
        .cfi_offset x30, -8
        mov     x29, sp
        blr     x1                      // the fourth instruction: returns to 16 from the start
        ldp     x29, x30, [sp], #16
        .cfi_restore x29
        .cfi_restore x30
        .cfi_def_cfa_offset 0
        AUTHENTICATE
        AUTHENTICATED
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
//   |  own frame          | sp   |  own frame          | <- sp     |  own frame          |
//   +---------------------+      +---------------------+           +---------------------+
//                                x30 = behind the call             | saved registers     |
//                                                                  | x30: behind the call|
//                                                                  | x29                 | <- sp, x29
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
        hint    #34                     // bti c: the relay in reach of the call jumps here through x16
        adrp    x16, PAGE(SYMBOL(exeunt_cells), 8 * (TRAMPOLINES + n))
        ldr     x16, [x16, PAGEOFF(SYMBOL(exeunt_cells), 8 * (TRAMPOLINES + n))]        // the target, for the end
        b       exeunt_hook_body
        .cfi_endproc
        .set    n, n + 1
        .endr
        .balign TRAMPOLINE_SIZE
        SIZE(SYMBOL(exeunt_exit_hook))

// The common part of the hooks.
//
//   |  exit trampoline's own frame    | <- sp on entry: the top of this stack
//   +---------------------------------+
//   | q0 .. q7                        | sp + 96
//   | x8, x16: the target             | sp + 80
//   | x0 .. x7                        | sp + 16
//   | x30: behind the call            | sp + 8
//   | x29                             | <- sp at the call
//   +---------------------------------+
//
// What is saved is what a function may take its arguments from, but for scalable vectors. The target is reached by a jump and not by a return: a
// guarded control stack has seen no call to it.
        .p2align 4
        HIDDEN(exeunt_hook)
        .globl  SYMBOL(exeunt_exit_hook_body)
        HIDDEN(exeunt_exit_hook_body)
        FUNCTION(SYMBOL(exeunt_exit_hook_body))
SYMBOL(exeunt_exit_hook_body):
exeunt_hook_body:
        .cfi_startproc
        SIGN
        SIGNED
        stp     x29, x30, [sp, #-224]!  // a frame record, as any function keeps
        .cfi_def_cfa_offset 224
        .cfi_offset x29, -224
        .cfi_offset x30, -216
        mov     x29, sp
        stp     x0, x1, [sp, #16]
        stp     x2, x3, [sp, #32]
        stp     x4, x5, [sp, #48]
        stp     x6, x7, [sp, #64]
        stp     x8, x16, [sp, #80]
        stp     q0, q1, [sp, #96]
        stp     q2, q3, [sp, #128]
        stp     q4, q5, [sp, #160]
        stp     q6, q7, [sp, #192]
        add     x0, sp, #8              // 1st argument: where the return address of this call is
        add     x1, sp, #224            // 2nd argument: the top of this stack
        ldr     x2, [sp]                // 3rd argument: the exit trampoline's x29
        bl      SYMBOL(exeunt_hook)     // drains, if this stack is armed
        ldp     q6, q7, [sp, #192]
        ldp     q4, q5, [sp, #160]
        ldp     q2, q3, [sp, #128]
        ldp     q0, q1, [sp, #96]
        ldp     x8, x16, [sp, #80]
        ldp     x6, x7, [sp, #64]
        ldp     x4, x5, [sp, #48]
        ldp     x2, x3, [sp, #32]
        ldp     x0, x1, [sp, #16]
        ldp     x29, x30, [sp], #224
        .cfi_restore x29
        .cfi_restore x30
        .cfi_def_cfa_offset 0
        AUTHENTICATE
        AUTHENTICATED
        br      x16                     // on as if there were no hook, with the same return address
        .cfi_endproc
        SIZE(SYMBOL(exeunt_exit_hook_body))

// The hook in glibc's __start_context, which has no call in reach on every way out; but it begins with a `nop`, which
// may become a branch. So this is entered as if the entry function had returned to here: sp is the top, x19 is
// uc_link, and x29 what the entry function's epilogue loaded: on an armed stack a mark of ours (src/exit/redirect/mark.rs).
//
//   |  no frame of __start_context's  | <- sp on entry: the top of this stack
//   +---------------------------------+
//   | x30: behind the nop             | sp + 8
//   | x29                             | <- sp, x29 at the call
//   +---------------------------------+
        .p2align 4
        .globl  SYMBOL(exeunt_context_hook)
        HIDDEN(exeunt_context_hook)
        FUNCTION(SYMBOL(exeunt_context_hook))
SYMBOL(exeunt_context_hook):
        .cfi_startproc
        .cfi_undefined x30              // nobody has called __start_context either
        hint    #34                     // bti c: the stub in reach of the nop jumps here through x16
        adrp    x16, PAGE(SYMBOL(exeunt_cells), 8 * (TRAMPOLINES + HOOKS + 1))
        ldr     x30, [x16, PAGEOFF(SYMBOL(exeunt_cells), 8 * (TRAMPOLINES + HOOKS + 1))]
        .cfi_same_value x30             // behind the nop: as if it had been a call
        stp     x29, x30, [sp, #-16]!
        .cfi_def_cfa_offset 16
        .cfi_offset x29, -16
        .cfi_offset x30, -8
        mov     x2, x29                 // 3rd argument: the mark
        mov     x29, sp
        add     x0, sp, #8              // 1st argument: where the return address is
        add     x1, sp, #16             // 2nd argument: the top of this stack
        bl      SYMBOL(exeunt_hook)     // drains, if this stack is armed
        ldp     x29, x30, [sp], #16
        .cfi_restore x29
        .cfi_restore x30
        .cfi_def_cfa_offset 0
        adrp    x16, PAGE(SYMBOL(exeunt_cells), 8 * (TRAMPOLINES + HOOKS))
        ldr     x16, [x16, PAGEOFF(SYMBOL(exeunt_cells), 8 * (TRAMPOLINES + HOOKS))]
        br      x16                     // in the stub: the nop, and a branch to behind it. A `ret` would ask a guarded
                                        // control stack, which has seen no call
        .cfi_endproc
        SIZE(SYMBOL(exeunt_context_hook))

// void exeunt_call_entry_hooked(void (*call)(void *), void *data, uintptr_t *top): as exeunt_call_entry, for code
// redirect: the code that `call` returns into is ours, so that the hook can be a part of it. The second word at the top
// is 0 until the stack is armed, and then a mark of ours.
//
//   | x30                 | sp + 24
//   | x29                 | sp + 16, x29
//   | mark                | sp + 8
//   | (alignment)         | <- sp during the call: the top
//   +---------------------+
//   | frame of `call`, where it stores x30 = exeunt_hooked_return: the foot
        .p2align 4
        .globl  SYMBOL(exeunt_call_entry_hooked)
        HIDDEN(exeunt_call_entry_hooked)
        FUNCTION(SYMBOL(exeunt_call_entry_hooked))
SYMBOL(exeunt_call_entry_hooked):
        .cfi_startproc
        SIGN
        SIGNED
        stp     x29, x30, [sp, #-16]!
        .cfi_def_cfa_offset 16
        .cfi_offset x29, -16
        .cfi_offset x30, -8
        mov     x29, sp
        .cfi_def_cfa_register x29
        stp     xzr, xzr, [sp, #-16]!   // no mark
        mov     x9, sp
        str     x9, [x2]
        mov     x9, x0
        mov     x0, x1
        blr     x9
LOCAL(hooked_return):
        ldr     x9, [sp, #8]
        cbz     x9, LOCAL(not_armed)
        add     x0, sp, #8              // 1st argument: a word that does not change: the mark
        mov     x1, sp                  // 2nd argument: the top of this stack
        mov     x2, x29                 // 3rd argument: not asked here
        bl      SYMBOL(exeunt_hook)
LOCAL(not_armed):                      // and behind the call
        mov     sp, x29
        ldp     x29, x30, [sp], #16
        .cfi_def_cfa sp, 0
        .cfi_restore x29
        .cfi_restore x30
        AUTHENTICATE
        AUTHENTICATED
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
        .section .note.GNU-stack, "", %progbits         // no executable stack

// What this code is fit for. A linker marks what it links by the least of all its objects.
        .section .note.gnu.property, "a", %note
        .balign 8
        .word   4, 16, 5                // bytes of the name, bytes of what follows it, NT_GNU_PROPERTY_TYPE_0
        .asciz  "GNU"
        .word   0xc0000000, 4, 3, 0     // GNU_PROPERTY_AARCH64_FEATURE_1_AND: BTI (1) and PAC (2); and four bytes of padding
#endif
