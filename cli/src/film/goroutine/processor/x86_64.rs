//! What the film of a goroutine has to know of x86_64.

use super::files::embedded;
use crate::film::recording::{Flow, Line};

/// The processor's name in Go.
pub const GOARCH: &str = "amd64";

/// The module's files for this processor.
pub const FILES: &[(&str, &[u8])] = embedded![
    "foot_amd64.s" "hooks_amd64.s" "probe_amd64.s" "processor_amd64.go" "read_amd64.s" "read_linux_amd64.go"
    "slot_amd64.s" "stack_amd64.s"
    "internal/patch/exeunt_linux_amd64.syso" "internal/patch/patch_linux_amd64.s"
];

/// The column of r14 in unwind tables: compiled Go code keeps `g` there (`abi-internal.md`).
pub const G_COLUMN: usize = 14;

/// Entry functions return behind a `nop` of so many bytes, with which `runtime.goexit` begins.
pub const NOP: u64 = 1;

/// Words between the spare words that the module uses and the foot: how far below the base, name,
/// meaning.
pub const BETWEEN: [(u64, &str, &str); 0] = [];

/// Whether functions keep their caller's frame pointer in the word below their stack pointer.
pub const FRAME_POINTER_BELOW: bool = false;

pub const BEGINS: &str = "No call has written this foot. The go statement has made a stack and stored the address in \
                          runtime.goexit there. Now the scheduler jumps to the entry function.";

pub const CHOSEN: &str = "The scheduler has chosen this goroutine. Its function gogo has loaded the stack pointer, \
                          which is at the foot. The word there is the address of the second byte of runtime.goexit, \
                          as if runtime.goexit had called the entry function. The next instruction jumps to the entry \
                          function.";
pub const ENTERED: &str = "This is the entry function of the goroutine. The stack pointer is at the foot, as after a \
                           call, and the backtrace is complete: it has this function and runtime.goexit.";
pub const RETURNED: &str = "The function has no part in this. Its ret takes the foot's word as ever. That word leads \
                            to the second byte of runtime.goexit, behind a nop. The nop is there because walks look up \
                            a return address minus one. The instruction here is the one that the module has changed.";
pub const HOOKED: &str = "Without the module this call would lead to runtime.goexit1. It leads to the hook. The word \
                          that was the foot holds the call's return address now. That is the runtime's own, in \
                          runtime.goexit, so walks of this stack find nothing unknown.";
/// No function stores its return address: calls do.
pub const STORED: &str = "";
pub const REUSED: &str = "";
pub const FOUND_G: &str = "This is g, the descriptor of the running goroutine. Thread-local storage has its address.";
pub const FOUND_BASE: &str = "This is g.stack.hi: the base of the stack. It lies five words above the foot's address.";

/// Whether the instruction loads the stack pointer of another stack, if it is in `runtime.mcall`.
pub fn leaves(text: &str) -> bool {
    text.ends_with(", %rsp")
}

/// Whether this is the hook's branch for goroutines that may have a record.
pub fn is_branch_of_equal(text: &str) -> bool {
    text.starts_with("je")
}

/// The spare word that a store has changed, by how far it is from the base.
pub fn word_written(distances: &[u64]) -> Option<&'static str> {
    distances.iter().find_map(|distance| match distance {
        8 => Some(
            "This is the record's index. It is no pointer, because the collector does not look for pointers here. If the \
             stack grows and is moved, the runtime copies this word as well.",
        ),
        16 => Some(
            "This is the check word. Memory of a stack is used again without being cleared, so an index alone could be \
             an old one. From now on the goroutine has a record.",
        ),
        24 => Some("Where a frame goes on that recovers a panic. Nothing has been recovered."),
        32 => Some(
            "How far from the base the nearest frame is that has recovered a panic: none has. By these two words \
             exeunt.Ending tells a handler whether the entry function has recovered one.",
        ),
        _ => None,
    })
}

