//! How `exeunt watch --pid` reads libc's description of a thread that waits: from a copy of the memory
//! above its stack pointer, in this process.

use crate::description::{Places, find_number, start_in};
use crate::{routine, touched};
use libc::pthread_t;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::{null_mut, read_volatile};
use std::sync::mpsc::{Receiver, Sender, channel};

fn tid() -> u32 {
    // SAFETY: has no conditions.
    unsafe { libc::gettid() as u32 }
}

/// What a thread that waits tells.
struct Told {
    number: u32,
    stack_pointer: usize,
    /// Its stack by its description, and by libc.
    bounds: Option<(usize, usize)>,
    by_libc: (usize, usize),
}

struct Job {
    tell: Sender<Told>,
    go_on: Receiver<()>,
}

/// The thread's own stack, lowest address and end.
fn by_libc() -> (usize, usize) {
    let mut attributes = MaybeUninit::uninit();
    let (mut low, mut size) = (null_mut(), 0);
    // SAFETY: the attributes are filled, read and destroyed.
    unsafe {
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()), 0);
        assert_eq!(libc::pthread_attr_getstack(attributes.as_ptr(), &mut low, &mut size), 0);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
    (low.addr(), low.addr() + size)
}

fn wait(job: &Job) {
    let here = 0u8;
    let bounds = touched::bounds_of_block();
    let told = Told { number: tid(), stack_pointer: (&raw const here).addr(), bounds, by_libc: by_libc() };
    job.tell.send(told).expect("the test waits for it");
    let _ = job.go_on.recv();
}

extern "C" fn one(job: *mut c_void) -> *mut c_void {
    // SAFETY: `start` passes a job, which outlives the thread.
    wait(unsafe { &*job.cast::<Job>() });
    null_mut()
}

extern "C" fn other(job: *mut c_void) -> *mut c_void {
    one(job);
    job
}

/// Learns the places, as the first thread of the library in another program does.
extern "C" fn learn(places: *mut c_void) -> *mut c_void {
    // SAFETY: the routine and the argument that this thread was created with.
    unsafe { routine::find(learn as *const () as usize, places.addr()) };
    touched::find_block();
    let number = find_number(tid()).unwrap_or(0);
    let found = Places { number, start: routine::place(), block: touched::place_of_block() };
    // SAFETY: a place of `places`, which waits for this thread.
    unsafe { *places.cast::<Option<Places>>() = Some(found) };
    null_mut()
}

/// `stack`: memory of the program's own, or none; `size`: of the stack, or 0.
fn create(
    run: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
    stack: *mut c_void,
    size: usize,
) -> pthread_t {
    // SAFETY: the attributes are initialised and destroyed; the caller joins the thread before the
    // argument and the stack go.
    unsafe {
        let (mut thread, mut attributes) = (0, MaybeUninit::uninit());
        assert_eq!(libc::pthread_attr_init(attributes.as_mut_ptr()), 0);
        if !stack.is_null() {
            assert_eq!(libc::pthread_attr_setstack(attributes.as_mut_ptr(), stack, size), 0);
        } else if size != 0 {
            assert_eq!(libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), size), 0);
        }
        assert_eq!(libc::pthread_create(&mut thread, attributes.as_ptr(), run, argument), 0);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        thread
    }
}

fn join(thread: pthread_t) {
    // SAFETY: each caller joins a thread that it has created, once.
    assert_eq!(unsafe { libc::pthread_join(thread, null_mut()) }, 0);
}

fn places() -> Places {
    let mut places = None;
    join(create(learn, (&raw mut places).cast(), null_mut(), 0));
    places.expect("the thread has stored them")
}

/// Starts a thread, and looks for its routine while it waits.
fn expect(places: &Places, run: extern "C" fn(*mut c_void) -> *mut c_void, stack: *mut c_void, size: usize) {
    let (tell, told) = channel();
    let (go_on, waits) = channel();
    let mut job = Job { tell, go_on: waits };
    let thread = create(run, (&raw mut job).cast(), stack, size);
    let it = told.recv().expect("the thread tells");
    let from = it.stack_pointer.next_multiple_of(64);
    // SAFETY: the stack of a thread that waits. What libc changes is read in one access.
    let bytes: Vec<u8> = (from..it.by_libc.1).map(|at| unsafe { read_volatile(at as *const u8) }).collect();
    let found = start_in(&bytes, from, it.number, places);
    let of_none = start_in(&bytes, from, it.number ^ 0x4000_0000, places);
    let moved = start_in(&bytes, from + (1 << 40), it.number, places);
    let cut = start_in(&bytes[..bytes.len().min(64)], from, it.number, places);
    go_on.send(()).expect("the thread waits");
    join(thread);
    assert_eq!(found, Some(run as *const () as usize));
    assert_eq!((of_none, moved, cut), (None, None, None), "another number, other places, no description");
    assert_eq!(it.bounds, Some(it.by_libc));
}

#[test]
fn a_waiting_thread_s_routine_and_bounds_are_found_by_the_end_of_its_stack() {
    let places = places();
    assert!(places.number != 0 && places.start != 0 && places.block != 0);
    for (run, size) in [(one as extern "C" fn(_) -> _, 0), (other, 256 << 10), (one, 1 << 20)] {
        expect(&places, run, null_mut(), size);
    }
    let mut own = vec![0u128; (256 << 10) / 16];
    expect(&places, other, own.as_mut_ptr().cast(), 256 << 10);
}
