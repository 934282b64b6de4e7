//! Rules from unwind tables in the DWARF form of Linux.
//!
//! | function | gives |
//! |---|---|
//! | [`from_tables`] | the rule for a place in the code |
//! | [`key`] | the key that the cache keeps such a rule under |
//! | [`at`] | the table entry for a place, read by a closure |
//! | [`signing`] | how a function has signed its return address |
//! | [`function_at`] | the start of a function |
//! | `saved` | where a function has saved a register; x86_64 only |
//!
//! The object's header (`objects.rs`) or libgcc (`find_fde.rs`) finds the entry, and gimli
//! interprets it.

use super::find_fde::{_Unwind_Find_FDE, Bases};
use super::objects;
use super::row::{Fde, OnStack, Row, Section};
use super::rule::{Base, Rule};
use foldhash::fast::FixedState;
use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameOffset, NativeEndian, Register, RegisterRule, UnwindContext, UnwindSection,
    Vendor,
};
use std::hash::BuildHasher;

/// How long the code that a table entry describes stays loaded, and so how long the rule may be
/// remembered (`objects.rs`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lifetime {
    Permanent,
    Unloadable,
    Unknown,
}

/// The start of the function at `pc`, by the unwind tables.
#[cfg(target_env = "gnu")]
pub(crate) fn function_at(pc: usize) -> Option<usize> {
    at(pc, |_, _, fde, _| Some(fde.initial_address() as usize)).ok().map(|(function, _)| function)
}

/// The rule for the instruction at `pc`, from its unwind table, and the lifetime of that code.
pub(super) fn from_tables(pc: usize) -> (Rule, Lifetime) {
    at(pc, |section, addresses, fde, _| rule(section, addresses, fde, pc))
        .unwrap_or_else(|none| (none, Lifetime::Unknown))
}

/// The key under which the cache keeps a rule for `pc`. It is `pc` itself where the code is never
/// unloaded. For code that may be unloaded it is `pc` mixed with the address and the bytes of the
/// table entry that the rule is read from, so that code which takes its place has another key.
/// `None` where no rule may be kept.
pub(super) fn key(pc: usize) -> Option<usize> {
    let object = objects::object_at(pc)?;
    if object.permanent {
        return Some(pc);
    }
    if object.header == 0 {
        return None;
    }
    // SAFETY: the loader has given the header's address.
    let fde = unsafe { entry_by_header(object.header, pc) }?;
    // SAFETY: the header leads to entries of its object.
    let (bytes, start) = unsafe { section_around(fde) }?;
    let own = bytes.get(fde.addr() - start..)?;
    let common = bytes.get(..entry_length(bytes, 0))?;
    let mixed = FixedState::default().hash_one((fde.addr(), own, common));
    // The highest bit keeps these keys apart: no program counter has it.
    Some(pc ^ (mixed | 1 << 63) as usize)
}

/// How the function at `pc` has signed its return address when it reaches that instruction.
#[cfg(target_arch = "aarch64")]
pub(super) fn signing(pc: usize) -> Option<crate::machine::arch::Signing> {
    use crate::machine::arch::{Signing, dwarf::SIGN_STATE};
    let read = |section: &Section, addresses: &BaseAddresses, fde: &Fde, key_b: bool| {
        let mut context: UnwindContext<usize, OnStack> = UnwindContext::new_in();
        let row = Row::at(pc, section, addresses, fde, &mut context)?;
        match row.saved(Register(SIGN_STATE)) {
            Some(RegisterRule::Constant(1)) if key_b => Some(Signing::KeyB),
            Some(RegisterRule::Constant(1)) => Some(Signing::KeyA),
            _ => Some(Signing::Plain),
        }
    };
    at(pc, read).ok().map(|(signing, _)| signing)
}

/// How a function has signed its return address: x86_64 has no signatures.
#[cfg(target_arch = "x86_64")]
pub(super) fn signing(_pc: usize) -> Option<crate::machine::arch::Signing> {
    None
}

