//! Births: what stands in for `pthread_create`, `thrd_create` and `__libc_start_main`.
//!
//! A new thread begins in `exeunt_watch_thread`, which calls `thread_begins` and then jumps to the
//! program's start routine. So on x86_64 no frame of this library is below the program's own, and
//! backtraces are as they were. On aarch64 the routine is called and not jumped to: its return
//! address is in a register, and exeunt can only redirect the one that this frame has stored.

use crate::backtrace;
use crate::fibers;
use crate::files;
use crate::life;
use crate::room::{self, GetDefault, Room};
use crate::shared::{birth, current, give_back, id, keeping_errno, known_tid, new_row, now, tid};
use crate::table::{Row, flag, kind, state};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicUsize};

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.exeunt_watch, \"ax\", @progbits",
    // Its address is a start routine for libc. `thread_begins` returns the program's routine and
    // its argument in two registers.
    ".hidden exeunt_watch_thread",
    ".globl exeunt_watch_thread",
    ".type exeunt_watch_thread, @function",
    "exeunt_watch_thread:",
    ".cfi_startproc",
    "endbr64",
    // The stack pointer is the foot's address here.
    "mov rsi, rsp",
    "sub rsp, 8",
    ".cfi_adjust_cfa_offset 8",
    "call {begins}",
    "mov rdi, rdx",
    "add rsp, 8",
    ".cfi_adjust_cfa_offset -8",
    "jmp rax",
    ".cfi_endproc",
    ".size exeunt_watch_thread, . - exeunt_watch_thread",
    // The same for `main` and its three arguments.
    ".hidden exeunt_watch_main",
    ".globl exeunt_watch_main",
    ".type exeunt_watch_main, @function",
    "exeunt_watch_main:",
    ".cfi_startproc",
    "endbr64",
    "push rdi",
    ".cfi_adjust_cfa_offset 8",
    "push rsi",
    ".cfi_adjust_cfa_offset 8",
    "push rdx",
    ".cfi_adjust_cfa_offset 8",
    "lea rdi, [rsp + 24]",
    "call {main_begins}",
    "pop rdx",
    ".cfi_adjust_cfa_offset -8",
    "pop rsi",
    ".cfi_adjust_cfa_offset -8",
    "pop rdi",
    ".cfi_adjust_cfa_offset -8",
    "jmp rax",
    ".cfi_endproc",
    ".size exeunt_watch_main, . - exeunt_watch_main",
    ".popsection",
    begins = sym thread_begins,
    main_begins = sym main_begins,
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .text.exeunt_watch, \"ax\", @progbits",
    ".hidden exeunt_watch_thread",
    ".globl exeunt_watch_thread",
    ".type exeunt_watch_thread, @function",
    "exeunt_watch_thread:",
    ".cfi_startproc",
    "hint #34",
    "stp x29, x30, [sp, #-16]!",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset 29, -16",
    ".cfi_offset 30, -8",
    "mov x29, sp",
    "add x1, sp, #8",
    "bl {begins}",
    "mov x9, x0",
    "mov x0, x1",
    "blr x9",
    "ldp x29, x30, [sp], #16",
    ".cfi_restore 29",
    ".cfi_restore 30",
    ".cfi_def_cfa_offset 0",
    "ret",
    ".cfi_endproc",
    ".size exeunt_watch_thread, . - exeunt_watch_thread",
    ".hidden exeunt_watch_main",
    ".globl exeunt_watch_main",
    ".type exeunt_watch_main, @function",
    "exeunt_watch_main:",
    ".cfi_startproc",
    "hint #34",
    "stp x29, x30, [sp, #-48]!",
    ".cfi_def_cfa_offset 48",
    ".cfi_offset 29, -48",
    ".cfi_offset 30, -40",
    "mov x29, sp",
    "stp x0, x1, [sp, #16]",
    "str x2, [sp, #32]",
    "add x0, sp, #8",
    "bl {main_begins}",
    "mov x9, x0",
    "ldp x0, x1, [sp, #16]",
    "ldr x2, [sp, #32]",
    "blr x9",
    "ldp x29, x30, [sp], #48",
    ".cfi_restore 29",
    ".cfi_restore 30",
    ".cfi_def_cfa_offset 0",
    "ret",
    ".cfi_endproc",
    ".size exeunt_watch_main, . - exeunt_watch_main",
    ".popsection",
    begins = sym thread_begins,
    main_begins = sym main_begins,
);

unsafe extern "C" {
    fn exeunt_watch_thread(row: *mut c_void) -> *mut c_void;
    fn exeunt_watch_main(argc: c_int, argv: *mut *mut c_char, envp: *mut *mut c_char) -> c_int;
}

