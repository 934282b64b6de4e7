//! Code to patch, and the kernel's list of its mappings.
#![allow(dead_code)]

use std::arch::global_asm;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

// Each site is in its own page, so that no two tests share a protection. `one` and `two` return 1
// and 2.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".macro exeunt_site name, pad, rest:vararg",
    ".pushsection .text.exeunt_\\name, \"ax\", @progbits",
    ".balign 4096",
    ".globl exeunt_fn_\\name, exeunt_site_\\name",
    "exeunt_fn_\\name:",
    ".rept \\pad",
    "nop",
    ".endr",
    "exeunt_site_\\name:",
    "\\rest",
    "ret",
    ".balign 4096, 0xcc",
    ".popsection",
    ".endm",
    // A tail call: the branch is the whole function, as in an exit trampoline.
    "exeunt_site jump, 0, jmp exeunt_one",
    "exeunt_site jump_b, 0, jmp exeunt_one",
    "exeunt_site jump_c, 0, jmp exeunt_one",
    // The call's displacement at 2..6 and, for the others, across an aligned quadword's end.
    "exeunt_site call, 1, call exeunt_one",
    "exeunt_site straddle, 6, jmp exeunt_one",
    "exeunt_site none, 0, mov eax, 3",
    // A branch, and an instruction of five bytes, at every offset in an aligned quadword.
    ".irp pad, 0, 1, 2, 3, 4, 5, 6, 7",
    "exeunt_site branch_\\pad, \\pad, jmp exeunt_one",
    "exeunt_site five_\\pad, \\pad, mov eax, 3",
    ".endr",
    "exeunt_site nine, 0, mov rax, fs:[0]",
    // Its operand, from the third byte on, is `mov eax, 3`.
    "exeunt_site nested, 0, movabs rax, 0x90909000000003b8",
    "exeunt_site relative, 0, lea rax, [rip + exeunt_one]",
    "exeunt_site short, 0, xor eax, eax",
    "exeunt_site indirect, 0, call [rip + exeunt_one]",
    ".pushsection .text.exeunt_targets, \"ax\", @progbits",
    ".balign 4096",
    ".globl exeunt_one, exeunt_two",
    "exeunt_one: mov eax, 1",
    "ret",
    ".balign 16",
    "exeunt_two: mov eax, 2",
    "ret",
    // 64 KiB further, so that two bytes of a displacement differ.
    ".skip 0x12340",
    ".globl exeunt_far_two",
    "exeunt_far_two: mov eax, 2",
    "ret",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".macro exeunt_site name, rest:vararg",
    ".pushsection .text.exeunt_\\name, \"ax\", %progbits",
    ".balign 4096",
    ".globl exeunt_fn_\\name, exeunt_site_\\name",
    "exeunt_fn_\\name:",
    "exeunt_site_\\name:",
    "\\rest",
    "ret",
    ".balign 4096",
    ".popsection",
    ".endm",
    "exeunt_site jump, b exeunt_one",
    "exeunt_site jump_b, b exeunt_one",
    "exeunt_site jump_c, b exeunt_one",
    "exeunt_site none, mov w0, #3",
    "exeunt_site nop, nop",
    "exeunt_site relative, adr x0, exeunt_site_relative",
    "exeunt_site indirect, blr x0",
    ".pushsection .text.exeunt_nop_returns, \"ax\", %progbits",
    ".balign 4096",
    ".globl exeunt_fn_nop_returns, exeunt_site_nop_returns",
    "exeunt_fn_nop_returns: mov w0, #5",
    "exeunt_site_nop_returns: nop",
    "ret",
    ".balign 4096",
    ".popsection",
    ".pushsection .text.exeunt_call, \"ax\", %progbits",
    ".balign 4096",
    ".globl exeunt_fn_call, exeunt_site_call",
    "exeunt_fn_call: stp x29, x30, [sp, #-16]!",
    "exeunt_site_call: bl exeunt_one",
    "ldp x29, x30, [sp], #16",
    "ret",
    ".balign 4096",
    ".popsection",
    ".pushsection .text.exeunt_targets, \"ax\", %progbits",
    ".balign 4096",
    ".globl exeunt_one, exeunt_two, exeunt_far_two",
    "exeunt_one: mov w0, #1",
    "ret",
    "exeunt_two: mov w0, #2",
    "ret",
    ".skip 0x12340",
    "exeunt_far_two: mov w0, #2",
    "ret",
    ".popsection",
);

/// The number of times that the hook ran.
pub static HOOK_RAN: AtomicUsize = AtomicUsize::new(0);
/// The address to which the hook jumps at its end.
pub static HOOK_RESUME: AtomicUsize = AtomicUsize::new(0);

// A hook may use registers that are free at function entries: flags, and on aarch64 x16 and x17.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl exeunt_hook",
    "exeunt_hook: lock inc qword ptr [rip + {ran}]",
    "jmp [rip + {resume}]",
    ran = sym HOOK_RAN,
    resume = sym HOOK_RESUME,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl exeunt_hook",
    "exeunt_hook:",
    "stp x0, x1, [sp, #-16]!",
    "adrp x16, {ran}",
    "add x16, x16, :lo12:{ran}",
    "2: ldxr x17, [x16]",
    "add x17, x17, #1",
    "stxr w0, x17, [x16]",
    "cbnz w0, 2b",
    "ldp x0, x1, [sp], #16",
    "adrp x16, {resume}",
    "ldr x16, [x16, :lo12:{resume}]",
    "br x16",
    ran = sym HOOK_RAN,
    resume = sym HOOK_RESUME,
);

