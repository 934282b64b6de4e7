//! An unwinder: from the registers of the stopped thread to the frames of its stack, by the unwind
//! tables of the mapped files. It keeps each row and how it was evaluated.

use super::objects::{AddressSpace, ObjectFile};
use super::processor::{self, COLUMNS, RETURN_COLUMN, Registers, STACK_POINTER_COLUMN};
use super::recording::{Frame, Row, Rule, Word};
use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, FrameDescriptionEntry, LittleEndian, Operation, Reader,
    RegisterRule, UnwindContext, UnwindExpression, UnwindSection, UnwindTableRow,
};

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// More frames than a film has.
const LIMIT: usize = 200;

/// A frame, and what the film needs to know of it.
pub struct Found {
    pub shown: Frame,
    /// The return address into this frame, or the program counter.
    pub pc: u64,
    /// Where on the stack its own return address is.
    pub return_address_at: Option<u64>,
    /// Registers of its caller that it has saved: name, and where.
    pub saved: Vec<(&'static str, u64)>,
}

pub struct Backtrace {
    pub frames: Vec<Found>,
    pub ended: String,
}

/// Reads a word of the child's memory.
pub type Read<'a> = dyn Fn(u64) -> Option<u64> + 'a;

/// What a rule gives: how it is shown, its value, and the address that the value was read from.
type Evaluated = (Rule, Option<u64>, Option<u64>);

pub fn backtrace(space: &AddressSpace, registers: &Registers, read: &Read<'_>) -> Backtrace {
    let mut columns = registers.columns();
    let mut pc = registers.pc();
    let mut frames: Vec<Found> = Vec::new();
    let mut is_exact = true;
    loop {
        let looked_up = if is_exact { pc } else { pc.wrapping_sub(1) };
        let name = space.name(looked_up);
        let frame = |row, return_address_at, saved| Found {
            shown: Frame { pc: Word(pc), name: name.clone(), looked_up: Word(looked_up), row },
            pc,
            return_address_at,
            saved,
        };
        let top = space.file(looked_up).and_then(|file| file.debug_frame.as_ref()?.ends_at(&name));
        let step = space.file(looked_up).ok_or("no file is mapped there").and_then(|file| {
            let step = step(file, looked_up, is_exact && top.is_none(), &columns, read);
            step.ok_or("this code has no unwind table")
        });
        let step = match step {
            Ok(step) => step,
            Err(why) => {
                frames.push(frame(None, None, Vec::new()));
                return Backtrace { frames, ended: format!("It ends at {name}: {why}.") };
            }
        };
        is_exact = step.is_signal_frame;
        let before = columns.get(usize::from(STACK_POINTER_COLUMN)).copied().flatten();
        if let Some(why) = top {
            frames.push(frame(Some(step.row), None, Vec::new()));
            return Backtrace { frames, ended: format!("It ends at {name}: {why}") };
        }
        frames.push(frame(Some(step.row), step.return_address_at, step.saved));
        let Some(next) = step.return_address else {
            return Backtrace {
                frames,
                ended: format!("It ends at {name}: the table says that this is the outermost frame."),
            };
        };
        if next == 0 {
            return Backtrace { frames, ended: format!("It ends at {name}, whose return address is zero.") };
        }
        if next == pc && before == Some(step.cfa) {
            let ended = format!(
                "It ends at {name}: the row says that the return address is still in its register. A call has changed \
                 that register, and it leads back to here."
            );
            return Backtrace { frames, ended };
        }
        if frames.len() >= LIMIT || before.is_some_and(|before| frames.len() > 1 && step.cfa < before) {
            return Backtrace { frames, ended: "It ends here: the next frame is no outer one.".to_owned() };
        }
        columns = step.columns;
        pc = next;
    }
}

struct Step {
    row: Row,
    cfa: u64,
    columns: Vec<Option<u64>>,
    /// `None`: undefined, so this is the outermost frame.
    return_address: Option<u64>,
    return_address_at: Option<u64>,
    saved: Vec<(&'static str, u64)>,
    is_signal_frame: bool,
}

fn step(file: &ObjectFile, address: u64, is_exact: bool, columns: &[Option<u64>], read: &Read<'_>) -> Option<Step> {
    let place = address.checked_sub(file.bias)?;
    if let Some(table) = &file.debug_frame {
        let (fde, section, bases) = table.find(place)?;
        return evaluated(file, place, is_exact, (&fde, &section, &bases), columns, read);
    }
    let (fde, section, bases) = find(file, place)?;
    evaluated(file, place, is_exact, (&fde, &section, &bases), columns, read)
}

fn evaluated<'a, S: UnwindSection<Bytes<'a>>>(
    file: &ObjectFile,
    place: u64,
    is_exact: bool,
    (fde, section, bases): (&FrameDescriptionEntry<Bytes<'a>>, &S, &BaseAddresses),
    columns: &[Option<u64>],
    read: &Read<'_>,
) -> Option<Step> {
    let mut context = UnwindContext::new();
    let row = fde.unwind_info_for_address(section, bases, &mut context, place).ok()?;
    let evaluate = Evaluator { section, columns, read };
    let (cfa_rule, cfa) = evaluate.cfa(row.cfa())?;
    let (mut return_rule, return_address, return_address_at) =
        evaluate.register(&return_rule(row, is_exact), RETURN_COLUMN, cfa);
    let mut next = columns.to_vec();
    let mut shown = Vec::new();
    let mut saved = Vec::new();
    for (register, rule) in row.registers() {
        let number = register.0;
        let Some(&name) = COLUMNS.get(usize::from(number)) else { continue };
        if number == RETURN_COLUMN {
            continue;
        }
        let (rule, value, at) = evaluate.register(rule, number, cfa);
        next[usize::from(number)] = value;
        saved.extend(at.map(|at| (name, at)));
        shown.push((name, rule));
    }
    if !row.registers().any(|(register, _)| register.0 == STACK_POINTER_COLUMN) {
        next[usize::from(STACK_POINTER_COLUMN)] = Some(cfa);
    }
    let signed = return_address.filter(|&address| processor::plain(address) != address);
    let return_address = return_address.map(processor::plain);
    if let (Some(_), Some(plain)) = (signed, return_address) {
        return_rule.numbers += &format!("; without its signature {plain:#x}");
    }
    next[usize::from(RETURN_COLUMN)] = return_address;
    let absolute = |address: u64| Word(address.wrapping_add(file.bias));
    Some(Step {
        row: Row {
            function: [absolute(fde.initial_address()), absolute(fde.initial_address() + fde.len())],
            range: [absolute(row.start_address()), absolute(row.end_address())],
            cfa: cfa_rule,
            return_address: return_rule,
            registers: shown,
        },
        cfa,
        columns: next,
        return_address,
        return_address_at,
        saved,
        is_signal_frame: fde.is_signal_trampoline(),
    })
}

/// The rule of the return address. gimli keeps no rule that says "undefined". Where there is none,
/// the register itself has the return address on processors whose calls put it there, as long as
/// the function has not called another one.
fn return_rule(row: &UnwindTableRow<usize>, is_exact: bool) -> RegisterRule<usize> {
    let found = row.registers().find(|(register, _)| register.0 == RETURN_COLUMN);
    let otherwise =
        if processor::LINK_REGISTER.is_some() && is_exact { RegisterRule::SameValue } else { RegisterRule::Undefined };
    found.map_or(otherwise, |(_, rule)| rule.clone())
}

fn column(number: u16) -> String {
    COLUMNS.get(usize::from(number)).map_or_else(|| format!("r{number}"), |name| (*name).to_owned())
}

fn plus(offset: i64) -> String {
    if offset < 0 { format!("- {}", -offset) } else { format!("+ {offset}") }
}

struct Evaluator<'a, S> {
    section: &'a S,
    columns: &'a [Option<u64>],
    read: &'a Read<'a>,
}

impl<'b, S: UnwindSection<Bytes<'b>>> Evaluator<'_, S> {
    fn column(&self, number: u16) -> Option<u64> {
        self.columns.get(usize::from(number)).copied().flatten()
    }

