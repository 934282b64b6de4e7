//! Dynamic slots: allocation, values on every stack, freeing, destructors.
//!
//! All slots of a process are in one table, so the test that allocates all of them runs alone.

use corosensei::{Coroutine, CoroutineResult};
use exeunt::{Error, Slot, slots};
use std::collections::HashSet;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

static TABLE: RwLock<()> = RwLock::new(());

fn shared() -> RwLockReadGuard<'static, ()> {
    TABLE.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    TABLE.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn on_thread<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    std::thread::spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn value(number: usize) -> *mut c_void {
    ptr::without_provenance_mut(number)
}

fn alloc() -> Result<u32, Error> {
    // SAFETY: no destructor.
    unsafe { slots::alloc(None) }
}

/// Sets a slot's value: a number, or a value for the test's own destructor.
fn set(slot: u32, value: *mut c_void) -> Result<(), Error> {
    // SAFETY: slots without a destructor are read as numbers. Tests with a destructor pass values
    // of its type.
    unsafe { slots::set(slot, value) }
}

fn free(slot: u32) -> Result<(), Error> {
    // SAFETY: the tests free a slot when no stack is using it.
    unsafe { slots::free(slot) }
}

fn get(slot: u32) -> Result<usize, Error> {
    slots::get(slot).map(<*mut c_void>::addr)
}

/// Takes one reference from the counter that `value` points to.
unsafe extern "C" fn count(value: *mut c_void) {
    // SAFETY: the tests store references to counters that exist for long enough.
    unsafe { &*value.cast::<AtomicUsize>() }.fetch_add(1, Ordering::SeqCst);
}

fn counter() -> &'static AtomicUsize {
    Box::leak(Box::new(AtomicUsize::new(0)))
}

fn counted() -> u32 {
    // SAFETY: `count` fits the counters' addresses, and nothing else is stored.
    unsafe { slots::alloc(Some(count)) }.unwrap()
}

fn store(slot: u32, counter: &'static AtomicUsize) {
    set(slot, ptr::from_ref(counter).cast_mut().cast()).unwrap();
}

#[test]
fn at_least_1088_can_be_allocated_then_comes_an_error_and_a_freed_one_can_be_allocated_again() {
    let _alone = alone();
    let mut all = Vec::new();
    let error = loop {
        match alloc() {
            Ok(slot) => all.push(slot),
            Err(error) => break error,
        }
        assert!(all.len() <= slots::CAPACITY);
    };
    assert_eq!(error, Error::SlotsExhausted);
    assert!(all.len() >= 1088, "{}", all.len());
    assert_eq!(all.len(), slots::CAPACITY);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "all are distinct");
    assert!(!all.contains(&0));
    assert!(matches!(Slot::<u8>::new(), Err(Error::SlotsExhausted)), "so it is in the typed face");
    // Each has a value of its own.
    let slots = all.clone();
    on_thread(move || {
        for (number, &slot) in slots.iter().enumerate() {
            set(slot, value(number + 1)).unwrap();
        }
        for (number, &slot) in slots.iter().enumerate() {
            assert_eq!(get(slot), Ok(number + 1));
        }
    });
    let middle = all.swap_remove(1000);
    free(middle).unwrap();
    let again = alloc().unwrap();
    assert_ne!(again, middle, "the old handle stays dead");
    assert_eq!(alloc(), Err(Error::SlotsExhausted));
    all.push(again);
    all.into_iter().for_each(|slot| free(slot).unwrap());
}

#[test]
fn a_slot_is_zero_on_every_stack_when_it_is_allocated() {
    let _shared = shared();
    let before = std::thread::spawn(|| {
        exeunt::id().unwrap();
        let slot = alloc().unwrap();
        let here = get(slot);
        (slot, here)
    });
    let (slot, here) = before.join().unwrap();
    assert_eq!(here, Ok(0));
    assert_eq!(on_thread(move || get(slot)), Ok(0));
    let mut fiber = Coroutine::<(), (), _>::new(move |_, ()| exeunt::enter(|| get(slot)).unwrap());
    assert_eq!(fiber.resume(()), CoroutineResult::Return(Ok(0)));
    free(slot).unwrap();
}

