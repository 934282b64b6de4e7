//! Fibers: what stands in for `makecontext`, `swapcontext` and `setcontext`.
//!
//! A fiber begins in `exeunt_watch_fiber`, which calls its function, and so sees the function
//! return. The fiber's row is in a register that `makecontext` leaves as it finds it, and that
//! belongs to no caller. A stack of some KiB is enough for this, which arming is not.
//!
//! A switch notes which fiber goes on on which thread. The id of the fiber whose state a `ucontext_t`
//! holds is written into the `ucontext_t`, into a word that libc leaves alone. A context counts as
//! a fiber's only if its stack pointer lies in the fiber's memory, so the word may hold anything.

use crate::create::next;
use crate::files;
use crate::shared::{birth, current, id, is_own_row, keeping_errno, new_fiber_row, now, table, tid};
use crate::table::{ROWS, Row, ending, flag, kind, state};
use crate::{backtrace, touched};
use libc::ucontext_t;
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicU32};

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.exeunt_watch_fiber, \"ax\", @progbits",
    ".hidden exeunt_watch_fiber",
    ".globl exeunt_watch_fiber",
    ".type exeunt_watch_fiber, @function",
    "exeunt_watch_fiber:",
    ".cfi_startproc",
    "endbr64",
    "push rbp",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    // The first six arguments are in registers.
    "push rdi",
    "push rsi",
    "push rdx",
    "push rcx",
    "push r8",
    "push r9",
    "mov rdi, r12",
    "call {begins}",
    "mov r11, rax",
    "mov r10, rdx",
    "pop r9",
    "pop r8",
    "pop rcx",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    // The rest are above the return address: an even number of words, for the alignment.
    "2:",
    "test r10, r10",
    "jz 3f",
    "push [rbp + 8 + r10 * 8]",
    "dec r10",
    "jmp 2b",
    "3:",
    "xor eax, eax",
    "call r11",
    "mov rsp, rbp",
    "mov rdi, r12",
    "call {over}",
    "pop rbp",
    ".cfi_def_cfa rsp, 8",
    ".cfi_restore rbp",
    "ret",
    ".cfi_endproc",
    ".size exeunt_watch_fiber, . - exeunt_watch_fiber",
    ".popsection",
    begins = sym fiber_begins,
    over = sym fiber_over,
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .text.exeunt_watch_fiber, \"ax\", @progbits",
    ".hidden exeunt_watch_fiber",
    ".globl exeunt_watch_fiber",
    ".type exeunt_watch_fiber, @function",
    "exeunt_watch_fiber:",
    ".cfi_startproc",
    "hint #34",
    "stp x29, x30, [sp, #-16]!",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset 29, -16",
    ".cfi_offset 30, -8",
    "mov x29, sp",
    ".cfi_def_cfa x29, 16",
    // The first eight arguments are in registers.
    "stp x0, x1, [sp, #-16]!",
    "stp x2, x3, [sp, #-16]!",
    "stp x4, x5, [sp, #-16]!",
    "stp x6, x7, [sp, #-16]!",
    "mov x0, x20",
    "bl {begins}",
    "mov x9, x0",
    "mov x10, x1",
    "ldp x6, x7, [sp], #16",
    "ldp x4, x5, [sp], #16",
    "ldp x2, x3, [sp], #16",
    "ldp x0, x1, [sp], #16",
    // The rest are above this frame: an even number of words, for the alignment.
    "add x11, x29, #16",
    "add x11, x11, x10, lsl #3",
    "2:",
    "cbz x10, 3f",
    "ldp x12, x13, [x11, #-16]!",
    "stp x12, x13, [sp, #-16]!",
    "sub x10, x10, #2",
    "b 2b",
    "3:",
    "blr x9",
    "mov sp, x29",
    "mov x0, x20",
    "bl {over}",
    "ldp x29, x30, [sp], #16",
    ".cfi_def_cfa sp, 0",
    ".cfi_restore 29",
    ".cfi_restore 30",
    "ret",
    ".cfi_endproc",
    ".size exeunt_watch_fiber, . - exeunt_watch_fiber",
    ".popsection",
    begins = sym fiber_begins,
    over = sym fiber_over,
);

