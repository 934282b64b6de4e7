//! The running stack as one sees it from outside: what it is, where its foot is, whether it is armed.

use crate::base::alloc::{refused, try_box};
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::base::redirect::Redirect;
use crate::base::redirect::Way;
use crate::base::stack_id::StackId;
use crate::exit::recognition;
use crate::exit::redirect;
use crate::exit::trampoline;
use crate::exit::walk::{self, Bottom};
use crate::face::slots;
use crate::life::arm;
use crate::life::safety_net;
use crate::machine::arch::{self, Registers};
use crate::machine::clib;
use crate::machine::os;
use crate::map::stack_map;
use crate::record::header::{Handler, Lent, Record};
use std::fmt;
use std::ops::Range;

/// A stack's foot: the word that holds its entry function's return address.
#[derive(Clone, PartialEq, Eq)]
pub struct FootInfo {
    /// Where the word is.
    pub address: usize,
    /// What was found there: on a stack that is armed by slot redirect the address of a trampoline of ours, while it drains
    /// a mark, else the return address. On aarch64 it may be signed.
    pub word: usize,
    /// The return address into the exit trampoline, which is what an unarmed stack's word says.
    pub original: usize,
    /// The name of the exit trampoline.
    pub trampoline: String,
}

impl fmt::Debug for FootInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FootInfo")
            .field("address", &format_args!("{:#x}", self.address))
            .field("word", &format_args!("{:#x}", self.word))
            .field("original", &format_args!("{:#x}", self.original))
            .field("trampoline", &self.trampoline)
            .finish()
    }
}

/// The running stack, as it was when [`Stack::current`] looked. To look at a stack does not arm it.
///
/// # Examples
/// ```
/// std::thread::spawn(|| {
///     let before = exeunt::Stack::current();
///     assert!(!before.is_armed());
///     exeunt::at_exit(|| ())?;
///     let after = exeunt::Stack::current();
///     assert!(after.is_armed());
///     assert_eq!(after.kind(), exeunt::Kind::Thread);
///     println!("{after:#?}");
///     Ok::<(), exeunt::Error>(())
/// }).join().unwrap().unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Stack {
    id: Option<StackId>,
    kind: Kind,
    bounds: Option<Bounds>,
    foot: Option<FootInfo>,
    draining: bool,
    problem: Option<Error>,
}

#[derive(Clone)]
struct Bounds(Range<usize>);

impl fmt::Debug for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.0.start, self.0.end)
    }
}

impl Stack {
    /// Looks at the running stack.
    pub fn current() -> Self {
        // SAFETY: these are registers of the running stack.
        let bottom = unsafe { walk::bottom(Registers::here()) };
        let mistake = match bottom {
            Ok(Bottom::Armed(record, _)) => arm::mistake(record, arch::stack_pointer()),
            _ => None,
        };
        match mistake.map_or(bottom, Ok) {
            Ok(Bottom::Armed(record, _)) => Self::armed(record),
            Ok(Bottom::Bare(foot, _)) => {
                let kind = trampoline::kind(foot.trampoline);
                Self {
                    id: None,
                    kind,
                    bounds: bounds(kind, foot.top),
                    foot: Some(info(foot.address, foot.word, foot.trampoline)),
                    draining: false,
                    problem: redirect::problem(foot),
                }
            }
            Err(error) => Self {
                id: None,
                kind: if error == Error::SignalStack { Kind::Signal } else { Kind::Unknown },
                bounds: None,
                foot: None,
                draining: false,
                problem: Some(error),
            },
        }
    }

    fn armed(record: &'static Record) -> Self {
        // Its foot may have moved. Where no walk leads to it, this is where it was.
        arm::has_found_foot(record);
        // What stands for the foot while it drains, else the foot itself, which is not always the canary.
        let foot = if record.way() == Way::Code && !record.is_draining() { record.place() } else { record.foot() };
        // SAFETY: a live record's foot is a word of this stack.
        let word = unsafe { (foot as *const usize).read_volatile() };
        Self {
            id: record.id(),
            kind: record.kind(),
            bounds: bounds(record.kind(), record.top()),
            foot: Some(info(foot, word, record.trampoline())),
            draining: record.is_draining(),
            problem: None,
        }
    }

