//! What is kept for one armed stack, and how it is drained.
//!
//! A record is only ever changed by the code of the stack that it belongs to (a drain of an abandoned stack, by the code
//! that found it abandoned). While it waits for the next stack, whoever takes it may change it. Other stacks' code may look
//! at the atomics in its first line at any time, as a stale entry of the page map may lead there, and say that they judge it
//! (`registry/judges.rs`).

use crate::base::alloc::{larger, move_to, refused, try_vec};
use crate::base::error::Error;
use crate::base::guard::{OnDrop, guarded};
use crate::base::kind::Kind;
use crate::base::redirect::Way;
use crate::base::stack_id::StackId;
use crate::exit::redirect::Place;
use crate::exit::trampoline;
use crate::face::local::is_borrowed;
use crate::face::slots::{self, Table};
use crate::machine::arch;
use crate::map::cached::Parking;
use crate::map::pins::Judges;
use crate::map::slab::{Links, Slot};
use crate::map::stack_map;
use crate::storage::inline_cache;
use crate::storage::values::{For, LocalValue, Taken, Values};
use std::cell::{Cell, UnsafeCell};
use std::hint::cold_path;
use std::ops::Range;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// A handler, as it was registered.
pub(crate) type Handler = Box<dyn FnOnce()>;

/// What is kept for one armed stack.
#[repr(C, align(64))]
pub(crate) struct Record {
    /// A word of the stack, and what it is while the stack is armed: the canary. Under slot redirect it is the foot.
    foot: AtomicUsize,
    word: AtomicUsize,
    /// Its dynamic slots, once it has used some; never given back.
    slots: AtomicPtr<Table>,
    /// The stack pointer at which the entry function returns, without a tag: the end of the stack's memory, as far as it is known.
    top: AtomicUsize,
    id: AtomicU64,
    /// Lowest and highest page of the page map that may lead here.
    lowest: AtomicUsize,
    highest: AtomicUsize,
    kind: AtomicU8,
    phase: AtomicU8,
    /// How the exit is redirected.
    way: AtomicU8,
    /// Whether it waits for the next stack with its top.
    parking: Parking,
    /// The number of the trampoline that stands for the exit trampoline.
    trampoline: AtomicU32,
    /// Where the foot is.
    place: AtomicUsize,
    /// What the word of the canary was before, under code redirect.
    under_mark: AtomicUsize,
    /// This life of the record, or zero: what it is watched by where no word of the stack can tell.
    life: AtomicUsize,
    /// A frame record that ends a chain of frame pointers: its address is a mark on aarch64 (`redirect/mark.rs`).
    last_frame: [AtomicUsize; 2],
    links: Links,
    /// The next identity of its own; a multiple of [`StackId::BATCH`] where it has none left.
    next_id: AtomicU64,
    /// The record of an abandoned stack that this one's has found on its memory, and is draining.
    found: AtomicPtr<Record>,
    own: UnsafeCell<Own>,
    /// Who is about to take a page's entry from it.
    judges: Judges,
}

/// The part of a record that only its stack touches.
///
/// In this order, what a life with nothing but handlers needs is in the record's first three cache lines: mostly
/// another processor had them last.
#[repr(C)]
struct Own {
    /// How many calls are using the values right now: such a call must not be changed under its feet.
    busy: Cell<u32>,
    /// How many are using the record further up on the stack while code of the user's runs.
    users: Cell<u32>,
    handlers: Vec<Handler>,
    values: Values,
    /// The stack locals whose values are being made or dropped, the innermost first.
    making: Cell<*const Making>,
}

/// A stack local whose value is being made or dropped; it lies in the frame of whoever does that.
struct Making {
    number: usize,
    outer: *const Making,
}

/// What a stack that is drained may have lent to others, who still use it.
#[derive(Clone, Copy)]
pub(crate) enum Lent {
    /// Nothing: its frames are gone, by return or by unwinding. Or the stack was abandoned: who
    /// abandons it promises that nobody uses any more what its frames have lent (`discard`).
    Nothing,
    /// What the frames have borrowed from this stack pointer up to the top, which is one piece of
    /// memory. `exit` has left them behind, and other threads may go on using what is theirs.
    By(usize),
    /// The same, where those frames cannot be searched: they are on another piece of memory than
    /// this code.
    Anything,
}

