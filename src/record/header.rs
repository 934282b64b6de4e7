//! The record of one armed stack: its fields, and the operations that concern single fields.
//!
//! Only the code of a record's own stack changes the record. The code that has found a stack
//! abandoned drains its record. While a record is cached, the code that takes it may change it.
//! Code of other stacks may read the atomics in the first cache line at any time, as a stale entry
//! of the stack map may lead there. It pins the record meanwhile (`map/pins.rs`).

use super::contents::Contents;
use crate::base::cold::cold_path;
use crate::base::ending::Cause;
use crate::base::kind::Kind;
use crate::base::limits;
use crate::base::redirect::Method;
use crate::base::stack_id::StackId;
use crate::machine::arch;
use crate::map::cached::CachedFlag;
use crate::map::pages::page_of_base;
use crate::map::pins::PinCount;
use crate::map::slab::{Links, SlabItem};
use crate::storage::handlers::Handlers;
use crate::storage::slot_table::Table;
use crate::storage::values::Values;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// The record of one armed stack.
#[repr(C, align(64))]
pub(crate) struct Record {
    /// The canary: a word of the stack, and its content while the stack is live. Under slot
    /// redirect it is the foot.
    pub(super) canary_at: AtomicUsize,
    pub(super) canary_word: AtomicUsize,
    /// Its dynamic slots, once it has used some. They are never freed.
    pub(super) slots: AtomicPtr<Table>,
    /// The base, without a tag: the stack pointer at which the entry function returns. It is the
    /// end of the stack's memory, as far as that is known.
    pub(super) base: AtomicUsize,
    pub(super) id: AtomicU64,
    /// The lowest and highest page whose entries may lead here.
    pub(super) lowest: AtomicUsize,
    pub(super) highest: AtomicUsize,
    pub(super) kind: AtomicU8,
    pub(super) phase: AtomicU8,
    /// How the exit is redirected.
    pub(super) method: AtomicU8,
    /// Whether the record is cached for the next stack with its base.
    pub(super) cached_flag: CachedFlag,
    /// The number of the trampoline that stands for the exit trampoline.
    pub(super) trampoline: AtomicU8,
    /// What began the drain, while the stack drains.
    pub(super) cause: AtomicU8,
    /// Where the foot is. Of an abandoned stack that drains, a place in the frame that drains it.
    pub(super) foot: AtomicUsize,
    /// The content of the canary's word before it was marked, under code redirect.
    pub(super) unmarked_word: AtomicUsize,
    /// The generation, or zero. It is the canary where no word of the stack can be one.
    pub(super) generation: AtomicUsize,
    /// A frame record that ends a chain of frame pointers. Its address is the mark on aarch64
    /// (`exit/redirect/mark.rs`).
    pub(super) last_frame: [AtomicUsize; 2],
    pub(super) links: Links,
    /// The next identity of its own; a multiple of [`StackId::BATCH`] where none is left.
    pub(super) next_id: AtomicU64,
    /// The record of an abandoned stack that this stack has found on its memory, and is draining.
    pub(super) predecessor: AtomicPtr<Record>,
    /// Where the call returns to that has armed the stack; zero if that is not known.
    pub(super) armed_from: AtomicUsize,
    pub(super) contents: UnsafeCell<Contents>,
    /// The threads that decide whether to take an entry from it.
    pub(super) pins: PinCount,
}

// SAFETY: `contents` is only reached by the methods of `Record` that run on the record's stack, or
// on the stack that drains it; everything else is atomic. The contents move between threads with
// their stack. Users promise that they may, where stacks move between threads (crate docs, "Threads
// and fibers").
unsafe impl Sync for Record {}
// SAFETY: as above.
unsafe impl Send for Record {}

/// What a record is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    Free,
    Arming,
    Armed,
    Draining,
}

/// The description of the stack that a record is prepared for.
#[derive(Clone, Copy)]
pub(crate) struct NewStack {
    pub(crate) foot: usize,
    pub(crate) base: usize,
    pub(crate) kind: Kind,
    /// The number of the trampoline that stands for the exit trampoline.
    pub(crate) trampoline: usize,
    /// How the exit will be redirected.
    pub(crate) method: Method,
    /// The canary's word before it is marked; zero where there is no mark.
    pub(crate) unmarked_word: usize,
}

/// What [`Record::description`] says of one stack.
#[derive(Clone, Copy)]
pub(crate) struct Description {
    pub(crate) id: StackId,
    pub(crate) kind: Kind,
    pub(crate) foot: usize,
    pub(crate) base: usize,
    /// Zero if that is not known.
    pub(crate) armed_from: usize,
    pub(crate) is_draining: bool,
}

/// Whether entry functions choose the place of the foot, and may move it later
/// ([`Record::move_foot`]).
pub(crate) const FOOT_MOVES: bool = cfg!(all(target_arch = "aarch64", target_os = "linux"));