#[test]
fn every_stack_has_a_value_of_its_own_and_reading_does_not_arm() {
    let _shared = shared();
    let slot = alloc().unwrap();
    let everybody = Arc::new(Barrier::new(6));
    let threads: Vec<_> = (1..=6)
        .map(|number| {
            let everybody = Arc::clone(&everybody);
            std::thread::spawn(move || {
                assert_eq!(get(slot), Ok(0));
                assert!(!exeunt::Stack::current().is_armed());
                set(slot, value(number)).unwrap();
                everybody.wait();
                assert_eq!(get(slot), Ok(number));
                set(slot, ptr::null_mut()).unwrap();
                assert_eq!(get(slot), Ok(0));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    free(slot).unwrap();
}

#[test]
fn a_double_free_is_an_error_and_so_is_every_use_of_a_freed_slot() {
    let _shared = shared();
    on_thread(|| {
        let slot = alloc().unwrap();
        set(slot, value(1)).unwrap();
        assert_eq!(free(slot), Ok(()));
        assert_eq!(free(slot), Err(Error::NoSuchSlot(slot)));
        assert_eq!(get(slot), Err(Error::NoSuchSlot(slot)));
        assert_eq!(set(slot, value(2)), Err(Error::NoSuchSlot(slot)));
        let message = Error::NoSuchSlot(slot).to_string();
        assert!(message.contains("freed"), "{message}");
    });
}

#[test]
fn a_handle_that_was_never_allocated_is_an_error_and_changes_nothing() {
    let _shared = shared();
    on_thread(|| {
        let mine = alloc().unwrap();
        set(mine, value(7)).unwrap();
        let strange = [0, 1, 2, 2047, 0x8000_0000, u32::MAX, mine ^ 0x8000_0000, mine.wrapping_add(0x1000)];
        for handle in strange {
            if handle == mine {
                continue;
            }
            assert_eq!(get(handle), Err(Error::NoSuchSlot(handle)), "{handle:#x}");
            assert_eq!(set(handle, value(1)), Err(Error::NoSuchSlot(handle)));
            assert_eq!(free(handle), Err(Error::NoSuchSlot(handle)));
        }
        assert_eq!(get(mine), Ok(7));
        free(mine).unwrap();
    });
}

#[test]
fn free_clears_the_slot_on_all_live_stacks_threads_and_suspended_fibers_alike() {
    let _alone = alone(); // the index must be the one that is allocated next
    let slot = counted();
    let seen = counter();
    let (ready, all_ready) = channel();
    let (go, released): (Vec<_>, Vec<_>) = (0..4).map(|_| channel::<u32>()).unzip();
    let threads: Vec<_> = released
        .into_iter()
        .map(|released| {
            let ready = ready.clone();
            std::thread::spawn(move || {
                store(slot, seen);
                ready.send(()).unwrap();
                let reused = released.recv().unwrap();
                assert_eq!(get(slot), Err(Error::NoSuchSlot(slot)));
                assert_eq!(get(reused), Ok(0), "what the index held before is never seen again");
            })
        })
        .collect();
    let mut fibers: Vec<_> = (0..4)
        .map(|_| {
            Coroutine::<u32, (), ()>::new(move |yielder, _| {
                exeunt::enter(|| {
                    store(slot, seen);
                    let reused = yielder.suspend(());
                    assert_eq!(get(slot), Err(Error::NoSuchSlot(slot)));
                    assert_eq!(get(reused), Ok(0));
                })
                .unwrap();
            })
        })
        .collect();
    fibers.iter_mut().for_each(|fiber| assert_eq!(fiber.resume(0), CoroutineResult::Yield(())));
    threads.iter().for_each(|_| all_ready.recv().unwrap());
    assert_eq!(seen.load(Ordering::SeqCst), 0);
    free(slot).unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 8, "each value's destructor has run before free returns");
    let reused = alloc().unwrap();
    assert_eq!(reused % 2048, slot % 2048, "it is the same index");
    go.iter().for_each(|go| go.send(reused).unwrap());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    fibers.iter_mut().for_each(|fiber| assert_eq!(fiber.resume(reused), CoroutineResult::Return(())));
    assert_eq!(seen.load(Ordering::SeqCst), 8, "and none runs twice");
    free(reused).unwrap();
}

#[test]
fn reuse_never_shows_an_old_value() {
    let _alone = alone();
    // A few stacks that exist all the time see thousands of allocations of the same index.
    let rounds = if cfg!(target_arch = "x86_64") { 3000 } else { 300 }; // aarch64 is emulated
    let current = Arc::new(Mutex::new(None));
    let everybody = Arc::new(Barrier::new(4));
    let threads: Vec<_> = (0..3_usize)
        .map(|number| {
            let (current, everybody) = (Arc::clone(&current), Arc::clone(&everybody));
            std::thread::spawn(move || {
                for round in 1..=rounds {
                    everybody.wait();
                    let slot = current.lock().unwrap().unwrap();
                    assert_eq!(get(slot), Ok(0), "round {round}");
                    // Not every stack sets it in every round, so an old value can be several rounds
                    // old.
                    if round % (number + 1) == 0 {
                        set(slot, value(round)).unwrap();
                        assert_eq!(get(slot), Ok(round));
                    }
                    everybody.wait();
                }
            })
        })
        .collect();
    let mut indices = HashSet::new();
    for _ in 1..=rounds {
        let slot = alloc().unwrap();
        indices.insert(slot % 2048);
        *current.lock().unwrap() = Some(slot);
        everybody.wait();
        everybody.wait();
        free(slot).unwrap();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(indices.len(), 1, "it was one index all the time");
}

#[test]
fn a_destructor_runs_when_its_stack_ends_but_not_for_null() {
    let _shared = shared();
    let slot = counted();
    let (by_thread, by_fiber, by_unwinding, none) = (counter(), counter(), counter(), counter());
    on_thread(move || {
        store(slot, by_thread);
        exeunt::at_exit(move || assert_eq!(by_thread.load(Ordering::SeqCst), 0, "handlers come first")).unwrap();
    });
    assert_eq!(by_thread.load(Ordering::SeqCst), 1);
    on_thread(move || {
        store(slot, none);
        set(slot, ptr::null_mut()).unwrap();
    });
    assert_eq!(none.load(Ordering::SeqCst), 0, "the code that overwrites a value is responsible for the old one");
    let mut fiber = Coroutine::<(), (), ()>::new(move |_, ()| exeunt::enter(|| store(slot, by_fiber)).unwrap());
    fiber.resume(());
    assert_eq!(by_fiber.load(Ordering::SeqCst), 1);
    let mut fiber = Coroutine::<(), (), ()>::new(move |yielder, ()| {
        exeunt::enter(|| {
            store(slot, by_unwinding);
            yielder.suspend(());
        })
        .unwrap();
    });
    fiber.resume(());
    assert_eq!(by_unwinding.load(Ordering::SeqCst), 0);
    drop(fiber);
    assert_eq!(by_unwinding.load(Ordering::SeqCst), 1);
    free(slot).unwrap();
    assert_eq!([by_thread, none, by_fiber, by_unwinding].map(|counter| counter.load(Ordering::SeqCst)), [1, 0, 1, 1]);
}

#[test]
fn reset_clears_the_slots_of_this_stack_alone() {
    let _shared = shared();
    let slot = counted();
    let (here, there) = (counter(), counter());
    let mut other = Coroutine::<(), bool, ()>::new(move |yielder, ()| {
        exeunt::enter(|| {
            store(slot, there);
            loop {
                yielder.suspend(get(slot) == Ok(ptr::from_ref(there).addr()));
            }
        })
        .unwrap();
    });
    assert_eq!(other.resume(()), CoroutineResult::Yield(true));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            store(slot, here);
            exeunt::reset();
            assert_eq!((get(slot), here.load(Ordering::SeqCst)), (Ok(0), 1));
            store(slot, here);
            exeunt::unload();
            assert_eq!((get(slot), here.load(Ordering::SeqCst)), (Ok(0), 2));
        });
    });
    assert_eq!(other.resume(()), CoroutineResult::Yield(true));
    assert_eq!(there.load(Ordering::SeqCst), 0);
    drop(other);
    free(slot).unwrap();
}