impl Lent {
    /// Whether a stack local's value may be lent, on the stack that ends at `top`.
    pub(crate) fn has(self, local: &LocalValue, top: usize) -> bool {
        match self {
            Self::Nothing => false,
            Self::By(sp) => is_borrowed(local.value, sp..arch::tagged_as(top, sp)),
            Self::Anything => true,
        }
    }
}

// SAFETY: `own` is only reached through `Record::own`, whose callers are on the record's stack; everything else is
// atomic. What users store follows the stack; that it may do so is their promise where stacks move between threads
// (crate docs, "Threads and fibers").
unsafe impl Sync for Record {}
// SAFETY: as above.
unsafe impl Send for Record {}

/// What a record is being used for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Free,
    Arming,
    Armed,
    Draining,
}

/// Whether a stack's foot is where its entry function pleases, and may be elsewhere later ([`Record::follow`]).
pub(crate) const FOOT_MOVES: bool = cfg!(all(target_arch = "aarch64", target_os = "linux"));

/// A word that no live foot points to: `DEAD` is zero and a vacant record expects one.
static DEAD: usize = 0;

impl Slot for Record {
    fn links(&self) -> &Links {
        &self.links
    }

    fn vacant() -> Self {
        Self {
            foot: AtomicUsize::new(&raw const DEAD as usize),
            word: AtomicUsize::new(1),
            top: AtomicUsize::new(0),
            id: AtomicU64::new(0),
            lowest: AtomicUsize::new(usize::MAX),
            highest: AtomicUsize::new(0),
            kind: AtomicU8::new(0),
            phase: AtomicU8::new(Phase::Free as u8),
            way: AtomicU8::new(Way::Slot as u8),
            parking: Parking::new(),
            trampoline: AtomicU32::new(0),
            place: AtomicUsize::new(0),
            under_mark: AtomicUsize::new(0),
            life: AtomicUsize::new(0),
            last_frame: [const { AtomicUsize::new(0) }; 2],
            links: Links::new(),
            next_id: AtomicU64::new(0),
            found: AtomicPtr::new(std::ptr::null_mut()),
            slots: AtomicPtr::new(std::ptr::null_mut()),
            own: UnsafeCell::new(Own {
                busy: Cell::new(0),
                users: Cell::new(0),
                handlers: Vec::new(),
                values: Values::new(),
                making: Cell::new(std::ptr::null()),
            }),
            judges: Judges::new(),
        }
    }
}

// What other stacks' code may look at often, and the read path, is in the first cache line; and a record is small.
const _: () = assert!(memoffset::offset_of!(Record, trampoline) < 64 && size_of::<Record>() <= 512);
const _: () =
    assert!(memoffset::offset_of!(Record, own) + memoffset::offset_of!(Own, values) + size_of::<Vec<()>>() <= 192);

impl Record {
    /// Whether the foot still holds what was put there: if not, the stack has ended or was abandoned.
    #[inline(always)]
    pub(crate) fn is_live(&self) -> bool {
        // In the order of `watch`, without asking the processor for it: `find` is called on the
        // very stack whose block the page map vouches for. Either that stack is this record's, and
        // the words are of its own code, or of code that handed the stack on to another thread and
        // so came before. Or the record's stack was abandoned, and its memory is used anew: then
        // the words are what they were before that, and whoever changes them next has the record
        // taken away from this memory first, which the stack that runs here does itself (`arm.rs`)
        // or has promised not to outlive (`discard`).
        let foot = self.foot.load(Ordering::Relaxed) as *const AtomicUsize;
        // SAFETY: the foot of an armed or draining stack is a word of that stack's memory, and a vacant record's is
        // `DEAD`. A stack whose memory is unmapped while it is armed must be discarded first: its owner's duty.
        unsafe { (*foot).load(Ordering::Relaxed) == self.word.load(Ordering::Relaxed) }
    }

    /// The same where the stack's memory may be gone: asks the system to read it.
    fn is_live_at_a_distance(&self) -> bool {
        let canary = self.canary();
        // Or it is another one by now: then its stack's code is just at it.
        crate::machine::os::read_word(canary.0) == Some(canary.1) || self.canary() != canary
    }

    pub(crate) fn top(&self) -> usize {
        self.top.load(Ordering::Relaxed)
    }

    /// Its stack is gone, and no other one is expected there.
    pub(crate) fn forget_top(&self) {
        self.top.store(0, Ordering::Relaxed);
    }