type Create = unsafe extern "C" fn(*mut c_void, *const c_void, *mut c_void, *mut c_void) -> c_int;
type CreateC11 = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void) -> c_int;
type StartMain = unsafe extern "C" fn(
    Option<unsafe extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) -> c_int>,
    c_int,
    *mut *mut c_char,
    *mut c_void,
    *mut c_void,
    *mut c_void,
    *mut c_void,
) -> c_int;

/// `pthread_create`, with one argument more: where its caller goes on.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(_: *mut c_void, _: *const c_void, _: *mut c_void, _: *mut c_void) -> c_int {
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "endbr64",
        "mov r8, [rsp]",
        "jmp {create}",
        ".cfi_endproc",
        create = sym create_pthread
    );
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "hint #34",
        "mov x4, x30",
        "b {create}",
        ".cfi_endproc",
        create = sym create_pthread
    );
}

/// The same for C11's threads.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn thrd_create(_: *mut c_void, _: *mut c_void, _: *mut c_void) -> c_int {
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "endbr64",
        "mov rcx, [rsp]",
        "jmp {create}",
        ".cfi_endproc",
        create = sym create_c11
    );
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "hint #34",
        "mov x3, x30",
        "b {create}",
        ".cfi_endproc",
        create = sym create_c11
    );
}

unsafe extern "C" fn create_pthread(
    thread: *mut c_void,
    attributes: *const c_void,
    start: *mut c_void,
    argument: *mut c_void,
    caller: usize,
) -> c_int {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let Some(real) = next(&REAL, c"pthread_create") else { return libc::EAGAIN };
    // SAFETY: this is libc's function of that name (or of another preload library's).
    let real: Create = unsafe { std::mem::transmute(real) };
    let Some(row) = keeping_errno(|| born(kind::PTHREAD, start, argument, caller)) else {
        // SAFETY: the caller keeps to the contract of `pthread_create`.
        return unsafe { real(thread, attributes, start, argument) };
    };
    let attributes = attributes.cast::<libc::pthread_attr_t>();
    let mut default = None;
    if attributes.is_null() {
        default = keeping_errno(|| room::default(get_default()?));
    }
    // SAFETY: the caller's, or null, or initialized by libc.
    let given = default.as_ref().or(unsafe { attributes.as_ref() });
    // SAFETY: as above.
    let room = given.map_or(Room::Unknown, |given| keeping_errno(|| unsafe { room::of(given) }));
    stack_is(row, &room);
    let attributes = match &room {
        Room::Larger(_, larger) => ptr::from_ref(larger),
        _ => attributes,
    };
    let begin = exeunt_watch_thread as *mut c_void;
    // SAFETY: the caller keeps to the contract. The start routine takes a row.
    let failed = unsafe { real(thread, attributes.cast(), begin, ptr::from_ref(row).cast_mut().cast()) };
    if let Some(default) = &mut default {
        // SAFETY: initialized by libc, and destroyed once.
        keeping_errno(|| unsafe { libc::pthread_attr_destroy(default) });
    }
    refused(row, failed != 0);
    failed
}

/// Writes what is known of the new thread's stack.
fn stack_is(row: &Row, room: &Room) {
    row.stack_size.store(room.size() as u64, Relaxed);
    if let Room::Small(low, high) = room {
        row.stack_low.store(*low as u64, Relaxed);
        row.stack_high.store(*high as u64, Relaxed);
        row.reason.store(b"its stack is too small for the handler");
        row.flags.store(flag::NOT_ARMED, Relaxed);
    }
}

fn get_default() -> Option<GetDefault> {
    static GET_DEFAULT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let found = next(&GET_DEFAULT, c"pthread_getattr_default_np")?;
    // SAFETY: this is libc's function of that name (or of another preload library's).
    Some(unsafe { std::mem::transmute::<*mut c_void, GetDefault>(found) })
}

unsafe extern "C" fn create_c11(
    thread: *mut c_void,
    start: *mut c_void,
    argument: *mut c_void,
    caller: usize,
) -> c_int {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    // `thrd_error` of glibc.
    let Some(real) = next(&REAL, c"thrd_create") else { return 2 };
    // SAFETY: this is libc's function of that name (or of another preload library's).
    let real: CreateC11 = unsafe { std::mem::transmute(real) };
    match keeping_errno(|| born(kind::C11, start, argument, caller)) {
        // SAFETY: the caller keeps to the contract of `thrd_create`.
        None => unsafe { real(thread, start, argument) },
        Some(row) => {
            stack_is(row, &keeping_errno(|| get_default().map_or(Room::Unknown, room::of_c11)));
            let begin = exeunt_watch_thread as *mut c_void;
            // SAFETY: as above. The routine jumps to the program's, so the result is the program's.
            let failed = unsafe { real(thread, begin, ptr::from_ref(row).cast_mut().cast()) };
            refused(row, failed != 0);
            failed
        }
    }
}

