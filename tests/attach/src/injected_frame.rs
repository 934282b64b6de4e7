//! The frame that `exeunt watch --pid` puts on the stack of another program's thread, in this
//! process: the kernel's `rt_sigreturn` gives the thread all back, and exeunt's walk goes through.

use crate::frame::{State, frame};
use std::arch::global_asm;
use std::cell::Cell;
use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The general registers that the kernel is to restore, without the stack pointer.
const GENERAL: usize = if cfg!(target_arch = "x86_64") { 15 } else { 31 };
/// The vector registers, of 16 bytes.
const VECTORS: usize = if cfg!(target_arch = "x86_64") { 16 } else { 32 };

/// What the thread has when it goes on. The assembly writes it where the frame says that the stack
/// pointer is.
#[repr(C)]
struct Registers {
    general: [u64; 31],
    flags: u64,
    vectors: [[u64; 2]; 32],
    /// `fpcr` and `fpsr`, or MXCSR.
    control: [u64; 2],
}

/// No register has this by chance.
fn pattern(number: usize) -> u64 {
    0x5a5a_0000_0000_0000 + number as u64
}

#[repr(C)]
struct Start {
    stack_pointer: usize,
    /// The code that calls `rt_sigreturn`.
    restorer: usize,
}

unsafe extern "C" {
    /// Notes the address that a signal's handler returns to in `RESTORER`.
    fn injected_handler(signal: c_int);
    /// Calls `injected_prepare`, then `injected_entry` on the frame that it has made, and at the
    /// frame's end `injected_check`.
    fn injected_run();
}

#[unsafe(export_name = "injected_restorer")]
static RESTORER: AtomicUsize = AtomicUsize::new(0);