unsafe extern "C" {
    fn exeunt_watch_fiber();
}

/// `makecontext`, whose arguments after the third are the function's: they stay where they are.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn makecontext(_: *mut ucontext_t, _: *const c_void, _: i32) {
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "endbr64",
        "push rdi",
        ".cfi_adjust_cfa_offset 8",
        "push rsi",
        ".cfi_adjust_cfa_offset 8",
        "push rdx",
        ".cfi_adjust_cfa_offset 8",
        "push rcx",
        ".cfi_adjust_cfa_offset 8",
        "push r8",
        ".cfi_adjust_cfa_offset 8",
        "push r9",
        ".cfi_adjust_cfa_offset 8",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "mov rcx, [rsp + 56]",
        "call {make}",
        "mov r11, rax",
        "mov rax, rdx",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "pop r9",
        ".cfi_adjust_cfa_offset -8",
        "pop r8",
        ".cfi_adjust_cfa_offset -8",
        "pop rcx",
        ".cfi_adjust_cfa_offset -8",
        "pop rdx",
        ".cfi_adjust_cfa_offset -8",
        "pop rsi",
        ".cfi_adjust_cfa_offset -8",
        "pop rdi",
        ".cfi_adjust_cfa_offset -8",
        "mov rsi, rax",
        // No vector registers among the arguments.
        "xor eax, eax",
        "jmp r11",
        ".cfi_endproc",
        make = sym make,
    );
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "hint #34",
        "stp x29, x30, [sp, #-80]!",
        ".cfi_def_cfa_offset 80",
        ".cfi_offset 29, -80",
        ".cfi_offset 30, -72",
        "stp x0, x1, [sp, #16]",
        "stp x2, x3, [sp, #32]",
        "stp x4, x5, [sp, #48]",
        "stp x6, x7, [sp, #64]",
        "mov x3, x30",
        "bl {make}",
        "mov x16, x0",
        "mov x9, x1",
        "ldr x0, [sp, #16]",
        "mov x1, x9",
        "ldp x2, x3, [sp, #32]",
        "ldp x4, x5, [sp, #48]",
        "ldp x6, x7, [sp, #64]",
        "ldp x29, x30, [sp], #80",
        ".cfi_restore 29",
        ".cfi_restore 30",
        ".cfi_def_cfa_offset 0",
        "br x16",
        ".cfi_endproc",
        make = sym make,
    );
}

/// `swapcontext`. It leaves no frame, as what it saves may be resumed more than once.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn swapcontext(_: *mut ucontext_t, _: *const ucontext_t) -> i32 {
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "endbr64",
        "push rdi",
        ".cfi_adjust_cfa_offset 8",
        "push rsi",
        ".cfi_adjust_cfa_offset 8",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "call {swap}",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "pop rsi",
        ".cfi_adjust_cfa_offset -8",
        "pop rdi",
        ".cfi_adjust_cfa_offset -8",
        "jmp rax",
        ".cfi_endproc",
        swap = sym swap,
    );
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "hint #34",
        "stp x29, x30, [sp, #-32]!",
        ".cfi_def_cfa_offset 32",
        ".cfi_offset 29, -32",
        ".cfi_offset 30, -24",
        "stp x0, x1, [sp, #16]",
        "bl {swap}",
        "mov x16, x0",
        "ldp x0, x1, [sp, #16]",
        "ldp x29, x30, [sp], #32",
        ".cfi_restore 29",
        ".cfi_restore 30",
        ".cfi_def_cfa_offset 0",
        "br x16",
        ".cfi_endproc",
        swap = sym swap,
    );
}

