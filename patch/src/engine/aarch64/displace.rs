//! Moves one aarch64 instruction to another address with the same effect, or refuses.
//!
//! | class | in the stub |
//! |---|---|
//! | `B` | `B` |
//! | `BL` | `MOVZ`/`MOVK x30, next; B` |
//! | `B.cond`, `BC.cond`, `CBZ`, `CBNZ`, `TBZ`, `TBNZ` | the same over `B next` to `B target` |
//! | `ADR`, `ADRP` | `MOVZ`/`MOVK xd, value` |
//! | `LDR` (literal) of 32 or 64 bits, `LDRSW` (literal) | `MOVZ`/`MOVK xt, address; LDR t, [xt]` |
//! | `PRFM` (literal) | `NOP`: it is only a hint |
//! | `LDR` (literal) of a SIMD register, or to the zero register | refused: no scratch register |
//! | `BR`, `RET` and their authenticated forms | copied |
//! | `BLR`, exceptions, `BTI` and instructions that act as one, pointer authentication with the PC, exclusive accesses | refused |
//! | all others outside the unallocated space | copied |
//!
//! Encodings: Arm ARM, C4.1 "A64 instruction set encoding".

use super::branch::branch;
use super::instruction::{NOP, length, word};

/// The distance in bytes from a signed field of `bits` bits at bit `low`, which counts units of 4
/// bytes.
fn field(instruction: u32, low: u32, bits: u32) -> i64 {
    ((instruction << (32 - low - bits)) as i32 >> (32 - bits)) as i64 * 4
}

/// The instruction `bytes` of address `at`, encoded for address `to` and followed by a branch to
/// the next instruction. `to` is a multiple of 4.
pub fn displace(bytes: &[u8], at: u64, to: u64) -> Result<Vec<u8>, &'static str> {
    length(bytes, at)?;
    let instruction = word(bytes);
    let mut stub = Stub { to, words: Vec::new() };
    let next = at.wrapping_add(4);
    // Arm ARM C4.1: bits 28..25 name the group.
    match instruction >> 25 & 0xf {
        0b1010 | 0b1011 => control(instruction, at, &mut stub)?,
        0b0000 if instruction >> 31 == 0 => return Err("it is undefined (UDF or unallocated)"),
        0b0001 | 0b0011 => return Err("it is not allocated"),
        _ => data(instruction, at, &mut stub)?,
    }
    stub.branch(next)?;
    Ok(stub.bytes())
}

/// Branches, exceptions, system instructions.
fn control(instruction: u32, at: u64, stub: &mut Stub) -> Result<(), &'static str> {
    let next = at.wrapping_add(4);
    if instruction & 0x7c00_0000 == 0x1400_0000 {
        let target = at.wrapping_add(field(instruction, 0, 26) as u64);
        if instruction >> 31 == 0 {
            return stub.branch(target);
        }
        stub.literal(30, next);
        stub.branch(target)?;
        return Ok(());
    }
    // B.cond, BC.cond: 0101010 0 imm19 o cond. CBZ, CBNZ: sf 011010 op imm19 Rt.
    if instruction & 0xff00_0000 == 0x5400_0000 || instruction & 0x7e00_0000 == 0x3400_0000 {
        let target = at.wrapping_add(field(instruction, 5, 19) as u64);
        return stub.conditional(instruction & !(0x7_ffff << 5) | 2 << 5, next, target);
    }
    // TBZ, TBNZ: b5 011011 op b40 imm14 Rt.
    if instruction & 0x7e00_0000 == 0x3600_0000 {
        let target = at.wrapping_add(field(instruction, 5, 14) as u64);
        return stub.conditional(instruction & !(0x3fff << 5) | 2 << 5, next, target);
    }
    // BR and RET, BRAA.., RETAA..: 1101011 Z opc(00 or 10) .. ; BLR has opc 01, ERET and DRPS have
    // 0100 and 0101.
    if instruction & 0xfe00_0000 == 0xd600_0000 {
        let opc = instruction >> 21 & 0xf;
        return match opc {
            0b0000 | 0b0010 | 0b1000 => {
                stub.push(instruction);
                Ok(())
            }
            0b0001 | 0b1001 => Err("it stores its own address (a return address in x30)"),
            _ => Err("it returns from an exception, or is not allocated"),
        };
    }
    if instruction & 0xff00_0000 == 0xd400_0000 {
        return Err("it raises an exception, whose handler reads its address");
    }
    // Hints: 11010101000000110010 CRm op2 11111.
    if instruction & 0xffff_f01f == 0xd503_201f {
        let number = instruction >> 5 & 0x7f;
        return match number {
            // PACIASP and PACIBSP accept indirect calls, as BTI does; PACM changes what follows it.
            25 | 27 | 32..=39 => {
                Err("it marks its own address as a target of indirect branches, or depends on its neighbour")
            }
            _ => {
                stub.push(instruction);
                Ok(())
            }
        };
    }
    // Barriers, MSR, MRS, SYS: 1101010100 ...
    if instruction & 0xffc0_0000 == 0xd500_0000 {
        stub.push(instruction);
        return Ok(());
    }
    Err("it is an unknown branch or system instruction")
}

