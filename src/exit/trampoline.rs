//! The pool of trampolines: one for each exit trampoline that this process has met. `add` adds one.
//! The other functions convert between its number, its label and the original address.
//!
//! `asm/` holds the code. There are two kinds of trampolines, which differ in where they find the
//! original address.
//!
//! - Trampoline N of the first kind ends in a jump to the address in cell N: the return address
//!   into the N-th exit trampoline. A cell is filled once and never changes, so an armed stack can
//!   rely on its cell for ever. The cells' pages are read-only except while a cell is filled, as
//!   code that can write them decides where threads continue.
//! - The second kind has one trampoline for each distance. It takes the original from a word of the
//!   stack at that distance above the base, where glibc's exit trampolines have one to spare
//!   (`landing/glibc.rs`). Then unwinders need nothing but the stack.
//!
//! On aarch64 there is each of the first kind a second time: unwinders differ in the register that
//! has a trampoline's label (`unwind/link_register.rs`), so the unwind tables of the two differ.

use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::base::limits;
use crate::exit::process_lock::ProcessLock;
use std::ffi::{CStr, c_char};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, Ordering};

/// Trampolines of the first kind, and bytes from one to the next. These numbers are those of
/// `asm/offsets.h`.
pub(crate) const COUNT: usize = limits::TRAMPOLINES;
const SIZE: usize = 32;
/// Trampolines of the second kind, behind those of the first (`KEPT` in `asm/offsets.h`).
const SPARE_WORD_COUNT: usize = 64;
/// The position of those that are there for LLVM's unwinder, behind the others, and their number.
const LLVM: usize = COUNT + SPARE_WORD_COUNT;
const LLVM_COUNT: usize = if cfg!(all(target_arch = "aarch64", target_os = "linux")) { COUNT } else { 0 };
/// Hooks of code redirect. Their cells are behind those of the trampolines, and two more for the
/// hook in `__start_context` are behind them.
pub(crate) const HOOKS: usize = 32;
const CELLS: usize = COUNT + HOOKS + 2;
/// The offset of a trampoline's label: behind the distance to the cell and a `nop`.
const LABEL: usize = 8;
/// Bytes of the pages that hold only the cells.
const CELLS_SIZE: usize = 65536;

unsafe extern "C" {
    static exeunt_cells: [AtomicUsize; CELLS];
    safe fn exeunt_trampoline();
}

/// What is known of an exit trampoline.
struct Metadata {
    kind: AtomicU8,
    /// A C string that stays for ever.
    name: AtomicPtr<c_char>,
    landing: AtomicBool,
}

/// How a thread reaches the original address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reached {
    /// An entry function returns to it.
    ByReturn,
    /// A thread lands there without a return.
    AtLanding,
}

/// Why no trampoline was added.
#[derive(Clone, Copy)]
pub(crate) enum NotAdded {
    /// All [`COUNT`] are in use.
    PoolFull,
    /// The system did not change the protection of the cells' pages: `errno`.
    Protection(i32),
}

impl From<NotAdded> for Error {
    fn from(why: NotAdded) -> Self {
        match why {
            NotAdded::PoolFull => Error::TooManyTrampolines,
            NotAdded::Protection(errno) => Error::Protection {
                address: &raw const exeunt_cells as usize,
                reason: io::Error::from_raw_os_error(errno).to_string(),
            },
        }
    }
}

static METADATA: [Metadata; COUNT] = [const {
    Metadata { kind: AtomicU8::new(0), name: AtomicPtr::new(std::ptr::null_mut()), landing: AtomicBool::new(false) }
}; COUNT];
static KNOWN: AtomicUsize = AtomicUsize::new(0);
/// Whether feet are redirected to the trampolines for LLVM's unwinder.
static FOR_LLVM: AtomicBool = AtomicBool::new(false);

fn cells() -> &'static [AtomicUsize; CELLS] {
    // SAFETY: the assembly reserves them, zeroed, for as long as this code is loaded. Only `fill`
    // writes them.
    unsafe { &exeunt_cells }
}

fn pool() -> usize {
    exeunt_trampoline as *const () as usize
}

/// The number of the trampoline for the return address `original`, if there is one.
#[inline]
pub(crate) fn number_of_original(original: usize) -> Option<usize> {
    let known = KNOWN.load(Ordering::Acquire);
    cells()[..known].iter().position(|cell| cell.load(Ordering::Relaxed) == original)
}

/// The address that a foot holds when it is redirected to trampoline `number` of the first kind.
pub(crate) fn label(number: usize) -> usize {
    label_at(if FOR_LLVM.load(Ordering::Relaxed) { LLVM + number } else { number })
}

/// The label of the trampoline at a position in the pool.
fn label_at(position: usize) -> usize {
    pool() + SIZE * position + LABEL
}

