//! The pool of trampolines: one for each distinct exit trampoline that this process has met.
//!
//! `asm/` holds the code, and two ways to know the original address. Trampoline N of the first ones ends in the jump to what cell N holds: the return address into the N-th exit
//! trampoline. A cell is filled once and never changes, so an armed stack can rely on its own for ever. The cells' pages
//! are read-only but for that moment: whoever can write them decides where threads end up. The others, one for each
//! distance, take the original from a word of the stack above its base, where glibc's exit trampolines have one to spare
//! (`os/landing.rs`): then unwinders need nothing but the stack.

use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::base::limits;
use crate::exit::process_lock::ProcessLock;
use std::ffi::{CStr, c_char};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, Ordering};

/// Trampolines in the pool, and bytes from one to the next: `asm/offsets.h`, as all such numbers here.
pub(crate) const COUNT: usize = limits::TRAMPOLINES;
const SIZE: usize = 32;
/// Trampolines behind them in the pool, for stacks that keep the original return address themselves.
const SPARE_WORD_COUNT: usize = 64;
/// Hooks of code redirect, whose cells are behind those of the trampolines. Behind them are two more for the hook in
/// `__start_context`.
pub(crate) const HOOKS: usize = 32;
const CELLS: usize = COUNT + HOOKS + 2;
/// Where in a trampoline its label is: behind the distance to the cell and a `nop`.
const LABEL: usize = 8;
/// Bytes of the pages that hold nothing but the cells.
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

/// What a trampoline is led to by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reached {
    /// By the return of an entry function.
    ByReturn,
    /// Where a thread lands without a return.
    AtLanding,
}

/// Why a cell was not filled.
#[derive(Clone, Copy)]
pub(crate) enum NotAdded {
    /// There are [`COUNT`] already.
    PoolFull,
    /// The protection of the cells' pages was not changed, for this `errno`.
    Protection(i32),
}

impl From<NotAdded> for Error {
    fn from(why: NotAdded) -> Self {
        match why {
            NotAdded::PoolFull => Error::PoolFull,
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

fn cells() -> &'static [AtomicUsize; CELLS] {
    // SAFETY: the assembly reserves them, zeroed, for as long as this code is loaded. They are written in `fill` only.
    unsafe { &exeunt_cells }
}

fn pool() -> usize {
    exeunt_trampoline as *const () as usize
}

/// The trampoline that stands for the return address `original`, if there is one.
#[inline]
pub(crate) fn number_of_original(original: usize) -> Option<usize> {
    let known = KNOWN.load(Ordering::Acquire);
    cells()[..known].iter().position(|cell| cell.load(Ordering::Relaxed) == original)
}

/// The address that a foot holds when it is redirected to trampoline `number`, which takes the original from its cell.
pub(crate) fn label(number: usize) -> usize {
    pool() + SIZE * number + LABEL
}

/// The address that a foot holds when the original return address is kept `distance` bytes above the stack's base.
pub(crate) fn label_for_spare_word(distance: usize) -> Option<usize> {
    let number = distance / 8;
    (distance.is_multiple_of(8) && number < SPARE_WORD_COUNT).then(|| label(COUNT + number))
}

/// The trampoline with a cell whose label is `address`.
pub(crate) fn number_of_label(address: usize) -> Option<usize> {
    let offset = address.wrapping_sub(pool() + LABEL);
    (offset < SIZE * COUNT && offset.is_multiple_of(SIZE)).then_some(offset / SIZE)
}

/// Whether `address` is one that we write into feet.
pub(crate) fn is_label(address: usize) -> bool {
    let offset = address.wrapping_sub(pool() + LABEL);
    offset < SIZE * (COUNT + SPARE_WORD_COUNT) && offset.is_multiple_of(SIZE)
}

/// The return address that trampoline `number` stands for.
pub(crate) fn original(number: usize) -> usize {
    cells()[number].load(Ordering::Relaxed)
}

/// The kind of stack that ends in trampoline `number`.
pub(crate) fn kind(number: usize) -> Kind {
    Kind::from_raw(METADATA[number].kind.load(Ordering::Relaxed))
}

/// The name of the exit trampoline that trampoline `number` stands for.
pub(crate) fn name(number: usize) -> &'static CStr {
    let name = METADATA[number].name.load(Ordering::Acquire);
    // SAFETY: null, or a C string that stays for ever: `add` asks for one.
    if name.is_null() { c"?" } else { unsafe { CStr::from_ptr(name) } }
}

/// Whether the address is not one that entry functions return to, but where threads land without a return.
pub(crate) fn is_landing(number: usize) -> bool {
    METADATA[number].landing.load(Ordering::Relaxed)
}

/// How many exit trampolines are known, the first ones of the pool.
pub(crate) fn known() -> usize {
    KNOWN.load(Ordering::Acquire)
}

/// Makes `original` the return address that a new trampoline stands for, and returns its number. Calls nothing but the system,
/// since the lock is held.
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

/// Stores `value` in a cell. Nobody else changes cells or protections meanwhile, since the lock is held.
fn fill(_: &ProcessLock, cell: usize, value: usize) -> Result<(), NotAdded> {
    let protect = |protection| {
        let start = (&raw const exeunt_cells).cast_mut().cast();
        // SAFETY: these pages hold nothing but the cells, which stay readable. `asm/` aligns them to the largest page.
        let done = unsafe { libc::mprotect(start, CELLS_SIZE, protection) } == 0;
        done.then_some(()).ok_or_else(|| NotAdded::Protection(io::Error::last_os_error().raw_os_error().unwrap_or(0)))
    };
    let before = cells()[cell].load(Ordering::Relaxed);
    protect(libc::PROT_READ | libc::PROT_WRITE)?;
    cells()[cell].store(value, Ordering::Relaxed);
    let closed = protect(libc::PROT_READ);
    if closed.is_err() {
        // A failed protection leaves no trace: the page is still writable.
        cells()[cell].store(before, Ordering::Relaxed);
    }
    closed
}

unsafe extern "C" {
    safe fn exeunt_enter_return();
    safe fn exeunt_hooked_return();
}

/// Where functions return to that `exeunt_call_entry` has called. The word at their stack's base holds this address.
pub(crate) fn enter_return() -> usize {
    exeunt_enter_return as *const () as usize
}

/// Where functions return to that `exeunt_call_entry_hooked` has called.
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

