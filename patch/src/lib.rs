//! Retargets a call or branch in running code, or puts a branch in place of one instruction; or refuses, and says why.
//!
//! ```text
//!  retarget                               divert
//!
//!  site   call expected                   site   mov %rax,%fs:0x10        site   jmp stub
//!         ret                             next   ret                      next   ret
//!    │                                                               ┌────────┘
//!    ▼                                                               ▼
//!  site   call new                                        stub    jmp hook        (your code; every register as at the site)
//!         ret                                             resume  mov %rax,%fs:0x10   ◄── hook jumps here to go on
//!                                                                 jmp next
//! ```
//!
//! If `new` is out of the instruction's reach, the call leads to a stub in reach that jumps on.
//!
//! | this crate promises | you promise |
//! |---|---|
//! | a [`Patch`] is inert until applied: it tells the bytes before and after, their disassembly, and why the change is safe | [`Site::new`]: the address is the first byte of an instruction, and stays mapped |
//! | applying it is one aligned store: a thread there executes the old code or the new, nothing else | [`Patch::apply`]: your target or hook may be entered where the old code could run |
//! | when `apply` and `undo` return, every thread executes what they left | nobody outside this crate re-protects the page, or another one of its mapping, at the same moment |
//! | the code stays one mapping, so that unwinders and profilers find its object | |
//! | what cannot be done so is refused, with bytes, disassembly and advice in the [`Error`] | on aarch64, [`Site::quiet`] where the architecture does not allow a change while code runs |
//! | on every failure bytes and protections are as before; no page stays writable | a fork at that moment would copy a mapping that is writable for microseconds, and a lock that the child never gets |
//! | stubs are never writable and executable at once | a hook in a stub's way has no unwind information at the one jump in the stub |
//! | `undo` restores every byte at the site | a stub stays mapped: a thread may still be in it |
//!
//! # One store, wherever the instruction lies
//!
//! No store across an aligned quadword is one store for every processor. So on x86_64 a displacement that crosses one gets a stub
//! whose *address* is chosen such that the bytes on one side of the boundary stay as they are:
//!
//! ```text
//!   |. . . . . e8 d0 d1|d2 d3 . . . . . .|    only d0 d1 change, or only d2 d3
//! ```
//!
//! For a retargeted call such an address is practically always free. A displaced instruction's opcode must change too, which leaves less choice:
//! within 3 bytes of a boundary there may be none, and it is refused. There is no breakpoint protocol (Linux's
//! `text_poke_bp`: `int3`, the tail, the first byte, each step synchronised): a thread that blocks `SIGTRAP` would be killed by its
//! `int3`, and threads that end, or that use `sigfillset`, block it.
//! For the same reason as the kernel's kprobes, which wait for every task to leave the bytes, several instructions are never displaced at once.
//!
//! # Example
//!
//! ```
//! use exeunt_patch::{Error, Site};
//! # #[cfg(target_os = "macos")]
//! # std::arch::global_asm!(".globl _answer, _old, _new", "_answer: jmp _old", ".p2align 4", "_old: mov eax, 1", "ret", "_new: mov eax, 42", "ret");
//! # #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
//! # std::arch::global_asm!(".globl answer, old, new", "answer: jmp old", ".balign 16", "old: mov eax, 1", "ret", "new: mov eax, 42", "ret");
//! # #[cfg(target_arch = "aarch64")]
//! # std::arch::global_asm!(".globl answer, old, new", "answer: b old", "old: mov w0, #1", "ret", "new: mov w0, #42", "ret");
//!
//! unsafe extern "C" {
//!     fn answer() -> i32; // `jmp old`
//!     fn old() -> i32;    // 1
//!     fn new() -> i32;    // 42
//! }
//!
//! fn main() -> Result<(), Error> {
//!     // SAFETY: a function of this program begins with an instruction, and stays mapped.
//!     let site = unsafe { Site::new(answer as *const u8) };
//!     let mut patch = site.retarget(old as *const u8, new as *const u8)?;
//!     println!("{patch}");
//!     // SAFETY: `new` has the type of `old`; nobody else patches this program.
//!     unsafe { patch.apply()? };
//!     // SAFETY: a function without arguments.
//!     assert_eq!(unsafe { answer() }, 42);
//!     patch.undo()?;
//!     // SAFETY: as above.
//!     assert_eq!(unsafe { answer() }, 1);
//!
//!     // What is not a direct call or branch is refused, and the error shows what is there.
//!     // SAFETY: as for `answer`.
//!     let error = unsafe { Site::new(old as *const u8) }.target().unwrap_err();
//!     assert!(error.to_string().starts_with("no direct call or branch at"), "{error}");
//!     Ok(())
//! }
//! ```
//!
//! # Parts
//!
//! [`raw`] is `no_std`, needs nothing but the kernel, and is all there is without the feature `engine` (on by default). For C, the library
//! `exeunt` has entry points to it. It is for Linux on x86_64 and aarch64. The engine is for macOS on Intel processors as well, where it
//! was built and linked, but never run by its authors; elsewhere the crate is empty.
//!
//! # macOS
//!
//! | | Linux | macOS, x86_64 |
//! |---|---|---|
//! | code is made writable by | `mprotect` of the whole mapping (of a page where that is refused or locked in memory), or written through `/proc/self/mem` | `mach_vm_protect` with `VM_PROT_COPY`: a private copy of the page |
//! | while one word is written it is | readable, writable, executable | the same |
//! | every thread executes the new code, because of | `membarrier`, which promises it | a right that is taken from a page: the kernel interrupts each processor that runs this process. That is how it works, and not a promise |
//! | afterwards | all as before | the protection is as before; the page stays a private copy, whose *greatest* protection includes writing |
//! | refused where | `mprotect` and `/proc/self/mem` are | the hardened runtime forbids it, and under Rosetta 2: both when it is planned |
//! | a stub cannot lie | where anything is mapped | nor anywhere in the shared cache of the system's libraries |
//!
//! On Apple Silicon no page of signed code that was changed is executed, so there is no engine. Where the calls are from, and why that is
//! safe, is told in `src/engine/system/macos.rs`.
//!
//! # Limits
//!
//! A displaced instruction that faults does so in its stub: a handler that looks at the program counter sees another one. Stubs have no
//! unwind information, so a backtrace taken by a signal there ends. Writing through `/proc/self/mem` has a weaker
//! guarantee: [`Fallback::ProcMem`] says which, [`Patch::fallback`] turns it off. Under a shadow stack (x86_64 SHSTK, aarch64 GCS) all of
//! this works, because no return address changes.
#![cfg_attr(not(feature = "engine"), no_std)]
#![cfg(any(
    all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")),
    all(target_os = "macos", target_arch = "x86_64", feature = "engine")
))]

#[cfg(feature = "engine")]
pub mod engine;
#[cfg(target_os = "linux")]
pub mod raw;
// What the processor's file knows, and the words for a store and a refusal. All else in there makes Linux's system calls: private and
// unused, it is not compiled into anything.
#[cfg(not(target_os = "linux"))]
#[allow(dead_code, unused_imports)]
mod raw;

#[cfg(feature = "engine")]
pub use engine::{Bytes, Error, Patch, Site};
pub use raw::Fallback;
