//! Slot redirect: writes one word of the stack, its foot, and on a thread also its landing. `plan`
//! says what to write, `redirect` writes it, `restore` puts it back.

use crate::base::cold::cold_path;
use crate::base::error::Error;
use crate::base::foot::Foot;
use crate::base::kind::Kind;
use crate::exit::landing::Landing;
use crate::exit::recognition;
use crate::exit::shadow_stack;
use crate::exit::trampoline;
use crate::machine::arch;
use crate::record::header::Record;
use crate::unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What to write on one stack.
#[derive(Clone, Copy)]
pub(super) struct SlotPlan {
    /// The word for the foot.
    pub(super) word: usize,
    /// The word at or above the base that keeps the original address, and that address.
    keep: Option<(usize, usize)>,
    /// The landing to redirect, if there is one.
    landing: Option<LandingPlan>,
}

/// A thread's landing, and its new target.
#[derive(Clone, Copy)]
pub(super) struct LandingPlan {
    landing: Landing,
    target: usize,
}

impl LandingPlan {
    /// Redirects the landing.
    ///
    /// # Safety
    /// It must be the running stack's, and that stack's record must be ready to be drained.
    pub(super) unsafe fn redirect(self) {
        // SAFETY: the target is a trampoline, which runs with the exit trampoline's stack pointer,
        // and keeps its registers.
        unsafe { self.landing.set_target(self.target) };
    }
}

impl SlotPlan {
    /// Whether the thread's landing is redirected as well.
    pub(super) fn redirects_landing(&self) -> bool {
        self.landing.is_some()
    }
}

/// What to write for the stack with this foot. This writes nothing yet.
pub(super) fn plan(foot: Foot) -> Result<SlotPlan, Error> {
    if shadow_stack::is_active() {
        return Err(Error::ShadowStack);
    }
    match plan_quickly(foot) {
        Some(writes) => Ok(writes),
        None => plan_unknown(foot),
    }
}

/// [`plan`] for a stack with a known layout.
#[inline(always)]
pub(super) fn plan_quickly(foot: Foot) -> Option<SlotPlan> {
    if shadow_stack::is_active() {
        cold_path();
        return None;
    }
    KNOWN_LAYOUTS[foot.trampoline].plan(foot, signing(foot.address))
}

/// [`plan`] for a stack that need not be the running one, and whose layout is known ([`learn`]).
/// Takes no lock and allocates nothing. `None` if its layout differs from the known one, or if its
/// entry function signs return addresses in a way that only its unwind table shows.
#[cfg(target_env = "gnu")]
pub(super) fn plan_elsewhere(foot: Foot) -> Option<SlotPlan> {
    KNOWN_LAYOUTS[foot.trampoline].plan(foot, || None)
}

/// Learns the layout of the exit trampoline that the stack with this foot ends in, from the memory of
/// that stack, which need not be the running one. Returns whether it is known now.
///
/// # Safety
/// The foot, and the [`REACH`] bytes above it, must be memory of a stack.
#[cfg(target_env = "gnu")]
pub(super) unsafe fn learn(foot: Foot) -> Result<bool, Error> {
    let layout = &KNOWN_LAYOUTS[foot.trampoline];
    if layout.distance.load(Ordering::Acquire) != 0 {
        return Ok(true);
    }
    let secret = SECRET.load(Ordering::Acquire);
    // SAFETY: the caller's promise.
    let landing = unsafe { Landing::search(foot.base, secret, trampoline::original(foot.trampoline)) };
    if landing.is_some() {
        plan_with(foot, landing, || None)?;
    }
    Ok(layout.distance.load(Ordering::Acquire) != 0)
}

/// Whether some thread's landing has shown the secret of all landings, which [`learn`] needs.
#[cfg(target_env = "gnu")]
pub(super) fn knows_secret() -> bool {
    KNOWN_LAYOUTS.iter().any(|layout| layout.distance.load(Ordering::Acquire) != 0)
}

/// What libc mixes into the pointers of all landings.
#[cfg(target_env = "gnu")]
static SECRET: AtomicUsize = AtomicUsize::new(0);

