//! Stacks under a hail of signals. Each signal's handler walks the stack that it interrupts, and
//! reads there. Signals also arrive during the recognition of exit trampolines, which happens once
//! in a process, and where there is no single-stepping.
//!
//! Arguments: the mode of the handler (`walking`, `reading`, `reading-elsewhere`) and the number of
//! stacks.
//!
//! It misses an instruction at which no signal happens to arrive.

use exeunt_bridge::walk::Outermost;
use exeunt_bridge::watch::{self, How};
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static OUTERMOST: OnceLock<Outermost> = OnceLock::new();
static DONE: AtomicBool = AtomicBool::new(false);
/// Signals whose handlers have returned, or nearly so.
static HANDLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes the interrupted code's context to a handler with SA_SIGINFO.
    let machine = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
    #[cfg(target_arch = "x86_64")]
    let pc = machine.gregs[libc::REG_RIP as usize] as usize;
    #[cfg(target_arch = "aarch64")]
    let pc = machine.pc as usize;
    let outermost = OUTERMOST.get().expect("signals are let in after it is known");
    if !outermost.is_beyond(pc) {
        watch::look(outermost, pc);
    }
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// Sends signals, one after the other, at varying distances, so that the interrupted code advances
/// in between.
fn hammer() {
    let mut random = 0x9e37_79b9_u32;
    while !DONE.load(Ordering::Relaxed) {
        let handled = HANDLED.load(Ordering::Relaxed);
        // To the process: a thread that has unblocked the signal gets it.
        // SAFETY: the signal has a handler.
        unsafe { libc::kill(libc::getpid(), libc::SIGUSR1) };
        for _ in 0..100_000 {
            if HANDLED.load(Ordering::Relaxed) != handled {
                break;
            }
            std::hint::spin_loop();
        }
        // Marsaglia's xorshift.
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        for _ in 0..random % 4000 {
            std::hint::spin_loop();
        }
    }
}

/// Unblocks or blocks the signal, for the running thread and those that it starts.
fn mask(how: c_int) {
    // SAFETY: the set is initialised by sigemptyset.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGUSR1);
        assert_eq!(libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()), 0);
    }
}

/// One stack's life, on a thread that has unblocked the signals. All other threads block them.
extern "C" fn entry(elsewhere: *mut c_void) -> *mut c_void {
    OUTERMOST.get_or_init(Outermost::here);
    if !elsewhere.is_null() {
        let stack = libc::stack_t { ss_sp: elsewhere, ss_flags: 0, ss_size: ELSEWHERE };
        // SAFETY: the memory is never freed, and one thread at a time uses it.
        assert_eq!(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
    }
    mask(libc::SIG_UNBLOCK);
    // Whenever the other signals arrive, one signal meets each value.
    // SAFETY: the signal has a handler.
    watch::live(|| assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0));
    std::ptr::null_mut()
}

const ELSEWHERE: usize = 1 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [how, lives] = arguments.as_slice() else { panic!("two arguments, not {arguments:?}") };
    let lives: usize = lives.parse().expect("a number of lives");
    let how = match how.as_str() {
        "walking" => How::Walking,
        "reading" => How::Reading,
        "reading-elsewhere" => How::ReadingElsewhere,
        _ => panic!("how: {how}?"),
    };
    watch::prepare(how);
    let elsewhere = how == How::ReadingElsewhere;
    mask(libc::SIG_BLOCK);
    // SAFETY: installs a handler that is allowed to do all of this at any instruction: the test
    // checks that.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | if elsewhere { libc::SA_ONSTACK } else { 0 };
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
    }
    let hammering = std::thread::spawn(hammer);
    let memory: *mut c_void =
        if elsewhere { vec![0_u8; ELSEWHERE].leak().as_mut_ptr().cast() } else { std::ptr::null_mut() };
    for _ in 0..lives {
        // SAFETY: the routine uses the memory as its signal stack, and is joined before the next
        // one does.
        unsafe {
            let mut thread = std::mem::zeroed();
            assert_eq!(libc::pthread_create(&raw mut thread, std::ptr::null(), entry, memory), 0);
            assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
        }
        watch::life_is_over();
    }
    DONE.store(true, Ordering::Relaxed);
    hammering.join().expect("it only sends");
    std::process::exit(watch::verdict(lives));
}