// The room between the registers and the stack pointer of `injected_prepare` is for the frame.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl injected_handler",
    ".globl injected_run",
    "injected_handler:",
    "mov rax, [rsp]",
    "lea rcx, [rip + injected_restorer]",
    "mov [rcx], rax",
    "ret",
    "injected_run:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, {size} + 8",
    ".cfi_def_cfa_offset {size} + 64",
    ".cfi_offset rbx, -24",
    ".cfi_offset r12, -32",
    ".cfi_offset r13, -40",
    ".cfi_offset r14, -48",
    ".cfi_offset r15, -56",
    "mov rdi, rsp",
    "lea rsi, [rip + 2f]",
    "sub rsp, {room}",
    ".cfi_adjust_cfa_offset {room}",
    "call {prepare}",
    "mov rsp, rax",
    "jmp {entry}",
    ".cfi_adjust_cfa_offset -{room}",
    "nop",
    "2:",
    "mov [rsp], rax",
    "mov [rsp + 8], rbx",
    "mov [rsp + 16], rcx",
    "mov [rsp + 24], rdx",
    "mov [rsp + 32], rsi",
    "mov [rsp + 40], rdi",
    "mov [rsp + 48], rbp",
    "mov [rsp + 56], r8",
    "mov [rsp + 64], r9",
    "mov [rsp + 72], r10",
    "mov [rsp + 80], r11",
    "mov [rsp + 88], r12",
    "mov [rsp + 96], r13",
    "mov [rsp + 104], r14",
    "mov [rsp + 112], r15",
    "pushfq",
    "pop rax",
    "mov [rsp + 248], rax",
    ".set at, 256",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movups [rsp + at], xmm\\n",
    ".set at, at + 16",
    ".endr",
    "mov qword ptr [rsp + 768], 0",
    "mov qword ptr [rsp + 776], 0",
    "stmxcsr [rsp + 768]",
    // As the ABI has it when a thread begins.
    "push 0x1f80",
    "ldmxcsr [rsp]",
    "pop rax",
    "mov rdi, rsp",
    "call {check}",
    "add rsp, {size} + 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    ".cfi_def_cfa_offset 8",
    "ret",
    ".cfi_endproc",
    size = const size_of::<Registers>(),
    room = const 1 << 16,
    prepare = sym prepare,
    entry = sym entry,
    check = sym check,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl injected_handler",
    ".globl injected_run",
    "injected_handler:",
    "hint #34",
    "adrp x0, injected_restorer",
    "add x0, x0, :lo12:injected_restorer",
    "str x30, [x0]",
    "ret",
    "injected_run:",
    ".cfi_startproc",
    "hint #34",
    "stp x29, x30, [sp, #-160]!",
    "stp x19, x20, [sp, #16]",
    "stp x21, x22, [sp, #32]",
    "stp x23, x24, [sp, #48]",
    "stp x25, x26, [sp, #64]",
    "stp x27, x28, [sp, #80]",
    "stp d8, d9, [sp, #96]",
    "stp d10, d11, [sp, #112]",
    "stp d12, d13, [sp, #128]",
    "stp d14, d15, [sp, #144]",
    "sub sp, sp, {size}",
    ".cfi_def_cfa_offset {size} + 160",
    ".cfi_offset x29, -160",
    ".cfi_offset x30, -152",
    ".cfi_offset x19, -144",
    ".cfi_offset x20, -136",
    ".cfi_offset x21, -128",
    ".cfi_offset x22, -120",
    ".cfi_offset x23, -112",
    ".cfi_offset x24, -104",
    ".cfi_offset x25, -96",
    ".cfi_offset x26, -88",
    ".cfi_offset x27, -80",
    ".cfi_offset x28, -72",
    "mov x0, sp",
    "adr x1, 2f",
    "sub sp, sp, {room}",
    ".cfi_adjust_cfa_offset {room}",
    "bl {prepare}",
    "mov sp, x0",
    "mov x30, x1",
    "b {entry}",
    ".cfi_adjust_cfa_offset -{room}",
    "nop",
    "2:",
    "stp x0, x1, [sp]",
    "stp x2, x3, [sp, #16]",
    "stp x4, x5, [sp, #32]",
    "stp x6, x7, [sp, #48]",
    "stp x8, x9, [sp, #64]",
    "stp x10, x11, [sp, #80]",
    "stp x12, x13, [sp, #96]",
    "stp x14, x15, [sp, #112]",
    "stp x16, x17, [sp, #128]",
    "stp x18, x19, [sp, #144]",
    "stp x20, x21, [sp, #160]",
    "stp x22, x23, [sp, #176]",
    "stp x24, x25, [sp, #192]",
    "stp x26, x27, [sp, #208]",
    "stp x28, x29, [sp, #224]",
    "mrs x0, nzcv",
    "stp x30, x0, [sp, #240]",
    ".set at, 256",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "str q\\n, [sp, #at]",
    ".set at, at + 16",
    ".endr",
    ".irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "str q\\n, [sp, #at]",
    ".set at, at + 16",
    ".endr",
    "mrs x0, fpcr",
    "mrs x1, fpsr",
    "str x0, [sp, #768]",
    "str x1, [sp, #776]",
    // As the ABI has it when a thread begins.
    "msr fpcr, xzr",
    "mov x0, sp",
    "bl {check}",
    "add sp, sp, {size}",
    ".cfi_def_cfa_offset 160",
    "ldp x19, x20, [sp, #16]",
    "ldp x21, x22, [sp, #32]",
    "ldp x23, x24, [sp, #48]",
    "ldp x25, x26, [sp, #64]",
    "ldp x27, x28, [sp, #80]",
    "ldp d8, d9, [sp, #96]",
    "ldp d10, d11, [sp, #112]",
    "ldp d12, d13, [sp, #128]",
    "ldp d14, d15, [sp, #144]",
    "ldp x29, x30, [sp], #160",
    ".cfi_def_cfa_offset 0",
    "ret",
    ".cfi_endproc",
    size = const size_of::<Registers>(),
    room = const 1 << 16,
    prepare = sym prepare,
    entry = sym entry,
    check = sym check,
);