/// The position of the trampoline whose label is `address`.
fn position(address: usize) -> Option<usize> {
    let offset = address.wrapping_sub(pool() + LABEL);
    (offset < SIZE * (LLVM + LLVM_COUNT) && offset % SIZE == 0).then_some(offset / SIZE)
}

/// Chooses the trampolines that suit the system's unwinder. Every answer is the same. It comes before
/// the first [`add`], so all feet are redirected to trampolines for the same unwinder.
#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
pub(crate) fn choose() {
    if KNOWN.load(Ordering::Acquire) == 0 && !crate::unwind::link_register::is_followed() {
        FOR_LLVM.store(true, Ordering::Relaxed);
    }
}

/// The address that a foot holds when the original is in the word `distance` bytes above the
/// stack's base. `None` if there is no trampoline for this distance.
pub(crate) fn label_for_spare_word(distance: usize) -> Option<usize> {
    let number = distance / 8;
    (distance % 8 == 0 && number < SPARE_WORD_COUNT).then(|| label_at(COUNT + number))
}

/// The number of the trampoline of the first kind whose label is `address`.
pub(crate) fn number_of_label(address: usize) -> Option<usize> {
    match position(address)? {
        number @ 0..COUNT => Some(number),
        COUNT..LLVM => None,
        position => Some(position - LLVM),
    }
}

/// Whether `address` is the label of a trampoline.
pub(crate) fn is_label(address: usize) -> bool {
    position(address).is_some()
}

/// Whether `address` lies among the trampolines.
#[inline]
pub(crate) fn is_in_pool(address: usize) -> bool {
    address.wrapping_sub(pool()) < SIZE * (LLVM + LLVM_COUNT)
}

/// The original return address of trampoline `number`.
pub(crate) fn original(number: usize) -> usize {
    cells()[number].load(Ordering::Relaxed)
}

/// The kind of stack that ends in trampoline `number`.
pub(crate) fn kind(number: usize) -> Kind {
    Kind::from_raw(METADATA[number].kind.load(Ordering::Relaxed))
}

/// The name of the exit trampoline that trampoline `number` leads to.
pub(crate) fn name(number: usize) -> &'static CStr {
    let name = METADATA[number].name.load(Ordering::Acquire);
    // SAFETY: null, or the `'static` string that `add` was given.
    if name.is_null() { c"?" } else { unsafe { CStr::from_ptr(name) } }
}

/// Whether threads land at the original address without a return.
pub(crate) fn is_landing(number: usize) -> bool {
    METADATA[number].landing.load(Ordering::Relaxed)
}

/// How many trampolines of the first kind are in use. They are the first ones of the pool.
pub(crate) fn known() -> usize {
    KNOWN.load(Ordering::Acquire)
}

/// The number of the trampoline for `original`, which is added if there is none. Calls only the
/// system while the lock is held.
pub(crate) fn add(
    lock: &ProcessLock,
    original: usize,
    kind: Kind,
    name: &'static CStr,
    reached: Reached,
) -> Result<usize, NotAdded> {
    if let Some(number) = number_of_original(original) {
        return Ok(number);
    }
    let number = KNOWN.load(Ordering::Relaxed);
    if number == COUNT {
        return Err(NotAdded::PoolFull);
    }
    fill(lock, number, original)?;
    METADATA[number].kind.store(kind as u8, Ordering::Relaxed);
    METADATA[number].name.store(name.as_ptr().cast_mut(), Ordering::Release);
    METADATA[number].landing.store(reached == Reached::AtLanding, Ordering::Relaxed);
    KNOWN.store(number + 1, Ordering::Release);
    Ok(number)
}

/// Stores `value` in a cell. The lock keeps other threads from changing cells or protections.
fn fill(_: &ProcessLock, cell: usize, value: usize) -> Result<(), NotAdded> {
    let protect = |protection| {
        let start = (&raw const exeunt_cells).cast_mut().cast();
        // SAFETY: these pages hold nothing but the cells, which stay readable. `asm/` aligns them
        // to the largest page.
        let done = unsafe { libc::mprotect(start, CELLS_SIZE, protection) } == 0;
        done.then_some(()).ok_or_else(|| NotAdded::Protection(io::Error::last_os_error().raw_os_error().unwrap_or(0)))
    };
    let before = cells()[cell].load(Ordering::Relaxed);
    protect(libc::PROT_READ | libc::PROT_WRITE)?;
    cells()[cell].store(value, Ordering::Relaxed);
    let closed = protect(libc::PROT_READ);
    if closed.is_err() {
        // The page is still writable, so the failure can be undone.
        cells()[cell].store(before, Ordering::Relaxed);
    }
    closed
}

unsafe extern "C" {
    safe fn exeunt_enter_return();
    safe fn exeunt_hooked_return();
}

/// The address that functions return to if `exeunt_call_entry` has called them. The word at their
/// stack's base holds this address.
pub(crate) fn enter_return() -> usize {
    exeunt_enter_return as *const () as usize
}

