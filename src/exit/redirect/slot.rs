//! Slot redirect: one word of the stack, its foot, is rewritten; on a thread also where it lands without a return.

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
use std::hint::cold_path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is to be written.
#[derive(Clone, Copy)]
pub(super) struct SlotPlan {
    /// The word for the foot.
    pub(super) word: usize,
    /// The word at or above the base that keeps the original address, and that address.
    keep: Option<(usize, usize)>,
    /// Where the thread is to land.
    landing: Option<LandingPlan>,
}

/// A thread's landing, and where it is to lead.
#[derive(Clone, Copy)]
pub(super) struct LandingPlan {
    landing: Landing,
    target: usize,
}

impl LandingPlan {
    /// Redirects the landing.
    ///
    /// # Safety
    /// It must be the running stack's, and that stack's record be ready to be drained.
    pub(super) unsafe fn redirect(self) {
        // SAFETY: a trampoline runs on the exit trampoline's stack pointer, and keeps its registers.
        unsafe { self.landing.set_target(self.target) };
    }
}

impl SlotPlan {
    /// Whether the thread drains as well where it lands without a return.
    pub(super) fn redirects_landing(&self) -> bool {
        self.landing.is_some()
    }
}

/// What to write for the stack with this foot; nothing of it has been written yet.
#[inline]
pub(super) fn plan(foot: Foot) -> Result<SlotPlan, Error> {
    if shadow_stack::is_active() {
        cold_path();
        return Err(Error::ShadowStack);
    }
    match KNOWN_LAYOUTS[foot.trampoline].plan(foot) {
        Some(writes) => Ok(writes),
        None => plan_unknown(foot),
    }
}

/// What the first thread with an exit trampoline has shown for all of them: a function's frame has one shape, and so have its
/// threads' feet and landings.
#[repr(align(64))]
struct KnownLayout {
    /// How far above the base the landing is. Zero before the first has shown it.
    distance: AtomicUsize,
    /// Where the landing leads, and where it is to lead.
    lands: AtomicUsize,
    landing_label: AtomicUsize,
    /// What the foot holds, and what it is to hold where the spare word keeps the original.
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
    /// The plan for a stack like those before; `None` where it is not like them.
    #[inline]
    fn plan(&self, foot: Foot) -> Option<SlotPlan> {
        let distance = self.distance.load(Ordering::Acquire);
        if distance == 0 {
            return None;
        }
        let [lands, landing_label, original, label] =
            [&self.lands, &self.landing_label, &self.original, &self.label].map(|word| word.load(Ordering::Relaxed));
        // SAFETY: `foot.rs` found a return to this trampoline's original at the base, and the distance was found there.
        let landing = unsafe { Landing::at_distance(foot.base, distance, lands) }?;
        let spare = landing.spare();
        if spare == foot.address {
            return None;
        }
        let word = arch::replace_address(foot.word, original, label, foot.base, signing(foot.address))?;
        Some(SlotPlan {
            word,
            keep: Some((spare, original)),
            landing: Some(LandingPlan { landing, target: landing_label }),
        })
    }

    /// Notes what a stack has shown. All that end in this trampoline show the same, whoever is first.
    fn note(&self, landing: Landing, lands: usize, landing_label: usize, original: usize, label: usize) {
        self.lands.store(lands, Ordering::Relaxed);
        self.landing_label.store(landing_label, Ordering::Relaxed);
        self.original.store(original, Ordering::Relaxed);
        self.label.store(label, Ordering::Relaxed);
        self.distance.store(landing.distance(), Ordering::Release);
    }
}

/// [`plan`] for a stack that is not known to be like others.
#[inline(never)]
fn plan_unknown(foot: Foot) -> Result<SlotPlan, Error> {
    let number = foot.trampoline;
    let original = trampoline::original(number);
    let landing = find_landing(trampoline::kind(number), foot.base);
    // The frame of `enter` has such a word as well, and in it the original already.
    let entered = (original == trampoline::enter_return()).then_some(foot.base);
    // Another copy of the library keeps the original in the spare word: then that word is the foot of this one.
    let spare = landing.map(Landing::spare).or(entered).filter(|&spare| spare != foot.address);
    let keeping = spare.and_then(|spare| Some((spare, trampoline::label_for_spare_word(spare - foot.base)?)));
    let label = keeping.map_or_else(|| trampoline::label(number), |(_, label)| label);
    let Some(word) = arch::replace_address(foot.word, original, label, foot.base, signing(foot.address)) else {
        return Err(Error::ForeignFoot { address: foot.address, found: foot.word, expected: original });
    };
    let mut lands = None;
    // If nobody has redirected it.
    if let Some(landing) = landing
        && let Some(target) = landing.target(original).filter(|&target| !trampoline::is_label(target))
    {
        let landing_label = trampoline::label(recognition::add_landing(target, number)?);
        if keeping.is_some() {
            KNOWN_LAYOUTS[number].note(landing, target, landing_label, original, label);
        }
        lands = Some(LandingPlan { landing, target: landing_label });
    }
    Ok(SlotPlan { word, keep: keeping.map(|(spare, _)| (spare, original)), landing: lands })
}