/// Calls `read` with the table entry for the instruction at `pc`, and whether that code signs with
/// key B. Returns its result and the lifetime of the code. Where there is nothing to read, the
/// error is the rule that says why.
pub(super) fn at<R>(
    pc: usize,
    read: impl FnOnce(&Section, &BaseAddresses, &Fde, bool) -> Option<R>,
) -> Result<(R, Lifetime), Rule> {
    let object = objects::object_at(pc);
    let lifetime = match &object {
        Some(object) if object.permanent => Lifetime::Permanent,
        Some(_) => Lifetime::Unloadable,
        None => Lifetime::Unknown,
    };
    let header = object.map_or(0, |object| object.header);
    // The tables of loaded objects are read without libgcc: other tables may be registered with it,
    // and it ends the process where it cannot read one of those.
    // SAFETY: the loader has given the header's address.
    let found = if header == 0 { None } else { unsafe { entry_by_header(header, pc) } };
    if let Some(fde) = found {
        let bases = Bases { text: 0, data: 0, function: 0 };
        let mut read = Some(read);
        // SAFETY: the header leads to entries of its object.
        return match unsafe { entry(fde, &bases, pc, |a, b, c, d| read.take().and_then(|read| read(a, b, c, d))) } {
            Err(Rule::NoTable) => match read {
                Some(read) => registered(pc, Lifetime::Unknown, read),
                None => Err(Rule::Other),
            },
            Err(other) => Err(other),
            Ok(answer) => Ok((answer, lifetime)),
        };
    }
    // The start-up code of an object without a header registers the object's tables.
    registered(pc, if header == 0 { lifetime } else { Lifetime::Unknown }, read)
}

/// [`at`] for code whose tables are registered with libgcc.
fn registered<R>(
    pc: usize,
    lifetime: Lifetime,
    read: impl FnOnce(&Section, &BaseAddresses, &Fde, bool) -> Option<R>,
) -> Result<(R, Lifetime), Rule> {
    let mut bases = Bases { text: 0, data: 0, function: 0 };
    let fde = _Unwind_Find_FDE(pc, &mut bases);
    if fde.is_null() {
        return Err(Rule::NoTable);
    }
    // SAFETY: libgcc has returned a table entry.
    unsafe { entry(fde, &bases, pc, read) }.map(|answer| (answer, lifetime))
}

/// Calls `read` with a table entry, if it is one for `pc`.
///
/// # Safety
/// `fde` must be a frame description entry in an `.eh_frame` section.
unsafe fn entry<R>(
    fde: *const u8,
    bases: &Bases,
    pc: usize,
    read: impl FnOnce(&Section, &BaseAddresses, &Fde, bool) -> Option<R>,
) -> Result<R, Rule> {
    // SAFETY: the caller promises a table entry.
    let (bytes, start) = unsafe { section_around(fde) }.ok_or(Rule::Other)?;
    let mut room = [0; MOST_COPIED];
    let (bytes, start, key_b) = match without_key_b(bytes, fde as usize - start, &mut room) {
        Readable::AsItIs => (bytes, start, false),
        Readable::Copied { length, offset } => (&room[..length], fde as usize - offset, true),
        Readable::TooLong => return Err(Rule::Other),
    };
    let mut section = EhFrame::new(bytes, NativeEndian);
    section.set_address_size(8);
    if cfg!(target_arch = "aarch64") {
        section.set_vendor(Vendor::AArch64);
    }
    let addresses =
        BaseAddresses::default().set_eh_frame(start as u64).set_text(bases.text as u64).set_got(bases.data as u64);
    let offset = EhFrameOffset(fde as usize - start);
    let parsed = section.fde_from_offset(&addresses, offset, EhFrame::cie_from_offset).map_err(|_| Rule::Other)?;
    if !parsed.contains(pc as u64) {
        return Err(Rule::NoTable);
    }
    read(&section, &addresses, &parsed, key_b).ok_or(Rule::Other)
}

/// The entry that an object's `.eh_frame_hdr` has for `pc`: the last one that begins at or before
/// it, which may end before it. `None` if the header does not have the form that linkers give it.
///
/// # Safety
/// There must be a header at this address.
unsafe fn entry_by_header(header: usize, pc: usize) -> Option<*const u8> {
    // SAFETY: the caller promises a header. The reads lie within it, as its first bytes say (LSB
    // Core, 10.6.2).
    let read = |at: usize| unsafe { ((header + at) as *const i32).read_unaligned() };
    // Version 1; the address of .eh_frame and the number of entries, in four bytes each; entries of
    // twice four bytes, relative to the header.
    let [version, frames, count, table] = read(0).to_ne_bytes();
    if version != 1 || !matches!(frames & 15, 3 | 11) || count != 3 || table != 0x3b {
        return None;
    }
    let count = read(8) as u32 as usize;
    let begin = |index: usize| header.wrapping_add_signed(read(12 + 8 * index) as isize);
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if begin(middle) <= pc { low = middle + 1 } else { high = middle }
    }
    let found = low.checked_sub(1)?;
    Some(header.wrapping_add_signed(read(16 + 8 * found) as isize) as *const u8)
}