    fn cfa(&self, rule: &CfaRule<usize>) -> Option<(Rule, u64)> {
        match rule {
            CfaRule::RegisterAndOffset { register, offset } => {
                let from = self.column(register.0)?;
                let value = from.wrapping_add_signed(*offset);
                let name = column(register.0);
                let rule = Rule {
                    rule: format!("{name} {}", plus(*offset)),
                    numbers: format!("{from:#x} {} = {value:#x}", plus(*offset)),
                    value: Some(Word(value)),
                    expression: Vec::new(),
                };
                Some((rule, value))
            }
            CfaRule::Expression(expression) => {
                let (steps, value) = self.expression(expression, None);
                let value = value?;
                let rule = Rule {
                    rule: "expression".to_owned(),
                    numbers: format!("{value:#x}"),
                    value: Some(Word(value)),
                    expression: steps,
                };
                Some((rule, value))
            }
        }
    }

    fn register(&self, rule: &RegisterRule<usize>, number: u16, cfa: u64) -> Evaluated {
        let shown = |rule: String, numbers: String, value: Option<u64>, expression| Rule {
            rule,
            numbers,
            value: value.map(Word),
            expression,
        };
        let loaded =
            |value: Option<u64>| value.map_or("memory that cannot be read".to_owned(), |value| format!("{value:#x}"));
        match rule {
            RegisterRule::Undefined => (shown("undefined".into(), "no caller".into(), None, vec![]), None, None),
            RegisterRule::SameValue => {
                let value = self.column(number);
                (
                    shown("unchanged".into(), format!("{} = {}", column(number), loaded(value)), value, vec![]),
                    value,
                    None,
                )
            }
            RegisterRule::Offset(offset) => {
                let at = cfa.wrapping_add_signed(*offset);
                let value = (self.read)(at);
                let numbers = format!("word at {cfa:#x} {} = {at:#x}: {}", plus(*offset), loaded(value));
                (shown(format!("in memory at CFA {}", plus(*offset)), numbers, value, vec![]), value, Some(at))
            }
            RegisterRule::ValOffset(offset) => {
                let value = Some(cfa.wrapping_add_signed(*offset));
                (shown(format!("CFA {}", plus(*offset)), loaded(value), value, vec![]), value, None)
            }
            RegisterRule::Register(other) => {
                let value = self.column(other.0);
                (shown(format!("in {}", column(other.0)), loaded(value), value, vec![]), value, None)
            }
            RegisterRule::Expression(expression) => {
                let (steps, at) = self.expression(expression, Some(cfa));
                let value = at.and_then(|at| (self.read)(at));
                let numbers = format!("word at {}: {}", loaded(at), loaded(value));
                (shown("expression: the address".into(), numbers, value, steps), value, at)
            }
            RegisterRule::ValExpression(expression) => {
                let (steps, value) = self.expression(expression, Some(cfa));
                (shown("val_expression: the value".into(), loaded(value), value, steps), value, None)
            }
            other => (shown(format!("{other:?}"), "not evaluated".into(), None, vec![]), None, None),
        }
    }

