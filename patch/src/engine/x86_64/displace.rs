//! Moves one x86_64 instruction to another address with the same effect, or refuses.
//!
//! An instruction is copied byte for byte, except for a RIP-relative displacement. A branch is
//! encoded anew, because a short one does not reach its target from the stub. `iced-x86` decodes.
//!
//! An instruction is refused if its effect depends on its address in another way: calls push the
//! address, `syscall` leaves it in `rcx`, interrupts and transactions pass it to a handler, x87
//! instructions store it in FIP, and `endbr64` marks it.

use super::branch::rel32;
use super::instruction::{VENDOR_DEPENDENT, has_size_prefix};
use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpAccess, Register};

/// At least the size of any operand, except for `xrstor`'s with AMX. Without AMX that one has at
/// most a page, and programs do not keep it among code.
const WIDEST: u64 = 4096;

/// The instruction `bytes` of address `at`, encoded for address `to` and followed by a jump to the
/// next instruction.
pub fn displace(bytes: &[u8], at: u64, to: u64) -> Result<Vec<u8>, &'static str> {
    let mut decoder = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() || instruction.len() != bytes.len() {
        return Err("these bytes are not one instruction");
    }
    if instruction.flow_control() != FlowControl::Next && has_size_prefix(bytes) {
        return Err(VENDOR_DEPENDENT);
    }
    let mut code = match instruction.flow_control() {
        FlowControl::Next | FlowControl::Return | FlowControl::IndirectBranch => {
            check(&instruction)?;
            let displacement = decoder.get_constant_offsets(&instruction).displacement_offset();
            copy(bytes, &instruction, displacement, to)?
        }
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => branch(bytes, &instruction, to)?,
        FlowControl::Call | FlowControl::IndirectCall => {
            return Err("it pushes its own address (a return address); retarget a direct call instead");
        }
        FlowControl::Interrupt | FlowControl::XbeginXabortXend | FlowControl::Exception => {
            return Err("it passes its own address to a handler");
        }
    };
    jump(&mut code, to, instruction.next_ip())?;
    Ok(code)
}

/// Refuses an instruction whose effect depends on its address in another way than through a
/// RIP-relative operand.
fn check(instruction: &Instruction) -> Result<(), &'static str> {
    match instruction.flow_control() {
        FlowControl::Return if instruction.code() != Code::Retnq && instruction.code() != Code::Retnq_imm16 => {
            return Err("it is not a near return");
        }
        FlowControl::IndirectBranch if instruction.code() != Code::Jmp_rm64 => {
            return Err("it is not a near jump");
        }
        _ => {}
    }
    if instruction.is_privileged() {
        return Err("it is privileged");
    }
    if matches!(instruction.mnemonic(), Mnemonic::Endbr64 | Mnemonic::Endbr32) {
        return Err("it marks its own address as a target of indirect branches");
    }
    let x87 = [
        CpuidFeature::FPU,
        CpuidFeature::FPU287,
        CpuidFeature::FPU287XL_ONLY,
        CpuidFeature::FPU387,
        CpuidFeature::FPU387SL_ONLY,
    ];
    if instruction.cpuid_features().iter().any(|feature| x87.contains(feature)) {
        return Err("it is an x87 instruction, whose address the processor stores (FIP)");
    }
    if instruction.memory_base() == Register::EIP {
        return Err("its operand is relative to EIP, the low half of its address");
    }
    Ok(())
}

/// The same bytes, with the RIP-relative displacement changed for the new address.
fn copy(bytes: &[u8], instruction: &Instruction, displacement: usize, to: u64) -> Result<Vec<u8>, &'static str> {
    let mut code = bytes.to_vec();
    if instruction.is_ip_rel_memory_operand() {
        let operand = instruction.ip_rel_memory_address();
        let touched = iced_x86::InstructionInfoFactory::new()
            .info(instruction)
            .used_memory()
            .iter()
            .any(|memory| memory.access() != OpAccess::None && memory.access() != OpAccess::NoMemAccess);
        // An operand that begins in the WIDEST bytes before the instruction, or in it, may overlap
        // it.
        if touched && operand.wrapping_sub(instruction.ip()).wrapping_add(WIDEST) < WIDEST + instruction.len() as u64 {
            return Err("its memory operand is or may be its own bytes");
        }
        let distance = operand.wrapping_sub(to + instruction.len() as u64) as i64;
        let distance = i32::try_from(distance).map_err(|_| "its operand is out of the stub's reach")?;
        code[displacement..displacement + 4].copy_from_slice(&distance.to_le_bytes());
    }
    Ok(code)
}

/// A branch to the same target: `jmp rel32`, `jcc rel32`, or, for `loop` and `jrcxz`, which only
/// have a short form,
///
/// ```text
///     e? 02   loop  taken
///     eb 05   jmp   not_taken
///     e9 ..   taken: jmp target
///             not_taken:
/// ```
fn branch(bytes: &[u8], instruction: &Instruction, to: u64) -> Result<Vec<u8>, &'static str> {
    let target = instruction.near_branch_target();
    let mut code = match *bytes {
        [0xe9, _, _, _, _] | [0xeb, _] => vec![],
        [0x0f, opcode @ 0x80..=0x8f, _, _, _, _] => vec![0x0f, opcode],
        [opcode @ 0x70..=0x7f, _] => vec![0x0f, opcode + 0x10],
        [opcode @ 0xe0..=0xe3, _] => vec![opcode, 2, 0xeb, 5],
        // Prefixes are rare.
        _ => return Err("it is a branch with a prefix, or an unknown branch"),
    };
    if code.first() == Some(&0x0f) {
        code.extend_from_slice(&distance(to + 6, target)?.to_le_bytes());
    } else {
        jump(&mut code, to, target)?;
    }
    Ok(code)
}

/// Appends `jmp target` to code that begins at `start`.
fn jump(code: &mut Vec<u8>, start: u64, target: u64) -> Result<(), &'static str> {
    let displacement = distance(start + code.len() as u64 + 5, target)?;
    code.push(0xe9);
    code.extend_from_slice(&displacement.to_le_bytes());
    Ok(())
}

fn distance(next: u64, target: u64) -> Result<i32, &'static str> {
    rel32(next, target).ok_or("a branch target is out of the stub's reach")
}