/// The bytes of a table entry and of the common entry that it refers to, and their address.
///
/// # Safety
/// `fde` must be a frame description entry in an `.eh_frame` section.
unsafe fn section_around(fde: *const u8) -> Option<(&'static [u8], usize)> {
    // SAFETY: an entry begins with its length and the distance back to its common entry (LSB Core,
    // 10.6.1).
    let (length, back) = unsafe { (fde.cast::<u32>().read_unaligned(), fde.add(4).cast::<u32>().read_unaligned()) };
    if length == u32::MAX || length == 0 {
        return None; // 64-bit entries: no linker makes them
    }
    let start = (fde as usize + 4).checked_sub(back as usize)?;
    let end = fde as usize + 4 + length as usize;
    // SAFETY: both lie in one section, the common entry first, and the bytes in between are of that
    // section as well. Loaded tables live as long as the code that they describe, which is on this
    // stack.
    Some((unsafe { std::slice::from_raw_parts(start as *const u8, end.checked_sub(start)?) }, start))
}

/// The length of the entry at `at`, with its length field; zero where there is none.
fn entry_length(bytes: &[u8], at: usize) -> usize {
    let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok());
    field.map_or(0, |field| u32::from_ne_bytes(field) as usize + 4)
}

/// The longest entry, with its common entry, that is copied, in bytes.
const MOST_COPIED: usize = 1024;

/// A table entry in the form that gimli can read.
enum Readable {
    AsItIs,
    /// The copy's length, and the offset of the entry in it, behind its common entry.
    Copied {
        length: usize,
        offset: usize,
    },
    TooLong,
}

/// Code that signs its return addresses with key B has a `B` in the augmentation of its common
/// entry. gimli (0.32) refuses to read that. The letter changes nothing else, so this makes a copy
/// without it, and adds a no-operation at the end.
fn without_key_b(bytes: &[u8], fde: usize, room: &mut [u8; MOST_COPIED]) -> Readable {
    // Length, identifier and version come before the augmentation, a string.
    const AUGMENTATION: usize = 9;
    let common = entry_length(bytes, 0);
    let augmentation = bytes.get(AUGMENTATION..).unwrap_or_default().split(|&byte| byte == 0).next();
    let Some(key_b) = augmentation.and_then(|string| string.iter().position(|&byte| byte == b'B')) else {
        return Readable::AsItIs;
    };
    let own = entry_length(bytes, fde);
    let length = common + own;
    if length > MOST_COPIED || fde + own > bytes.len() || fde < common {
        return Readable::TooLong;
    }
    let key_b = AUGMENTATION + key_b;
    room[..key_b].copy_from_slice(&bytes[..key_b]);
    room[key_b..common - 1].copy_from_slice(&bytes[key_b + 1..common]);
    room[common - 1] = 0; // DW_CFA_nop
    room[common..length].copy_from_slice(&bytes[fde..fde + own]);
    // The second field of the entry is the distance from itself back to its common entry.
    room[common + 4..common + 8].copy_from_slice(&(common as u32 + 4).to_ne_bytes());
    Readable::Copied { length, offset: common }
}

/// Where the function at `pc` has saved its caller's value of a register, relative to its canonical
/// frame address, and the lifetime of that code. The place is `None` if the function has not saved
/// it.
#[cfg(target_arch = "x86_64")]
pub(super) fn saved(pc: usize, register: u16) -> Option<(Option<i32>, Lifetime)> {
    let read = |section: &Section, addresses: &BaseAddresses, fde: &Fde, _: bool| {
        let mut context: UnwindContext<usize, OnStack> = UnwindContext::new_in();
        let row = Row::at(pc, section, addresses, fde, &mut context)?;
        match row.register(Register(register)) {
            Some(RegisterRule::Offset(at)) => Some(Some(i32::try_from(at).ok()?)),
            Some(RegisterRule::SameValue) | None => Some(None),
            _ => None,
        }
    };
    at(pc, read).ok()
}

fn rule(section: &Section, addresses: &BaseAddresses, fde: &Fde, pc: usize) -> Option<Rule> {
    use crate::machine::arch::dwarf::{FRAME_POINTER, STACK_POINTER};
    if fde.is_signal_trampoline() {
        return Some(Rule::Signal);
    }
    let mut context: UnwindContext<usize, OnStack> = UnwindContext::new_in();
    let row = Row::at(pc, section, addresses, fde, &mut context)?;
    let (base, offset) = match *row.cfa() {
        CfaRule::RegisterAndOffset { register: Register(STACK_POINTER), offset } => (Base::StackPointer, offset),
        CfaRule::RegisterAndOffset { register: Register(FRAME_POINTER), offset } => (Base::FramePointer, offset),
        _ => return Some(Rule::Other),
    };
    let stored = |register: Register| match row.saved(register) {
        Some(RegisterRule::Offset(at)) => Some(Some(i32::try_from(at).ok()?)),
        Some(RegisterRule::SameValue) | None => Some(None),
        _ => None,
    };
    let return_register = fde.cie().return_address_register();
    if matches!(row.register(return_register), Some(RegisterRule::Undefined)) {
        return Some(Rule::Outermost);
    }
    let simple = || {
        Some(Rule::Frame {
            base,
            offset: i32::try_from(offset).ok()?,
            return_at: stored(return_register)?,
            fp_at: stored(Register(FRAME_POINTER))?,
        })
    };
    Some(simple().unwrap_or(Rule::Other))
}

