//! What one instruction does to a path that is followed without running it.

use crate::engine::site::Step;
use iced_x86::{Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, OpAccess, Register};

/// Where the path goes on behind the first instruction of `bytes`, which is at `at`.
pub fn step(bytes: &[u8], at: usize) -> Step {
    let instruction = Decoder::with_ip(64, bytes, at as u64, DecoderOptions::NONE).decode();
    match instruction.flow_control() {
        FlowControl::Next => {}
        // Only the plain form of five bytes can be retargeted.
        FlowControl::Call if bytes[0] == 0xe8 => return Step::Call,
        FlowControl::UnconditionalBranch => return Step::On(instruction.near_branch_target() as usize),
        FlowControl::ConditionalBranch => return Step::Fork(instruction.near_branch_target() as usize),
        _ => return Step::End("it leads elsewhere"),
    }
    if instruction.is_invalid() {
        return Step::End("it is no instruction");
    }
    let mut factory = InstructionInfoFactory::new();
    let used = factory.info(&instruction).used_registers();
    let moves_stack = used.iter().any(|used| {
        used.register().full_register() == Register::RSP
            && matches!(
                used.access(),
                OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
            )
    });
    if moves_stack { Step::End("it moves the stack pointer") } else { Step::On(instruction.next_ip() as usize) }
}
