//! The step by a rule of any form, with all registers: slower than the simple rule, and not cached.
//!
//! It serves functions that realign their stack (a DWARF expression gives their canonical frame
//! address), hand-written assembly, and look-ups of a register's value in an outer frame. libgcc's
//! unwinder follows the same rules, but it ends the process where it cannot read a table, and loads
//! from any address. This step refuses such a table, and checks every address.

use super::memory::{LARGEST_BUFFER, Memory};
use super::registers::{COUNT, RETURN, Registers};
use super::row::{OnStack, Row, Section};
use super::tables;
use crate::machine::arch::{self, dwarf};
use gimli::{
    CfaRule, Encoding, EndianSlice, Evaluation, EvaluationResult, EvaluationStorage, Format, NativeEndian, Piece,
    Reader, Register, RegisterRule, UnwindContext, UnwindExpression, Value,
};

/// The result of a step by a table.
pub(super) enum Found {
    Caller {
        /// The caller's registers.
        registers: Registers,
        /// Where the return address was stored, and the word there; `None` if it was not stored.
        slot: Option<usize>,
        word: usize,
        /// Where the caller's frame pointer was stored.
        fp_slot: Option<usize>,
        /// Whether both frames lie in one segment of memory.
        contiguous: bool,
    },
    Signal,
    Switch,
    Outermost,
    NoTable,
    /// The table cannot be read, or refers to a value that is not known or cannot be read.
    Unsupported,
}

/// Storage on the stack for the evaluation of an expression.
struct Fixed;

impl<R: Reader> EvaluationStorage<R> for Fixed {
    type Stack = [Value; 32];
    type ExpressionStack = [(R, R); 2];
    type Result = [Piece<R>; 1];
}

/// An expression that takes more operations than this is not one of an unwind table.
const MOST_OPERATIONS: u32 = 1000;
/// The largest distance from the stack pointer, or from the frame pointer, to a caller's frame
/// whose address an expression gives. A function that realigns its stack has its frame pointer in
/// the realigned part; between the two is padding.
const LARGEST_PADDING: usize = 8192;

/// The step from a frame with these registers, whose unwind table is looked up at `pc`.
pub(super) fn step(registers: &Registers, pc: usize, memory: &mut Memory) -> Found {
    let found = tables::at(pc, |section, addresses, fde, _| {
        if fde.is_signal_trampoline() {
            return Some(Found::Signal);
        }
        let mut context: UnwindContext<usize, OnStack> = UnwindContext::new_in();
        let row = Row::at(pc, section, addresses, fde, &mut context)?;
        let (cfa, by_expression) = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                (registers.get(register.0)?.wrapping_add_signed(*offset as isize), false)
            }
            CfaRule::Expression(expression) => (evaluate(section, expression, None, registers, memory)?, true),
        };
        let sp = registers.sp()?;
        if cfa == 0 || cfa % 8 != 0 {
            return None;
        }
        if by_expression {
            let near = |from: usize| cfa.wrapping_sub(from) <= LARGEST_PADDING;
            if !near(sp) && !registers.get(dwarf::FRAME_POINTER).is_some_and(near) {
                return Some(Found::Switch);
            }
        }
        let readable = memory.advance(sp, cfa)?;
        if by_expression && !readable {
            return Some(Found::Switch);
        }
        let fixed = matches!(row.cfa(), CfaRule::RegisterAndOffset { register: Register(dwarf::STACK_POINTER), .. });
        let contiguous = readable && (fixed || cfa - sp <= LARGEST_BUFFER);
        let saved = |register: u16, memory: &Memory| -> (Option<usize>, Option<usize>) {
            let at = |place: Option<usize>| (place, place.and_then(|place| memory.load(place)));
            match row.register(Register(register)) {
                None | Some(RegisterRule::SameValue) => (None, registers.get(register)),
                Some(RegisterRule::Offset(offset)) => at(Some(cfa.wrapping_add_signed(offset as isize))),
                Some(RegisterRule::ValOffset(offset)) => (None, Some(cfa.wrapping_add_signed(offset as isize))),
                Some(RegisterRule::Register(other)) => (None, registers.get(other.0)),
                Some(RegisterRule::Expression(expression)) => {
                    at(evaluate(section, &expression, Some(cfa), registers, memory))
                }
                Some(RegisterRule::ValExpression(expression)) => {
                    (None, evaluate(section, &expression, Some(cfa), registers, memory))
                }
                // Undefined, and what none of these registers has.
                Some(_) => (None, None),
            }
        };
        let return_register = fde.cie().return_address_register();
        if return_register.0 != RETURN {
            return None;
        }
        let (slot, word) = match row.register(return_register) {
            Some(RegisterRule::Undefined) => return Some(Found::Outermost),
            // Only a link register can still hold the return address.
            None | Some(RegisterRule::SameValue) if cfg!(target_arch = "x86_64") => return None,
            _ => saved(RETURN, memory),
        };
        let word = word?;
        let pc = arch::strip(word);
        if pc == 0 {
            return Some(Found::Outermost);
        }
        let mut caller = registers.kept(pc);
        let mut fp_slot = None;
        for register in (0..COUNT as u16).filter(|&register| register != RETURN) {
            match row.register(Register(register)) {
                None | Some(RegisterRule::SameValue) => {}
                Some(_) => {
                    let (place, value) = saved(register, memory);
                    if register == dwarf::FRAME_POINTER {
                        fp_slot = place;
                    }
                    caller.set(register, value);
                }
            }
        }
        if matches!(row.register(Register(dwarf::STACK_POINTER)), None | Some(RegisterRule::SameValue)) {
            caller.set(dwarf::STACK_POINTER, Some(cfa));
        }
        caller.set(RETURN, None);
        Some(Found::Caller { registers: caller, slot, word, fp_slot, contiguous })
    });
    match found {
        Ok((found, _)) => found,
        Err(super::rule::Rule::NoTable) => Found::NoTable,
        Err(_) => Found::Unsupported,
    }
}

/// The value of a table's expression.
fn evaluate(
    section: &Section,
    expression: &UnwindExpression<usize>,
    initial: Option<usize>,
    registers: &Registers,
    memory: &Memory,
) -> Option<usize> {
    let encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };
    let code = expression.get(section).ok()?.0;
    let mut evaluation: Evaluation<EndianSlice<NativeEndian>, Fixed> = Evaluation::new_in(code, encoding);
    evaluation.set_max_iterations(MOST_OPERATIONS);
    if let Some(initial) = initial {
        evaluation.set_initial_value(initial as u64);
    }
    let mut state = evaluation.evaluate().ok()?;
    loop {
        state = match state {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresMemory { address, size, space: None, .. } => {
                let value = load(memory, address as usize, usize::from(size))?;
                evaluation.resume_with_memory(Value::Generic(value as u64)).ok()?
            }
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = registers.get(register.0)?;
                evaluation.resume_with_register(Value::Generic(value as u64)).ok()?
            }
            _ => return None,
        };
    }
    evaluation.value_result()?.to_u64(u64::MAX).ok().map(|value| value as usize)
}

/// Up to eight bytes from an address on, the first one lowest.
fn load(memory: &Memory, address: usize, size: usize) -> Option<usize> {
    if size == 0 || size > 8 {
        return None;
    }
    let shift = address % 8;
    let first = memory.load(address - shift)? >> (8 * shift);
    let both = if shift + size > 8 { first | memory.load(address - shift + 8)? << (8 * (8 - shift)) } else { first };
    Some(if size == 8 { both } else { both & ((1 << (8 * size)) - 1) })
}