/// `setcontext`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn setcontext(_: *const ucontext_t) -> i32 {
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "endbr64",
        "push rdi",
        ".cfi_adjust_cfa_offset 8",
        "call {set}",
        "pop rdi",
        ".cfi_adjust_cfa_offset -8",
        "jmp rax",
        ".cfi_endproc",
        set = sym set,
    );
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "hint #34",
        "stp x29, x30, [sp, #-32]!",
        ".cfi_def_cfa_offset 32",
        ".cfi_offset 29, -32",
        ".cfi_offset 30, -24",
        "str x0, [sp, #16]",
        "bl {set}",
        "mov x16, x0",
        "ldr x0, [sp, #16]",
        "ldp x29, x30, [sp], #32",
        ".cfi_restore 29",
        ".cfi_restore 30",
        ".cfi_def_cfa_offset 0",
        "br x16",
        ".cfi_endproc",
        set = sym set,
    );
}

/// libc's functions. All are found at the first `makecontext`, as a fiber's stack may be too small
/// for the search.
static MAKE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static SWAP: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static SET: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

fn real(known: &AtomicPtr<c_void>, name: &std::ffi::CStr) -> *mut c_void {
    next(known, name).unwrap_or_else(|| std::process::abort())
}

/// Two registers' worth of result.
#[repr(C)]
struct Call {
    function: *mut c_void,
    /// The function that libc is to make the context for, or how many words of arguments the
    /// fiber's function has on its stack.
    with: usize,
}

/// # Safety
/// `context` and `function` are what the program passes to `makecontext`.
unsafe extern "C" fn make(context: *mut ucontext_t, function: usize, count: i32, caller: usize) -> Call {
    keeping_errno(|| {
        real(&SWAP, c"swapcontext");
        real(&SET, c"setcontext");
        let make = real(&MAKE, c"makecontext");
        // SAFETY: by the contract a context that the program has initialized.
        let row = unsafe { context.as_mut() }.and_then(|context| born(context, function, count, caller));
        let with = row.map_or(function, |_| exeunt_watch_fiber as *const () as usize);
        Call { function: make, with }
    })
}

fn born(context: &mut ucontext_t, function: usize, count: i32, caller: usize) -> Option<&'static Row> {
    let (low, size) = (context.uc_stack.ss_sp as usize, context.uc_stack.ss_size);
    if files::is_own(caller) || size < LEAST {
        // exeunt makes a context to find out where they return to.
        return None;
    }
    let high = low.checked_add(size)?;
    abandons(high);
    let row = new_fiber_row()?;
    row.kind.store(kind::FIBER, Relaxed);
    let creator = running();
    row.creator.store(creator.map_or_else(current, id), Relaxed);
    row.creator_tid.store(thread(), Relaxed);
    row.entry.store(function as u64, Relaxed);
    row.argument.store(context.uc_link as u64, Relaxed);
    row.value.store(count.max(0) as u64, Relaxed);
    row.caller.store(caller as u64, Relaxed);
    row.entry_file.store(files::of(function), Relaxed);
    row.caller_file.store(files::of(caller), Relaxed);
    row.stack_low.store(low as u64, Relaxed);
    row.stack_high.store(high as u64, Relaxed);
    if let Some(birth) = birth(row) {
        backtrace::write(birth);
    }
    row.created.store(now(), Relaxed);
    row.state.store(state::BORN, Release);
    BASES[base_index(high)].store(id(row), Relaxed);
    set_row_register(context, row);
    set_owner(context, id(row));
    Some(row)
}

/// This library's code needs about 2 KiB of a fiber's stack, unoptimised.
const LEAST: usize = 6 << 10;

/// The fiber that was made last for each base of a stack (as far as no other base has its place).
static BASES: [AtomicU32; 1 << 12] = [const { AtomicU32::new(0) }; 1 << 12];

