//! Very many stacks at once. Each is drained exactly once, and none ever sees what another stored.
//!
//! A plain `cargo test` runs a tenth of them. `EXEUNT_STRESS=full` runs all 200,000 threads and
//! 1,000,000 fibers. CI sets it. The release profile is the better one for that:
//!
//! ```text
//! EXEUNT_STRESS=full cargo test --release --test stress -- --nocapture
//! ```
#![cfg(target_env = "gnu")]

mod common;

use common::OnDrop;
use common::fiber::{Fiber, Inside, Pages};
use std::cell::Cell;
use std::collections::VecDeque;
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// How many stacks of a full count this run uses. Where every instruction is emulated (aarch64,
/// under QEMU) a hundredth takes as long as all of them do elsewhere.
fn scaled(full: usize) -> usize {
    let stacks = match std::env::var("EXEUNT_STRESS") {
        Ok(word) if word == "full" => full,
        Ok(word) => panic!("EXEUNT_STRESS is {word:?}, but the only value is full"),
        Err(_) => full / 10,
    };
    common::scaled(stacks, (stacks / 100).max(1))
}

/// Threads or workers at a time.
const AT_ONCE: usize = 8;

/// What happened to each stack, by its number.
struct Stacks {
    drained: Vec<AtomicU8>,
    dropped: Vec<AtomicU8>,
    armed: Vec<AtomicU8>,
    abandoned: Vec<AtomicU8>,
    started: AtomicUsize,
}

impl Stacks {
    fn new(count: usize) -> Arc<Self> {
        let none = || (0..count).map(|_| AtomicU8::new(0)).collect();
        Arc::new(Self {
            drained: none(),
            dropped: none(),
            armed: none(),
            abandoned: none(),
            started: AtomicUsize::new(0),
        })
    }

    /// The number of the next stack, if there is one left.
    fn next(&self) -> Option<usize> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        (number < self.armed.len()).then_some(number)
    }

    fn assert_each_ended_once(&self, whose: &str) {
        for (number, armed) in self.armed.iter().enumerate() {
            let armed = armed.load(Ordering::Relaxed);
            let ends = [&self.drained, &self.dropped].map(|ends| ends[number].load(Ordering::Relaxed));
            assert_eq!(ends, [armed; 2], "{whose} {number}: handlers run and values dropped, armed {armed} times");
        }
    }
}

/// A value that holds the number of its stack.
struct Own {
    stacks: Arc<Stacks>,
    number: usize,
}

impl Drop for Own {
    fn drop(&mut self) {
        self.stacks.dropped[self.number].fetch_add(1, Ordering::Relaxed);
    }
}

exeunt::stack_local! {
    static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Calls `leaf` so many frames further in.
#[inline(never)]
fn deeper(frames: usize, leaf: &dyn Fn()) {
    let room = black_box([frames; 16]);
    if frames == 0 {
        leaf();
    } else {
        deeper(frames - 1, leaf);
    }
    black_box(&room);
}

/// Stores a stack's number on it in three ways.
fn begin(stacks: &Arc<Stacks>, number: usize) {
    assert_eq!(exeunt::get::<usize>(&"number"), None, "{number} starts with a value of another one");
    let theirs = Arc::clone(stacks);
    exeunt::at_exit(move || {
        if theirs.abandoned[number].load(Ordering::Relaxed) == 0 {
            look(number);
        } else {
            // It runs on the next stack that uses this memory, which starts empty.
            assert_eq!(exeunt::get::<usize>(&"number"), None);
        }
        theirs.drained[number].fetch_add(1, Ordering::Relaxed);
    })
    .unwrap();
    stacks.armed[number].fetch_add(1, Ordering::Relaxed);
    assert_eq!(NUMBER.replace(number), usize::MAX, "{number} starts with a stack local of another one");
    exeunt::set("number", number).unwrap();
    exeunt::set("own", Own { stacks: Arc::clone(stacks), number }).unwrap();
}

/// Checks that the number is still there.
fn look(number: usize) {
    assert_eq!(NUMBER.get(), number);
    assert_eq!(exeunt::get::<usize>(&"number"), Some(number));
}

#[test]
fn each_of_very_many_threads_is_drained_once_and_sees_only_its_own_values() {
    let count = scaled(200_000);
    let stacks = Stacks::new(count);
    let spawner = || {
        while let Some(number) = stacks.next() {
            let stacks = Arc::clone(&stacks);
            let life = move || {
                begin(&stacks, number);
                deeper(number % 50, &|| look(number));
                if number % 7 == 0 {
                    // A panic's unwinding without its message.
                    std::panic::resume_unwind(Box::new(number));
                }
            };
            let ended = std::thread::spawn(life).join();
            assert_eq!(ended.is_err(), number % 7 == 0);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(spawner);
        }
    });
    stacks.assert_each_ended_once("thread");
    println!("{count} threads");
}