#[cfg(test)]
mod row_tests {
    use super::*;

    // A register that the table does not mention, declares undefined, saves, and so on, at one
    // instruction each.
    macro_rules! cases {
        ($nop:literal, $register:literal, $call_frame:literal) => {
            std::arch::global_asm!(
                ".type exeunt_test_rows, %function",
                "exeunt_test_rows:",
                ".cfi_startproc",
                $nop,
                concat!(".cfi_undefined ", $register),
                $nop,
                ".cfi_remember_state",
                concat!(".cfi_offset ", $register, ", ", $call_frame),
                $nop,
                ".cfi_restore_state",
                $nop,
                concat!(".cfi_same_value ", $register),
                $nop,
                concat!(".cfi_undefined ", $register),
                $nop,
                concat!(".cfi_restore ", $register),
                $nop,
                ".cfi_endproc",
                ".size exeunt_test_rows, . - exeunt_test_rows",
            );
        };
    }
    #[cfg(target_arch = "x86_64")]
    cases!("nop", "rbx", "-16");
    #[cfg(target_arch = "aarch64")]
    cases!("nop", "x19", "-16");

    unsafe extern "C" {
        fn exeunt_test_rows();
    }

    #[test]
    fn an_undefined_register_differs_from_one_that_is_not_mentioned() {
        let (size, register) = if cfg!(target_arch = "x86_64") { (1, 3) } else { (4, 19) };
        let start = exeunt_test_rows as unsafe extern "C" fn() as usize;
        let rules = (0..7).map(|number| {
            let pc = start + number * size;
            let read = |section: &Section, addresses: &BaseAddresses, fde: &Fde, _: bool| {
                let mut context = UnwindContext::new_in();
                Some(Row::at(pc, section, addresses, fde, &mut context)?.register(Register(register)))
            };
            at(pc, read).ok().unwrap().0
        });
        assert_eq!(
            rules.collect::<Vec<_>>(),
            [
                None,
                Some(RegisterRule::Undefined),
                Some(RegisterRule::Offset(-16)),
                Some(RegisterRule::Undefined),
                Some(RegisterRule::SameValue),
                Some(RegisterRule::Undefined),
                None,
            ]
        );
    }
}

#[cfg(all(test, target_arch = "aarch64"))]
mod signing_tests {
    use super::*;
    use crate::machine::arch::Signing;

    // Three functions that are never called. Each signs its return address in its first
    // instruction, or not at all.
    std::arch::global_asm!(
        ".text",
        "exeunt_test_plain: .cfi_startproc",
        "    nop",
        "    ret",
        "    .cfi_endproc",
        "exeunt_test_key_a: .cfi_startproc",
        "    hint #25", // paciasp
        "    .cfi_negate_ra_state",
        "    nop",
        "    hint #29", // autiasp
        "    .cfi_negate_ra_state",
        "    ret",
        "    .cfi_endproc",
        "exeunt_test_key_b: .cfi_startproc",
        "    .cfi_b_key_frame",
        "    hint #27", // pacibsp
        "    .cfi_negate_ra_state",
        "    nop",
        "    hint #31", // autibsp
        "    .cfi_negate_ra_state",
        "    ret",
        "    .cfi_endproc",
    );

    unsafe extern "C" {
        safe fn exeunt_test_plain();
        safe fn exeunt_test_key_a();
        safe fn exeunt_test_key_b();
    }

    #[test]
    fn a_table_tells_where_and_with_which_key_a_function_signs() {
        let ways = |function: extern "C" fn(), count: usize| -> Vec<_> {
            (0..count).map(|index| signing(function as *const () as usize + 4 * index)).collect()
        };
        assert_eq!(ways(exeunt_test_plain, 2), [Some(Signing::Plain); 2]);
        let signed = |key| [Signing::Plain, key, key, Signing::Plain].map(Some);
        assert_eq!(ways(exeunt_test_key_a, 4), signed(Signing::KeyA));
        assert_eq!(ways(exeunt_test_key_b, 4), signed(Signing::KeyB));
        assert_eq!(signing(8), None);
    }
}