    pub(crate) fn judges(&self) -> &Judges {
        &self.judges
    }

    pub(crate) fn parking(&self) -> &Parking {
        &self.parking
    }

    /// The foot and the word that is there while the stack is armed.
    ///
    /// Others than its stack ask as well, to judge it: who sees a foot sees the word that was
    /// stored before it by `watch`, or a later one.
    pub(crate) fn canary(&self) -> (usize, usize) {
        (self.foot.load(Ordering::Acquire), self.word.load(Ordering::Relaxed))
    }

    /// A word that is nobody else's: no code is at an odd address of data of ours.
    pub(crate) fn mark(&self) -> usize {
        std::ptr::from_ref(self) as usize | 1
    }

    /// How the exit is redirected.
    pub(crate) fn way(&self) -> Way {
        Way::from_raw(self.way.load(Ordering::Relaxed))
    }

    /// Where the foot is, while the entry function has not returned.
    pub(crate) fn place(&self) -> usize {
        self.place.load(Ordering::Relaxed)
    }

    /// What the canary's word was before it was marked.
    pub(crate) fn under_mark(&self) -> usize {
        self.under_mark.load(Ordering::Relaxed)
    }

    pub(crate) fn last_frame(&self) -> usize {
        self.last_frame.as_ptr().addr()
    }

    /// A canary that is no word of the stack: where it is, and what it is in this life.
    pub(crate) fn life(&self) -> (usize, usize) {
        (self.life.as_ptr().addr(), self.life.load(Ordering::Relaxed))
    }

    /// Whether the code redirect's hook is to drain it, if the stack that ends is its own.
    pub(crate) fn ends_at_hook(&self) -> bool {
        self.way() == Way::Code
            && self.foot() != &raw const DEAD as usize
            && [Phase::Armed as u8, Phase::Draining as u8].contains(&self.phase.load(Ordering::Acquire))
    }

    /// Lets nobody find it live any more: its thread is not in this process.
    #[cfg(code_redirect)]
    pub(crate) fn forsake(&self) {
        self.watch(&raw const DEAD as usize, 1);
    }

    /// The word of the canary: the foot, or the mark.
    pub(crate) fn foot(&self) -> usize {
        self.foot.load(Ordering::Relaxed)
    }

    pub(crate) fn id(&self) -> Option<StackId> {
        StackId::from_raw(self.id.load(Ordering::Relaxed))
    }

    pub(crate) fn kind(&self) -> Kind {
        Kind::from_raw(self.kind.load(Ordering::Relaxed))
    }

    pub(crate) fn trampoline(&self) -> usize {
        self.trampoline.load(Ordering::Relaxed) as usize
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == Phase::Draining as u8
    }

    /// The pages of the page map that may lead here.
    pub(crate) fn pages(&self) -> Range<usize> {
        self.lowest.load(Ordering::Relaxed)..self.highest.load(Ordering::Relaxed) + 1
    }

    #[inline]
    pub(crate) fn note_page(&self, page: usize) {
        // Only this stack's code comes here; but a signal handler that reads may, in the middle of this.
        if page < self.lowest.load(Ordering::Relaxed) {
            self.lowest.fetch_min(page, Ordering::Relaxed);
        }
        if page > self.highest.load(Ordering::Relaxed) {
            cold_path();
            self.highest.fetch_max(page, Ordering::Relaxed);
        }
    }

    /// Fills in a record that nobody else has, all but the canary: nobody finds it live yet.
    #[inline]
    pub(crate) fn prepare(&self, place: &Place) {
        let (way, under_mark) = place.way();
        self.way.store(way as u8, Ordering::Relaxed);
        self.place.store(place.foot, Ordering::Relaxed);
        self.under_mark.store(under_mark, Ordering::Relaxed);
        self.top.store(arch::untagged(place.top), Ordering::Relaxed);
        self.kind.store(place.kind as u8, Ordering::Relaxed);
        self.trampoline.store(place.trampoline as u32, Ordering::Relaxed);
        // Its top's page from the beginning: wherever this is left for good, what leads here is found.
        let page = stack_map::page_of_top(place.top);
        self.lowest.store(page, Ordering::Relaxed);
        self.highest.store(page, Ordering::Relaxed);
        let id = self.fresh_id();
        self.id.store(id, Ordering::Relaxed);
        self.life.store(id as usize, Ordering::Relaxed);
        self.phase.store(Phase::Arming as u8, Ordering::Release);
    }