/// Memory for a fiber, and the fiber that runs on it, if any.
struct Place {
    memory: Range<usize>,
    fiber: Option<(Fiber, thread_sanitizer::Context, usize)>,
}

/// ThreadSanitizer has to be told when a thread switches to another stack: for each stack it keeps
/// a record of calls, and of the other threads' writes that the stack has seen. Its runtime's
/// `tsan_interface.h` describes the calls. `.ci/sanitizers` sets the flag.
#[cfg(tsan)]
mod thread_sanitizer {
    use std::ffi::{c_uint, c_void};

    unsafe extern "C" {
        safe fn __tsan_get_current_fiber() -> *mut c_void;
        safe fn __tsan_create_fiber(flags: c_uint) -> *mut c_void;
        fn __tsan_destroy_fiber(fiber: *mut c_void);
        fn __tsan_switch_to_fiber(fiber: *mut c_void, flags: c_uint);
    }

    pub struct Context(*mut c_void);

    // SAFETY: only the thread that has the fiber of this context uses it.
    unsafe impl Send for Context {}

    impl Context {
        pub fn new() -> Self {
            Self(__tsan_create_fiber(0))
        }

        #[inline(never)]
        pub fn around(&self, resume: impl FnOnce() -> bool) -> bool {
            let back = __tsan_get_current_fiber();
            // SAFETY: both exist, and this thread switches to the fiber's stack and back.
            unsafe { __tsan_switch_to_fiber(self.0, 0) };
            let more = resume();
            // SAFETY: as above.
            unsafe { __tsan_switch_to_fiber(back, 0) };
            more
        }
    }

    impl Drop for Context {
        fn drop(&mut self) {
            // SAFETY: created in `new`, and the fiber is over or abandoned.
            unsafe { __tsan_destroy_fiber(self.0) };
        }
    }
}

/// Does nothing: without ThreadSanitizer there is nothing to tell.
#[cfg(not(tsan))]
mod thread_sanitizer {
    pub struct Context;

    impl Context {
        pub fn new() -> Self {
            Self
        }

        pub fn around(&self, resume: impl FnOnce() -> bool) -> bool {
            resume()
        }
    }
}

/// What the fiber of this number does, with pauses in which it may change threads or be abandoned.
fn run_fiber(stacks: &Arc<Stacks>, number: usize, inside: Inside) {
    for _ in 0..number % 3 {
        inside.suspend();
    }
    deeper(number % 5, &|| assert_eq!(exeunt::get::<usize>(&"number"), None));
    if number % 11 == 0 {
        return; // never armed
    }
    deeper(number % 13, &|| begin(stacks, number));
    for pause in 0..number % 4 {
        look(number);
        inside.suspend();
        deeper(pause * 10, &|| look(number));
    }
}

/// Whether the fiber of this number is abandoned at the pause where it has just suspended itself.
fn is_abandoned(number: usize, pause: usize) -> bool {
    number % 17 == 0 && pause % 2 == 0
}

/// Runs one more fiber on this memory. When that one arms its stack, it drains what was abandoned
/// there.
fn clear(memory: Range<usize>) {
    // SAFETY: no other fiber runs on this memory any more.
    let fiber = unsafe { Fiber::new(memory, |_| assert!(exeunt::id().is_ok())) };
    assert!(!thread_sanitizer::Context::new().around(|| fiber.resume()), "it does not suspend itself");
}