    /// Evaluates an expression, and keeps the stack of numbers after each operation.
    fn expression(
        &self,
        expression: &UnwindExpression<usize>,
        cfa: Option<u64>,
    ) -> (Vec<(String, Vec<Word>)>, Option<u64>) {
        let mut stack: Vec<u64> = cfa.into_iter().collect();
        let mut steps = Vec::new();
        if let Some(cfa) = cfa {
            steps.push(("(the CFA is there at the beginning)".to_owned(), vec![Word(cfa)]));
        }
        let Ok(expression) = expression.get(self.section) else { return (steps, None) };
        let encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };
        let mut operations = expression.operations(encoding);
        while let Ok(Some(operation)) = operations.next() {
            let Some(name) = self.operate(&operation, &mut stack) else {
                steps.push((format!("{operation:?}: not evaluated"), Vec::new()));
                return (steps, None);
            };
            steps.push((name, stack.iter().copied().map(Word).collect()));
        }
        let value = stack.last().copied();
        (steps, value)
    }

    /// Executes one operation; `None` if it is none that tables on this system have.
    fn operate<R: Reader<Offset = usize>>(&self, operation: &Operation<R>, stack: &mut Vec<u64>) -> Option<String> {
        fn two(stack: &mut Vec<u64>, result: impl Fn(u64, u64) -> u64) -> Option<()> {
            let (last, before) = (stack.pop()?, stack.pop()?);
            stack.push(result(before, last));
            Some(())
        }
        Some(match operation {
            Operation::RegisterOffset { register, offset, .. } => {
                stack.push(self.column(register.0)?.wrapping_add_signed(*offset));
                format!("push {} {}", column(register.0), plus(*offset))
            }
            Operation::UnsignedConstant { value } => {
                stack.push(*value);
                format!("push {value}")
            }
            Operation::SignedConstant { value } => {
                stack.push(*value as u64);
                format!("push {value}")
            }
            Operation::PlusConstant { value } => {
                let last = stack.last_mut()?;
                *last = last.wrapping_add(*value);
                format!("plus {value}")
            }
            Operation::Deref { size, .. } => {
                let at = stack.pop()?;
                let word = (self.read)(at)?;
                stack.push(if *size < 8 { word & ((1 << (8 * u32::from(*size))) - 1) } else { word });
                "load the word at this address".to_owned()
            }
            Operation::Pick { index } => {
                let place = stack.len().checked_sub(1 + usize::from(*index))?;
                stack.push(stack[place]);
                if *index == 0 { "duplicate".to_owned() } else { format!("pick {index}") }
            }
            Operation::Drop => {
                stack.pop()?;
                "drop".to_owned()
            }
            Operation::Swap => {
                let count = stack.len();
                if count < 2 {
                    return None;
                }
                stack.swap(count - 1, count - 2);
                "swap".to_owned()
            }
            Operation::Plus => two(stack, u64::wrapping_add).map(|()| "add".to_owned())?,
            Operation::Minus => two(stack, u64::wrapping_sub).map(|()| "subtract".to_owned())?,
            Operation::Mul => two(stack, u64::wrapping_mul).map(|()| "multiply".to_owned())?,
            Operation::And => two(stack, |a, b| a & b).map(|()| "and".to_owned())?,
            Operation::Or => two(stack, |a, b| a | b).map(|()| "or".to_owned())?,
            Operation::Xor => two(stack, |a, b| a ^ b).map(|()| "exclusive or".to_owned())?,
            Operation::Shl => {
                two(stack, |a, b| a.checked_shl(b as u32).unwrap_or(0)).map(|()| "shift left".to_owned())?
            }
            Operation::Shr => {
                two(stack, |a, b| a.checked_shr(b as u32).unwrap_or(0)).map(|()| "shift right".to_owned())?
            }
            Operation::Shra => two(stack, |a, b| (a as i64 >> b.min(63)) as u64)
                .map(|()| "shift right, keeping the sign".to_owned())?,
            Operation::Ge => two(stack, |a, b| u64::from(a as i64 >= b as i64)).map(|()| "at least?".to_owned())?,
            Operation::Nop => "nothing".to_owned(),
            _ => return None,
        })
    }
}

