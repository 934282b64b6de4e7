//! The pool of trampolines: one for each distinct exit trampoline that this process has met.
//!
//! `asm/` holds the code, and two ways to know the original address. Trampoline N of the first ones ends in the jump to what cell N holds: the return address into the N-th exit
//! trampoline. A cell is filled once and never changes, so an armed stack can rely on its own for ever. The cells' pages
//! are read-only but for that moment: whoever can write them decides where threads end up. The others, one for each
//! distance, take the original from a word of the stack above its top, where glibc's exit trampolines have one to spare
//! (`os/landing.rs`): then unwinders need nothing but the stack.

use crate::error::Error;
use crate::stack::Kind;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, Ordering};

/// Trampolines in the pool, and bytes from one to the next: `asm/offsets.h`, as all such numbers here.
pub(crate) const COUNT: usize = 64;
const SIZE: usize = 32;
/// Trampolines behind them in the pool, for stacks that keep the original return address themselves.
const KEPT: usize = 64;
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
    safe fn exeunt_exit_trampoline();
}

/// What is known of an exit trampoline.
struct About {
    kind: AtomicU8,
    name: AtomicPtr<CStrBox>,
    landing: AtomicBool,
}

/// A leaked name; a thin pointer to a fat one.
struct CStrBox(&'static CStr);

static ABOUT: [About; COUNT] = [const {
    About { kind: AtomicU8::new(0), name: AtomicPtr::new(std::ptr::null_mut()), landing: AtomicBool::new(false) }
}; COUNT];
static KNOWN: AtomicUsize = AtomicUsize::new(0);

fn cells() -> &'static [AtomicUsize; CELLS] {
    // SAFETY: the assembly reserves them, zeroed, for as long as this code is loaded. They are written in `fill` only.
    unsafe { &exeunt_cells }
}

fn pool() -> usize {
    exeunt_exit_trampoline as *const () as usize
}

/// The trampoline that stands for the return address `original`, if there is one.
#[inline]
pub(crate) fn standing_for(original: usize) -> Option<usize> {
    let known = KNOWN.load(Ordering::Acquire);
    cells()[..known].iter().position(|cell| cell.load(Ordering::Relaxed) == original)
}

/// The address that a foot holds when it is redirected to trampoline `number`, which takes the original from its cell.
pub(crate) fn label(number: usize) -> usize {
    pool() + SIZE * number + LABEL
}

/// The address that a foot holds when the original return address is kept `distance` bytes above the stack's top.
pub(crate) fn label_keeping(distance: usize) -> Option<usize> {
    let number = distance / 8;
    (distance.is_multiple_of(8) && number < KEPT).then(|| label(COUNT + number))
}

/// The trampoline with a cell whose label is `address`.
pub(crate) fn number_of(address: usize) -> Option<usize> {
    let offset = address.wrapping_sub(pool() + LABEL);
    (offset < SIZE * COUNT && offset.is_multiple_of(SIZE)).then_some(offset / SIZE)
}

/// Whether `address` is one that we write into feet.
pub(crate) fn is_label(address: usize) -> bool {
    let offset = address.wrapping_sub(pool() + LABEL);
    offset < SIZE * (COUNT + KEPT) && offset.is_multiple_of(SIZE)
}

/// The return address that trampoline `number` stands for.
pub(crate) fn original(number: usize) -> usize {
    cells()[number].load(Ordering::Relaxed)
}

/// The kind of stack that ends in trampoline `number`.
pub(crate) fn kind(number: usize) -> Kind {
    Kind::from_raw(ABOUT[number].kind.load(Ordering::Relaxed))
}

/// The name of the exit trampoline that trampoline `number` stands for.
pub(crate) fn name(number: usize) -> &'static CStr {
    // SAFETY: null, or leaked by `add`.
    unsafe { ABOUT[number].name.load(Ordering::Acquire).as_ref() }.map_or(c"?", |name| name.0)
}

/// Whether the address is not one that entry functions return to, but where threads land without a return.
pub(crate) fn is_landing(number: usize) -> bool {
    ABOUT[number].landing.load(Ordering::Relaxed)
}

/// Says that it is.
pub(crate) fn set_landing(number: usize) {
    ABOUT[number].landing.store(true, Ordering::Relaxed);
}

/// How many exit trampolines are known, the first ones of the pool.
pub(crate) fn known() -> usize {
    KNOWN.load(Ordering::Acquire)
}

/// Makes `original` the return address that a new trampoline stands for, and returns its number.
///
/// The caller holds the recognition lock (`exits.rs`), so nobody else changes cells or protections meanwhile.
pub(crate) fn add(original: usize, kind: Kind, name: &CStr) -> Result<usize, Error> {
    if let Some(number) = standing_for(original) {
        return Ok(number);
    }
    let number = KNOWN.load(Ordering::Relaxed);
    if number == COUNT {
        return Err(Error::PoolFull);
    }
    // A failed protection must leave no trace, so what allocates and what can fail come first.
    let name = Box::leak(Box::new(CStrBox(Box::leak(name.to_owned().into_boxed_c_str()))));
    fill(number, original)?;
    ABOUT[number].kind.store(kind as u8, Ordering::Relaxed);
    ABOUT[number].name.store(name, Ordering::Release);
    KNOWN.store(number + 1, Ordering::Release);
    Ok(number)
}

/// Stores `value` in a cell, which is zero. The caller holds the recognition lock.
fn fill(cell: usize, value: usize) -> Result<(), Error> {
    let start = &raw const exeunt_cells as *const u8;
    let refused = |error: region::Error| Error::Protection { address: start as usize, reason: error.to_string() };
    // SAFETY: these pages hold nothing but the cells, which stay readable.
    unsafe { region::protect(start, CELLS_SIZE, region::Protection::READ_WRITE) }.map_err(refused)?;
    cells()[cell].store(value, Ordering::Relaxed);
    // SAFETY: as above.
    let closed = unsafe { region::protect(start, CELLS_SIZE, region::Protection::READ) };
    if let Err(error) = closed {
        cells()[cell].store(0, Ordering::Relaxed);
        return Err(refused(error));
    }
    Ok(())
}

#[cfg(code_redirect)]
pub(crate) use hooks::*;

/// The hooks of code redirect, in the same file of assembly.
#[cfg(code_redirect)]
mod hooks {
    use super::{COUNT, Error, HOOKS, SIZE, fill};

    unsafe extern "C" {
        safe fn exeunt_exit_hook();
        safe fn exeunt_context_hook();
    }

    /// The address of hook `number` of code redirect.
    pub(crate) fn hook(number: usize) -> usize {
        exeunt_exit_hook as *const () as usize + SIZE * number
    }

    /// Makes hook `number` go on to `target`. The caller holds the recognition lock.
    pub(crate) fn set_hook(number: usize, target: usize) -> Result<(), Error> {
        fill(COUNT + number, target)
    }

    /// The address of the hook for `__start_context`.
    pub(crate) fn context_hook() -> usize {
        exeunt_context_hook as *const () as usize
    }

    /// Makes the hook for `__start_context` go on to `target`, and look like a call that returns to `behind`. The caller holds
    /// the recognition lock.
    pub(crate) fn set_context_hook(target: usize, behind: usize) -> Result<(), Error> {
        fill(COUNT + HOOKS, target)?;
        fill(COUNT + HOOKS + 1, behind)
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
        for number in 0..COUNT + KEPT {
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