#[test]
fn each_of_very_many_fibers_that_change_threads_is_drained_once_and_sees_only_its_own_values() {
    // Stacks that share pages: each shares its highest and its lowest page with a neighbour.
    const STACK: usize = 64 * 1024 + 0x350;
    const PLACES: usize = 48;
    let count = scaled(1_000_000);
    let pages = Pages::new(STACK * PLACES + 0x1000);
    let start = pages.range().start + 0x120;
    let place = |index: usize| Place { memory: start + index * STACK..start + (index + 1) * STACK, fiber: None };
    let places: Mutex<VecDeque<Place>> = Mutex::new((0..PLACES).map(place).collect());
    let stacks = Stacks::new(count);
    let in_use = AtomicUsize::new(PLACES);
    let worker = || {
        // Where one worker fails, the others do not wait for its fiber's memory for ever.
        let _stop = OnDrop(|| {
            if std::thread::panicking() {
                in_use.store(0, Ordering::Relaxed);
            }
        });
        let mut pauses = 0;
        while in_use.load(Ordering::Relaxed) > 0 {
            let Some(mut place) = places.lock().unwrap().pop_front() else {
                // All fibers are with the other workers.
                std::thread::yield_now();
                continue;
            };
            let (fiber, context, number) = match place.fiber.take() {
                Some(fiber) => fiber,
                None => {
                    let Some(number) = stacks.next() else {
                        clear(place.memory);
                        _ = in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |places| places.checked_sub(1));
                        continue;
                    };
                    let theirs = Arc::clone(&stacks);
                    let body = move |inside| run_fiber(&theirs, number, inside);
                    // SAFETY: the memory is this fiber's alone until the fiber has ended or is
                    // abandoned.
                    (unsafe { Fiber::new(place.memory.clone(), body) }, thread_sanitizer::Context::new(), number)
                }
            };
            pauses += 1;
            if context.around(|| fiber.resume()) {
                if is_abandoned(number, pauses) {
                    stacks.abandoned[number].store(1, Ordering::Relaxed);
                } else {
                    place.fiber = Some((fiber, context, number));
                }
            }
            // To the end of the queue, so that another worker resumes it.
            places.lock().unwrap().push_back(place);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE / 2 {
            scope.spawn(worker);
        }
    });
    stacks.assert_each_ended_once("fiber");
    let abandoned = stacks.abandoned.iter().filter(|abandoned| abandoned.load(Ordering::Relaxed) == 1).count();
    assert!(abandoned > count / 1000, "only {abandoned} of {count} fibers were abandoned");
    println!("{count} fibers, {abandoned} of them abandoned");
}

/// Calls itself down to an address below `lowest`, reads in each frame, and calls `then` there.
#[inline(never)]
fn descend_reading(lowest: usize, name: &'static str, then: &dyn Fn()) {
    let room = black_box([0_u8; 64]);
    let found = exeunt::get::<&str>(&"name");
    assert!(found.is_none_or(|found| found == name), "{name} found what {found:?} stored");
    if (&raw const room as usize) < lowest {
        then();
    } else {
        descend_reading(lowest, name, then);
    }
    black_box(&room);
}