#[test]
fn a_destructor_may_set_another_value_which_is_destroyed_as_well() {
    /// Counts down in the slot itself.
    unsafe extern "C" fn again(value: *mut c_void) {
        RUNS.fetch_add(1, Ordering::SeqCst);
        set(SLOT.load(Ordering::SeqCst) as u32, ptr::without_provenance_mut(value.addr() - 1)).unwrap();
    }
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    static SLOT: AtomicUsize = AtomicUsize::new(0);
    let _shared = shared();
    // SAFETY: its values are numbers, and it takes them for numbers.
    let slot = unsafe { slots::alloc(Some(again)) }.unwrap();
    SLOT.store(slot as usize, Ordering::SeqCst);
    on_thread(move || set(slot, value(5)).unwrap());
    assert_eq!(RUNS.load(Ordering::SeqCst), 5);
    free(slot).unwrap();
}

#[test]
fn a_value_that_a_destructor_sets_during_unload_is_not_found_by_other_stacks() {
    /// Puts its value into the slot with the lower index, which has been cleared already.
    unsafe extern "C" fn moves(value: *mut c_void) {
        set(LOWER.load(Ordering::SeqCst) as u32, value).unwrap();
    }
    static LOWER: AtomicUsize = AtomicUsize::new(0);
    let _alone = alone(); // the first index that is allocated is the lower one
    let lower = counted();
    // SAFETY: its values are addresses, and it takes them for addresses.
    let higher = unsafe { slots::alloc(Some(moves)) }.unwrap();
    LOWER.store(lower as usize, Ordering::SeqCst);
    let counter = counter();
    on_thread(move || {
        store(higher, counter);
        exeunt::unload();
        assert_eq!(get(lower), Ok(ptr::from_ref(counter).addr()), "what is set counts");
        assert_eq!(counter.load(Ordering::SeqCst), 0);
        // The memory of the first stack's values serves another stack now, unless it is still in
        // use.
        on_thread(move || {
            exeunt::id().unwrap();
            assert_eq!(get(lower), Ok(0));
        });
    });
    assert_eq!(counter.load(Ordering::SeqCst), 1, "it is destroyed when its own stack ends");
    free(lower).unwrap();
    free(higher).unwrap();
}

