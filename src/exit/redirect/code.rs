//! Code redirect: the exit trampoline's own code calls a hook of ours, and every return address stays as it was.
//!
//! ```text
//!   start_thread, as it is              as it is patched, once per process
//!
//!   call *start_routine                 call *start_routine
//!   mov  %rax,%fs:result   <- returns   mov  %rax,%fs:result   <- returns
//!   call __call_tls_dtors               call hook ----------->  the stack is drained, if it is armed
//!   call __nptl_deallocate_tsd          call __nptl_deallocate_tsd       |
//!                          ^                                             v
//!                          +---------- returns here ------------ jmp __call_tls_dtors
//! ```
//!
//! The call that is retargeted is the first one on the one way that leads on from where entry functions return
//! (`sites.rs`). So each of them makes it, with the stack pointer at the stack's top, which is how the hook finds the
//! record. For glibc's threads it is also where `pthread_exit` and cancellation lead to. On macOS these two call the same
//! target from elsewhere, and the safety net catches them (`net.rs`).
//!
//! What arming writes on a stack is one word at the most, a mark (`mark.rs`).

use super::mark;
use super::{How, Way, sites, slot};
use crate::base::error::Error;
use crate::base::foot::Foot;
use crate::base::kind::Kind;
use crate::exit::trampoline;
use crate::life::drain;
use crate::machine::arch::word_of_stack;
use crate::map::stack_map;
use crate::record::header::{Lent, Record};
use std::hint::cold_path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What to write on the stack with this foot. Its exit trampoline is patched by this, if it was not yet.
pub(super) fn plan(foot: Foot) -> Result<How, Error> {
    sites::ensure(foot.trampoline)?;
    how(foot)
}

fn how(foot: Foot) -> Result<How, Error> {
    if !sites::lands_elsewhere(foot.trampoline) {
        return Ok(How::Code(mark::find(foot)?));
    }
    // No return address is written by that, so it is right with a shadow stack as well.
    slot::plan_landing(foot)?.map(How::CodeAndLanding).ok_or_else(|| {
        Error::NoCodeSite(
            format!(
                "{} ends in two ways, and pthread_exit's neither comes by the hook nor can be redirected",
                trampoline::name(foot.trampoline).to_string_lossy()
            )
            .into(),
        )
    })
}

/// Why the stack with this foot cannot be armed, if it cannot; nothing is changed.
pub(super) fn problem(foot: Foot) -> Option<Error> {
    sites::problem(foot.trampoline).or_else(|| how(foot).err())
}

/// The record of the running stack, whose foot is this, if it is armed by code redirect: then its return address does not say.
#[inline]
pub(crate) fn owner(foot: Foot) -> Option<&'static Record> {
    if !super::choice::is_code() {
        return None;
    }
    cold_path();
    let record = stack_map::by_top(foot.top).filter(|record| record.way() == Way::Code)?;
    // A function that has not returned is not of a stack that drains, but for the ends of a thread that unwind nothing.
    let goes_on = record.is_armed() || matches!(record.kind(), Kind::Thread | Kind::Main);
    let is_here = goes_on && record.place() == foot.address && record.is_live();
    (is_here || cfg!(target_arch = "aarch64") && follow(record, foot)).then_some(record)
}

/// Lets the record follow its stack's foot to this place, as [`Record::follow`] does. Whether it is that stack's.
#[cold]
fn follow(record: &Record, foot: Foot) -> bool {
    if !record.is_armed() {
        return false;
    }
    let (place, word) = record.canary();
    let is_marked = word == mark::word(record);
    let canary = match record.kind() {
        // No other stack can be here before their end is seen.
        Kind::Thread | Kind::Main => Some(place),
        // The mark is in a frame of ours.
        Kind::Entered if is_marked => Some(place),
        // The mark is the frame pointer that the function saved whose frame is gone. It had it back in the register when it jumped, and
        // the next one has saved it again: next to the return address, where the walk cannot say.
        Kind::Fiber if is_marked => {
            let at = foot.frame_pointer_at.unwrap_or(foot.address - 8);
            // SAFETY: a word of the running stack, as the walk found it or right below its foot.
            (unsafe { word_of_stack(at) } == word).then_some(at)
        }
        // Without a mark, memory of a stack that was suspended for ever is to be discarded before another one is here.
        _ if (place, word) == record.life() => Some(place),
        _ => None,
    };
    let Some(canary) = canary else { return false };
    record.move_foot(foot.address, (canary, word));
    record.is_live()
}

unsafe extern "C" {
    /// `asm/`: where the hook in our own frame returns to.
    safe fn exeunt_hooked_behind();
}

/// Where the calls are behind which exit trampolines go on when a hook has drained a stack.
static BEHIND: [AtomicUsize; trampoline::HOOKS + 1] = [const { AtomicUsize::new(0) }; trampoline::HOOKS + 1];

/// Makes `address` known as one that a hook returns to. The caller holds the recognition lock.
#[cfg(code_redirect)]
pub(super) fn add_behind(address: usize) {
    let free = BEHIND.iter().find(|behind| [0, address].contains(&behind.load(Ordering::Relaxed)));
    // There are as many as hooks.
    if let Some(free) = free {
        free.store(address, Ordering::Release);
    }
}

