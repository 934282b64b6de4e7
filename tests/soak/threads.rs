//! Threads as C makes them; and stacks that do random acts.

use crate::{life, signals};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

// As in libc, but unwinding may pass it.
unsafe extern "C-unwind" {
    fn pthread_exit(result: *mut c_void) -> !;
}

pub type Entry = extern "C-unwind" fn(*mut c_void) -> *mut c_void;

unsafe extern "C" {
    fn pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        entry: Entry,
        argument: *mut c_void,
    ) -> c_int;
}

struct Body<'b> {
    part: &'static str,
    by_exit: bool,
    code: Option<&'b mut (dyn FnMut() + 'b)>,
}

extern "C-unwind" fn entry(body: *mut c_void) -> *mut c_void {
    // SAFETY: `run` below passes a body, which it keeps until this thread was joined.
    if inner(unsafe { &mut *body.cast::<Body>() }) {
        // SAFETY: this frame holds nothing to drop, and its caller is the system's.
        unsafe { pthread_exit(ptr::null_mut()) }
    }
    ptr::null_mut()
}

#[inline(never)]
fn inner(body: &mut Body) -> bool {
    let _target = signals::Target::new(body.part);
    let code = body.code.take().expect("the thread has its body once");
    // A check that fails ends the process before it unwinds.
    assert!(catch_unwind(AssertUnwindSafe(code)).is_ok(), "something was thrown and not caught");
    body.by_exit
}

/// Runs `code` on a new thread with this much stack, and waits for its end, by `pthread_exit` or by
/// return.
pub fn run(part: &'static str, stack: usize, by_exit: bool, mut code: impl FnMut()) {
    let mut body = Body { part, by_exit, code: Some(&mut code) };
    // SAFETY: `body` outlives the thread, which is joined.
    unsafe { start(stack, entry, (&raw mut body).cast()) };
}

/// A thread with this entry function, from its beginning to its end.
///
/// # Safety
/// It must be allowed to call the function with the argument on another thread.
pub unsafe fn start(stack: usize, entry: Entry, argument: *mut c_void) {
    let (mut attributes, mut thread) = (MaybeUninit::uninit(), 0);
    // SAFETY: initialised by the first call, destroyed by the last; the thread is joined once.
    unsafe {
        assert_eq!(libc::pthread_attr_init(attributes.as_mut_ptr()), 0);
        assert_eq!(libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), stack), 0);
        assert_eq!(pthread_create(&raw mut thread, attributes.as_ptr(), entry, argument), 0);
        assert_eq!(libc::pthread_join(thread, ptr::null_mut()), 0);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
}

/// Acts of stacks beside the subject of their part.
pub fn act(life: u64, random: &mut fastrand::Rng) {
    for _ in 0..random.u32(..20) {
        match random.u32(..8) {
            0 => {
                exeunt::reset().unwrap();
                life::store(life);
            }
            1 => {
                exeunt::unload().unwrap();
                life::arm(life);
            }
            2..=4 => {
                let key = random.u64(..5);
                exeunt::set(key, life).expect("an armed stack");
                assert_eq!(exeunt::get(&key), Some(life));
                assert!(exeunt::del(&key).unwrap());
            }
            _ => life::check(life),
        }
    }
    life::check(life);
}

/// One thread that does random acts.
pub fn lives(random: &mut fastrand::Rng) {
    let mut mine = random.fork();
    run("threads", 1 << 18, random.bool(), move || {
        let life = life::begin();
        act(life, &mut mine);
    });
}