/// A row for a stack that is about to be created. None for a thread of this library's own (exeunt
/// learns the exit trampolines by starting one).
fn born(kind: u32, start: *mut c_void, argument: *mut c_void, caller: usize) -> Option<&'static Row> {
    if files::is_own(caller) {
        return None;
    }
    let row = new_row()?;
    row.kind.store(kind, Relaxed);
    row.creator.store(fibers::running().map_or_else(current, id), Relaxed);
    row.creator_tid.store(known_tid(), Relaxed);
    row.entry.store(start as u64, Relaxed);
    row.argument.store(argument as u64, Relaxed);
    row.caller.store(caller as u64, Relaxed);
    row.entry_file.store(files::of(start as usize), Relaxed);
    row.caller_file.store(files::of(caller), Relaxed);
    if let Some(birth) = birth(row) {
        backtrace::write(birth);
    }
    row.created.store(now(), Relaxed);
    row.state.store(state::BORN, Release);
    Some(row)
}

fn refused(row: &Row, refused: bool) {
    if refused {
        give_back(row);
    }
}

/// The next definition of a function after this library's.
pub fn next(known: &AtomicPtr<c_void>, name: &CStr) -> Option<*mut c_void> {
    let mut found = known.load(Relaxed);
    if found.is_null() {
        // SAFETY: the name ends with a zero.
        found = keeping_errno(|| unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) });
        known.store(found, Relaxed);
    }
    (!found.is_null()).then_some(found)
}

/// Two registers' worth of result.
#[repr(C)]
struct Routine {
    start: usize,
    argument: usize,
}

/// The foot and the base of a stack whose entry function, one of those above, has its return address
/// at `foot`.
fn place(foot: usize, frame: usize) -> (usize, usize) {
    (foot, if cfg!(target_arch = "x86_64") { foot + 8 } else { foot - 8 + frame })
}

/// On a new thread: writes that it lives. Returns what it was created for.
///
/// # Safety
/// `row` is what `create_pthread` or `create_c11` has passed, and `foot` the address of the return
/// address of `exeunt_watch_thread`.
unsafe extern "C" fn thread_begins(row: *const Row, foot: usize) -> Routine {
    // SAFETY: by the contract a row of the table, which is never unmapped.
    let row = unsafe { &*row };
    let routine = Routine { start: row.entry.load(Relaxed) as usize, argument: row.argument.load(Relaxed) as usize };
    // SAFETY: the running stack's, by the contract.
    keeping_errno(|| unsafe { life::begun(row, place(foot, 16)) });
    routine
}

/// The program's `main`.
static MAIN: AtomicUsize = AtomicUsize::new(0);
/// The row of the main thread, which its stack's address leads to before `main` begins.
static MAIN_ROW: AtomicPtr<Row> = AtomicPtr::new(ptr::null_mut());

/// Starts the program with a `main` of this library's own.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn __libc_start_main(
    main: Option<unsafe extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) -> c_int>,
    argc: c_int,
    argv: *mut *mut c_char,
    init: *mut c_void,
    fini: *mut c_void,
    rtld_fini: *mut c_void,
    stack_end: *mut c_void,
) -> c_int {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let Some(real) = next(&REAL, c"__libc_start_main") else { std::process::abort() };
    // SAFETY: this is libc's function of that name (or of another preload library's).
    let real: StartMain = unsafe { std::mem::transmute(real) };
    let mut begin = main;
    if let (Some(main), Some(row)) = (main, new_row()) {
        let entry_file = keeping_errno(|| files::of(main as usize));
        row.kind.store(kind::MAIN, Relaxed);
        row.entry.store(main as usize as u64, Relaxed);
        row.entry_file.store(entry_file, Relaxed);
        row.created.store(now(), Relaxed);
        row.tid.store(tid(), Relaxed);
        row.state.store(state::BORN, Release);
        MAIN.store(main as usize, Relaxed);
        MAIN_ROW.store(ptr::from_ref(row).cast_mut(), Release);
        begin = Some(exeunt_watch_main);
    }
    // SAFETY: the caller keeps to the contract. `exeunt_watch_main` has the type of a `main`.
    unsafe { real(begin, argc, argv, init, fini, rtld_fini, stack_end) }
}

/// On the main thread, at the beginning of `main`. Returns the program's `main`.
///
/// # Safety
/// `foot` is the address of the return address of `exeunt_watch_main`.
unsafe extern "C" fn main_begins(foot: usize) -> usize {
    // SAFETY: `__libc_start_main` has stored a row of the table, which is never unmapped.
    if let Some(row) = unsafe { MAIN_ROW.load(Acquire).as_ref() } {
        // SAFETY: the running stack's, by the contract.
        keeping_errno(|| unsafe { life::begun(row, place(foot, 48)) });
    }
    MAIN.load(Relaxed)
}