/// A word that is no live canary: `DEAD` is zero, and a vacant record expects one.
pub(super) static DEAD: usize = 0;

impl SlabItem for Record {
    fn links(&self) -> &Links {
        &self.links
    }

    fn vacant() -> Self {
        Self {
            canary_at: AtomicUsize::new(&raw const DEAD as usize),
            canary_word: AtomicUsize::new(1),
            base: AtomicUsize::new(0),
            id: AtomicU64::new(0),
            lowest: AtomicUsize::new(usize::MAX),
            highest: AtomicUsize::new(0),
            kind: AtomicU8::new(0),
            phase: AtomicU8::new(Phase::Free as u8),
            method: AtomicU8::new(Method::Slot as u8),
            cached_flag: CachedFlag::new(),
            trampoline: AtomicU8::new(0),
            cause: AtomicU8::new(0),
            foot: AtomicUsize::new(0),
            unmarked_word: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            last_frame: [const { AtomicUsize::new(0) }; 2],
            links: Links::new(),
            next_id: AtomicU64::new(0),
            predecessor: AtomicPtr::new(std::ptr::null_mut()),
            armed_from: AtomicUsize::new(0),
            slots: AtomicPtr::new(std::ptr::null_mut()),
            contents: UnsafeCell::new(Contents {
                access: Cell::new(0),
                reentrancy: Cell::new(0),
                handlers: Handlers::new(),
                values: Values::new(),
                initializing: Cell::new(std::ptr::null()),
                handler_gaps: 0,
            }),
            pins: PinCount::new(),
        }
    }
}

// The first cache line holds the fields of the read path, and those that other stacks' code reads
// often. And a record is small.
const _: () = assert!(memoffset::offset_of!(Record, cause) < 64 && size_of::<Record>() <= 512);
const _: () = assert!(limits::TRAMPOLINES <= 1 << u8::BITS);
const _: () = assert!(
    memoffset::offset_of!(Record, contents) + memoffset::offset_of!(Contents, values) + size_of::<Vec<()>>() <= 192
);

impl Record {
    pub(crate) fn base(&self) -> usize {
        self.base.load(Ordering::Relaxed)
    }

    /// Unsets the base: the stack is gone, and no other one is expected there.
    pub(crate) fn forget_base(&self) {
        self.base.store(0, Ordering::Relaxed);
    }

    pub(crate) fn pins(&self) -> &PinCount {
        &self.pins
    }

    pub(crate) fn cached_flag(&self) -> &CachedFlag {
        &self.cached_flag
    }

    /// How the exit is redirected.
    pub(crate) fn method(&self) -> Method {
        Method::from_raw(self.method.load(Ordering::Relaxed))
    }

    /// The address of the foot, while the entry function has not returned.
    pub(crate) fn foot(&self) -> usize {
        self.foot.load(Ordering::Relaxed)
    }

    /// The canary's word before it was marked.
    pub(crate) fn unmarked_word(&self) -> usize {
        self.unmarked_word.load(Ordering::Relaxed)
    }

    pub(crate) fn last_frame(&self) -> usize {
        self.last_frame.as_ptr().addr()
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

    /// The pages whose entries may lead here.
    pub(crate) fn pages(&self) -> Range<usize> {
        self.lowest.load(Ordering::Relaxed)..self.highest.load(Ordering::Relaxed) + 1
    }

    #[inline]
    pub(crate) fn note_page(&self, page: usize) {
        // Only this stack's code gets here; but a signal handler that reads may do so in the middle
        // of this.
        if page < self.lowest.load(Ordering::Relaxed) {
            self.lowest.fetch_min(page, Ordering::Relaxed);
        }
        if page > self.highest.load(Ordering::Relaxed) {
            cold_path();
            self.highest.fetch_max(page, Ordering::Relaxed);
        }
    }

    /// Fills in a record that the caller has to itself, except for the canary: the record is not
    /// live yet.
    ///
    /// The phase is stored last, with Release: `StackMap::by_base` loads it before the base.
    /// Without that it could find a record that serves another base at its old one.
    ///
    /// What [`Record::description`] reads is stored with Release, after the record was free, with
    /// the identity zero. So code of another stack that reads one of these words finds, in the
    /// identity, that the record serves another generation.
    #[inline]
    pub(crate) fn prepare(&self, stack: &NewStack, armed_from: usize) {
        self.method.store(stack.method as u8, Ordering::Relaxed);
        self.foot.store(stack.foot, Ordering::Release);
        self.armed_from.store(armed_from, Ordering::Release);
        self.unmarked_word.store(stack.unmarked_word, Ordering::Relaxed);
        self.base.store(arch::untagged(stack.base), Ordering::Release);
        self.kind.store(stack.kind as u8, Ordering::Release);
        self.trampoline.store(stack.trampoline as u8, Ordering::Relaxed);
        // The base's page from the beginning: wherever this code is left for good, every entry that
        // leads here is found.
        let page = page_of_base(stack.base);
        self.lowest.store(page, Ordering::Relaxed);
        self.highest.store(page, Ordering::Relaxed);
        let id = self.fresh_id();
        self.id.store(id, Ordering::Release);
        self.generation.store(id as usize, Ordering::Relaxed);
        self.phase.store(Phase::Arming as u8, Ordering::Release);
    }

    /// Notes that the exit has been redirected.
    pub(crate) fn set_armed(&self) {
        self.phase.store(Phase::Armed as u8, Ordering::Release);
    }

    /// Notes that the entry function has returned, or never will. From now on no code may take this
    /// record for an abandoned one.
    pub(crate) fn set_draining(&self) {
        self.phase.store(Phase::Draining as u8, Ordering::Release);
    }

    /// Notes what has begun the drain. This is before [`Record::set_draining`].
    #[inline]
    pub(crate) fn set_cause(&self, cause: Cause) {
        self.cause.store(cause as u8, Ordering::Relaxed);
    }

    /// What has begun the drain, if the stack drains.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.is_draining().then(|| Cause::from_raw(self.cause.load(Ordering::Relaxed)))
    }

