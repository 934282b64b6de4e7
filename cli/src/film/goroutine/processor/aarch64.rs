//! What the film of a goroutine has to know of aarch64.

use super::files::embedded;
use crate::film::recording::{Flow, Line};

/// The processor's name in Go.
pub const GOARCH: &str = "arm64";

/// The module's files for this processor.
pub const FILES: &[(&str, &[u8])] = embedded![
    "foot_arm64.s" "hooks_arm64.s" "probe_arm64.s" "processor_arm64.go" "read_arm64.s"
    "read_indirect.go" "read_linux_arm64.go" "slot_arm64.s" "stack_arm64.s"
    "internal/patch/exeunt_linux_arm64.syso" "internal/patch/patch_linux_arm64.s"
];

/// The column of x28 in unwind tables: Go code keeps `g` there (`abi-internal.md`).
pub const G_COLUMN: usize = 28;

/// Entry functions return behind a `nop` of so many bytes, with which `runtime.goexit` begins.
pub const NOP: u64 = 4;

/// Words between the spare words that the module uses and the foot: how far below the base, name,
/// meaning (`newproc1` in `src/runtime/proc.go`).
pub const BETWEEN: [(u64, &str, &str); 2] = [
    (40, "padding", "no use: the stack pointer has to be a multiple of 16"),
    (48, "zero", "the go statement has stored it, as a return address of runtime.goexit: there is no caller"),
];

/// Whether functions keep their caller's frame pointer in the word below their stack pointer
/// (`abi-internal.md`).
pub const FRAME_POINTER_BELOW: bool = true;

pub const BEGINS: &str = "A new stack has no foot yet. The go statement has made the stack, and a descriptor with the \
                          registers to begin with. The link register, x30, is to have an address in runtime.goexit. \
                          Now the scheduler jumps to the entry function, which stores x30 in its frame: that word is \
                          the foot.";

pub const CHOSEN: &str = "The scheduler has chosen this goroutine. Its function gogo has loaded the stack pointer, the \
                          frame pointer x29 and the link register x30. x30 has the address of the second instruction \
                          of runtime.goexit, as if runtime.goexit had called the entry function. The next instruction \
                          jumps to the entry function.";
pub const ENTERED: &str = "This is the entry function of the goroutine. Its return address is in x30 and in no word of \
                           the stack so far, as after a call. The backtrace is complete: it has this function and \
                           runtime.goexit, which is found by x30.";
pub const RETURNED: &str = "The function has no part in this. It has loaded x30 from the foot, and its ret goes there \
                            as ever: to the second instruction of runtime.goexit, behind a nop. The nop is there \
                            because walks look up a return address minus one. The instruction here is the one that the \
                            module has changed.";
pub const HOOKED: &str = "Without the module this call would lead to runtime.goexit1. It leads to the hook. x30 holds \
                          the call's return address now. That is the runtime's own, in runtime.goexit, so walks of \
                          this stack find nothing unknown.";
/// Why the entry function stores its return address in the foot, and the hook its own in the same
/// word.
pub const STORED: &str = "The jump found the return address in x30, the link register. The function keeps it on the \
                          stack, since its own calls use that register. This word is the foot of the stack: the \
                          function will return to this address.";
pub const REUSED: &str = "The hook's frame is in the place of the entry function's. It keeps the hook's return address, \
                          which is the runtime's own: behind the call in runtime.goexit.";
pub const FOUND_G: &str = "This is g, the descriptor of the running goroutine.";
pub const FOUND_BASE: &str = "This is g.stack.hi: the base of the stack. The spare words are the four words below it.";

/// Whether the instruction loads the stack pointer of another stack, if it is in `runtime.mcall`.
pub fn leaves(text: &str) -> bool {
    text.starts_with("mov sp, x")
}

/// Whether this is the hook's branch for goroutines that may have a record.
pub fn is_branch_of_equal(text: &str) -> bool {
    text.starts_with("b.eq")
}

