//! The row of an unwind table that holds at one instruction.
//!
//! gimli 0.32, the last version that Rust 1.85 compiles, has the same answer for a register that the
//! table declares undefined as for one that it does not mention. The two differ: a function whose
//! return address is undefined is the outermost one, and a register that is not mentioned still has
//! its value. So [`Row::register`] reads the table's instructions itself where gimli's answer is
//! not enough.

use gimli::{
    BaseAddresses, CallFrameInstruction, CfaRule, EhFrame, EndianSlice, FrameDescriptionEntry, NativeEndian, Register,
    RegisterRule, UnwindContext, UnwindContextStorage, UnwindTableRow,
};
use std::cell::OnceCell;

pub(super) type Section<'a> = EhFrame<EndianSlice<'a, NativeEndian>>;
pub(super) type Fde<'a> = FrameDescriptionEntry<EndianSlice<'a, NativeEndian>>;

/// Storage on the stack for the interpretation of a table: it may run in a signal handler.
pub(super) struct OnStack;

impl UnwindContextStorage<usize> for OnStack {
    // Callee-saved registers, the return address and the like: at most 18 on x86_64 and 22 on
    // aarch64.
    type Rules = [(Register, RegisterRule<usize>); 32];
    // One row, and two remembered ones.
    type Stack = [UnwindTableRow<usize, Self>; 3];
}

pub(super) struct Row<'a> {
    gimlis: &'a UnwindTableRow<usize, OnStack>,
    section: &'a Section<'a>,
    addresses: &'a BaseAddresses,
    fde: &'a Fde<'a>,
    pc: usize,
    undefined: OnceCell<u64>,
}

impl<'a> Row<'a> {
    /// The row of this table entry that holds at `pc`.
    pub(super) fn at(
        pc: usize,
        section: &'a Section<'a>,
        addresses: &'a BaseAddresses,
        fde: &'a Fde<'a>,
        context: &'a mut UnwindContext<usize, OnStack>,
    ) -> Option<Self> {
        let gimlis = fde.unwind_info_for_address(section, addresses, context, pc as u64).ok()?;
        Some(Self { gimlis, section, addresses, fde, pc, undefined: OnceCell::new() })
    }

    /// The rule for the canonical frame address.
    pub(super) fn cfa(&self) -> &CfaRule<usize> {
        self.gimlis.cfa()
    }

    /// The rule for a register, one of the first 64; `None` if the table does not mention it.
    pub(super) fn register(&self, register: Register) -> Option<RegisterRule<usize>> {
        match self.saved(register) {
            None if self.undefined.get_or_init(|| self.undefined()) & bit(register) != 0 => {
                Some(RegisterRule::Undefined)
            }
            rule => rule,
        }
    }

    /// The same in less time, with `None` also for a register that the table declares undefined.
    pub(super) fn saved(&self, register: Register) -> Option<RegisterRule<usize>> {
        match self.gimlis.register(register) {
            RegisterRule::Undefined => None,
            rule => Some(rule),
        }
    }

    /// The registers that the table declares undefined, a bit each. gimli has read the same
    /// instructions before, so no error is left to report.
    fn undefined(&self) -> u64 {
        use CallFrameInstruction as Is;
        let cie = self.fde.cie();
        let common = cie.instructions(self.section, self.addresses);
        let own = self.fde.instructions(self.section, self.addresses);
        let mut undefined = 0;
        // As many as gimli's rows that can be remembered (`OnStack`), and more.
        let (mut remembered, mut count) = ([0; 4], 0);
        let mut location = self.fde.initial_address();
        for mut instructions in [common, own] {
            let initially = undefined;
            while let Ok(Some(instruction)) = instructions.next() {
                match instruction {
                    Is::SetLoc { address } => location = address,
                    Is::AdvanceLoc { delta } => {
                        let distance = u64::from(delta).wrapping_mul(cie.code_alignment_factor());
                        location = location.wrapping_add(distance);
                    }
                    Is::Undefined { register } => undefined |= bit(register),
                    Is::SameValue { register }
                    | Is::Offset { register, .. }
                    | Is::OffsetExtendedSf { register, .. }
                    | Is::ValOffset { register, .. }
                    | Is::ValOffsetSf { register, .. }
                    | Is::Register { dest_register: register, .. }
                    | Is::Expression { register, .. }
                    | Is::ValExpression { register, .. } => undefined &= !bit(register),
                    Is::Restore { register } => {
                        undefined = undefined & !bit(register) | initially & bit(register);
                    }
                    Is::RememberState if count < remembered.len() => {
                        remembered[count] = undefined;
                        count += 1;
                    }
                    Is::RestoreState if count > 0 => {
                        count -= 1;
                        undefined = remembered[count];
                    }
                    _ => {}
                }
                if location > self.pc as u64 {
                    return undefined;
                }
            }
        }
        undefined
    }
}

fn bit(register: Register) -> u64 {
    1u64.checked_shl(register.0.into()).unwrap_or(0)
}
