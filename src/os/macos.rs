//! macOS: which code its stacks return into. Built and linked, but never run by its authors.

use crate::arch;
use crate::error::Error;
use crate::exits::Probe;
use crate::stack::Kind;
use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Sleeps while `word` holds `value`, but not longer than `patience`. May wake for no reason. The system has no such call that
/// is public in each of its versions, so this sleeps for a moment.
pub(crate) fn wait_while(word: &AtomicU32, value: u32, patience: Option<Duration>) {
    const MOMENT: Duration = Duration::from_micros(100);
    if word.load(Ordering::Relaxed) == value {
        std::thread::sleep(patience.map_or(MOMENT, |patience| patience.min(MOMENT)));
    }
}

/// Wakes one thread that sleeps because of `word`: they all wake by themselves.
pub(crate) fn wake_one(_word: &AtomicU32) {}

/// A word of memory that may not be there any more. Asking the kernel is safe where reading would be a fault.
pub(crate) fn read_word(address: usize) -> Option<usize> {
    unsafe extern "C" {
        static mach_task_self_: u32;
        fn mach_vm_read_overwrite(task: u32, from: u64, size: u64, to: u64, copied: *mut u64) -> i32;
    }
    let (mut word, mut copied) = (0_usize, 0_u64);
    let size = size_of::<usize>() as u64;
    // SAFETY: the kernel copies within this task, and checks both sides.
    let result = unsafe {
        mach_vm_read_overwrite(mach_task_self_, address as u64, size, (&raw mut word) as u64, &raw mut copied)
    };
    (result == 0 && copied == size).then_some(word)
}

/// Whether the eight bytes from `address` on can be read.
pub(crate) fn is_readable(address: usize) -> bool {
    read_word(address).is_some()
}

/// The memory of the running thread's stack.
pub(crate) fn thread_bounds() -> Option<Range<usize>> {
    // SAFETY: both only ask about the running thread.
    let (high, size) = unsafe {
        let me = libc::pthread_self();
        (libc::pthread_get_stackaddr_np(me) as usize, libc::pthread_get_stacksize_np(me))
    };
    Some(high.checked_sub(size)?..high)
}

/// Has `end` called, with null, when the running thread ends, before what else is waiting for that. It may be asked for
/// while the thread ends.
pub(crate) fn at_thread_end(end: unsafe extern "C" fn(*mut c_void)) {
    unsafe extern "C" {
        /// What C++ and Rust register destructors of thread-locals with.
        fn _tlv_atexit(end: unsafe extern "C" fn(*mut c_void), with: *mut c_void);
    }
    // SAFETY: `end` takes null, and this library, which it is of, is pinned.
    unsafe { _tlv_atexit(end, ptr::null_mut()) };
}

unsafe extern "C" {
    /// `asm/`: stores the address that it returns to.
    fn exeunt_probe(result: *mut c_void) -> *mut c_void;
}

/// The experiments that every process makes.
pub(crate) const PROBES: [Probe; 1] = [Probe { kind: Kind::Thread, name: c"_pthread_start", run: probe_thread }];

/// The address in `_pthread_start` that start routines return to, by starting a thread and asking it.
fn probe_thread() -> Result<usize, Error> {
    let mut address = 0_usize;
    let mut thread: libc::pthread_t = 0;
    // SAFETY: the thread only writes `address`, and is joined before that is read.
    let error = unsafe {
        let start = std::mem::transmute::<
            unsafe extern "C" fn(*mut c_void) -> *mut c_void,
            extern "C" fn(*mut c_void) -> *mut c_void,
        >(exeunt_probe);
        let error = libc::pthread_create(&raw mut thread, ptr::null(), start, (&raw mut address).cast());
        if error == 0 {
            libc::pthread_join(thread, ptr::null_mut());
        }
        error
    };
    if error == 0 { Ok(arch::strip(address)) } else { Err(Error::CallFailed { call: "pthread_create", errno: error }) }
}

/// The name of the exit trampoline of `main`, if `address` is where `main` returns to, `outer` being the return addresses
/// further out: dyld's `start` calls `main` and hands its result to `exit`, and nothing is further out.
pub(crate) fn main_exit(address: usize, outer: &[usize]) -> Option<&'static CStr> {
    // SAFETY: asks only.
    let main_thread = unsafe { libc::pthread_main_np() } == 1;
    let named = super::exported_symbol(address - 1).is_some_and(|name| matches!(name.to_bytes(), b"start" | b"_start"));
    (main_thread && named && outer.iter().all(|&outer| outer == 0)).then_some(c"start")
}

/// `_pthread_start` calls `_pthread_exit` with what the start routine returns. `pthread_exit` and cancellation call the same from
/// where they are, without unwinding (`src/pthread.c` and `src/pthread_cancelable.c` of Apple's libpthread).
pub(crate) const ALL_ENDS_AT_HOOK: bool = false;

/// macOS has no such thing that could be reached: the safety net alone catches a thread that ends without a return.
#[derive(Clone, Copy)]
pub(crate) struct Landing(std::convert::Infallible);

impl Landing {
    pub(crate) fn find(_top: usize) -> Option<Self> {
        None
    }

    /// # Safety
    /// None is needed.
    pub(crate) unsafe fn again(_top: usize, _distance: usize, _target: usize) -> Option<Self> {
        None
    }

    pub(crate) fn distance(self) -> usize {
        match self.0 {}
    }

    pub(crate) fn spare(self) -> usize {
        match self.0 {}
    }

    pub(crate) fn target(self, _original: usize) -> Option<usize> {
        match self.0 {}
    }

    /// # Safety
    /// Never called.
    pub(crate) unsafe fn set_target(self, _target: usize) {
        match self.0 {}
    }
}