/// The spare words that a store has changed, by how far they are from the base.
pub fn word_written(distances: &[u64]) -> Option<&'static str> {
    if distances.contains(&16) {
        return Some(
            "One store of two registers: the check word, and above it the record's index. The index is no pointer, \
             because the collector does not look for pointers here. Memory of a stack is used again without being \
             cleared, so an index alone could be an old one. From now on the goroutine has a record. If the stack \
             grows and is moved, the runtime copies these words as well.",
        );
    }
    distances.contains(&32).then_some(
        "How far from the base the nearest frame is that has recovered a panic, and where that frame goes on. None has \
         recovered one: all ones, and zero. By these two words exeunt.Ending tells a handler whether the entry function \
         has recovered a panic.",
    )
}

/// Why an instruction of this function was executed; `jumped` says whether it led elsewhere.
pub fn instruction(function: &str, line: &Line, jumped: bool) -> Option<&'static str> {
    let text = line.text.as_str();
    let is_hook = function.ends_with(".returnHook");
    let sets_words = function.ends_with(".setSpareWords");
    if text.starts_with("ldr x16, [x28, #0x10]") {
        return Some(
            "Most of Go's functions begin with this: is there room on the stack? x28 is g, the descriptor of the running \
             goroutine, and this word of g is the stack's limit.",
        );
    }
    if text.starts_with("cmp sp, x16") {
        return Some(
            "The stack pointer is compared with the limit. If there is no room, the runtime copies the stack to a larger \
             place.",
        );
    }
    if line.flow == Flow::Jump && text.starts_with("b.ls") && !jumped {
        return Some("There is room, so the function goes on.");
    }
    if is_hook && text.starts_with("ldp x10, x11") {
        return Some(
            "The check word and the record's index, from the two words below the base. In a goroutine without a record \
             they can be anything.",
        );
    }
    if (is_hook || sets_words) && text.starts_with("add x") {
        return Some(
            "g + index: two goroutines never have the same. So a check word that an earlier goroutine has left does not \
             fit this one.",
        );
    }
    if is_hook && text.starts_with("cmp") {
        return Some("The hook compares its result with the check word on the stack.");
    }
    if (is_hook || sets_words) && text.contains("[x27") {
        return Some("This is the module's secret, a random number. Only words that the module has written fit it.");
    }
    if sets_words && text.starts_with("ldr x0, [sp, #0x8]") {
        return Some(
            "This is the argument: the record's index. Go's assembly gets its arguments on the stack, above the word at \
             the stack pointer, in which a called function may keep x30.",
        );
    }
    if sets_words && text.starts_with("eor") {
        return Some("This will be the check word.");
    }
    if sets_words && text.starts_with("mov x2") {
        return Some("All ones: the largest distance.");
    }
    if function.ends_with(".returnHookSlow") && text.contains("[x27") {
        return Some("This is the function that runtime.goexit called before.");
    }
    if text.starts_with("adrp") {
        return Some("The first half of an address: the page. The next instruction has the place in the page.");
    }
    if function == "main.entry" && text.starts_with("add x0, x0") {
        return Some("This is the argument of the next call: the function value of the exit handler.");
    }
    match function {
        "runtime.mcall" => in_mcall(text),
        "runtime.save_g" => in_save_g(line, jumped),
        "runtime.goexit1" if text.starts_with("ldrb w2") => {
            Some("Is an execution trace being recorded? The lowest bit of this says so.")
        }
        // A whole word, in Go 1.22.
        "runtime.goexit1" if text.starts_with("ldar") => Some("Is an execution trace being recorded?"),
        "runtime.goexit1" if text.starts_with("tbnz w2") || text.starts_with("cbnz") => Some("It is not."),
        "runtime.goexit1" if text == "mov x1, xzr" || text == "mov x0, xzr" => {
            Some("These two registers stand for the trace that is being recorded. Zero: there is none.")
        }
        "runtime.goexit1" if text.starts_with("b ") => Some("This leads past what follows if there is a trace."),
        "runtime.goexit1" if text.starts_with("cbz x1") => Some("No trace, so no event is written."),
        "runtime.goexit1" if text.starts_with("add x0, x0") => {
            Some("This is the argument of the next call: the function value of runtime.goexit0.")
        }
        _ => None,
    }
}