    /// The exit has been redirected.
    pub(crate) fn armed(&self) {
        self.phase.store(Phase::Armed as u8, Ordering::Release);
    }

    /// The entry function has returned, or never will: nobody may take this record for abandoned any more.
    pub(crate) fn ending(&self) {
        self.phase.store(Phase::Draining as u8, Ordering::Release);
    }

    /// Follows the foot of its stack to `slot`, where a walk has just found `word`, a trampoline of ours. Whether it is there: if not, the
    /// record is not that stack's.
    ///
    /// A function that calls another one last of all may go on in it by a jump. On x86_64 the return address stays where it is
    /// then. On aarch64 each function stores it where it pleases.
    pub(crate) fn follow(&self, slot: usize, word: usize) -> bool {
        if self.foot() == slot {
            return true;
        }
        // The foot of a C scope, which is a word of its holder's, does not move.
        let is_label = || trampoline::is_label(arch::strip(self.word.load(Ordering::Relaxed)));
        let moved = cfg!(target_arch = "aarch64") && self.way() == Way::Slot && self.is_armed() && is_label();
        if moved {
            self.move_foot(slot, (slot, word));
        }
        moved
    }

    /// Whether it is of the running stack, whose foot is at `foot`, and is armed. A stack that was
    /// abandoned on this memory may have had its foot at another place, or its canary overwritten.
    /// Where neither can tell ([`Record::may_be_anothers`], with a mark for a canary), this is false.
    pub(crate) fn is_armed_at(&self, foot: usize) -> bool {
        let tells = self.way() == Way::Slot || !self.may_be_anothers();
        self.is_armed() && tells && self.place() == foot && self.is_live()
    }

    /// Whether its stack is armed, and has not ended.
    pub(crate) fn is_armed(&self) -> bool {
        self.phase.load(Ordering::Acquire) == Phase::Armed as u8
    }

    /// Whether a canary that is there may be all that is left of an earlier stack on this memory, so that only a walk can tell.
    ///
    /// On x86_64 `call` writes the foot of every stack at the same place below its top. On aarch64 each function stores the return
    /// address where it pleases, so the next stack may spare the word in which an abandoned one had its foot. Threads are not
    /// abandoned. (Only on Linux: the frame records that are followed elsewhere do not lead through a drain.)
    #[inline(always)]
    pub(crate) fn may_be_anothers(&self) -> bool {
        FOOT_MOVES && !matches!(self.kind(), Kind::Thread | Kind::Main)
    }

    /// Whether a walk comes by its foot. It comes by none of a C scope, and of a stack that drains without having returned.
    pub(crate) fn is_found_by_frames(&self) -> bool {
        let (foot, word) = self.canary();
        let drains_in_trampoline = arch::untagged(foot) == self.top().wrapping_sub(size_of::<usize>());
        word != std::ptr::from_ref(self).addr() && (word != self.mark() || drains_in_trampoline)
    }

    /// The foot is elsewhere now, and the canary may be.
    #[cold]
    pub(crate) fn move_foot(&self, place: usize, canary: (usize, usize)) {
        // What is remembered goes by the old ones.
        inline_cache::forget_stack([self.place(), self.foot()]);
        self.place.store(place, Ordering::Relaxed);
        if canary != self.canary() {
            self.watch(canary.0, canary.1);
        }
    }

    /// Whether this is of a stack that went away without an end: abandoned half-way, its memory used for another one.
    pub(crate) fn is_stale(&self) -> bool {
        match self.phase.load(Ordering::Acquire) {
            phase if phase == Phase::Armed as u8 || phase == Phase::Draining as u8 => !self.is_live_at_a_distance(),
            phase => phase == Phase::Free as u8,
        }
    }

    /// Whether it is of no stack.
    #[inline]
    pub(crate) fn is_free(&self) -> bool {
        self.phase.load(Ordering::Acquire) == Phase::Free as u8
    }

    /// Whether it is of a stack that is armed or draining, or was abandoned while it was.
    pub(crate) fn is_placed(&self) -> bool {
        let phase = self.phase.load(Ordering::Acquire);
        phase == Phase::Armed as u8 || phase == Phase::Draining as u8
    }