/// The record of the stack that a hook drains, where a call at `slot` returns to `address` with the stack pointer `sp`.
#[inline(always)]
pub(crate) fn draining(address: usize, slot: usize, sp: usize) -> Option<&'static Record> {
    if super::choice::is_code() { draining_by_hook(address, slot, sp) } else { None }
}

fn draining_by_hook(address: usize, slot: usize, sp: usize) -> Option<&'static Record> {
    let known = |behind: &AtomicUsize| behind.load(Ordering::Acquire) == address;
    if !BEHIND.iter().any(known) && address != exeunt_hooked_behind as *const () as usize {
        return None;
    }
    let draining = |record: &&Record| record.way() == Way::Code && record.is_draining() && record.is_live();
    // In x86_64's __start_context, arguments of the entry function may have been between its top and here.
    stack_map::by_top(sp)
        .filter(draining)
        .or_else(|| stack_map::all().find(|record| record.foot() == slot && draining(record)))
}

/// Called by the hooks when a stack ends, whether it is armed or not: `slot` is a word that keeps its value while this runs,
/// and stands for the foot meanwhile; `top` the stack pointer of the exit trampoline, and `frame_pointer` its register.
///
/// # Safety
/// Only for the hooks in `asm/`, in whose frame `slot` is.
#[unsafe(no_mangle)]
unsafe extern "C" fn exeunt_hook(slot: *mut usize, top: usize, frame_pointer: usize) {
    // A record that is still here may be of a stack that was abandoned, whose memory this one has.
    let own = |record: &&Record| {
        record.ends_at_hook() && (record.kind() != Kind::Fiber || mark::comes_back(record, frame_pointer))
    };
    let Some(record) = stack_map::by_top(top).filter(own) else { return };
    // SAFETY: the caller's promise.
    unsafe { end(record, slot) };
}

/// Called by the hook in x86_64's `__start_context`, with the address of the word that holds `mark`. Returns the `uc_link`
/// that the mark stands for.
///
/// # Safety
/// Only for the hook in `asm/`, in whose frame `slot` is.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
unsafe extern "C" fn exeunt_context_hook_ends(slot: *mut usize, place: usize, mark: usize) -> usize {
    let marked = stack_map::at(mark - 1).filter(|record| record.canary() == (place, mark) && record.ends_at_hook());
    // Not ours, so this is as far as the fiber goes: the next instructions will read a context at an odd address.
    let Some(record) = marked else { return mark };
    let link = record.under_mark();
    // To unwinders this is the return address of __start_context, as its table says nothing else. Nobody looks at it any
    // more but they, and zero is where they end.
    // SAFETY: a word of this stack, in which the mark was.
    unsafe { (place as *mut usize).write_volatile(0) };
    // SAFETY: the caller's promise.
    unsafe { end(record, slot) };
    link
}

/// Drains the running stack, whose end this is.
///
/// # Safety
/// `slot` must be a word that keeps its value while this runs.
unsafe fn end(record: &'static Record, slot: *mut usize) {
    record.ending();
    // SAFETY: the caller's promise.
    let word = unsafe { *slot };
    record.watch(slot as usize, word);
    drain::finish(record, Lent::Nothing);
}

/// What is known of a place at which code redirect enters an exit trampoline, patched or not: see [`code_sites`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CodeSite {
    /// The exit trampoline's name.
    pub trampoline: String,
    /// What kind of stack ends there.
    pub kind: Kind,
    /// The address of the instruction; zero where none was found.
    pub address: usize,
    /// The address behind it: that is where a backtrace from a handler has the exit trampoline.
    pub behind: usize,
    /// Bytes and disassembly without the patch.
    pub before: String,
    /// Bytes and disassembly with it.
    pub after: String,
    /// Where the code in reach of it is that leads to the hook.
    pub stub: Option<usize>,
    /// Whether it is patched now.
    pub applied: bool,
    /// Why it cannot be, if it cannot.
    pub problem: Option<Error>,
}

impl CodeSite {
    /// One of the exit trampoline `number`, of which nothing more is known.
    pub(super) fn blank(number: usize) -> Self {
        Self {
            trampoline: trampoline::name(number).to_string_lossy().into_owned(),
            kind: trampoline::kind(number),
            address: 0,
            behind: 0,
            before: String::new(),
            after: String::new(),
            stub: None,
            applied: false,
            problem: None,
        }
    }
}

/// The places at which code redirect enters this process's exit trampolines, or would. Nothing is patched by this.
///
/// # Errors
/// Where the trampolines of this system cannot be set up.
///
/// # Examples
/// ```
/// for site in exeunt::code_sites()? {
///     match &site.problem {
///         None => println!("{}: {} -> {}", site.trampoline, site.before, site.after),
///         Some(problem) => println!("{}: {problem}", site.trampoline),
///     }
/// }
/// # Ok::<(), exeunt::Error>(())
/// ```
pub fn code_sites() -> Result<Vec<CodeSite>, Error> {
    crate::exit::recognition::probe()?;
    Ok((0..trampoline::known()).filter(|&number| !trampoline::is_landing(number)).flat_map(super::survey).collect())
}
