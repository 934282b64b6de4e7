//! The last instructions of `_Unwind_RaiseException` and the like: the way to the landing of a
//! panic or an exception.
//!
//! When these run, libgcc has already replaced the saved registers of its own frame by those of the
//! landing's frame. It then loads them one by one (`__builtin_eh_return`). Its unwind table still
//! describes the frame as it was. So no table leads on from a signal that arrives there. The
//! instructions that are left are a few moves, without a condition that matters, up to the jump to
//! the landing. This file simulates them, and the walk continues from the landing.

use super::memory::Memory;
use super::registers::{RETURN, Registers};
use crate::machine::os;
use std::ffi::c_void;

// Only their addresses are used. The ABI matters all the same: a declaration that says that they do
// not unwind (`extern "C"`) is what LLVM then finds for the calls of `_Unwind_Resume` that end the
// cleanups of a panic, in every function of the same module; with link-time optimisation, in every
// function of the program. It leaves these calls out of the tables of the landing pads, and a panic
// that passes by ends the process.
unsafe extern "C-unwind" {
    fn _Unwind_RaiseException(exception: *mut c_void) -> i32;
    fn _Unwind_Resume(exception: *mut c_void) -> !;
    fn _Unwind_Resume_or_Rethrow(exception: *mut c_void) -> i32;
    fn _Unwind_ForcedUnwind(exception: *mut c_void, stop: *mut c_void, argument: *mut c_void) -> i32;
}

/// The longest of these functions, in bytes.
const LONGEST: usize = 4096;
/// The longest simulation. About twenty instructions are to be followed.
const MOST: usize = 64;

const RSP: u16 = 7;

/// The registers at the landing, if a signal has interrupted an unwinder on the way to it, behind
/// the last condition.
pub(super) fn landing(interrupted: &Registers, memory: &Memory) -> Option<Registers> {
    let unwinders = [
        _Unwind_RaiseException as *const () as usize,
        _Unwind_Resume as *const () as usize,
        _Unwind_Resume_or_Rethrow as *const () as usize,
        _Unwind_ForcedUnwind as *const () as usize,
    ];
    if !unwinders.iter().any(|start| interrupted.pc.wrapping_sub(*start) < LONGEST) {
        return None;
    }
    let mut simulation = Simulation { registers: *interrupted, memory, stored: [(0, 0); 8], count: 0, calls: 0 };
    (0..MOST).find_map(|_| simulation.step().transpose()).and_then(Result::ok)
}

/// The simulated registers and memory.
struct Simulation<'a> {
    registers: Registers,
    memory: &'a Memory,
    /// Stored words with their addresses, the latest one last.
    stored: [(usize, usize); 8],
    count: usize,
    /// How many calls have not returned.
    calls: usize,
}

/// An instruction that the simulation does not cover, or a value that is not known.
struct Unknown;