/// The address that functions return to if `exeunt_call_entry_hooked` has called them.
pub(crate) fn hooked_return() -> usize {
    exeunt_hooked_return as *const () as usize
}

#[cfg(code_redirect)]
pub(crate) use hooks::*;

/// The hooks of code redirect, in the same file of assembly.
#[cfg(code_redirect)]
mod hooks {
    use super::{COUNT, Error, HOOKS, Ordering, ProcessLock, SIZE, cells, fill};

    unsafe extern "C" {
        safe fn exeunt_exit_hook();
        safe fn exeunt_context_hook();
    }

    /// The address of hook `number` of code redirect.
    pub(crate) fn hook(number: usize) -> usize {
        exeunt_exit_hook as *const () as usize + SIZE * number
    }

    /// The number of a hook that goes on to `target`. A hook that ever went on to another target
    /// may still be running in some thread, so it is never reused for this one.
    pub(crate) fn hook_to(lock: &ProcessLock, target: usize) -> Result<usize, Error> {
        let known = |number: &usize| [0, target].contains(&cells()[COUNT + number].load(Ordering::Relaxed));
        let number = (0..HOOKS).find(known).ok_or(Error::TooManyTrampolines)?;
        if cells()[COUNT + number].load(Ordering::Relaxed) == 0 {
            fill(lock, COUNT + number, target)?;
        }
        Ok(number)
    }

    /// The address of the hook for `__start_context`.
    pub(crate) fn context_hook() -> usize {
        exeunt_context_hook as *const () as usize
    }

    /// Makes the hook for `__start_context` go on to `target`. To unwinders it looks like a call
    /// that returns to `behind`.
    pub(crate) fn set_context_hook(lock: &ProcessLock, target: usize, behind: usize) -> Result<(), Error> {
        fill(lock, COUNT + HOOKS, target)?;
        Ok(fill(lock, COUNT + HOOKS + 1, behind)?)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    // Only their addresses are used. They are functions here as they are elsewhere: where a symbol is
    // both a function and a static, rustc 1.85 may give one of them another name.
    #[allow(clashing_extern_declarations, reason = "only the addresses are used")]
    unsafe extern "C" {
        safe fn exeunt_exit_hook();
        safe fn exeunt_context_hook();
        safe fn exeunt_probe();
        safe fn exeunt_call_entry();
        safe fn exeunt_call_entry_hooked();
        safe fn exeunt_tag_frames();
    }

    /// Whether the instruction at an address is one that an indirect jump or call may lead to.
    fn is_landing_pad(address: usize) -> bool {
        // SAFETY: every caller passes code of the assembly, which is longer than this.
        let code = unsafe { (address as *const [u8; 4]).read() };
        if cfg!(target_arch = "x86_64") {
            return code == [0xf3, 0x0f, 0x1e, 0xfa]; // endbr64
        }
        // bti c, bti j, paciasp
        [0xd503_245f, 0xd503_249f, 0xd503_233f].contains(&u32::from_le_bytes(code))
    }

    #[test]
    fn what_is_jumped_to_or_called_indirectly_begins_with_a_landing_pad() {
        for position in 0..LLVM + LLVM_COUNT {
            assert!(is_landing_pad(label_at(position)), "trampoline {position}");
        }
        let entries = [
            exeunt_exit_hook as *const () as usize,
            exeunt_context_hook as *const () as usize,
            exeunt_probe as *const () as usize,
            exeunt_call_entry as *const () as usize,
            exeunt_call_entry_hooked as *const () as usize,
            exeunt_tag_frames as *const () as usize,
        ];
        for (number, entry) in entries.into_iter().enumerate() {
            assert!(is_landing_pad(entry), "entry {number}");
        }
        for number in 0..HOOKS {
            assert!(is_landing_pad(exeunt_exit_hook as *const () as usize + SIZE * number), "hook {number}");
        }
        for number in 0..17 {
            assert!(is_landing_pad(exeunt_tag_frames as *const () as usize + SIZE * number), "tag frame {number}");
        }
    }

    #[test]
    fn unwinders_find_where_a_trampoline_begins_by_rounding_its_label_down() {
        for position in (0..COUNT).chain(LLVM..LLVM + LLVM_COUNT) {
            let label = label_at(position);
            let begin = label & !(SIZE - 1);
            assert_eq!(begin, label - LABEL);
            // SAFETY: each trampoline begins with the distance to its cell.
            let distance = unsafe { (begin as *const usize).read() };
            let number = number_of_label(label).unwrap();
            assert_eq!(number, position % LLVM);
            assert_eq!(begin.wrapping_add(distance), &raw const cells()[number] as usize);
        }
        assert!((COUNT..LLVM).all(|position| number_of_label(label_at(position)).is_none()));
    }
}