    /// Gives the stack another identity.
    pub(crate) fn renew_id(&self) {
        self.id.store(self.fresh_id(), Ordering::Relaxed);
    }

    /// An identity that no stack has had.
    fn fresh_id(&self) -> u64 {
        let own = self.next_id.load(Ordering::Relaxed);
        let id = if own.is_multiple_of(StackId::BATCH) {
            cold_path();
            StackId::batch()
        } else {
            own
        };
        self.next_id.store(id + 1, Ordering::Relaxed);
        id
    }

    /// Takes the record of an abandoned stack away from its place.
    ///
    /// From now on the next stack there may have the same word in the same foot, so nothing that is remembered of this one
    /// may be found any more.
    pub(crate) fn detach(&'static self) {
        self.ending();
        inline_cache::forget_stack([self.place(), self.foot()]);
        self.watch(&raw const DEAD as usize, 1);
        stack_map::remove(self);
    }

    /// The code of its stack that was looking at the values does not come back: the stack was abandoned, or ends by `exit`, in
    /// a key's `Eq`, where nothing is half done.
    ///
    /// In a change it can only have been left by the parent of this process, on a thread that is not here; that stays, and
    /// nobody may use the record again. Then this is false.
    pub(crate) fn nobody_looks(&self) -> bool {
        // SAFETY: its stack does not go on there, so this is the only code that uses the record's own part.
        let busy = unsafe { &(*self.own.get()).busy };
        let whole = busy.get() != CHANGING;
        if whole {
            busy.set(0);
        }
        whole
    }

    /// Drains the record of an abandoned stack on the stack that found it so. Whether it can be given back.
    ///
    /// A thread does not abandon its stack, all its ends are seen. Where one is found gone, this is a child of `fork`, and
    /// the thread lives on in the parent: there it drains. Here what it stored is forgotten, neither run nor dropped.
    #[must_use]
    pub(crate) fn drain_abandoned(&'static self) -> bool {
        let whole = self.nobody_looks();
        if matches!(self.kind(), Kind::Thread | Kind::Main) {
            self.forget();
        } else {
            self.drain(Lent::Nothing);
        }
        self.end();
        self.remove();
        whole
    }

    /// The same, and gives it back.
    pub(crate) fn end_abandoned(&'static self) {
        if self.drain_abandoned() {
            stack_map::give(self);
        }
    }

    /// Drains the record of an abandoned stack that was found when this one was armed. Where that is abandoned in turn, or
    /// ends, in the middle of it, the rest is drained with this record.
    pub(crate) fn drain_found(&'static self, abandoned: &'static Record) {
        // Handlers may unload; but whoever arms is about to use this record.
        let _in_use = self.in_use();
        self.found.store(std::ptr::from_ref(abandoned).cast_mut(), Ordering::Relaxed);
        self.finish_found();
    }

