//! Very many lives at once: each stack is drained exactly once, and none ever sees what another one stored.
//!
//! A plain `cargo test` runs a tenth of them. All 200,000 threads and 1,000,000 fibers are run with `EXEUNT_STRESS=full`,
//! which CI sets, and for which the release profile is the better one:
//!
//! ```text
//! EXEUNT_STRESS=full cargo test --release --test stress -- --nocapture
//! ```
#![cfg(target_os = "linux")]

mod common;

use common::OnDrop;
use common::fiber::{Fiber, Inside, Pages};
use std::cell::Cell;
use std::collections::VecDeque;
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// How many lives of a full count are lived here. Where every instruction is emulated (aarch64, under QEMU) a hundredth
/// takes as long as all of them do elsewhere.
fn lives(full: usize) -> usize {
    let lives = match std::env::var("EXEUNT_STRESS") {
        Ok(word) if word == "full" => full,
        Ok(word) => panic!("EXEUNT_STRESS is {word:?}, and knows the word full only"),
        Err(_) => full / 10,
    };
    common::scaled(lives, (lives / 100).max(1))
}

/// Threads or workers at a time.
const AT_ONCE: usize = 8;

/// What became of each life, by its number.
struct Lives {
    drained: Vec<AtomicU8>,
    dropped: Vec<AtomicU8>,
    armed: Vec<AtomicU8>,
    abandoned: Vec<AtomicU8>,
    started: AtomicUsize,
}

impl Lives {
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

    /// The number of the next life, if there is one left.
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

/// A value that knows whose it is.
struct Own {
    lives: Arc<Lives>,
    number: usize,
}

impl Drop for Own {
    fn drop(&mut self) {
        self.lives.dropped[self.number].fetch_add(1, Ordering::Relaxed);
    }
}

exeunt::stack_local! {
    static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Calls `leaf` some frames further down.
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

/// Stores a life's number on its stack in three ways.
fn begin(lives: &Arc<Lives>, number: usize) {
    assert_eq!(exeunt::get::<usize>(&"number"), None, "{number} starts with a value of another one");
    let theirs = Arc::clone(lives);
    exeunt::at_exit(move || {
        if theirs.abandoned[number].load(Ordering::Relaxed) == 0 {
            look(number);
        } else {
            // It runs on the stack of whoever came after it, which starts empty.
            assert_eq!(exeunt::get::<usize>(&"number"), None);
        }
        theirs.drained[number].fetch_add(1, Ordering::Relaxed);
    })
    .unwrap();
    lives.armed[number].fetch_add(1, Ordering::Relaxed);
    assert_eq!(NUMBER.replace(number), usize::MAX, "{number} starts with a stack local of another one");
    exeunt::set("number", number).unwrap();
    exeunt::set("own", Own { lives: Arc::clone(lives), number }).unwrap();
}

/// Finds it there again.
fn look(number: usize) {
    assert_eq!(NUMBER.get(), number);
    assert_eq!(exeunt::get::<usize>(&"number"), Some(number));
}

#[test]
fn of_very_many_threads_each_is_drained_once_and_sees_its_own_values_only() {
    let count = lives(200_000);
    let lives = Lives::new(count);
    let spawner = || {
        while let Some(number) = lives.next() {
            let lives = Arc::clone(&lives);
            let life = move || {
                begin(&lives, number);
                deeper(number % 50, &|| look(number));
                if number.is_multiple_of(7) {
                    // A panic's unwinding without its message.
                    std::panic::resume_unwind(Box::new(number));
                }
            };
            let ended = std::thread::spawn(life).join();
            assert_eq!(ended.is_err(), number.is_multiple_of(7));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(spawner);
        }
    });
    lives.assert_each_ended_once("thread");
    println!("{count} threads");
}

/// A place for a fiber, and the one that lives there, if any.
struct Place {
    memory: Range<usize>,
    fiber: Option<(Fiber, thread_sanitizer::Context, usize)>,
}

/// ThreadSanitizer has to be told when a thread goes on with another stack: it keeps a record of calls, and of what was
/// seen of other threads' writes, for each. Its runtime's `tsan_interface.h` says how. `.ci/sanitizers` sets the flag.
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

    // SAFETY: used by whoever has the fiber that it belongs to.
    unsafe impl Send for Context {}

    impl Context {
        pub fn new() -> Self {
            Self(__tsan_create_fiber(0))
        }