/// The layout that the first thread of an exit trampoline has shown. A function's frame has one
/// shape, so the feet and landings of all its threads have one, too.
#[repr(align(64))]
struct KnownLayout {
    /// The landing's distance above the base. Zero before the first thread was armed.
    distance: AtomicUsize,
    /// The landing's original target, and the label that replaces it.
    lands: AtomicUsize,
    landing_label: AtomicUsize,
    /// The original in the foot, and the label that replaces it if the spare word keeps the
    /// original.
    original: AtomicUsize,
    label: AtomicUsize,
}

static KNOWN_LAYOUTS: [KnownLayout; trampoline::COUNT] = [const {
    KnownLayout {
        distance: AtomicUsize::new(0),
        lands: AtomicUsize::new(0),
        landing_label: AtomicUsize::new(0),
        original: AtomicUsize::new(0),
        label: AtomicUsize::new(0),
    }
}; trampoline::COUNT];

impl KnownLayout {
    /// The plan for a stack with this layout. `None` if its layout differs.
    #[inline]
    fn plan(&self, foot: Foot, signing: impl FnOnce() -> Option<arch::Signing>) -> Option<SlotPlan> {
        let distance = self.distance.load(Ordering::Acquire);
        if distance == 0 {
            return None;
        }
        let [lands, landing_label, original, label] =
            [&self.lands, &self.landing_label, &self.original, &self.label].map(|word| word.load(Ordering::Relaxed));
        // SAFETY: `exit/walk.rs` found a return to this trampoline's original at the base, and the
        // distance was found there.
        let landing = unsafe { Landing::at_distance(foot.base, distance, lands) }?;
        let spare = landing.spare();
        if spare == foot.address {
            return None;
        }
        let word = arch::replace_address(foot.word, original, label, foot.base, signing)?;
        Some(SlotPlan {
            word,
            keep: Some((spare, original)),
            landing: Some(LandingPlan { landing, target: landing_label }),
        })
    }

    /// Stores a stack's layout. All stacks of this trampoline have the same, so the order of stores
    /// does not matter.
    fn note(&self, landing: Landing, lands: usize, landing_label: usize, original: usize, label: usize) {
        self.lands.store(lands, Ordering::Relaxed);
        self.landing_label.store(landing_label, Ordering::Relaxed);
        #[cfg(target_env = "gnu")]
        SECRET.store(landing.secret(), Ordering::Release);
        self.original.store(original, Ordering::Relaxed);
        self.label.store(label, Ordering::Relaxed);
        self.distance.store(landing.distance(), Ordering::Release);
    }
}

/// [`plan`] for a stack without a known layout.
#[inline(never)]
fn plan_unknown(foot: Foot) -> Result<SlotPlan, Error> {
    plan_with(foot, find_landing(trampoline::kind(foot.trampoline), foot.base), signing(foot.address))
}

/// [`plan_unknown`] for a stack with this landing.
fn plan_with(
    foot: Foot,
    landing: Option<Landing>,
    signing: impl FnOnce() -> Option<arch::Signing>,
) -> Result<SlotPlan, Error> {
    let number = foot.trampoline;
    let original = trampoline::original(number);
    // The frame of `enter` has such a word as well, which holds the original already.
    let entered = (original == trampoline::enter_return()).then_some(foot.base);
    // If another copy of the library keeps the original in the spare word, that word is the foot of
    // this copy.
    let spare = landing.map(Landing::spare).or(entered).filter(|&spare| spare != foot.address);
    let keeping = spare.and_then(|spare| Some((spare, trampoline::label_for_spare_word(spare - foot.base)?)));
    let label = keeping.map_or_else(|| trampoline::label(number), |(_, label)| label);
    let Some(word) = arch::replace_address(foot.word, original, label, foot.base, signing) else {
        return Err(Error::ForeignFoot { address: foot.address, found: foot.word, expected: original });
    };
    let mut lands = None;
    // Only a landing that no code has redirected.
    let unredirected = landing.and_then(|landing| {
        landing.target(original).filter(|&target| !trampoline::is_label(target)).map(|target| (landing, target))
    });
    if let Some((landing, target)) = unredirected {
        let landing_label = trampoline::label(recognition::add_landing(target, number)?);
        if keeping.is_some() {
            KNOWN_LAYOUTS[number].note(landing, target, landing_label, original, label);
        }
        lands = Some(LandingPlan { landing, target: landing_label });
    }
    Ok(SlotPlan { word, keep: keeping.map(|(spare, _)| (spare, original)), landing: lands })
}