    /// The record of an abandoned stack that this one's has found and is draining.
    #[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn has_found(&self) -> Option<&Record> {
        // SAFETY: null, or a record, which live for ever.
        unsafe { self.found.load(Ordering::Acquire).as_ref() }
    }

    /// Goes on with the record of the stack that was found abandoned, if there is one. Whether there was.
    #[inline]
    fn finish_found(&self) -> bool {
        // SAFETY: null, or a record, which live for ever.
        let Some(found) = (unsafe { self.found.load(Ordering::Relaxed).as_ref() }) else { return false };
        cold_path();
        let whole = found.drain_abandoned();
        // It is forgotten here before another stack can have it: this one may be abandoned at any moment.
        self.found.store(std::ptr::null_mut(), Ordering::Release);
        if whole {
            stack_map::give(found);
        }
        true
    }

    fn forget(&self) {
        self.found.store(std::ptr::null_mut(), Ordering::Relaxed);
        if let Ok(mut own) = self.change() {
            own.users.set(0);
            own.making.set(std::ptr::null());
            std::mem::forget(std::mem::take(&mut own.handlers));
            while let Some(value) = own.values.pop().or_else(|| own.values.pop_doomed()) {
                std::mem::forget(value);
            }
        }
        if let Some(table) = self.slots() {
            slots::forget(table);
        }
    }

    /// Lets the record be found live for as long as `foot` holds `word`.
    #[inline]
    pub(crate) fn watch(&self, foot: usize, word: usize) {
        if self.foot() == self.life.as_ptr().addr() {
            cold_path();
            // Whatever remembers this canary is to know that it is no more.
            self.life.store(0, Ordering::Release);
        }
        // The word first, so that no foot is ever compared with an older word that it may happen to
        // hold: not by a signal handler on this stack that comes in between, nor by those who judge
        // this record from elsewhere (`canary`).
        self.word.store(word, Ordering::Release);
        self.foot.store(foot, Ordering::Release);
    }

    /// Takes the record away from its stack. It waits there for the next one with that top, or goes back to the slab.
    #[inline]
    pub(crate) fn retire(&'static self) {
        self.end();
        if !stack_map::park(self) {
            cold_path();
            self.remove();
            stack_map::give(self);
        }
    }

    /// Lets nobody find it for its stack any more.
    #[inline]
    fn end(&self) {
        // First, so that a signal handler which walks here no longer takes it for the stack's.
        self.phase.store(Phase::Free as u8, Ordering::Release);
        self.watch(&raw const DEAD as usize, 1);
        self.id.store(0, Ordering::Relaxed);
    }

    fn remove(&'static self) {
        stack_map::remove(self);
        self.forget_top();
    }

    /// Its dynamic slots, if it has used some.
    #[inline(always)]
    pub(crate) fn slots(&self) -> Option<&Table> {
        // SAFETY: null, or leaked by `slots_or_new`.
        unsafe { self.slots.load(Ordering::Acquire).as_ref() }
    }

    /// Its dynamic slots.
    pub(crate) fn slots_or_new(&self) -> Result<&Table, Error> {
        if let Some(table) = self.slots() {
            return Ok(table);
        }
        let table = slots::new_table().ok_or_else(refused)?;
        // Only the stack itself comes here. The allocator may have done so meanwhile: then that
        // table is the one.
        if self.slots().is_none() {
            self.slots.store(Box::leak(table), Ordering::Release);
        }
        self.slots().ok_or_else(refused)
    }

    /// Registers a handler, or gives it back with the error. Not inlined: each call that comes from
    /// a user's crate goes by a table of addresses, which takes long where indirect branches are
    /// not predicted (against Spectre); this makes two of them one.
    #[inline(never)]
    pub(crate) fn push(&self, handler: Handler) -> Result<(), (Error, Handler)> {
        if let Err(error) = self.room_for_handler() {
            return Err((error, handler));
        }
        match self.change() {
            // Within the capacity: the allocator, which may be anybody's code, does not run in a
            // change.
            Ok(mut own) => own.handlers.push(handler),
            Err(error) => return Err((error, handler)),
        }
        Ok(())
    }

    /// Makes room for one more handler.
    #[inline]
    fn room_for_handler(&self) -> Result<(), Error> {
        // SAFETY: this is the record's own stack; whoever is just changing the record is seen by
        // `change`.
        while let Some(wanted) = unsafe { larger(&(*self.own.get()).handlers, (*self.own.get()).handlers.len() + 1) } {
            cold_path();
            let _in_use = self.in_use();
            let room = try_vec(wanted)?;
            // What is freed is freed behind the change.
            let _free = move_to(&mut self.change()?.handlers, room);
        }
        Ok(())
    }

    /// Makes room for one more value of that kind, so that the change which adds it does not
    /// allocate.
    pub(crate) fn room_for(&self, whose: For) -> Result<(), Error> {
        loop {
            let wanted = self.look(|values| values.wanted(whose)).ok_or(Error::Busy)?;
            if wanted.is_there() {
                return Ok(());
            }
            cold_path();
            // The allocator may be code of the user's, and unload.
            let _in_use = self.in_use();
            let room = wanted.allocate()?;
            let _free = self.change_values(|values| values.move_to(room))?;
        }
    }

    /// Looks at the values; `None` while a change of them is under way, which only a signal handler can see.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Values) -> R) -> Option<R> {
        let own = self.own.get();
        // SAFETY: this is the record's own stack, and `busy` tells whether a change is under way further up on it.
        let busy = unsafe { &(*own).busy };
        if busy.get() >= COMPARING {
            return None;
        }
        busy.set(busy.get() + 1);
        let _done = OnDrop(|| busy.set(busy.get() - 1));
        // SAFETY: as above; changes are refused while `busy` is not zero.
        Some(look(unsafe { &(*own).values }))
    }

    /// Changes handlers and values; an error from inside a key's `Eq`.
    fn change(&self) -> Result<Change<'_>, Error> {
        let own = self.own.get();
        // SAFETY: as in `look`.
        let busy = unsafe { &(*own).busy };
        if busy.get() != 0 {
            cold_path();
            return Err(Error::Busy);
        }
        busy.set(CHANGING);
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        Ok(Change { record: self })
    }

    /// Looks for what is to be changed next; an error from inside a key's `Eq`, which this may run, and a change may not.
    pub(crate) fn compare<R>(&self, find: impl FnOnce(&Values) -> R) -> Result<R, Error> {
        let own = self.own.get();
        // SAFETY: as in `look`.
        let busy = unsafe { &(*own).busy };
        if busy.get() != 0 {
            return Err(Error::Busy);
        }
        busy.set(COMPARING);
        let _done = OnDrop(|| busy.set(0));
        // SAFETY: as in `look`.
        Ok(find(unsafe { &(*own).values }))
    }

    /// Changes the values.
    pub(crate) fn change_values<R>(&self, change: impl FnOnce(&mut Values) -> R) -> Result<R, Error> {
        let mut own = self.change()?;
        Ok(change(&mut own.values))
    }

    /// Forgets the handlers without running them. They are dropped here, the first one first.
    pub(crate) fn forget_handlers(&self) {
        let _in_use = self.in_use();
        // SAFETY: this is the record's own stack, and nobody changes the record while this is
        // looked at.
        let count = || unsafe { (*self.own.get()).handlers.len() };
        let doomed = self.doom(count, |own| own.values.doom_handlers(&mut own.handlers));
        for _ in 0..if doomed { 0 } else { count() } {
            // Without memory to doom them all they go one by one.
            let first = self.change().ok().filter(|own| !own.handlers.is_empty()).map(|mut own| own.handlers.remove(0));
            guarded(|| drop(first));
        }
        self.drop_doomed();
    }

    /// Drops all values that `keep` does not want, last set first.
    pub(crate) fn forget_values(&self, keep: impl Fn(&LocalValue) -> bool) {
        let _in_use = self.in_use();
        if !self.doom(|| 0, |own| own.values.doom_all(&keep)) {
            let mut index = self.look(Values::places).unwrap_or(0);
            while let Ok(Some(taken)) = self.change_values(|values| values.take_before(&mut index, &keep)) {
                guarded(|| taken.drop_now(self));
            }
        }
        self.drop_doomed();
    }

    /// Makes room for what is to be doomed, and dooms it. Whether that was done; not without
    /// memory.
    fn doom(&self, handlers: impl Fn() -> usize, doom: impl Fn(&mut Own) -> bool) -> bool {
        loop {
            if self.room_for(For::Doom(handlers())).is_err() {
                return false;
            }
            match self.change() {
                // The allocator may have added some.
                Ok(mut own) => {
                    if doom(&mut own) {
                        return true;
                    }
                }
                Err(_) => return false,
            }
        }
    }

    /// Drops what is doomed.
    pub(crate) fn drop_doomed(&self) {
        let _in_use = self.in_use();
        while let Ok(Some(doomed)) = self.change_values(Values::pop_doomed) {
            guarded(|| doomed.drop_now(self));
        }
    }

    /// Runs `code`, which makes or drops the value of the stack local with this number: nobody can
    /// ask for it meanwhile.
    pub(crate) fn making<R>(&self, number: usize, code: impl FnOnce() -> R) -> R {
        let _in_use = self.in_use();
        // SAFETY: this is the record's own stack, or the one that drains it.
        let innermost = unsafe { &(*self.own.get()).making };
        let this = Making { number, outer: innermost.get() };
        innermost.set(&raw const this);
        let _made = OnDrop(|| innermost.set(this.outer));
        code()
    }

    /// Whether the value of this stack local is being made or dropped.
    pub(crate) fn is_making(&self, number: usize) -> bool {
        // SAFETY: as above.
        let mut next = unsafe { (*self.own.get()).making.get() };
        std::iter::from_fn(|| {
            // SAFETY: they are in frames of `making`, which takes them off this list; where those
            // do not go on,
            // `nobody_comes_back` and `forget` have emptied it.
            let making = unsafe { next.as_ref() }?;
            next = making.outer;
            Some(making.number)
        })
        .any(|other| other == number)
    }

    fn users(&self) -> &Cell<u32> {
        // SAFETY: this is the record's own stack, and nobody changes the record while this is looked at.
        unsafe { &(*self.own.get()).users }
    }

    /// While what this gives lives, an `unload` leaves the record to its stack: for those who go on to use it when code of
    /// the user's has run.
    pub(crate) fn in_use(&self) -> InUse<'_> {
        self.users().set(self.users().get() + 1);
        InUse(self)
    }

    /// Whether nothing is stored here, and nobody further up on the stack comes back to it.
    pub(crate) fn is_empty(&self) -> bool {
        self.look(Values::is_empty).unwrap_or(false)
            // SAFETY: this is the record's own stack, and nobody changes it now.
            && unsafe { &(*self.own.get()).handlers }.is_empty()
            && self.users().get() == 0
            && self.slots().is_none_or(slots::is_empty)
    }

    /// Runs the handlers, last in first out, then drops the values, last set first, then clears the slots, until nothing
    /// is left, nor of what was found when the stack was armed.
    ///
    /// Called again from inside (a handler that calls `exit`), it goes on where the outer call was.
    ///
    /// What is still `lent` is taken away, so that nobody else finds it, and never dropped.
    #[inline]
    pub(crate) fn drain(&self, lent: Lent) {
        self.ending();
        // SAFETY: this is the record's own stack, and nobody changes the record while this is looked at.
        if self.users().get() > 0 || unsafe { (*self.own.get()).values.has_had_some() } {
            cold_path();
            self.nobody_comes_back(lent);
        }
        loop {
            while let Some(handler) = self.change().ok().and_then(|mut own| own.handlers.pop()) {
                guarded(handler);
            }
            if !self.drop_last(lent) {
                return;
            }
        }
    }

    /// Drops the value that was set last; where there is none, what else is left. Whether there was something.
    #[inline]
    fn drop_last(&self, lent: Lent) -> bool {
        // SAFETY: as in `drain`.
        let may_have_some = unsafe { (*self.own.get()).values.has_had_some() };
        may_have_some && self.drop_last_value(lent) || self.slots().is_some_and(slots::clear) || self.finish_found()
    }

    /// Drops the value that was set last. Whether there was one. Not inlined: many stacks have handlers and nothing else.
    #[inline(never)]
    fn drop_last_value(&self, lent: Lent) -> bool {
        let Ok(Some(value)) = self.change_values(Values::pop) else { return false };
        if matches!(&value, Taken::Local(local) if lent.has(local, self.top())) {
            cold_path();
        } else if value.is_plain() {
            drop(value);
        } else {
            guarded(|| value.drop_now(self));
        }
        true
    }

    /// The code of its stack that was using the record does not come back: the stack was abandoned,
    /// or ends by `exit`, in an initialiser, a destructor, a handler, or a `with`. What it had
    /// still to drop is dropped.
    #[inline(never)]
    fn nobody_comes_back(&self, lent: Lent) {
        self.users().set(0);
        // SAFETY: as in `making`; the frames that are listed there do not go on.
        unsafe { (*self.own.get()).making.set(std::ptr::null()) };
        if let Lent::Nothing = lent {
            // SAFETY: the frames are gone, or were abandoned together with what they had lent:
            // `Lent` says who promises that.
            let _ = self.change_values(|values| unsafe { values.nobody_comes_back() });
        }
        // Else a `with` that `exit` has left behind keeps its reference to a keyed value, which is
        // never dropped so.
        self.drop_doomed();
    }
}

/// Says that somebody uses a record; see [`Record::in_use`].
pub(crate) struct InUse<'r>(&'r Record);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let users = self.0.users();
        users.set(users.get() - 1);
    }
}

/// Something is being changed; or compared, to be changed next.
const CHANGING: u32 = u32::MAX;
const COMPARING: u32 = CHANGING - 1;

/// A change under way; it ends when this is dropped, also by a panic.
struct Change<'r> {
    record: &'r Record,
}

impl std::ops::Deref for Change<'_> {
    type Target = Own;
    fn deref(&self) -> &Own {
        // SAFETY: `busy` makes this the only one that uses the record's own part.
        unsafe { &*self.record.own.get() }
    }
}

impl std::ops::DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut Own {
        // SAFETY: as above.
        unsafe { &mut *self.record.own.get() }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        self.busy.set(0);
    }
}