fn base_index(high: usize) -> usize {
    // Stacks lie at multiples of some power of two apart: the product's upper bits differ anyway.
    ((high as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
}

/// The fiber that this memory served is over, if it has not ended.
fn abandons(high: usize) {
    let before = row(BASES[base_index(high)].load(Relaxed)).filter(|row| row.stack_high.load(Relaxed) == high as u64);
    let Some(before) = before.filter(|row| matches!(row.state.load(Acquire), state::BORN | state::ALIVE)) else {
        return;
    };
    before.ending.store(ending::ABANDONED, Relaxed);
    before.ended.store(now(), Relaxed);
    before.state.store(state::ENDED, Release);
}

/// A fiber's row by its id, if the fiber is this process's.
fn row(id: u32) -> Option<&'static Row> {
    let index = (id as usize).checked_sub(1).filter(|&index| index < ROWS)?;
    let row = &table()?.rows[index];
    (row.kind.load(Relaxed) == kind::FIBER && is_own_row(row)).then_some(row)
}

thread_local! {
    /// The id of the fiber that this thread has switched to, or 0.
    static RUNNING: Cell<u32> = const { Cell::new(0) };
}

/// The fiber that this code runs on. A program may also switch by `longjmp`, which nothing here
/// sees, so the stack pointer decides.
pub fn running() -> Option<&'static Row> {
    let place = 0_u8;
    let here = ptr::from_ref(std::hint::black_box(&place)).addr();
    row(RUNNING.get()).filter(|row| holds(row, here))
}

/// Whether the address lies on the fiber's stack, and the fiber has not ended.
fn holds(row: &Row, address: usize) -> bool {
    let stack = row.stack_low.load(Relaxed)..=row.stack_high.load(Relaxed);
    stack.contains(&(address as u64)) && matches!(row.state.load(Relaxed), state::BORN | state::ALIVE)
}

/// The number of the running thread, without a system call where its row has it.
fn thread() -> u32 {
    let row = (current() as usize).checked_sub(1).and_then(|index| table()?.rows.get(index));
    row.map(|row| row.tid.load(Relaxed)).filter(|&tid| tid != 0).unwrap_or_else(tid)
}

/// # Safety
/// `from` and `to` are what the program passes to `swapcontext`.
unsafe extern "C" fn swap(from: *mut ucontext_t, to: *const ucontext_t) -> *mut c_void {
    if table().is_some() {
        // SAFETY: by the contract contexts, of which libc will write the first. Neither reference
        // lasts longer than the call that it is for.
        unsafe {
            if let Some(from) = from.as_mut() {
                set_owner(from, running().map_or(0, id));
            }
            goes_on(to);
        }
    }
    real(&SWAP, c"swapcontext")
}

/// # Safety
/// `to` is what the program passes to `setcontext`.
unsafe extern "C" fn set(to: *const ucontext_t) -> *mut c_void {
    if table().is_some() {
        // SAFETY: by the contract.
        unsafe { goes_on(to) };
    }
    real(&SET, c"setcontext")
}

/// The running thread switches to this context.
///
/// # Safety
/// `to` is a context, or null.
unsafe fn goes_on(to: *const ucontext_t) {
    // SAFETY: by the contract.
    let to = unsafe { to.as_ref() };
    let fiber = to.and_then(|to| row(owner(to)).filter(|row| holds(row, stack_pointer(to))));
    RUNNING.set(fiber.map_or(0, id));
    if let Some(row) = fiber {
        is_on_this_thread(row);
    }
}

/// Counts a migration if the fiber ran on another thread before.
fn is_on_this_thread(row: &Row) {
    let thread = thread();
    let before = row.tid.load(Relaxed);
    if before != thread {
        row.tid.store(thread, Relaxed);
        if before != 0 {
            row.migrations.fetch_add(1, Relaxed);
        }
    }
}

/// On a new fiber. Returns what it was made for.
///
/// # Safety
/// `row` is what `set_row_register` has stored.
unsafe extern "C" fn fiber_begins(row: *const Row) -> Call {
    // SAFETY: by the contract a row of the table, which is never unmapped.
    let row = unsafe { &*row };
    let words = (row.value.load(Relaxed) as usize).saturating_sub(IN_REGISTERS).next_multiple_of(2);
    let call = Call { function: row.entry.load(Relaxed) as *mut c_void, with: words };
    if is_own_row(row) {
        keeping_errno(|| {
            RUNNING.set(id(row));
            is_on_this_thread(row);
            row.began.store(now(), Relaxed);
            row.state.store(state::ALIVE, Release);
        });
    }
    call
}