const _: () = assert!(size_of::<Registers>() == 784);

/// The only signal that the thread blocks when it goes on.
const BLOCKED: c_int = libc::SIGUSR2;

thread_local! {
    static AT: Cell<u64> = const { Cell::new(0) };
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static CHECKED: Cell<bool> = const { Cell::new(false) };
}

static ENDED: AtomicUsize = AtomicUsize::new(0);

/// Writes the frame below `at`, by which the thread goes on at `code` with the stack pointer `at`.
extern "C" fn prepare(at: u64, code: u64) -> Start {
    AT.set(at);
    let restorer = RESTORER.load(Relaxed);
    let frame = frame(&state(at, code), restorer as u64).expect("a known form");
    let place = frame.stack_pointer as usize as *mut u8;
    assert!(frame.stack_pointer + frame.bytes.len() as u64 <= at && at - frame.stack_pointer < 1 << 15);
    // SAFETY: `injected_run` keeps 64 KiB below `at` free, and this function's frame is below them.
    unsafe { place.copy_from_nonoverlapping(frame.bytes.as_ptr(), frame.bytes.len()) };
    Start { stack_pointer: frame.stack_pointer as usize, restorer }
}

/// What the borrowed thread runs: other code's registers, all signals blocked, and exeunt.
extern "C" fn entry() {
    // SAFETY: a set of this frame.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, null_mut());
    }
    ARMED.set(exeunt::at_exit(|| _ = ENDED.fetch_add(1, Relaxed)).is_ok());
}

extern "C" fn check(registers: &Registers) {
    assert_eq!(std::ptr::from_ref(registers).addr() as u64, AT.get(), "the stack pointer");
    for (number, &word) in registers.general[..GENERAL].iter().enumerate() {
        assert_eq!(word, pattern(number), "general register {number}");
    }
    for (number, vector) in registers.vectors[..VECTORS].iter().enumerate() {
        assert_eq!(*vector, [pattern(100 + number), pattern(200 + number)], "vector register {number}");
    }
    assert_eq!(registers.flags & FLAGS, FLAGS, "the flags");
    assert_eq!(registers.control, CONTROL);
    // SAFETY: sets of this frame.
    let blocked = unsafe {
        let mut now = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &raw mut now);
        (1..=64).filter(|&signal| libc::sigismember(&raw const now, signal) == 1).collect::<Vec<_>>()
    };
    assert_eq!(blocked, [BLOCKED]);
    CHECKED.set(true);
}

/// Carry and zero.
#[cfg(target_arch = "x86_64")]
const FLAGS: u64 = 0x41;
/// MXCSR with «flush to zero».
#[cfg(target_arch = "x86_64")]
const CONTROL: [u64; 2] = [0x9f80, 0];

#[cfg(target_arch = "x86_64")]
fn state(at: u64, code: u64) -> State {
    use std::arch::x86_64::{__cpuid_count, _xgetbv, _xsave64};

    #[repr(align(64))]
    struct Area([u8; 1 << 14]);

    #[target_feature(enable = "xsave")]
    fn save(area: &mut Area) -> u64 {
        assert!(__cpuid_count(0xd, 0).ebx as usize <= area.0.len());
        // SAFETY: the area is aligned, and larger than what the processor writes.
        unsafe {
            let features = _xgetbv(0);
            _xsave64(area.0.as_mut_ptr(), features);
            features
        }
    }

    let mut area = Box::new(Area([0; 1 << 14]));
    // SAFETY: every x86_64 processor that runs the kernel's signal frames of today has it.
    let features = unsafe { save(&mut area) };
    let mut store = |at: usize, word: u64| area.0[at..at + 8].copy_from_slice(&word.to_ne_bytes());
    store(464, features);
    // The parts in use: x87, SSE. The latter's registers, and MXCSR with its mask.
    store(512, 3);
    store(24, CONTROL[0] | 0xffff << 32);
    for number in 0..VECTORS {
        store(160 + 16 * number, pattern(100 + number));
        store(168 + 16 * number, pattern(200 + number));
    }
    // SAFETY: all zeros are valid registers.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    let places = [
        &mut registers.rax,
        &mut registers.rbx,
        &mut registers.rcx,
        &mut registers.rdx,
        &mut registers.rsi,
        &mut registers.rdi,
        &mut registers.rbp,
        &mut registers.r8,
        &mut registers.r9,
        &mut registers.r10,
        &mut registers.r11,
        &mut registers.r12,
        &mut registers.r13,
        &mut registers.r14,
        &mut registers.r15,
    ];
    for (number, place) in places.into_iter().enumerate() {
        *place = pattern(number);
    }
    (registers.rsp, registers.rip, registers.eflags) = (at, code, 0x202 | FLAGS);
    (registers.cs, registers.ss) = (0x33, 0x2b);
    let size = __cpuid_count(0xd, 0).ebx as usize;
    State { registers, extended: area.0[..size].to_vec(), blocked: 1 << (BLOCKED - 1) }
}