    /// Notes that the drain of this abandoned stack runs in a frame which holds `place`. It has no
    /// foot any more.
    pub(super) fn set_drained_at(&self, place: usize) {
        self.foot.store(place, Ordering::Release);
    }

    /// What has begun the drain, and a place in the frame that drains the stack, if it was
    /// abandoned and drains on another one.
    pub(crate) fn drained_elsewhere(&self) -> Option<(Cause, usize)> {
        let cause = self.cause().filter(|cause| matches!(cause, Cause::Abandoned | Cause::Discarded))?;
        Some((cause, self.foot()))
    }

    /// The stack that the record serves, for code of any stack. `None` if it serves none, or one
    /// that was abandoned and is being drained.
    pub(crate) fn description(&self) -> Option<Description> {
        /// A stack that ends meanwhile is missed, and the next one is tried. No stack that stays is
        /// missed: its identity changes in `unload` alone.
        const TRIES: usize = 8;
        (0..TRIES).find_map(|_| self.try_description()).flatten()
    }

    /// [`Self::description`]; `None` where the record changes generations meanwhile.
    fn try_description(&self) -> Option<Option<Description>> {
        let before = self.id.load(Ordering::Acquire);
        let phase = self.phase.load(Ordering::Acquire);
        let [foot, base, armed_from] =
            [&self.foot, &self.base, &self.armed_from].map(|word| word.load(Ordering::Acquire));
        let kind = Kind::from_raw(self.kind.load(Ordering::Acquire));
        let is_elsewhere = self.drained_elsewhere().is_some();
        if self.id.load(Ordering::Relaxed) != before {
            return None;
        }
        let is_draining = phase == Phase::Draining as u8;
        let is_placed = is_draining || phase == Phase::Armed as u8;
        let id = StackId::from_raw(before).filter(|_| is_placed && !is_elsewhere);
        Some(id.map(|id| Description { id, kind, foot, base, armed_from, is_draining }))
    }

    /// Whether its stack is armed, and has not ended.
    pub(crate) fn is_armed(&self) -> bool {
        self.phase.load(Ordering::Acquire) == Phase::Armed as u8
    }

    /// Whether it belongs to no stack.
    #[inline]
    pub(crate) fn is_free(&self) -> bool {
        self.phase.load(Ordering::Acquire) == Phase::Free as u8
    }

    /// Whether it belongs to a stack that is armed or draining, or was abandoned in one of these
    /// states.
    pub(crate) fn is_placed(&self) -> bool {
        let phase = self.phase.load(Ordering::Acquire);
        phase == Phase::Armed as u8 || phase == Phase::Draining as u8
    }

    /// Gives the stack another identity.
    pub(crate) fn renew_id(&self) {
        self.id.store(self.fresh_id(), Ordering::Relaxed);
    }

    /// A number that no stack and no registration of a handler has had, and higher than all before
    /// on this record.
    pub(super) fn fresh_id(&self) -> u64 {
        let own = self.next_id.load(Ordering::Relaxed);
        let id = if own % StackId::BATCH == 0 {
            cold_path();
            StackId::batch()
        } else {
            own
        };
        self.next_id.store(id + 1, Ordering::Relaxed);
        id
    }

    /// Its dynamic slots, if it has used some.
    #[inline(always)]
    pub(crate) fn slots(&self) -> Option<&Table> {
        // SAFETY: null, or leaked by `slots_or_new`.
        unsafe { self.slots.load(Ordering::Acquire).as_ref() }
    }
}