/// The fiber's function has returned. libc goes on with `uc_link`, if there is one.
///
/// # Safety
/// As for `fiber_begins`.
unsafe extern "C" fn fiber_over(row: *const Row) {
    // SAFETY: by the contract.
    let row = unsafe { &*row };
    keeping_errno(|| {
        if is_own_row(row) {
            row.ended.store(now(), Relaxed);
            used(row);
            is_on_this_thread(row);
            row.ending.store(ending::RETURNED, Relaxed);
            row.state.store(state::ENDED, Release);
        }
        // SAFETY: libc reads the same context next.
        unsafe { goes_on(row.argument.load(Relaxed) as *const ucontext_t) };
    });
}

/// The process ends, by the running thread.
pub fn process_ends(row: &Row) {
    if running().is_some_and(|running| ptr::eq(running, row)) {
        row.flags.fetch_or(flag::ENDED_PROCESS, Relaxed);
    }
    row.ended.store(now(), Relaxed);
    if is_unmapped(row) {
        row.ending.store(ending::ABANDONED, Relaxed);
        row.state.store(state::ENDED, Release);
        return;
    }
    used(row);
    row.flags.fetch_or(flag::SAMPLED, Release);
}

/// Whether the program has given the fiber's memory back to the system.
fn is_unmapped(row: &Row) -> bool {
    let page = page();
    let last = (row.stack_high.load(Relaxed) as usize - 1) & !(page - 1);
    let mut resident = 0_u8;
    // SAFETY: `mincore` reads no memory of the page and writes one byte.
    unsafe { libc::mincore(last as *mut c_void, page, &mut resident) != 0 }
}

/// The depth that the stack's use had. The memory is the program's, and need not begin with a page.
/// The part before its first whole page may share memory with other data, so it counts as used if
/// that page is.
fn used(row: &Row) {
    let (low, high) = (row.stack_low.load(Relaxed) as usize, row.stack_high.load(Relaxed) as usize);
    let first = low.next_multiple_of(page());
    let lowest = if first < high { touched::lowest(first, high, false) } else { first };
    row.stack_touched.store(if lowest == first { low } else { lowest } as u64, Relaxed);
}

fn page() -> usize {
    // SAFETY: has no conditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// How many of a function's arguments are in registers.
const IN_REGISTERS: usize = if cfg!(target_arch = "x86_64") { 6 } else { 8 };

/// A word of `ucontext_t` that neither libc nor the kernel uses: the last of what both have reserved.
#[cfg(target_arch = "x86_64")]
const OWNER_AT: usize = std::mem::offset_of!(ucontext_t, uc_mcontext) + 23 * 8 + 8 + 7 * 8;
#[cfg(target_arch = "aarch64")]
const OWNER_AT: usize = size_of::<ucontext_t>() - 8;

/// The id of the fiber whose state the context holds, as far as this library has written it.
fn owner(context: &ucontext_t) -> u32 {
    // SAFETY: the word lies in the context, and any bytes are valid.
    let word = unsafe { ptr::from_ref(context).byte_add(OWNER_AT).cast::<u64>().read() };
    u32::try_from(word).unwrap_or(0)
}

fn set_owner(context: &mut ucontext_t, id: u32) {
    // SAFETY: as above; `makecontext` and `swapcontext` write the context as well.
    unsafe { ptr::from_mut(context).byte_add(OWNER_AT).cast::<u64>().write(id.into()) };
}

#[cfg(target_arch = "x86_64")]
fn stack_pointer(context: &ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize
}

#[cfg(target_arch = "aarch64")]
fn stack_pointer(context: &ucontext_t) -> usize {
    context.uc_mcontext.sp as usize
}

/// The register in which `exeunt_watch_fiber` finds the row.
#[cfg(target_arch = "x86_64")]
fn set_row_register(context: &mut ucontext_t, row: &'static Row) {
    context.uc_mcontext.gregs[libc::REG_R12 as usize] = ptr::from_ref(row) as i64;
}

#[cfg(target_arch = "aarch64")]
fn set_row_register(context: &mut ucontext_t, row: &'static Row) {
    context.uc_mcontext.regs[20] = ptr::from_ref(row) as u64;
}