/// Negative, zero, carry and overflow.
#[cfg(target_arch = "aarch64")]
const FLAGS: u64 = 0xf000_0000;
/// «Round towards zero», and a sum that was not exact.
#[cfg(target_arch = "aarch64")]
const CONTROL: [u64; 2] = [3 << 22, 1 << 4];

#[cfg(target_arch = "aarch64")]
fn state(at: u64, code: u64) -> State {
    // SAFETY: all zeros are valid registers.
    let (mut registers, mut vectors): (libc::user_regs_struct, libc::user_fpsimd_struct) =
        unsafe { std::mem::zeroed() };
    for (number, register) in registers.regs.iter_mut().enumerate() {
        *register = pattern(number);
    }
    (registers.sp, registers.pc, registers.pstate) = (at, code, FLAGS);
    for (number, vector) in vectors.vregs.iter_mut().enumerate() {
        *vector = u128::from(pattern(100 + number)) | u128::from(pattern(200 + number)) << 64;
    }
    (vectors.fpcr, vectors.fpsr) = (CONTROL[0] as u32, CONTROL[1] as u32);
    State { registers, vectors, blocked: 1 << (BLOCKED - 1) }
}

/// Learns from a real signal which code ends its frame.
fn find_restorer() {
    // SAFETY: the handler stores one word, and the signal is this thread's own.
    unsafe {
        libc::signal(libc::SIGUSR1, injected_handler as *const () as usize);
        assert_eq!(libc::raise(libc::SIGUSR1), 0);
    }
    assert_ne!(RESTORER.load(Relaxed), 0);
}

#[test]
fn a_thread_has_all_back_behind_the_frame_and_exeunt_s_walk_goes_through_it() {
    find_restorer();
    for times in 1..=3 {
        let thread = std::thread::spawn(|| {
            // SAFETY: it keeps the registers that a function keeps. The mask is this thread's own.
            unsafe { injected_run() };
            (ARMED.get(), CHECKED.get())
        });
        assert_eq!(thread.join().expect("it returns"), (true, true));
        assert_eq!(ENDED.load(Relaxed), times, "the foot was found and redirected, so the handler has run");
    }
}

#[test]
#[cfg(target_arch = "aarch64")]
fn the_frame_is_below_the_stack_pointer_aligned_and_of_the_kernel_s_size() {
    for low in 0..32 {
        let state = state(0x7000_0000 + low, 0x1111);
        let frame = frame(&state, 0).expect("a known form");
        assert_eq!(frame.stack_pointer % 16, 0);
        assert!(frame.stack_pointer + frame.bytes.len() as u64 <= state.registers.sp);
        assert_eq!(frame.bytes.len(), size_of::<libc::siginfo_t>() + size_of::<libc::ucontext_t>());
    }
    let too_low = state(4096, 0x1111);
    assert!(frame(&too_low, 0).is_none());
}