#[test]
fn an_abandoned_stack_is_drained_when_its_memory_is_used_again_although_a_neighbour_took_over_its_page() {
    const STACK: usize = 128 * 1024;
    let pages = Pages::new(3 * STACK);
    // The upper stack's lowest words share the page with the lower one's base.
    let border = pages.range().start + STACK + 0x100;
    let (lower, upper) = (pages.range().start..border, border..pages.range().end);
    let ended = Arc::new(AtomicUsize::new(0));
    let reach = border - STACK / 2;
    let life = move |name: &'static str, inside: Inside, store: bool| {
        if store {
            exeunt::set("name", name).unwrap();
        } else {
            exeunt::id().unwrap();
        }
        descend_reading(reach, name, &|| inside.suspend());
    };
    let theirs = Arc::clone(&ended);
    let abandoned = move |inside| {
        exeunt::at_exit(move || {
            theirs.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        life("abandoned", inside, true);
    };
    // SAFETY: the memory is this fiber's until it is dropped, which abandons it.
    unsafe { Fiber::new(lower.clone(), abandoned) }.abandon();
    // SAFETY: nothing uses this memory now, so its owner may write anything to it.
    unsafe { std::ptr::write_bytes(lower.start as *mut u8, 0, lower.len()) };
    let neighbour = move |inside: Inside| {
        exeunt::set("name", "neighbour").unwrap();
        descend_reading(border + 0xe00, "neighbour", &|| inside.suspend());
    };
    // SAFETY: the upper memory is this fiber's. Its lowest frames may reach over the border, where
    // nothing runs.
    let neighbour = unsafe { Fiber::new(upper, neighbour) };
    assert!(neighbour.resume());
    // SAFETY: the neighbour is suspended above the border.
    let next = unsafe { Fiber::new(lower, move |inside| life("next", inside, false)) };
    assert!(next.resume());
    assert_eq!(ended.load(Ordering::Relaxed), 1, "the abandoned stack's handler ran when the next one was armed");
    next.finish();
    neighbour.finish();
    assert_eq!(ended.load(Ordering::Relaxed), 1);
}

/// Arms a stack here, another one so many frames further in, and one at each frame in between.
#[inline(never)]
fn stacks_down_to(frames: usize, ended: &'static AtomicUsize) {
    // One cached record stays on a page.
    let room = black_box([0_u8; 4096]);
    let mine = (&raw const room).addr();
    let stack = || {
        assert_eq!(exeunt::get::<usize>(&"mine"), None, "it starts empty");
        exeunt::set("mine", mine).unwrap();
        exeunt::at_exit(move || {
            assert_eq!(exeunt::get::<usize>(&"mine"), Some(mine));
            ended.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        assert_eq!(exeunt::get::<usize>(&"mine"), Some(mine));
    };
    exeunt::enter(stack).unwrap();
    if frames > 0 {
        stacks_down_to(frames - 1, ended);
    }
    // Other stacks have begun on its page meanwhile.
    exeunt::enter(stack).unwrap();
    black_box(&room);
}

#[test]
fn stacks_at_more_places_than_there_are_cached_records_each_have_their_own_record() {
    static ENDED: AtomicUsize = AtomicUsize::new(0);
    /// More in all than the limit of cached records.
    const PLACES: usize = 500;
    const THREADS: usize = 4;
    let rounds = scaled(300);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let rounds = || (0..rounds).for_each(|_| stacks_down_to(PLACES - 1, &ENDED));
            std::thread::Builder::new().stack_size(PLACES * 32 * 1024).spawn_scoped(scope, rounds).unwrap();
        }
    });
    assert_eq!(ENDED.load(Ordering::Relaxed), 2 * THREADS * rounds * PLACES);
}

/// Reads below a frame of this size.
#[inline(never)]
fn read_below<const ROOM: usize>() -> Option<&'static str> {
    let room = black_box([0_u8; ROOM]);
    let found = exeunt::get(&"name");
    black_box(&room);
    found
}

/// Reads in blocks of 64 bytes below the caller's frame, one after the other. Returns how often
/// there was a value.
#[inline(never)]
fn read_everywhere() -> usize {
    macro_rules! read_below {
        ($($room:literal)*) => { [$(read_below::<$room>()),*] };
    }
    let found = read_below!(0 64 128 192 256 320 384 448 512 576 640 704 768 832 896 960 1024 1088 1152 1216 1280 1344
        1408 1472 1536 1600 1664 1728 1792 1856 1920 1984 2048 2112 2176 2240 2304 2368 2432 2496);
    found.iter().filter(|found| found.is_some()).count()
}

#[test]
fn the_next_stack_on_the_memory_reads_no_value_of_a_stack_that_was_abandoned_in_a_handler() {
    let pages = Pages::new(128 * 1024);
    let abandoned = |inside: Inside| {
        exeunt::set("name", "abandoned").unwrap();
        exeunt::at_exit(move || {
            assert_eq!(read_everywhere(), 40);
            inside.suspend();
        })
        .unwrap();
    };
    // SAFETY: the memory is this fiber's until it is dropped, which abandons it.
    let fiber = unsafe { Fiber::new(pages.range(), abandoned) };
    fiber.resume();
    drop(fiber);
    // SAFETY: nothing uses this memory now.
    unsafe { Fiber::new(pages.range(), |_| assert_eq!(read_everywhere(), 0)) }.finish();
}
