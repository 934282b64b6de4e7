//! One step from a frame to its caller, by the row of an unwind table, with what the row says.

use super::objects::{Object, Place, Reader, Row, Rule};
use super::process::{Memory, WORD};
use super::registers::{FRAME_POINTER, RETURN_ADDRESS, Registers, STACK_POINTER, name};
use crate::memory_map::without_signature;
use gimli::{EvaluationResult, Expression, Location, Value};

/// A frame, and the way to its caller.
pub struct Step {
    /// The row, in words.
    pub row: String,
    /// The stack pointer of the caller, behind the call.
    pub cfa: usize,
    /// Where the return address is, if it is in a word of the stack.
    pub return_address_at: Option<usize>,
    /// Where registers of the caller are saved.
    pub saved: Vec<(usize, u16)>,
    /// The caller's registers, or why there is no caller.
    pub caller: Result<Registers, String>,
}

/// The walk outwards. `is_return`: the program counter is a return address, so the call before it
/// is looked up.
pub fn step(memory: &Memory, object: Option<&Object>, registers: &Registers, is_return: bool) -> Result<Step, String> {
    let row = object.and_then(|object| object.row(registers.pc - usize::from(is_return)));
    match row {
        Some(row) => by_row(memory, &row, registers),
        None => by_frame_record(memory, registers),
    }
}

fn by_row(memory: &Memory, row: &Row, registers: &Registers) -> Result<Step, String> {
    let evaluate = |expression: &Expression<Reader>, first: Option<usize>| {
        evaluate(*expression, row.encoding, first, registers, memory)
    };
    let (cfa, says) = match &row.cfa {
        Place::Register(register, offset) => {
            let value = registers.get(*register).map(|value| value.wrapping_add(*offset as usize));
            (value, format!("CFA = {}{}", name(*register), distance(*offset)))
        }
        Place::Expression(expression) => (evaluate(expression, None), "CFA = an expression's value".to_owned()),
    };
    let cfa = cfa.ok_or_else(|| format!("{says} cannot be computed"))?;
    let mut caller = registers.clone();
    caller.set(STACK_POINTER, Some(cfa));
    let (mut saved, mut return_address_at, mut text) = (Vec::new(), None, says);
    // Where no rule is given, the return address is in its register on processors that have one.
    let mut ends = row.return_address == 16 && !row.rules.iter().any(|&(register, _)| register == 16);
    for (register, rule) in &row.rules {
        let mut at = None;
        let (value, says) = match rule {
            Rule::Undefined => (None, "undefined".to_owned()),
            Rule::Same => continue,
            Rule::Saved(offset) => {
                let place = cfa.wrapping_add(*offset as usize);
                at = Some(place);
                (memory.word(place), format!("at CFA{}", distance(*offset)))
            }
            Rule::Value(offset) => (Some(cfa.wrapping_add(*offset as usize)), format!("= CFA{}", distance(*offset))),
            Rule::Register(other) => (registers.get(*other), format!("in {}", name(*other))),
            Rule::SavedAt(expression) => {
                at = evaluate(expression, Some(cfa));
                (at.and_then(|place| memory.word(place)), "where an expression says".to_owned())
            }
            Rule::ValueOf(expression) => {
                let value = evaluate(expression, Some(cfa));
                let said = value.map_or("nothing".to_owned(), |value| format!("{value:#x}"));
                (value, format!("= an expression's value, {said}"))
            }
        };
        caller.set(*register, value);
        text += &format!(", {} {says}", name(*register));
        if *register == row.return_address {
            return_address_at = at;
            ends |= matches!(rule, Rule::Undefined);
        } else if let Some(place) = at {
            saved.push((place, *register));
        }
    }
    let pc = caller.get(row.return_address).map(without_signature);
    let caller = match pc {
        _ if ends => Err("the table says that no caller exists: this is the outermost frame".to_owned()),
        Some(0) => Err("the return address is zero: this is the outermost frame".to_owned()),
        Some(pc) => {
            caller.pc = pc;
            Ok(caller)
        }
        None => Err("the return address could not be read".to_owned()),
    };
    Ok(Step { row: text, cfa, return_address_at, saved, caller })
}

/// Code without an unwind table, as that of some compilers at run time, mostly keeps frame records:
/// the caller's frame pointer, and the return address above it.
fn by_frame_record(memory: &Memory, registers: &Registers) -> Result<Step, String> {
    let pointer = name(FRAME_POINTER);
    let nothing = || format!("no unwind table covers this code, and {pointer} leads to no frame record");
    let record = registers.get(FRAME_POINTER).filter(|record| record.is_multiple_of(WORD)).ok_or_else(nothing)?;
    let near = record.checked_sub(registers.stack_pointer()).is_some_and(|distance| distance < 1 << 24);
    let words = near.then(|| Some((memory.word(record)?, memory.word(record + WORD)?))).flatten();
    let (outer, pc) = words.ok_or_else(nothing)?;
    let pc = without_signature(pc);
    if pc != 0 && memory.process.map.mapping(pc).is_none_or(|mapping| !mapping.executable) {
        return Err(nothing());
    }
    let mut caller = registers.clone();
    caller.pc = pc;
    caller.set(FRAME_POINTER, Some(outer));
    caller.set(RETURN_ADDRESS, Some(pc));
    caller.set(STACK_POINTER, Some(record + 2 * WORD));
    let end = || "the return address is zero: this is the outermost frame".to_owned();
    Ok(Step {
        row: format!("no table; a frame record at {pointer}"),
        cfa: record + 2 * WORD,
        return_address_at: Some(record + WORD),
        saved: vec![(record, FRAME_POINTER)],
        caller: if pc == 0 { Err(end()) } else { Ok(caller) },
    })
}

fn distance(offset: i64) -> String {
    match offset {
        0 => String::new(),
        1.. => format!("+{offset:#x}"),
        _ => format!("-{:#x}", offset.unsigned_abs()),
    }
}

/// The value of an expression (DWARF 5, section 2.5). Its work is bounded.
fn evaluate(
    expression: Expression<Reader>,
    encoding: gimli::Encoding,
    first: Option<usize>,
    registers: &Registers,
    memory: &Memory,
) -> Option<usize> {
    let mut evaluation = expression.evaluation(encoding);
    evaluation.set_max_iterations(1000);
    if let Some(first) = first {
        evaluation.set_initial_value(first as u64);
    }
    let mut state = evaluation.evaluate().ok()?;
    loop {
        state = match state {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresMemory { address, size, .. } => {
                let address = address as usize;
                let word = memory.word(address).or_else(|| {
                    // The last bytes of a mapping.
                    let down = address & !(WORD - 1);
                    Some(memory.word(down)? >> (8 * (address - down)))
                })? as u64;
                let value = if size >= 8 { word } else { word & ((1 << (8 * u32::from(size))) - 1) };
                evaluation.resume_with_memory(Value::Generic(value)).ok()?
            }
            EvaluationResult::RequiresRegister { register, .. } => {
                evaluation.resume_with_register(Value::Generic(registers.get(register.0)? as u64)).ok()?
            }
            _ => return None,
        };
    }
    match evaluation.as_result().last()?.location {
        Location::Address { address } => Some(address as usize),
        _ => None,
    }
}
