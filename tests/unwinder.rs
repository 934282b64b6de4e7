//! A signal at every instruction of the unwinder's own functions, while a panic is under way: a
//! handler that reads finds the stack's values, even where the unwinder is setting the landing's
//! registers.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod common;

use std::arch::asm;
use std::collections::HashSet;
use std::ffi::{CStr, c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The function that is stepped through, and how long it can be.
static FUNCTION: AtomicUsize = AtomicUsize::new(0);
const LONGEST: usize = 4096;
/// The next place in it for a signal, of those without one so far; no later place has had one.
static WANTED: AtomicUsize = AtomicUsize::new(1);
static SEEN: [AtomicUsize; LONGEST / 8] = [const { AtomicUsize::new(0) }; LONGEST / 8];
static PLACE: AtomicUsize = AtomicUsize::new(usize::MAX);
static VALUE: AtomicUsize = AtomicUsize::new(0);

const TRAP_FLAG: i64 = 0x100;

extern "C" fn on_step(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the argument that the kernel passes to a handler.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let place = (registers[libc::REG_RIP as usize] as usize).wrapping_sub(FUNCTION.load(Ordering::Relaxed));
    if place >= LONGEST || WANTED.load(Ordering::Relaxed) == 0 {
        return;
    }
    let bit = 1 << (place % 8);
    if SEEN[place / 8].fetch_or(bit, Ordering::Relaxed) & bit == 0 {
        WANTED.store(0, Ordering::Relaxed);
        registers[libc::REG_EFL as usize] &= !TRAP_FLAG;
        PLACE.store(place, Ordering::Relaxed);
        VALUE.store(exeunt::get::<usize>(&"k").unwrap_or(0), Ordering::Relaxed);
    }
}

/// Steps through all instructions from here on, until `stop`.
#[inline(never)]
fn start() {
    // SAFETY: sets the trap flag, for which there is a handler.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
}

#[inline(never)]
fn stop() {
    // SAFETY: clears it.
    unsafe { asm!("pushfq", "and qword ptr [rsp], -257", "popfq") };
}

/// A frame with a destructor, in which the panic is resumed.
#[inline(never)]
fn panics(numbers: [u64; 4]) -> u64 {
    struct Loud;
    impl Drop for Loud {
        fn drop(&mut self) {
            std::hint::black_box(1);
        }
    }
    let _loud = Loud;
    start();
    std::panic::resume_unwind(Box::new(numbers))
}

fn step_through(test: &str, name: &'static CStr) {
    common::process::alone(test, || {
        // SAFETY: only looks it up.
        let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        assert!(!function.is_null());
        FUNCTION.store(function.addr(), Ordering::SeqCst);
        // SAFETY: the handler has the right type, and only reads.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_step as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut()), 0);
        }
        let lost = Mutex::new(HashSet::new());
        let mut places = 0;
        loop {
            PLACE.store(usize::MAX, Ordering::SeqCst);
            WANTED.store(1, Ordering::SeqCst);
            let value = 1000 + places;
            common::on_a_thread(move || {
                exeunt::set("k", value).expect("a thread can be armed");
                let caught = std::panic::catch_unwind(|| panics(std::hint::black_box([1, 2, 3, 4])));
                stop();
                assert!(caught.is_err());
            });
            let place = PLACE.load(Ordering::SeqCst);
            if place == usize::MAX {
                break;
            }
            places += 1;
            if VALUE.load(Ordering::SeqCst) != value {
                lost.lock().expect("no panic").insert(place);
            }
            assert!(places < 2000, "no function is so long");
        }
        let lost = lost.into_inner().expect("no panic");
        assert!(places > 100, "only {places} instructions were stepped through");
        assert!(lost.is_empty(), "{} of {places} instructions give another value: {lost:x?}", lost.len());
    });
}

#[test]
fn a_handler_reads_the_stack_s_values_at_every_instruction_that_raises_a_panic() {
    step_through(
        "a_handler_reads_the_stack_s_values_at_every_instruction_that_raises_a_panic",
        c"_Unwind_RaiseException",
    );
}

#[test]
fn a_handler_reads_the_stack_s_values_at_every_instruction_that_resumes_a_panic() {
    step_through("a_handler_reads_the_stack_s_values_at_every_instruction_that_resumes_a_panic", c"_Unwind_Resume");
}