/// Where to let the stack with this foot land, if it has a landing that nobody has redirected.
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
/// `writes` must come from [`plan`] for the running stack, and its record be ready to be drained: from here on the entry
/// function returns into the trampoline.
#[inline]
pub(super) unsafe fn redirect(foot: usize, writes: SlotPlan) {
    if let Some((spare, original)) = writes.keep {
        // SAFETY: a word of the exit trampoline's frame that glibc does not use, or of `exeunt_call_entry`'s that is for this.
        // It has to be there before the foot leads unwinders to it.
        unsafe { AtomicUsize::from_ptr(spare as *mut usize) }.store(original, Ordering::Release);
    }
    if let Some(lands) = writes.landing {
        // SAFETY: the caller's promise.
        unsafe { lands.redirect() };
    }
    // SAFETY: the foot is an aligned word of the running stack, and nobody but this stack's code uses it. The unwinder
    // found the return address there, and `plan` that it is one which can be replaced.
    unsafe { AtomicUsize::from_ptr(foot as *mut usize) }.store(writes.word, Ordering::Release);
}

/// How the running stack's entry function, whose return address is at `foot`, signs it, if its unwind table says.
fn signing(foot: usize) -> impl FnOnce() -> Option<arch::Signing> {
    // SAFETY: these are registers of the running stack.
    move || unsafe { unwind::quick::signing(arch::Registers::here(), foot) }
}

/// Puts the exit of the running stack back. Whether it could: if not, nothing has changed.
///
/// # Safety
/// As for [`super::restore`].
pub(super) unsafe fn restore(record: &Record) -> bool {
    let original = trampoline::original(record.trampoline());
    let base = arch::tagged_as(record.base(), record.canary_at());
    // SAFETY: a live record's foot is a word of this stack.
    let foot = unsafe { AtomicUsize::from_ptr(record.canary_at() as *mut usize) };
    let found = foot.load(Ordering::Relaxed);
    let label = arch::strip(found);
    if !record.is_reached_by_walk() {
        // A C scope's foot is no return address: nothing leads to us from there.
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

/// Lets the running stack land where it did before it was armed, if that was redirected.
///
/// # Safety
/// As for [`restore`].
pub(super) unsafe fn restore_landing(record: &Record) {
    let landing = find_landing(record.kind(), arch::tagged_as(record.base(), record.canary_at()));
    let target = landing.and_then(|landing| landing.target(trampoline::original(record.trampoline())));
    if let (Some(landing), Some(number)) = (landing, target.and_then(trampoline::number_of_label)) {
        // SAFETY: where it landed before.
        unsafe { landing.set_target(trampoline::original(number)) };
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use crate::Builder;
    use crate::Redirect;
    use crate::Stack;
    use crate::exit::trampoline;
    use crate::life::lookup;
    use crate::machine::arch::strip;

    #[test]
    fn a_stack_under_enter_keeps_the_original_address_where_its_trampoline_says() {
        crate::base::testing::alone(
            "exit::redirect::slot::tests::a_stack_under_enter_keeps_the_original_address_where_its_trampoline_says",
            "EXEUNT_TEST_KEEPS",
            || {
                assert_eq!(Builder::new().redirect(Redirect::Slot).install(), Ok(()));
                std::thread::spawn(|| {
                    crate::enter(|| {
                        crate::at_exit(|| ()).expect("it can be armed");
                        let foot = Stack::current().foot().cloned().expect("it is armed");
                        let base = lookup::lookup().expect("it is armed").base();
                        let number = (0..8)
                            .position(|word| trampoline::label_for_spare_word(8 * word) == Some(strip(foot.word)));
                        let number = number.expect("its label is of those whose stacks keep the address");
                        // SAFETY: a word of the frame above the foot.
                        let kept = unsafe { ((base + 8 * number) as *const usize).read() };
                        assert_eq!((kept, kept), (foot.original, trampoline::enter_return()));
                    })
                    .expect("a fresh thread");
                })
                .join()
                .expect("no panic in the thread");
            },
        );
    }
}