    /// A hook that goes on to `target`. One that ever went on to another target may still be running in some thread, so it is
    /// not used again for this one.
    pub(crate) fn hook_to(lock: &ProcessLock, target: usize) -> Result<usize, Error> {
        let known = |number: &usize| [0, target].contains(&cells()[COUNT + number].load(Ordering::Relaxed));
        let number = (0..HOOKS).find(known).ok_or(Error::PoolFull)?;
        if cells()[COUNT + number].load(Ordering::Relaxed) == 0 {
            fill(lock, COUNT + number, target)?;
        }
        Ok(number)
    }

    /// The address of the hook for `__start_context`.
    pub(crate) fn context_hook() -> usize {
        exeunt_context_hook as *const () as usize
    }

    /// Makes the hook for `__start_context` go on to `target`, and look like a call that returns to `behind`.
    pub(crate) fn set_context_hook(lock: &ProcessLock, target: usize, behind: usize) -> Result<(), Error> {
        fill(lock, COUNT + HOOKS, target)?;
        Ok(fill(lock, COUNT + HOOKS + 1, behind)?)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[allow(clashing_extern_declarations, reason = "only their addresses are asked for")]
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
        // SAFETY: all that is asked for is code of the assembly, and longer than this.
        let code = unsafe { (address as *const [u8; 4]).read() };
        if cfg!(target_arch = "x86_64") {
            return code == [0xf3, 0x0f, 0x1e, 0xfa]; // endbr64
        }
        // bti c, bti j, paciasp
        [0xd503_245f, 0xd503_249f, 0xd503_233f].contains(&u32::from_le_bytes(code))
    }

    #[test]
    fn what_is_jumped_to_or_called_indirectly_begins_with_a_landing_pad() {
        for number in 0..COUNT + SPARE_WORD_COUNT {
            assert!(is_landing_pad(label(number)), "trampoline {number}");
        }
        let entries: [extern "C" fn(); 6] = [
            exeunt_exit_hook,
            exeunt_context_hook,
            exeunt_probe,
            exeunt_call_entry,
            exeunt_call_entry_hooked,
            exeunt_tag_frames,
        ];
        for (number, entry) in entries.into_iter().enumerate() {
            assert!(is_landing_pad(entry as *const () as usize), "entry {number}");
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
        for number in 0..COUNT {
            let begin = label(number) & !(SIZE - 1);
            assert_eq!(begin, label(number) - LABEL);
            // SAFETY: the distance to the cell is there.
            let distance = unsafe { (begin as *const usize).read() };
            assert_eq!(begin.wrapping_add(distance), &raw const cells()[number] as usize);
        }
    }
}