        #[inline(never)]
        pub fn around(&self, resume: impl FnOnce() -> bool) -> bool {
            let back = __tsan_get_current_fiber();
            // SAFETY: both exist, and this thread goes on with the fiber's stack and comes back.
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

/// Nobody has to be told anything.
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

/// What a fiber does in its life, by its number, with pauses in which it may change threads or be abandoned.
fn live(lives: &Arc<Lives>, number: usize, inside: Inside) {
    for _ in 0..number % 3 {
        inside.suspend();
    }
    deeper(number % 5, &|| assert_eq!(exeunt::get::<usize>(&"number"), None));
    if number.is_multiple_of(11) {
        return; // never armed
    }
    deeper(number % 13, &|| begin(lives, number));
    for pause in 0..number % 4 {
        look(number);
        inside.suspend();
        deeper(pause * 10, &|| look(number));
    }
}

/// Whether the fiber of this number is abandoned where it suspended itself just now.
fn is_abandoned(number: usize, pause: usize) -> bool {
    number.is_multiple_of(17) && pause.is_multiple_of(2)
}

/// Lets one more fiber live in a place: what was abandoned there is drained when that one arms its stack.
fn clear(memory: Range<usize>) {
    // SAFETY: nobody else lives there any more.
    let fiber = unsafe { Fiber::new(memory, |_| assert!(exeunt::id().is_ok())) };
    assert!(!thread_sanitizer::Context::new().around(|| fiber.resume()), "it does not suspend itself");
}

#[test]
fn of_very_many_fibers_on_the_move_each_is_drained_once_and_sees_its_own_values_only() {
    // Stacks without a page to themselves: each shares its uppermost and its lowest page with a neighbour.
    const STACK: usize = 64 * 1024 + 0x350;
    const PLACES: usize = 48;
    let count = lives(1_000_000);
    let pages = Pages::new(STACK * PLACES + 0x1000);
    let start = pages.range().start + 0x120;
    let place = |index: usize| Place { memory: start + index * STACK..start + (index + 1) * STACK, fiber: None };
    let places: Mutex<VecDeque<Place>> = Mutex::new((0..PLACES).map(place).collect());
    let lives = Lives::new(count);
    let in_use = AtomicUsize::new(PLACES);
    let worker = || {
        // Where one fails the others do not wait for its place for ever.
        let _stop = OnDrop(|| {
            if std::thread::panicking() {
                in_use.store(0, Ordering::Relaxed);
            }
        });
        let mut pauses = 0;
        while in_use.load(Ordering::Relaxed) > 0 {
            let Some(mut place) = places.lock().unwrap().pop_front() else {
                // All of them are at the other workers.
                std::thread::yield_now();
                continue;
            };
            let (fiber, context, number) = match place.fiber.take() {
                Some(fiber) => fiber,
                None => {
                    let Some(number) = lives.next() else {
                        clear(place.memory);
                        _ = in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |places| places.checked_sub(1));
                        continue;
                    };
                    let theirs = Arc::clone(&lives);
                    let body = move |inside| live(&theirs, number, inside);
                    // SAFETY: the place is this fiber's alone until it is over or abandoned.
                    (unsafe { Fiber::new(place.memory.clone(), body) }, thread_sanitizer::Context::new(), number)
                }
            };
            pauses += 1;
            if context.around(|| fiber.resume()) {
                if is_abandoned(number, pauses) {
                    lives.abandoned[number].store(1, Ordering::Relaxed);
                } else {
                    place.fiber = Some((fiber, context, number));
                }
            }
            // To the end of the queue, so that another worker goes on with it.
            places.lock().unwrap().push_back(place);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE / 2 {
            scope.spawn(worker);
        }
    });
    lives.assert_each_ended_once("fiber");
    let abandoned = lives.abandoned.iter().filter(|abandoned| abandoned.load(Ordering::Relaxed) == 1).count();
    assert!(abandoned > count / 1000, "only {abandoned} of {count} fibers were abandoned");
    println!("{count} fibers, {abandoned} of them abandoned");
}

/// Goes down to below `lowest` in frames that read, and calls `then` there.
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
fn what_was_abandoned_below_a_neighbour_that_took_over_its_page_is_found_when_its_memory_is_used_again() {
    const STACK: usize = 128 * 1024;
    let pages = Pages::new(3 * STACK);
    // The upper stack's lowest words share the page with the lower one's top.
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
    // SAFETY: nobody uses this memory now. Whoever owns it may write what he likes.
    unsafe { std::ptr::write_bytes(lower.start as *mut u8, 0, lower.len()) };
    let neighbour = move |inside: Inside| {
        exeunt::set("name", "neighbour").unwrap();
        descend_reading(border + 0xe00, "neighbour", &|| inside.suspend());
    };
    // SAFETY: the upper memory is this fiber's, whose lowest frames may reach over the border, where nobody is.
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

/// A stack that begins here, and a last one that begins so many frames further down, and all in between.
#[inline(never)]
fn stacks_down_to(frames: usize, ended: &'static AtomicUsize) {
    // One record waits on a page.
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
    // Its page is one that others have begun on meanwhile.
    exeunt::enter(stack).unwrap();
    black_box(&room);
}

#[test]
fn stacks_at_so_many_places_that_they_take_records_from_one_another_each_have_their_own() {
    static ENDED: AtomicUsize = AtomicUsize::new(0);
    /// In all more than there are records that wait where their stack was (`registry/parking.rs`).
    const PLACES: usize = 500;
    const THREADS: usize = 4;
    let rounds = lives(300);
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

/// Reads in blocks of 64 bytes below the caller's frame, one after the other. Returns how often something was there.
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
fn what_was_abandoned_in_a_handler_is_found_nowhere_on_the_stack_that_uses_its_memory_next() {
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
    // SAFETY: nobody uses this memory now.
    unsafe { Fiber::new(pages.range(), |_| assert_eq!(read_everywhere(), 0)) }.finish();
}
