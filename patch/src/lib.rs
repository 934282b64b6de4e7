//! Retargets a call or branch in running code, or replaces one instruction with a branch; or
//! refuses, with the reason.
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
//! | a [`Patch`] is inert until applied: it shows the bytes before and after, their disassembly, and why the change is safe | [`Site::new`]: the address is the first byte of an instruction, and stays mapped |
//! | applying it is one aligned store: a thread there executes the old code or the new, nothing else | [`Patch::apply`]: your target or hook may be entered where the old code could run |
//! | when `apply` and `undo` return, every thread executes the code that they left | no code outside this crate changes the protection of the page, or of another page of its mapping, at the same moment |
//! | the code stays one mapping, so that unwinders and profilers find its object | |
//! | what cannot be done so is refused, with bytes, disassembly and advice in the [`Error`] | on aarch64, [`Site::quiet`] where the architecture does not allow a change while the code runs |
//! | on every failure bytes and protections are as before; no page stays writable | no fork at that moment: the child would get a mapping that is writable for microseconds, and a lock that is never released |
//! | stubs are never writable and executable at once | no unwinding is needed from the one jump in the stub that leads to a hook: a stub has no unwind information |
//! | `undo` restores every byte at the site | a stub stays mapped, because a thread may still be in it |
//!
//! # One store, wherever the instruction lies
//!
//! A store across an aligned quadword is not a single store on every processor. Where a
//! displacement crosses such a boundary on x86_64, the crate puts a stub at an *address* for which
//! the bytes on one side of the boundary stay as they are:
//!
//! ```text
//!   |. . . . . e8 d0 d1|d2 d3 . . . . . .|    only d0 d1 change, or only d2 d3
//! ```
//!
//! For a retargeted call such an address is practically always free. For a displaced instruction
//! the opcode changes too, which leaves fewer addresses. Within 3 bytes of a boundary there may be
//! none; then the patch is refused. The crate does not use a breakpoint protocol (Linux's
//! `text_poke_bp` writes `int3`, the tail, then the first byte, and synchronises each step): an
//! `int3` would kill a thread that blocks `SIGTRAP`, and threads that end, or that use
//! `sigfillset`, do block it. Several instructions are never displaced at once, because a thread
//! may be suspended between them. The kernel's kprobes wait for every task to leave the bytes for
//! the same reason.
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
//!     // SAFETY: `new` has the type of `old`; no other code patches this program.
//!     unsafe { patch.apply()? };
//!     // SAFETY: a function without arguments.
//!     assert_eq!(unsafe { answer() }, 42);
//!     patch.undo()?;
//!     // SAFETY: as above.
//!     assert_eq!(unsafe { answer() }, 1);
//!
//!     // Anything but a direct call or branch is refused, and the error shows what is there.
//!     // SAFETY: as for `answer`.
//!     let error = unsafe { Site::new(old as *const u8) }.target().unwrap_err();
//!     assert!(error.to_string().starts_with("no direct call or branch at"), "{error}");
//!     Ok(())
//! }
//! ```
//!
//! # Parts
//!
//! [`raw`] is `no_std`, needs only the kernel, and is the whole crate without the feature
//! `engine` (on by default). C programs reach the engine through the library `exeunt`. `raw`
//! supports Linux on x86_64 and aarch64. The engine also supports macOS on Intel processors, where
//! its authors compiled and linked it but never ran it. On other systems the crate is empty.
//!
//! # macOS
//!
//! | | Linux | macOS, x86_64 |
//! |---|---|---|
//! | code is made writable by | `mprotect` of the whole mapping (of a page where that is refused), or written through `/proc/self/mem` | `mach_vm_protect` with `VM_PROT_COPY`: a private copy of the page |
//! | while one word is written it is | readable, writable, executable | the same |
//! | every thread executes the new code, because of | `membarrier`, which promises it | a right removed from a page: the kernel interrupts each processor that runs this process. Apple does not promise this |
//! | afterwards | all as before | the protection is as before; the page stays a private copy, whose *greatest* protection includes writing |
//! | refused where | `mprotect` and `/proc/self/mem` are | the hardened runtime forbids it, and under Rosetta 2: both when it is planned |
//! | a stub cannot lie | in mapped memory | in mapped memory, or anywhere in the shared cache of the system's libraries |
//!
//! Apple Silicon does not execute a changed page of signed code, so there is no engine for it.
//! `src/engine/system/macos.rs` names the sources of these calls and explains why they are safe.
//!
//! # Limits
//!
//! If a displaced instruction faults, it faults in its stub, and a signal handler that reads the
//! program counter gets the stub's address. Stubs have no unwind information, so a backtrace that a
//! signal handler takes there ends. A write through `/proc/self/mem` has a weaker guarantee:
//! [`Fallback::ProcMem`] describes it, and [`Patch::fallback`] turns it off. Under a shadow stack
//! (x86_64 SHSTK, aarch64 GCS) everything here works, because no return address changes.
#![cfg_attr(not(feature = "engine"), no_std)]
#![cfg(any(
    all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")),
    all(target_os = "macos", target_arch = "x86_64", feature = "engine")
))]

#[cfg(feature = "engine")]
pub mod engine;
#[cfg(target_os = "linux")]
pub mod raw;
// macOS uses the processor's file and the types of stores and refusals. The rest makes Linux's
// system calls; it is private and unused, so no code is generated for it.
#[cfg(not(target_os = "linux"))]
#[allow(dead_code, unused_imports)]
mod raw;

#[cfg(feature = "engine")]
pub use engine::{Bytes, Error, Patch, Site};
pub use raw::Fallback;