/// The range of the function at `address`, from its table.
pub fn function_range(file: &ObjectFile, address: u64) -> Option<(u64, u64)> {
    let place = address.checked_sub(file.bias)?;
    let fde = match &file.debug_frame {
        Some(table) => table.find(place)?.0,
        None => find(file, place)?.0,
    };
    Some((fde.initial_address().wrapping_add(file.bias), fde.end_address().wrapping_add(file.bias)))
}

/// The entry of `.eh_frame` for an address of the file.
fn find(
    file: &ObjectFile,
    place: u64,
) -> Option<(FrameDescriptionEntry<Bytes<'_>>, EhFrame<Bytes<'_>>, BaseAddresses)> {
    let mut eh_frame = EhFrame::new(&file.eh_frame.1, LittleEndian);
    // aarch64 has an instruction of its own in unwind tables: the return address is signed.
    eh_frame.set_vendor(processor::VENDOR);
    let bases = BaseAddresses::default()
        .set_eh_frame(file.eh_frame.0)
        .set_eh_frame_hdr(file.eh_frame_hdr.0)
        .set_text(file.text);
    let header = EhFrameHdr::new(&file.eh_frame_hdr.1, LittleEndian).parse(&bases, 8).ok();
    let fde = match header.as_ref().and_then(|header| header.table()) {
        Some(table) => table.fde_for_address(&eh_frame, &bases, place, EhFrame::cie_from_offset).ok()?,
        None => eh_frame.fde_for_address(&bases, place, EhFrame::cie_from_offset).ok()?,
    };
    Some((fde, eh_frame, bases))
}
