//! x86_64: a call or jump whose displacement crosses an aligned 8-byte boundary, in three stores.
//!
//! Go's linker aligns functions, not calls, so three of eight calls lie like this one, and no single store changes them:
//!
//! ```text
//!                 first word       second word
//!             |. . . . e8 d0 d1 d2|d3 . . . . . . .|   the call as found
//!   store 1   |. . . . eb fe d1 d2|d3 . . . . . . .|   `jmp` to itself: whoever comes here waits
//!   store 2   |. . . . eb fe d1 d2|n3 . . . . . . .|   nobody runs these bytes now
//!   store 3   |. . . . e8 n0 n1 n2|n3 . . . . . . .|   who waited makes the new call
//! ```
//!
//! Each store is one that `raw` would make: aligned, with old and new bytes that may be executed, and every processor has
//! serialised before the next one. The opcode and `d0` always share the first word: a call that begins in the last byte of a
//! word has its whole displacement in the next, and does not straddle.
//!
//! Nobody waits for long: Go cannot preempt the thread that runs this (it is in code that Go's runtime does not know), so
//! it can't be stopped between the stores by a garbage collection that waits for a thread that waits here.

use super::raw::{Fallback, Reason, Refusal, Store, arch, mapping, write};

/// `jmp` to itself, `eb fe`, as a little-endian number.
const WAIT: u64 = 0xfeeb;

/// # Safety
///
/// At `site` is a direct call that reaches `new` and straddles, in code that stays mapped; `new` may be called wherever its target
/// may; nobody else patches meanwhile.
pub unsafe fn retarget(site: usize, new: usize) -> Result<(), Refusal> {
    let first = site & !7;
    let second = first.wrapping_add(8);
    let first_mapping = mapping::executable(first)?;
    let second_mapping = mapping::executable(second)?;
    // SAFETY: aligned, and both were just found mapped readable.
    let (found, tail) = unsafe { (arch::read(first), arch::read(second)) };

    let into = (site & 7) as u32 * 8;
    let displacement = new.wrapping_sub(site.wrapping_add(arch::BRANCH_LEN)) as u32;
    let both = (tail as u128) << 64 | found as u128;
    let after = both & !(0xffff_ffff_u128 << (into + 8)) | (displacement as u128) << (into + 8);
    let waiting = found & !(0xffff << into) | WAIT << into;

    let wait = Store { at: first, before: found, after: waiting };
    let rest = Store { at: second, before: tail, after: (after >> 64) as u64 };
    let call = Store { at: first, before: waiting, after: after as u64 };

    // SAFETY: `found` is the old call, `waiting` a jump to itself, and the bytes of `rest` are not run while it is there; `call`
    // completes the new call. Mappings and exclusion are the caller's promise.
    unsafe {
        write(wait, first_mapping, Fallback::ProcMem)?;
        let refusal = match write(rest, second_mapping, Fallback::ProcMem) {
            Err(refusal) => refusal,
            Ok(()) => match write(call, first_mapping, Fallback::ProcMem) {
                Ok(()) => return Ok(()),
                Err(_) if write(undo(rest), second_mapping, Fallback::ProcMem).is_err() => {
                    // Who comes here goes on waiting, which is better than a call of half an address.
                    return Err(Refusal::new(Reason::NotRestored));
                }
                Err(refusal) => refusal,
            },
        };
        if write(undo(wait), first_mapping, Fallback::ProcMem).is_err() {
            return Err(Refusal::new(Reason::NotRestored));
        }
        Err(refusal)
    }
}

/// The store that takes another one back.
fn undo(store: Store) -> Store {
    Store { at: store.at, before: store.after, after: store.before }
}