/// The redirect of the landing of the stack with this foot, if it has a landing that no code has
/// redirected.
pub(super) fn plan_landing(foot: Foot) -> Result<Option<LandingPlan>, Error> {
    let number = foot.trampoline;
    let Some(landing) = find_landing(trampoline::kind(number), foot.base) else { return Ok(None) };
    let target = landing.target(trampoline::original(number)).filter(|&target| !trampoline::is_label(target));
    target
        .map(|target| Ok(LandingPlan { landing, target: trampoline::label(recognition::add_landing(target, number)?) }))
        .transpose()
}

fn find_landing(kind: Kind, base: usize) -> Option<Landing> {
    if matches!(kind, Kind::Thread | Kind::Main) { Landing::find(base) } else { None }
}

/// Redirects the exit of the running stack, whose foot is at `foot`.
///
/// # Safety
/// `writes` must come from [`plan`] for the running stack, and its record must be ready to be
/// drained: from here on the entry function returns into the trampoline.
#[inline]
pub(super) unsafe fn redirect(foot: usize, writes: SlotPlan) {
    if let Some((spare, original)) = writes.keep {
        // SAFETY: a word of the exit trampoline's frame that glibc does not use, or of
        // `exeunt_call_entry`'s that exists for this. It has to be there before the foot leads
        // unwinders to it.
        unsafe { AtomicUsize::from_ptr(spare as *mut usize) }.store(original, Ordering::Release);
    }
    if let Some(lands) = writes.landing {
        // SAFETY: the caller's promise.
        unsafe { lands.redirect() };
    }
    // SAFETY: the foot is an aligned word of the running stack, and only this stack's code uses it.
    // The walk found the return address there, and `plan` that it can be replaced.
    unsafe { AtomicUsize::from_ptr(foot as *mut usize) }.store(writes.word, Ordering::Release);
}

/// How the running stack's entry function, whose return address is at `foot`, signs it, if its
/// unwind table says.
fn signing(foot: usize) -> impl FnOnce() -> Option<arch::Signing> {
    // SAFETY: these are registers of the running stack.
    move || unsafe { unwind::quick::signing(arch::Registers::here(), foot) }
}

/// Puts the exit of the running stack back. Returns whether that was possible. If not, nothing has
/// changed.
///
/// # Safety
/// As for [`super::plan::restore`].
pub(super) unsafe fn restore(record: &Record) -> bool {
    let original = trampoline::original(record.trampoline());
    let base = arch::tagged_as(record.base(), record.canary_at());
    // SAFETY: a live record's foot is a word of this stack.
    let foot = unsafe { AtomicUsize::from_ptr(record.canary_at() as *mut usize) };
    let found = foot.load(Ordering::Relaxed);
    let label = arch::strip(found);
    if !record.is_found_by_walk() {
        // A C scope's foot is no return address, so there is nothing to put back.
        foot.store(0, Ordering::Release);
    } else {
        let word = arch::replace_address(found, label, original, base, signing(record.canary_at()));
        let Some(word) = word.filter(|_| trampoline::is_label(label)) else { return false };
        foot.store(word, Ordering::Release);
    }
    // SAFETY: the caller's promise.
    unsafe { restore_landing(record) };
    true
}

/// Puts the running stack's landing back, if it was redirected.
///
/// # Safety
/// As for [`restore`].
pub(super) unsafe fn restore_landing(record: &Record) {
    let landing = find_landing(record.kind(), arch::tagged_as(record.base(), record.canary_at()));
    let target = landing.and_then(|landing| landing.target(trampoline::original(record.trampoline())));
    if let (Some(landing), Some(number)) = (landing, target.and_then(trampoline::number_of_label)) {
        // SAFETY: the target before it was redirected.
        unsafe { landing.set_target(trampoline::original(number)) };
    }
}