/// All other instructions.
fn data(instruction: u32, at: u64, stub: &mut Stub) -> Result<(), &'static str> {
    let register = instruction & 31;
    // ADR, ADRP: op immlo 10000 immhi Rd.
    if instruction & 0x1f00_0000 == 0x1000_0000 {
        let distance = field(instruction, 5, 19) | (instruction >> 29 & 3) as i64;
        let value = if instruction >> 31 == 0 {
            at.wrapping_add(distance as u64)
        } else {
            (at & !0xfff).wrapping_add((distance << 12) as u64)
        };
        stub.literal(register, value);
        return Ok(());
    }
    // Load literal: opc 011 V 00 imm19 Rt.
    if instruction & 0x3b00_0000 == 0x1800_0000 {
        let address = at.wrapping_add(field(instruction, 5, 19) as u64);
        let opc = instruction >> 30;
        if instruction >> 26 & 1 == 1 {
            return Err("it loads a SIMD register from a literal, which would need a scratch register in the stub");
        }
        if opc == 3 {
            stub.push(NOP);
            return Ok(());
        }
        if register == 31 {
            return Err("it loads a literal to the zero register, which cannot hold its address");
        }
        if address.wrapping_sub(at.wrapping_sub(7)) < 11 {
            return Err("its literal is its own bytes");
        }
        // LDR w, LDR x, LDRSW, each from [xt].
        let load = [0xb940_0000, 0xf940_0000, 0xb980_0000][opc as usize];
        stub.literal(register, address);
        stub.push(load | register << 5 | register);
        return Ok(());
    }
    // FEAT_PAuth_LR signs and checks with the instruction's own address.
    if instruction & 0xffff_c000 == 0xdac1_8000 || instruction & 0xffc0_0000 == 0xf380_0000 {
        return Err("it signs or authenticates with its own address");
    }
    // Exclusive loads and stores: size 001000 0 ...
    if instruction & 0x3f00_0000 == 0x0800_0000 {
        return Err("it is part of an exclusive sequence, which a branch would break");
    }
    stub.push(instruction);
    Ok(())
}

/// Code for a stub, encoded for its final address.
struct Stub {
    to: u64,
    words: Vec<u32>,
}

impl Stub {
    fn push(&mut self, word: u32) {
        self.words.push(word);
    }

    fn here(&self) -> u64 {
        self.to.wrapping_add(self.words.len() as u64 * 4)
    }

    fn branch(&mut self, target: u64) -> Result<(), &'static str> {
        let word = branch(self.here(), target).ok_or("a branch target is out of the stub's reach")?;
        self.push(word);
        Ok(())
    }

    /// `skip` is the conditional branch with its distance set to 2 instructions.
    fn conditional(&mut self, skip: u32, next: u64, target: u64) -> Result<(), &'static str> {
        self.push(skip);
        self.branch(next)?;
        self.branch(target)
    }

    /// Sets a register by `MOVZ` and `MOVK`, so that there is no data in the code.
    fn literal(&mut self, register: u32, value: u64) {
        for part in 0..4 {
            let half = (value >> (16 * part)) as u32 & 0xffff;
            let opcode = if part == 0 { 0xd280_0000 } else { 0xf280_0000 };
            if part == 0 || half != 0 {
                self.push(opcode | part << 21 | half << 5 | register);
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}
