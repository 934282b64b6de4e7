//! Where execution continues after an instruction, found without running it.

use super::instruction::{VENDOR_DEPENDENT, has_size_prefix};
use crate::engine::flow::Flow;
use iced_x86::{Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, OpAccess, Register};

/// Where execution continues after the first instruction of `bytes`, which is at `at`.
pub fn flow(bytes: &[u8], at: usize) -> Flow {
    let instruction = Decoder::with_ip(64, bytes, at as u64, DecoderOptions::NONE).decode();
    match instruction.flow_control() {
        FlowControl::Next => {}
        _ if has_size_prefix(bytes) => return Flow::Unknown(VENDOR_DEPENDENT),
        // Only the five-byte form without prefixes can be retargeted.
        FlowControl::Call if bytes[0] == 0xe8 => return Flow::Call,
        FlowControl::UnconditionalBranch => return Flow::Next(instruction.near_branch_target() as usize),
        FlowControl::ConditionalBranch => return Flow::Conditional(instruction.near_branch_target() as usize),
        _ => return Flow::Unknown("it may continue elsewhere"),
    }
    if instruction.is_invalid() {
        return Flow::Unknown("it is not an instruction");
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
    if moves_stack { Flow::Unknown("it moves the stack pointer") } else { Flow::Next(instruction.next_ip() as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: usize = 0x1000;

    #[test]
    fn execution_continues_after_an_instruction_that_leaves_the_stack_pointer_alone() {
        for code in [
            &[0x48, 0x98][..],                                 // cltq
            &[0x64, 0x48, 0x89, 0x04, 0x25, 0x28, 0x06, 0, 0], // mov %rax,%fs:0x628
            &[0x89, 0xc7],                                     // mov %eax,%edi
            &[0x48, 0x8b, 0x3c, 0x24],                         // mov (%rsp),%rdi
            &[0x48, 0x83, 0x3d, 0xd5, 0x0f, 0x0a, 0, 0],       // cmpq $0,0xa0fd5(%rip)
        ] {
            assert_eq!(flow(code, AT), Flow::Next(AT + code.len()), "{code:x?}");
        }
    }

    #[test]
    fn a_jump_continues_at_its_target_and_a_conditional_jump_there_or_behind_it() {
        assert_eq!(flow(&[0xe9, 0x28, 0xfe, 0xff, 0xff], AT), Flow::Next(AT + 5 - 0x1d8));
        assert_eq!(flow(&[0xeb, 0x10], AT), Flow::Next(AT + 0x12));
        assert_eq!(flow(&[0x74, 0x05], AT), Flow::Conditional(AT + 7));
        assert_eq!(flow(&[0xe8, 0, 0, 0, 0], AT), Flow::Call);
    }

    /// The result for each instruction of `code`.
    fn all(mut code: &[u8]) -> Vec<Flow> {
        let mut steps = Vec::new();
        while !code.is_empty() {
            let len = Decoder::with_ip(64, code, AT as u64, DecoderOptions::NONE).decode().len();
            steps.push(flow(&code[..len], AT));
            code = &code[len..];
        }
        steps
    }

    // Code from Apple's published sources, as clang compiles it: `_pthread_exit(self,
    // (self->fun)(self->arg))` of libpthread's `_pthread_start`, and `start` of libdyld
    // (`src/start_glue.s`, up to macOS 11).
    #[test]
    fn a_path_reaches_the_call_behind_the_entry_function_of_macos_s_threads_and_behind_main_up_to_macos_11() {
        let thread = [0x48, 0x89, 0xdf, 0x48, 0x89, 0xc6, 0xe8, 0, 0, 0, 0]; // mov %rbx,%rdi; mov %rax,%rsi; call _pthread_exit
        assert_eq!(all(&thread), [Flow::Next(AT + 3), Flow::Next(AT + 3), Flow::Call]);
        let main = [0x89, 0xc7, 0xe8, 0, 0, 0, 0]; // mov %eax,%edi; call exit
        assert_eq!(all(&main), [Flow::Next(AT + 2), Flow::Call]);
    }

    // `start` of dyld itself, since macOS 12: `if (platform == simulator) _exit(result);
    // helpers->exit(result)`.
    #[test]
    fn a_path_ends_behind_main_since_macos_12_because_dyld_calls_exit_through_a_table() {
        let main = [
            &[0x48, 0x8b, 0x0b][..],   // mov (%rbx),%rcx
            &[0x83, 0x39, 0x07],       // cmpl $7,(%rcx)
            &[0x75, 0x07],             // jne over the next two
            &[0x89, 0xc7],             // mov %eax,%edi
            &[0xe8, 0, 0, 0, 0],       // call _exit
            &[0x48, 0x8b, 0x7b, 0x08], // mov 8(%rbx),%rdi
            &[0x48, 0x8b, 0x0f],       // mov (%rdi),%rcx
            &[0x89, 0xc6],             // mov %eax,%esi
            &[0xff, 0x51, 0x18],       // call *24(%rcx)
        ]
        .concat();
        let steps = all(&main);
        // The conditional jump skips more than one instruction, which `first_calls` refuses.
        // Without it, the path would end at the call through the table.
        assert_eq!(steps[2], Flow::Conditional(AT + 9));
        assert!(matches!(steps[3], Flow::Next(_)) && steps[4] == Flow::Call);
        assert_eq!(steps[8], Flow::Unknown("it may continue elsewhere"));
    }

    #[test]
    fn a_path_ends_where_the_stack_pointer_moves_or_the_target_is_unknown() {
        for code in [
            &[0x48, 0x89, 0xdc][..],                        // mov %rbx,%rsp
            &[0xc9],                                        // leave
            &[0x5d],                                        // pop %rbp
            &[0x48, 0x83, 0xec, 0x08],                      // sub $8,%rsp
            &[0xc3],                                        // ret
            &[0xff, 0xd0],                                  // call *%rax
            &[0xff, 0xe0],                                  // jmp *%rax
            &[0x0f, 0x0b],                                  // ud2
            &[0x66, 0xe8, 0, 0],                            // call, with a prefix
            &[0x66, 0x66, 0x0f, 0x84, 3, 0x67, 0x80, 0xbc], // je, with prefixes
            &[0x06],                                        // not an instruction
        ] {
            assert!(matches!(flow(code, AT), Flow::Unknown(_)), "{code:x?}: {:?}", flow(code, AT));
        }
    }
}