impl Simulation<'_> {
    /// Simulates one instruction. Returns the registers after it, if it was the jump to the
    /// landing.
    fn step(&mut self) -> Result<Option<Registers>, Unknown> {
        let mut code = Code { at: self.registers.pc };
        if !os::is_readable(code.at) {
            return Err(Unknown);
        }
        let mut opcode = code.byte()?;
        let repeated = opcode == 0xf3;
        if repeated {
            opcode = code.byte()?;
        }
        let mut rex = 0;
        if opcode & 0xf0 == 0x40 {
            rex = opcode;
            opcode = code.byte()?;
        }
        let wide = rex & 8 != 0;
        let extended = u16::from(rex & 1) << 3;
        match opcode {
            // rdsspq and endbr64: they concern the shadow stack, which is not simulated.
            0x0f if repeated && code.byte()? == 0x1e => _ = code.byte()?,
            // xor of a register with itself
            0x31 | 0x33 => match self.operand(&mut code, rex)? {
                (register, Operand::Register(other)) if register == other => self.registers.set(register, Some(0)),
                _ => return Err(Unknown),
            },
            // test: for the condition below.
            0x85 => _ = self.operand(&mut code, rex)?,
            // je, over instructions that concern the shadow stack alone.
            0x74 => {
                let distance = code.byte()? as i8;
                code.at = code.at.wrapping_add_signed(isize::from(distance));
            }
            // mov to memory or a register, mov from there, lea
            0x89 if wide => {
                let (register, to) = self.operand(&mut code, rex)?;
                let value = self.registers.get(register).ok_or(Unknown)?;
                self.store(to, value)?;
            }
            0x8b if wide => {
                let (register, from) = self.operand(&mut code, rex)?;
                let value = match from {
                    Operand::Register(other) => self.registers.get(other).ok_or(Unknown)?,
                    Operand::Memory(address) => self.load(address)?,
                };
                self.registers.set(register, Some(value));
            }
            0x8d if wide => match self.operand(&mut code, rex)? {
                (register, Operand::Memory(address)) => self.registers.set(register, Some(address)),
                _ => return Err(Unknown),
            },
            // pop
            0x58..=0x5f => {
                let value = self.pop()?;
                self.registers.set(dwarf(u16::from(opcode & 7) | extended), Some(value));
            }
            // call: of a function without an effect, at which debuggers can stop.
            0xe8 => {
                let distance = code.word()?;
                let sp = self.registers.get(RSP).ok_or(Unknown)?.wrapping_sub(8);
                self.registers.set(RSP, Some(sp));
                self.store(Operand::Memory(sp), code.at)?;
                self.calls += 1;
                code.at = code.at.wrapping_add_signed(distance as isize);
            }
            // ret: from that function, or to the landing.
            0xc3 => {
                let target = self.pop()?;
                if self.calls == 0 {
                    return Ok(Some(self.at(target)));
                }
                self.calls -= 1;
                code.at = target;
            }
            // jmp *register
            0xff => {
                let operand = code.byte()?;
                let target = self.registers.get(dwarf(u16::from(operand & 7) | extended)).ok_or(Unknown)?;
                return if operand & 0xf8 == 0xe0 { Ok(Some(self.at(target))) } else { Err(Unknown) };
            }
            _ => return Err(Unknown),
        }
        self.registers.pc = code.at;
        Ok(None)
    }

    fn at(&self, target: usize) -> Registers {
        let mut registers = self.registers;
        registers.pc = target;
        registers.set(RETURN, None);
        registers
    }

    fn pop(&mut self) -> Result<usize, Unknown> {
        let sp = self.registers.get(RSP).ok_or(Unknown)?;
        self.registers.set(RSP, Some(sp.wrapping_add(8)));
        self.load(sp)
    }

    fn load(&self, address: usize) -> Result<usize, Unknown> {
        match self.stored[..self.count].iter().rev().find(|(at, _)| *at == address) {
            Some((_, word)) => Ok(*word),
            None => self.memory.load(address).ok_or(Unknown),
        }
    }

    fn store(&mut self, to: Operand, value: usize) -> Result<(), Unknown> {
        match to {
            Operand::Register(register) => self.registers.set(register, Some(value)),
            Operand::Memory(address) => {
                *self.stored.get_mut(self.count).ok_or(Unknown)? = (address, value);
                self.count += 1;
            }
        }
        Ok(())
    }

    /// The operands that a ModRM byte encodes (AMD64 manual, volume 3, 1.4).
    fn operand(&self, code: &mut Code, rex: u8) -> Result<(u16, Operand), Unknown> {
        let byte = code.byte()?;
        let extend = |number: u8, bit: u8| u16::from(number & 7) | u16::from(rex >> bit & 1) << 3;
        let register = dwarf(extend(byte >> 3, 2));
        let mode = byte >> 6;
        if mode == 3 {
            return Ok((register, Operand::Register(dwarf(extend(byte, 0)))));
        }
        let get = |number: u16| self.registers.get(dwarf(number)).ok_or(Unknown);
        let address = if byte & 7 == 4 {
            let sib = code.byte()?;
            let index = extend(sib >> 3, 1);
            let scaled = if index == 4 { 0 } else { get(index)? << (sib >> 6) };
            if sib & 7 == 5 && mode == 0 {
                return Err(Unknown);
            }
            get(extend(sib, 0))?.wrapping_add(scaled)
        } else if byte & 7 == 5 && mode == 0 {
            return Err(Unknown);
        } else {
            get(extend(byte, 0))?
        };
        let distance = match mode {
            0 => 0,
            1 => isize::from(code.byte()? as i8),
            _ => code.word()? as isize,
        };
        Ok((register, Operand::Memory(address.wrapping_add_signed(distance))))
    }
}

#[derive(Clone, Copy)]
enum Operand {
    Register(u16),
    Memory(usize),
}

/// The number in unwind tables of the register that instructions give this number.
fn dwarf(number: u16) -> u16 {
    const NUMBERS: [u16; 8] = [0, 2, 1, 3, 7, 6, 4, 5];
    NUMBERS.get(usize::from(number)).copied().unwrap_or(number)
}

/// The bytes of an instruction.
struct Code {
    at: usize,
}

impl Code {
    fn byte(&mut self) -> Result<u8, Unknown> {
        if self.at % 4096 == 0 && !os::is_readable(self.at) {
            return Err(Unknown);
        }
        // SAFETY: the page in which the instruction begins was checked, and so is the next one if
        // the instruction continues there.
        let byte = unsafe { (self.at as *const u8).read() };
        self.at += 1;
        Ok(byte)
    }

    fn word(&mut self) -> Result<i32, Unknown> {
        let mut bytes = [0; 4];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Ok(i32::from_le_bytes(bytes))
    }
}