#[test]
fn a_slot_that_a_destructor_reads_during_unload_is_not_found_again() {
    /// Reads the slot with the lower index, which has been cleared already.
    unsafe extern "C" fn reads(_: *mut c_void) {
        for _ in 0..3 {
            assert_eq!(get(LOWER.load(Ordering::SeqCst) as u32), Ok(0));
        }
    }
    /// Reads it in one frame of the stack after the other.
    #[inline(never)]
    fn read_on_the_way_down<const ROOM: usize>(slot: u32, frames: usize) {
        let room = std::hint::black_box([0_u8; ROOM]);
        assert_eq!(get(slot), Ok(0), "{frames}");
        if frames > 0 {
            read_on_the_way_down::<ROOM>(slot, frames - 1);
        }
        std::hint::black_box(room);
    }
    static LOWER: AtomicUsize = AtomicUsize::new(0);
    let _alone = alone(); // the first index that is allocated is the lower one
    let lower = alloc().unwrap();
    // SAFETY: it does not use its values.
    let higher = unsafe { slots::alloc(Some(reads)) }.unwrap();
    LOWER.store(lower as usize, Ordering::SeqCst);
    on_thread(move || {
        set(lower, value(1)).unwrap();
        set(higher, value(2)).unwrap();
        exeunt::unload();
        // The memory of this stack's values serves another stack now, which stays alive.
        let (has_set, is_set) = channel();
        let (done, is_done) = channel::<()>();
        let other = std::thread::spawn(move || {
            set(lower, value(3)).unwrap();
            has_set.send(()).unwrap();
            is_done.recv().unwrap();
        });
        is_set.recv().unwrap();
        exeunt::id().unwrap();
        read_on_the_way_down::<16>(lower, 500);
        read_on_the_way_down::<48>(lower, 500);
        read_on_the_way_down::<80>(lower, 500);
        done.send(()).unwrap();
        other.join().unwrap();
    });
    free(lower).unwrap();
    free(higher).unwrap();
}

#[test]
fn a_destructor_that_panics_is_reported_and_the_others_still_run() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("from a slot's destructor");
        }
    }
    let _shared = shared();
    let (bad, good) = (Arc::new(Slot::new().unwrap()), counted());
    let (counter, theirs) = (counter(), Arc::clone(&bad));
    on_thread(move || {
        theirs.set(Panics).unwrap();
        store(good, counter);
    });
    assert_eq!(counter.load(Ordering::SeqCst), 1);
    drop(bad);
    free(good).unwrap();
}

#[test]
fn a_slot_cannot_be_set_where_the_stack_cannot_be_armed() {
    let _shared = shared();
    let slot = Arc::new(Slot::new().unwrap());
    let value = Arc::new(());
    let (their_slot, theirs) = (Arc::clone(&slot), Arc::clone(&value));
    let mut fiber = Coroutine::<(), (), _>::new(move |_, ()| {
        let result = their_slot.set(theirs);
        (matches!(result, Err(Error::UnknownTrampoline(_))), their_slot.share().is_none())
    });
    assert_eq!(fiber.resume(()), CoroutineResult::Return((true, true)));
    assert_eq!(Arc::strong_count(&value), 1, "the value that could not be stored is dropped");
}