/// Why an instruction of this function was executed; `jumped` says whether it led elsewhere.
pub fn instruction(function: &str, line: &Line, jumped: bool) -> Option<&'static str> {
    let text = line.text.as_str();
    let sets_flags = text.starts_with("cmp");
    let is_hook = function.contains(".returnHook");
    if sets_flags && text.contains("(%r14)") && text.contains("%rsp") {
        return Some(
            "Most of Go's functions begin with this: is there room on the stack? r14 is g, and the word in g is the \
             stack's limit. If there is no room, the runtime copies the stack to a larger place.",
        );
    }
    if line.flow == Flow::Jump && text.starts_with("jbe") && !jumped {
        return Some("There is room, so the function goes on.");
    }
    if text.contains("xmm15") {
        return Some("Compiled Go code expects zero in this register, and assembly does not keep it so.");
    }
    if is_hook && sets_flags {
        return Some("The hook compares its result with the check word on the stack.");
    }
    if (is_hook || function.ends_with(".setSpareWords")) && text.starts_with("add") {
        return Some(
            "g + index: two goroutines never have the same. So a check word that an earlier goroutine has left does not \
             fit this one.",
        );
    }
    if text.starts_with("push") && text.contains("%rbp") {
        return Some("The caller's frame pointer is kept, as in C programs that are compiled with frame pointers.");
    }
    if text.contains("%fs:") && text.ends_with(", %r14") {
        return Some("Compiled Go code expects g in r14, and assembly does not keep it there.");
    }
    if function == "main.entry" && text.starts_with("lea") {
        return Some("This is the argument of the next call: the function value of the exit handler.");
    }
    if function.ends_with(".setSpareWords") && text.contains("(%rsp), %rax") {
        return Some("This is the argument: the record's index. Go's assembly gets its arguments on the stack.");
    }
    match function {
        "runtime.mcall" => in_mcall(text),
        "runtime.goexit1" if text.starts_with("cmpb") => Some("Is an execution trace being recorded? It is not."),
        "runtime.goexit1" if text.starts_with("lea") => {
            Some("This is the argument of the next call: the function value of runtime.goexit0.")
        }
        _ => None,
    }
}

/// The instructions of `runtime.mcall` in Go 1.22 to 1.27.
fn in_mcall(text: &str) -> Option<&'static str> {
    let has = |begin: &str, end: &str| text.starts_with(begin) && text.ends_with(end);
    if has("mov %", "(%r14)") {
        return Some("mcall keeps in g where the goroutine will go on. This one never will.");
    }
    if has("mov ", "(%r14), %rbx") {
        return Some("This is g.m: the runtime's descriptor of the thread.");
    }
    if has("mov (%rbx)", "%rsi") {
        return Some("This is m.g0: the descriptor of the stack on which the runtime works.");
    }
    if has("cmp %r14", "%rsi") {
        return Some("mcall must not be called on that stack.");
    }
    if has("mov %r14", "%rax") {
        return Some("The goroutine's descriptor becomes the argument of runtime.goexit0.");
    }
    if has("mov %rsi", "%r14") {
        return Some("From now on g is that of the other stack.");
    }
    None
}

/// What the beginnings and the ends of Go's functions have.
pub fn frame(text: &str) -> Option<&'static str> {
    if text.starts_with("sub") && text.ends_with("%rsp") {
        return Some("This is the room of the function's frame.");
    }
    if text.starts_with("mov %rsp") && text.ends_with("%rbp") {
        return Some("This is the frame pointer of the running function.");
    }
    if text.starts_with("add") && text.ends_with("%rsp") {
        return Some("The room of the frame is given up.");
    }
    if text.starts_with("pop") {
        return Some("The caller's frame pointer is back.");
    }
    if text == "nop" {
        return Some("It does nothing. Go's compiler marks the places of inlined calls with such instructions.");
    }
    None
}