/// The instructions of `runtime.mcall` in Go 1.22 to 1.27.
fn in_mcall(text: &str) -> Option<&'static str> {
    let has = |begin: &str| text.starts_with(begin);
    if has("str x") && text.contains("[x28, #") {
        return Some("mcall keeps in g where the goroutine will go on. This one never will.");
    }
    if has("mov x26, x0") {
        return Some("The function value of runtime.goexit0 is kept in a register that the next call does not change.");
    }
    if has("mov x0, sp") {
        return Some("The stack pointer cannot be stored itself: it goes through another register.");
    }
    if has("mov x3, x28") {
        return Some("g is kept: it will be the argument of runtime.goexit0.");
    }
    if has("ldr x8, [x28") {
        return Some("This is g.m: the runtime's descriptor of the thread.");
    }
    if has("ldr x28, [x8") {
        return Some(
            "This is m.g0: the descriptor of the stack on which the runtime works. From now on g is that of the other \
             stack, while the stack pointer is still in this one.",
        );
    }
    if has("bl ") {
        return Some(
            "save_g stores g for code that is called from C. The call has changed x30. mcall has kept its own return \
             address in g, and not on the stack, but the unwind table says that it is still in x30. So from here on an \
             unwinder that has only tables finds no caller of mcall.",
        );
    }
    if has("cmp x") {
        return Some("mcall must not be called on the other stack.");
    }
    if has("b.ne") {
        return Some("It was not, so mcall goes on.");
    }
    if has("ldr x0, [x28") {
        return Some("This is where the other stack was left: its stack pointer.");
    }
    None
}

/// The instructions of `runtime.save_g` in a program without C.
fn in_save_g(line: &Line, jumped: bool) -> Option<&'static str> {
    let text = line.text.as_str();
    if text.contains("[x27") {
        return Some("Is there C code in this program? There is not.");
    }
    if line.flow == Flow::Return {
        return Some(
            "x30 still leads to here, behind the call of save_g. The table takes it for the way to mcall's caller.",
        );
    }
    if text.starts_with("cb") && jumped {
        return Some("Without C code, x28 is the only place of g that matters.");
    }
    None
}

/// What the beginnings and the ends of Go's functions have.
pub fn frame(text: &str) -> Option<&'static str> {
    if text.starts_with("str x30, [sp, #-") {
        return Some(
            "The function's frame: its lowest word, at the stack pointer, keeps the return address. The function's own \
             calls will change x30.",
        );
    }
    if text.starts_with("stur x29, [sp, #-8]") {
        return Some(
            "The caller's frame pointer is kept in the word below the stack pointer. It belongs to the frame that a call \
             makes there.",
        );
    }
    if text.starts_with("sub x29, sp, #") {
        return Some("This is the frame pointer of the running function: the address of the kept one.");
    }
    if text.starts_with("ldur x29, [sp, #-8]") {
        return Some("The caller's frame pointer is back.");
    }
    if text.starts_with("ldr x30, [sp], #") {
        return Some("The return address is back in x30, and the room of the frame is given up.");
    }
    // The same in two instructions, in Go 1.22.
    if text.starts_with("ldp x29, x30, [sp, #-8]") {
        return Some("The caller's frame pointer and the return address are back in their registers.");
    }
    if text.starts_with("add sp, sp, #") {
        return Some("The room of the frame is given up.");
    }
    if text == "nop" {
        return Some("It does nothing. Go's compiler marks the places of inlined calls with such instructions.");
    }
    None
}