#[test]
fn typed_slots_hold_values_share_them_and_drop_them() {
    let _shared = shared();
    let (slot, value) = (Slot::new().unwrap(), Arc::new(()));
    std::thread::scope(|scope| {
        let run = || {
            assert!(slot.share().is_none());
            slot.set(Arc::clone(&value)).unwrap();
            slot.set(Arc::clone(&value)).unwrap();
            assert_eq!(Arc::strong_count(&value), 2, "the first was dropped when it was overwritten");
            let held = slot.share().unwrap();
            assert!(slot.take().is_some_and(|taken| taken.ptr_eq(&held)));
            assert!(slot.share().is_none() && slot.take().is_none());
            drop(held);
            assert_eq!(Arc::strong_count(&value), 1);
            slot.set(Arc::clone(&value)).unwrap();
        };
        scope.spawn(run).join().unwrap();
    });
    assert_eq!(Arc::strong_count(&value), 1, "it went with its stack");
}

#[test]
fn dropping_a_typed_slot_drops_its_values_on_all_stacks_but_not_what_is_shared() {
    let _shared = shared();
    let value = Arc::new(5);
    let slot = Arc::new(Slot::new().unwrap());
    let mut fibers: Vec<_> = (0..3)
        .map(|_| {
            let (slot, value) = (Arc::clone(&slot), Arc::clone(&value));
            Coroutine::<(), Option<exeunt::Shared<Arc<i32>>>, ()>::new(move |yielder, ()| {
                exeunt::enter(|| {
                    slot.set(value).unwrap();
                    let shared = slot.share();
                    drop(slot);
                    yielder.suspend(shared);
                })
                .unwrap();
            })
        })
        .collect();
    let mut shared: Vec<_> = fibers.iter_mut().map(|fiber| fiber.resume(()).as_yield().unwrap()).collect();
    assert_eq!(Arc::strong_count(&value), 4);
    shared.truncate(1);
    assert_eq!(Arc::strong_count(&slot), 1);
    drop(slot);
    assert_eq!(Arc::strong_count(&value), 2, "this one, and the one that is shared out");
    assert_eq!(shared[0].as_deref().map(|value| **value), Some(5));
    fibers.iter_mut().for_each(|fiber| assert_eq!(fiber.resume(()), CoroutineResult::Return(())));
}

#[test]
fn slots_are_allocated_set_and_freed_on_many_threads_at_once() {
    let _shared = shared();
    let rounds = if cfg!(target_arch = "x86_64") { 2000 } else { 200 }; // aarch64 is emulated
    let threads: Vec<_> = (1..=4_usize)
        .map(|number| {
            std::thread::spawn(move || {
                let mut held = Vec::new();
                for round in 0..rounds {
                    let slot = Slot::new().unwrap();
                    assert_eq!(slot.get(), None);
                    slot.set(number * rounds + round).unwrap();
                    held.push((slot, number * rounds + round));
                    if held.len() > 20 {
                        let (slot, expected) = held.swap_remove(round % 20);
                        assert_eq!(slot.get(), Some(expected));
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Reads the slot, always at the same address of the stack.
#[inline(never)]
fn look(slot: u32) -> usize {
    get(slot).unwrap()
}

#[test]
fn the_next_stack_at_the_same_address_finds_nothing_of_one_that_only_read_a_slot() {
    let _alone = alone();
    let (other, slot) = (alloc().unwrap(), alloc().unwrap());
    let (say, hear) = channel();
    let (end, wait) = channel::<()>();
    let mut wait = Some(wait);
    let mut seen = Vec::new();
    let mut neighbour = None;
    for _ in 0..2 {
        // Each time a stack of its own, at the same address.
        let found = exeunt::enter(|| {
            set(other, value(1)).unwrap();
            // More than once, so that the inline cache has it.
            [look(slot), look(slot), look(slot)]
        });
        seen.extend(found.unwrap());
        // This stack gets the memory of the first one's slots.
        if let Some(wait) = wait.take() {
            let say = say.clone();
            neighbour = Some(std::thread::spawn(move || {
                set(other, value(2)).unwrap();
                set(slot, value(3)).unwrap();
                say.send(()).unwrap();
                wait.recv().unwrap();
                assert_eq!(get(slot), Ok(3));
            }));
            hear.recv().unwrap();
        }
    }
    end.send(()).unwrap();
    neighbour.unwrap().join().unwrap();
    assert_eq!(seen, [0; 6]);
    free(slot).unwrap();
    free(other).unwrap();
}
