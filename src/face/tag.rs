//! Stack tags: a number that is stored only in the call stack itself. [`run`], [`ensure`],
//! [`current`].
//!
//! [`run`] calls a function through a few frames that do nothing, one for each hexadecimal digit of
//! the number. There are 16 kinds of frames, which differ in their return address. [`current`]
//! unwinds and reads the digits back. That needs no redirect and no storage, so it works on any
//! stack that can be unwound, also where nothing can be armed. Each read costs an unwinding. This
//! is the technique of jtolds/gls, in assembly, so that no optimiser can inline or merge the
//! frames.

use crate::machine::arch::Registers;
use crate::machine::os;
use crate::unwind::frame::{Step, Steps};
use crate::unwind::quick::Unwinder;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes from one digit's frame function to the next, and where in it the call returns to: `asm/`.
const SIZE: usize = 32;
#[cfg(target_arch = "x86_64")]
const RETURN: usize = 10;
#[cfg(target_arch = "aarch64")]
const RETURN: usize = 16;
/// The kind of frame that begins a number.
const BEGIN: usize = 16;

unsafe extern "C-unwind" {
    /// `asm/`: 17 functions of `SIZE` bytes, each of which calls `call(data)` from a frame of its
    /// own.
    fn exeunt_tag_frames(data: *mut c_void, call: unsafe extern "C-unwind" fn(*mut c_void));
}

fn frames() -> usize {
    exeunt_tag_frames as *const () as usize
}

/// The kind of frame whose call returns to `address`, if that is a tag's frame.
fn kind_at(address: usize) -> Option<usize> {
    let offset = address.wrapping_sub(frames() + RETURN);
    (offset % SIZE == 0 && offset / SIZE <= BEGIN).then_some(offset / SIZE)
}

struct Work<F, R> {
    digits: [u8; 16],
    /// How many digits are not on the stack yet. The last ones go first.
    left: usize,
    entry: ManuallyDrop<F>,
    result: Option<R>,
}

/// Calls `f` with `tag` in the call stack.
///
/// Tags nest: the innermost one counts. Zero takes two frames, and a large number up to 17.
///
/// # Examples
/// ```
/// use exeunt::tag;
/// assert_eq!(tag::run(0xfeed, || tag::run(7, || tag::current())), Some(7));
/// assert_eq!(tag::current(), None);
/// ```
pub fn run<R>(tag: u64, f: impl FnOnce() -> R) -> R {
    let mut work = Work { digits: [0; 16], left: 0, entry: ManuallyDrop::new(f), result: None };
    let mut rest = tag;
    loop {
        work.digits[work.left] = (rest & 15) as u8;
        work.left += 1;
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    // SAFETY: no code has taken the closure yet.
    unsafe { call(BEGIN, &mut work) };
    work.result.expect("the innermost frame stores it")
}

/// # Safety
/// The closure in `work` must not have been taken.
unsafe fn call<F: FnOnce() -> R, R>(kind: usize, work: &mut Work<F, R>) {
    type Call = unsafe extern "C-unwind" fn(*mut c_void);
    // SAFETY: the functions stand one after the other, `SIZE` bytes apart, and all have the same
    // signature.
    let frame =
        unsafe { std::mem::transmute::<usize, unsafe extern "C-unwind" fn(*mut c_void, Call)>(frames() + SIZE * kind) };
    // SAFETY: `next` takes a `Work<F, R>`, and the frame calls it once.
    unsafe { frame(std::ptr::from_mut(work).cast(), next::<F, R>) };
}

unsafe extern "C-unwind" fn next<F: FnOnce() -> R, R>(work: *mut c_void) {
    // SAFETY: `call` passes its own `work`, and does not touch it meanwhile.
    let work = unsafe { &mut *work.cast::<Work<F, R>>() };
    if work.left > 0 {
        // The most significant digit is the outermost.
        work.left -= 1;
        let digit = usize::from(work.digits[work.left]);
        // SAFETY: the closure is taken below, after the last digit.
        unsafe { call(digit, work) };
    } else {
        // SAFETY: only this line takes the closure, and it runs once: `left` is zero only after the
        // last digit.
        let entry = unsafe { ManuallyDrop::take(&mut work.entry) };
        work.result = Some(entry());
    }
}

/// The innermost tag around the running code, or `None`.
///
/// # Examples
/// ```
/// assert_eq!(exeunt::tag::current(), None);
/// assert_eq!(exeunt::tag::run(0, exeunt::tag::current), Some(0));
/// ```
#[inline(never)]
#[must_use]
pub fn current() -> Option<u64> {
    let here = Registers::here();
    // SAFETY: registers of this function.
    let mut unwinder = unsafe { Unwinder::new(here) };
    match read(&mut unwinder) {
        Ok(tag) => tag,
        Err(NotWalkable) => walk_thoroughly(here),
    }
}

/// The walk could not go on.
struct NotWalkable;

/// Searches for a tag from the present frame outwards.
fn read(unwinder: &mut impl Steps) -> Result<Option<u64>, NotWalkable> {
    let mut reader = Reader { tag: 0, digits: 0 };
    loop {
        match unwinder.step() {
            Step::Caller { frame, .. } => {
                if let Some(tag) = reader.read(frame.registers.pc) {
                    return Ok(Some(tag));
                }
            }
            Step::Interrupted(_) => {}
            // A handler on its thread's alternate signal stack is an inner frame of what it has
            // interrupted.
            Step::InterruptedElsewhere(_) if os::on_signal_stack() => {}
            Step::InterruptedElsewhere(_) | Step::Switch | Step::Outermost | Step::NoTable => return Ok(None),
            Step::Unsupported => return Err(NotWalkable),
        }
    }
}

/// Reads digits on the way out, the least significant first, up to the frame that begins the
/// number.
struct Reader {
    tag: u64,
    digits: u32,
}

impl Reader {
    fn read(&mut self, address: usize) -> Option<u64> {
        match kind_at(address) {
            Some(BEGIN) => Some(self.tag),
            Some(digit) if self.digits < 16 => {
                self.tag |= (digit as u64) << (4 * self.digits);
                self.digits += 1;
                None
            }
            _ => None,
        }
    }
}

/// The thorough walk, for stacks with a frame that the quick one cannot leave.
#[cfg(target_os = "linux")]
#[cold]
fn walk_thoroughly(from: Registers) -> Option<u64> {
    crate::unwind::full_walk::from_frame_at(from.sp, |unwinder| read(unwinder).ok().flatten())
}

/// There is no thorough walk.
#[cfg(not(target_os = "linux"))]
fn walk_thoroughly(_from: Registers) -> Option<u64> {
    None
}

/// Calls `f` with the innermost tag around the running code. If there is none, this makes one,
/// different from all others that it has made in the process.
///
/// # Examples
/// ```
/// use exeunt::tag;
/// tag::ensure(|outer| {
///     tag::ensure(|inner| assert_eq!(inner, outer));
/// });
/// ```
pub fn ensure<R>(f: impl FnOnce(u64) -> R) -> R {
    static LAST: AtomicU64 = AtomicU64::new(0);
    match current() {
        Some(tag) => f(tag),
        None => {
            let tag = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            run(tag, || f(tag))
        }
    }
}