/// A function of no arguments.
pub type Function = unsafe extern "C" fn() -> usize;

macro_rules! declare {
    ($($name:ident)*) => {
        unsafe extern "C" { $(pub fn $name() -> usize;)* }
    };
}

declare! { exeunt_one exeunt_two exeunt_far_two exeunt_hook }
declare! { exeunt_fn_jump exeunt_site_jump exeunt_fn_jump_b exeunt_site_jump_b exeunt_fn_jump_c exeunt_site_jump_c }
declare! { exeunt_fn_call exeunt_site_call exeunt_fn_none exeunt_site_none }
declare! { exeunt_fn_relative exeunt_site_relative exeunt_site_indirect }
#[cfg(target_arch = "aarch64")]
declare! { exeunt_fn_nop exeunt_site_nop exeunt_fn_nop_returns exeunt_site_nop_returns }
#[cfg(target_arch = "x86_64")]
declare! { exeunt_fn_straddle exeunt_site_straddle exeunt_fn_nine exeunt_site_nine exeunt_site_short exeunt_site_nested }

#[cfg(target_arch = "x86_64")]
macro_rules! at_every_place {
    ($list:ident: $($function:ident $site:ident)*) => {
        declare! { $($function $site)* }
        /// Function and site, at 0 to 7 bytes into an aligned quadword.
        pub const $list: [(Function, Function); 8] = [$(($function, $site)),*];
    };
}

#[cfg(target_arch = "x86_64")]
at_every_place! { BRANCHES:
    exeunt_fn_branch_0 exeunt_site_branch_0 exeunt_fn_branch_1 exeunt_site_branch_1
    exeunt_fn_branch_2 exeunt_site_branch_2 exeunt_fn_branch_3 exeunt_site_branch_3
    exeunt_fn_branch_4 exeunt_site_branch_4 exeunt_fn_branch_5 exeunt_site_branch_5
    exeunt_fn_branch_6 exeunt_site_branch_6 exeunt_fn_branch_7 exeunt_site_branch_7
}
#[cfg(target_arch = "x86_64")]
at_every_place! { FIVES:
    exeunt_fn_five_0 exeunt_site_five_0 exeunt_fn_five_1 exeunt_site_five_1
    exeunt_fn_five_2 exeunt_site_five_2 exeunt_fn_five_3 exeunt_site_five_3
    exeunt_fn_five_4 exeunt_site_five_4 exeunt_fn_five_5 exeunt_site_five_5
    exeunt_fn_five_6 exeunt_site_five_6 exeunt_fn_five_7 exeunt_site_five_7
}

/// A function's address.
pub fn at(function: Function) -> usize {
    function as usize
}

/// The 16 bytes at an address.
pub fn bytes(address: usize) -> [u8; 16] {
    // SAFETY: the tests only pass addresses of their own code, which has at least 16 bytes.
    unsafe { (address as *const [u8; 16]).read_volatile() }
}

/// One mapping as `/proc/self/maps` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub start: usize,
    pub end: usize,
    pub permissions: String,
}

/// All mappings, merged where neighbours have the same permissions, because the kernel may split
/// and merge them at any time.
pub fn mappings() -> Vec<Mapping> {
    let text = std::fs::read_to_string("/proc/self/maps").expect("/proc/self/maps");
    let mut all: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (start, end) = words.next().unwrap().split_once('-').unwrap();
        let (start, end) = (usize::from_str_radix(start, 16).unwrap(), usize::from_str_radix(end, 16).unwrap());
        let permissions = words.next().unwrap().to_owned();
        match all.last_mut() {
            Some(last) if last.end == start && last.permissions == permissions => last.end = end,
            _ => all.push(Mapping { start, end, permissions }),
        }
    }
    all
}

/// The permissions of the page at an address, such as `r-xp`.
pub fn permissions(address: usize) -> String {
    mappings().into_iter().find(|m| m.start <= address && address < m.end).map(|m| m.permissions).unwrap_or_default()
}

/// Executable mappings with their permissions. No patch may change these: tests compare them before
/// and after.
pub fn executable_mappings() -> Vec<Mapping> {
    mappings().into_iter().filter(|m| m.permissions.contains('x') && m.start < usize::MAX / 2).collect()
}

/// Pages that are writable and executable at once.
pub fn writable_code() -> Vec<Mapping> {
    executable_mappings().into_iter().filter(|m| m.permissions.contains('w')).collect()
}

/// Checks that all this code is still mapped with the same permissions. Stubs may have been added.
pub fn same_code_pages(before: &[Mapping]) -> Result<(), String> {
    let after = executable_mappings();
    let still = |old: &Mapping| {
        after.iter().any(|new| new.start <= old.start && old.end <= new.end && new.permissions == old.permissions)
    };
    match before.iter().find(|mapping| !still(mapping)) {
        None => Ok(()),
        Some(gone) => Err(format!("{gone:x?} is not among {after:x?}")),
    }
}

/// Stops threads at the end of the test, also when it fails.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