    /// Its identity, if it is armed.
    pub fn id(&self) -> Option<StackId> {
        self.id
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The addresses of its memory. For a thread and for the main thread they are the system's word. For a fiber the
    /// upper one is where its entry function returns, and the lower one that of the mapping that its memory is part of.
    pub fn bounds(&self) -> Option<Range<usize>> {
        self.bounds.as_ref().map(|bounds| bounds.0.clone())
    }

    /// Its foot, if it was found.
    pub fn foot(&self) -> Option<&FootInfo> {
        self.foot.as_ref()
    }

    /// Whether its exit is ours, or it is draining already.
    pub fn is_armed(&self) -> bool {
        self.id.is_some()
    }

    /// Whether its entry function has returned and its handlers are running.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Why it cannot be armed, if it cannot.
    pub fn problem(&self) -> Option<&Error> {
        self.problem.as_ref()
    }
}

fn info(address: usize, word: usize, number: usize) -> FootInfo {
    FootInfo {
        address,
        word,
        original: trampoline::original(number),
        trampoline: trampoline::name(number).to_string_lossy().into_owned(),
    }
}

fn bounds(kind: Kind, top: usize) -> Option<Bounds> {
    let top = arch::untagged(top);
    let range = match kind {
        Kind::Thread | Kind::Main => clib::thread_bounds().filter(|bounds| bounds.contains(&(top - 1))),
        _ => None,
    };
    range.or_else(|| os::mapping_around(top - 1).map(|mapping| mapping.start..top)).map(Bounds)
}

/// The identity of the running stack, which is armed if it was not.
///
/// It stays the same until the stack ends or is unloaded, wherever a fiber runs.
///
/// # Errors
/// Where the stack cannot be armed.
///
/// # Examples
/// ```
/// let here = std::thread::spawn(exeunt::id).join().unwrap()?;
/// let there = std::thread::spawn(exeunt::id).join().unwrap()?;
/// assert_ne!(here, there);
/// # Ok::<(), exeunt::Error>(())
/// ```
pub fn id() -> Result<StackId, Error> {
    arm::record()?.id().ok_or(Error::Busy)
}

/// Registers a handler that runs when this stack's entry function has returned. The stack is armed if it was not.
///
/// Handlers run last in, first out, on this very stack, before its `thread_local!` destructors and pthread keys, with
/// all stack-local values still there. A handler may use storage and register more handlers; those run too. One that
/// panics is reported by the panic hook, and the others still run. A handler must not end its thread by `pthread_exit`.
///
/// The stack's other ends run them as well: `pthread_exit` and cancellation, and on the main thread `exit`, also when
/// called somewhere deep. What a [`with`](crate::with) that calls `exit` has lent is never dropped:
/// another thread may be using it. They do not run when the process ends in another way: by
/// `_exit`, by a fatal signal, or by an
/// `exit` that another thread calls, or a fiber, or what runs in [`enter`](crate::enter()).
///
/// A handler on the main thread may call C's `exit`, and the rest is drained first. Rust's `std::process::exit` aborts there
/// when `main` has returned: std counts that as the first call, and allows no second one.
///
/// # Errors
/// Where the stack cannot be armed, and [`Error::OutOfMemory`]. Then `handler` is dropped, and
/// nothing has changed.
///
/// # Examples
/// ```
/// use std::sync::mpsc::channel;
/// let (sender, receiver) = channel();
/// std::thread::spawn(move || {
///     exeunt::at_exit(move || sender.send("gone").unwrap()).unwrap();
/// });
/// assert_eq!(receiver.recv(), Ok("gone"));
/// ```
pub fn at_exit(handler: impl FnOnce() + 'static) -> Result<(), Error> {
    register(try_box(handler).map_err(|_| refused())?).map_err(|(error, _)| error)
}

/// [`at_exit`], which gives the handler back with the error.
#[inline]
pub(crate) fn register(handler: Handler) -> Result<(), (Error, Handler)> {
    match arm::record_or_new() {
        Ok((record, is_new)) => record.push(handler).map_err(|(error, handler)| (undo(record, is_new, error), handler)),
        Err(error) => Err((error, handler)),
    }
}

/// After an error, puts the exit of the running stack back if it was armed for nothing.
#[cold]
pub(crate) fn undo(record: &'static Record, is_new: bool, error: Error) -> Error {
    // Not where the allocator, or a handler of a stack that was found abandoned, has stored
    // something meanwhile.
    if is_new && !record.is_draining() && record.is_empty() {
        disarm(record);
    }
    error
}

/// Drops all values of this stack, last set first, and keeps its handlers. Does nothing on a stack that is not armed.
///
/// A keyed value that a [`with`](crate::with) further up is looking at is dropped when that is done. A stack local that
/// is borrowed by a `with` further up is out of reach at once, and is dropped when the stack ends.
/// (Where it ends by `exit` in that `with`, neither is ever dropped.)
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// exeunt::set("k", 1)?;
/// exeunt::reset();
/// assert_eq!(exeunt::get::<i32>(&"k"), None);
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
pub fn reset() {
    if let Some(record) = arm::lookup_certain() {
        clear(record);
    }
}

/// Drops all values of this stack, forgets its handlers without running them, and puts its exit back: it is as it was
/// before it was armed. Does nothing on a stack that is not armed.
///
/// In a handler or a destructor, while the stack is ending, the exit is behind it: then the values and the handlers that
/// have not run yet are gone, and what is added later counts as any other. A stack that holds a stack local which is
/// borrowed by a `with` further up, or being made, stays armed for that value alone. In any case [`id`] gives another number afterwards.
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// let before = exeunt::id()?;
/// exeunt::at_exit(|| unreachable!("forgotten"))?;
/// exeunt::unload();
/// assert!(!exeunt::Stack::current().is_armed());
/// assert_ne!(exeunt::id()?, before);
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
pub fn unload() {
    let Some(record) = arm::lookup_certain() else { return };
    {
        // What is dropped here may unload as well.
        let _in_use = record.in_use();
        record.forget_handlers();
        clear(record);
    }
    if record.is_draining() || !record.is_empty() {
        let before = record.id();
        record.renew_id();
        safety_net::renew(record, before);
        #[cfg(target_os = "linux")]
        crate::life::main_key::renew(record, before);
        return;
    }
    disarm(record);
}

/// Puts the exit of the running stack back, whose record this is: it is empty, and does not drain.
fn disarm(record: &'static Record) {
    if let Some(table) = record.slots() {
        // Destructors may have looked at cells after these were cleared.
        slots::forget_places(table);
    }
    // SAFETY: this is the running stack's record, and it is not draining.
    if arm::has_found_foot(record) && unsafe { redirect::restore(record) } {
        record.retire();
    } else {
        // Nobody knows where the word is that has to be put back. So the stack stays armed, with nothing stored.
        let before = record.id();
        record.renew_id();
        safety_net::renew(record, before);
    }
}

/// Drops all values of the running stack, whose record this is.
fn clear(record: &'static Record) {
    let lent = lent_by_frames(record);
    let _in_use = record.in_use();
    record.forget_values(|local| lent.has(local, record.top()));
    if let Some(table) = record.slots() {
        slots::clear(table);
    }
}

/// What the frames of the stack with this record may have lent, from the caller's on.
#[inline(always)]
pub(crate) fn lent_by_frames(record: &'static Record) -> Lent {
    let here = arch::stack_pointer();
    // Only where this place is known to be on the same piece of memory as the foot can all of it be
    // searched. This frame's own place is looked up first, or it would be a matter of luck whether
    // it is known.
    let is_its = |found: Option<&'static Record>| found.is_some_and(|found| std::ptr::eq(found, record));
    if is_its(arm::lookup()) && is_its(stack_map::find(here)) {
        return Lent::By(here);
    }
    // A thread that was unwound by `pthread_exit` runs above its entry function's frame: then
    // nobody has borrowed any more.
    let is_unwound = |bounds: Range<usize>| bounds.contains(&here) && (bounds.start + 1..=here).contains(&record.top());
    if clib::thread_bounds().is_some_and(is_unwound) { Lent::Nothing } else { Lent::Anything }
}

/// What this process has met and keeps, for diagnosis.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Survey {
    /// The exit trampolines that are recognised: name, return address, kind of stack.
    pub trampolines: Vec<(String, usize, Kind)>,
    /// Stacks that are armed now.
    pub armed: usize,
    /// Bytes of one record, without its values.
    pub record_size: usize,
    /// Bytes of address space that the page map has reserved. Only touched pages of it cost memory.
    pub map_reserved: u64,
    /// Whether returns of this thread are checked against a shadow stack.
    pub shadow_stack: bool,
    /// How exits are redirected in this process, or will be from the first stack on that is armed.
    pub redirect: Redirect,
}

/// Says what this process has met and keeps. Recognises the exit trampolines of this system if that was not done yet. In a
/// child of `fork` the stacks of the parent's other threads are counted until what they had is found abandoned.
///
/// # Errors
/// Where the trampolines of this system cannot be set up, or `EXEUNT_REDIRECT` says nothing.
///
/// # Examples
/// ```
/// let survey = exeunt::survey()?;
/// assert!(survey.trampolines.iter().any(|(name, ..)| name == "start_thread"));
/// # Ok::<(), exeunt::Error>(())
/// ```
pub fn survey() -> Result<Survey, Error> {
    recognition::probe()?;
    let trampolines = (0..trampoline::known())
        .map(|number| {
            let unwound = if trampoline::is_landing(number) { ", unwound" } else { "" };
            let name = format!("{}{unwound}", trampoline::name(number).to_string_lossy());
            (name, trampoline::original(number), trampoline::kind(number))
        })
        .collect();
    Ok(Survey {
        trampolines,
        armed: stack_map::all().filter(|record| record.id().is_some()).count(),
        record_size: size_of::<Record>(),
        map_reserved: stack_map::reserved(),
        shadow_stack: redirect::shadow_stack_active(),
        redirect: redirect::choice::likely()?.redirect(),
    })
}
