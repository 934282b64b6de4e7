//! Where execution continues after an instruction, found without running it. Encodings: Arm ARM,
//! C4.1.

use super::instruction::word;
use crate::engine::flow::Flow;

/// Where execution continues after the instruction `bytes` at `at`.
pub fn flow(bytes: &[u8], at: usize) -> Flow {
    let word = word(bytes);
    // B and BL.
    if word & 0x7c00_0000 == 0x1400_0000 {
        let distance = ((word << 6) as i32 >> 4) as isize;
        return if word >> 31 == 1 { Flow::Call } else { Flow::Next(at.wrapping_add_signed(distance)) };
    }
    // B.cond, CBZ and CBNZ have 19 bits of distance, TBZ and TBNZ 14.
    let to = |bits: u32| at.wrapping_add_signed(((word << (27 - bits)) as i32 >> (32 - bits)) as isize * 4);
    if word & 0xff00_0000 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 {
        return Flow::Conditional(to(19));
    }
    if word & 0x7e00_0000 == 0x3600_0000 {
        return Flow::Conditional(to(14));
    }
    // Branches, exceptions and system instructions; of these, hints and barriers continue.
    if word >> 26 & 7 == 0b101 {
        return if word & 0xffc0_0000 == 0xd500_0000 {
            Flow::Next(at + 4)
        } else {
            Flow::Unknown("it may continue elsewhere")
        };
    }
    // SVE, SME and reserved encodings: some of them add to the stack pointer.
    if word >> 27 & 3 == 0b00 {
        return Flow::Unknown("it is an unknown instruction");
    }
    if may_move_stack_pointer(word) {
        return Flow::Unknown("it moves the stack pointer");
    }
    Flow::Next(at + 4)
}

/// Whether an instruction that is not a branch may write the stack pointer. An unknown instruction
/// may.
fn may_move_stack_pointer(word: u32) -> bool {
    let (destination, base) = (word & 31, word >> 5 & 31);
    match word >> 25 & 0xf {
        // Immediates: for additions, logic and tags, register 31 as destination is the stack
        // pointer.
        0b1000 | 0b1001 => destination == 31,
        // Registers: so it is for the addition of an extended register without setting flags, and
        // for the tag instructions with two sources.
        0b0101 | 0b1101 => {
            let extended = word & 0x3f20_0000 == 0x0b20_0000;
            let two_sources = word & 0x5fe0_0000 == 0x1ac0_0000;
            destination == 31 && (extended || two_sources)
        }
        // Floating point and vectors never use it.
        0b0111 | 0b1111 => false,
        // Loads and stores may write the base register back, but not in these classes. A literal
        // has no base.
        _ => {
            let exclusive = word & 0x3f00_0000 == 0x0800_0000;
            let literal = word & 0x3b00_0000 == 0x1800_0000;
            let pair = word & 0x3a80_0000 == 0x2800_0000;
            let scaled = word & 0x3b00_0000 == 0x3900_0000;
            // By bits 11 and 10: unscaled 00, unprivileged 10; with bit 21: atomic 00, by a
            // register 10. Odd values write back.
            let single = word & 0x3b00_0400 == 0x3800_0000;
            base == 31 && !(exclusive || literal || pair || scaled || single)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: usize = 0x1000;

    fn of(word: u32) -> Flow {
        flow(&word.to_le_bytes(), AT)
    }

    // Words and their meaning, from `llvm-mc` and `objdump`.
    #[test]
    fn execution_continues_after_an_instruction_that_leaves_the_stack_pointer_alone() {
        for (word, text) in [
            (0xf85183a1_u32, "ldur x1, [x29, #-232]"),
            (0xf9021420, "str x0, [x1, #1064]"),
            (0x93407c00, "sxtw x0, w0"),
            (0xd503201f, "nop"),
            (0xf90007e0, "str x0, [sp, #8]"),
            (0xa90153f3, "stp x19, x20, [sp, #16]"),
            (0xf81e83a1, "stur x1, [x29, #-24]"),
            (0xf0000441, "adrp x1, ..."),
            (0xeb3f63ff, "cmp sp, xzr"),
            (0x885f7fe0, "ldxr w0, [sp]"),
            (0xf83f83e0, "swp xzr, x0, [sp]"),
            (0xf86b6be0, "ldr x0, [sp, x11]"),
            (0x9e6703e0, "fmov d0, xzr"),
        ] {
            assert_eq!(of(word), Flow::Next(AT + 4), "{text}");
        }
    }

    #[test]
    fn a_branch_continues_at_its_target_and_a_conditional_branch_there_or_behind_it() {
        assert_eq!(of(0x17ff_ffb4), Flow::Next(AT - 0x130));
        assert_eq!(of(0xb400_0041), Flow::Conditional(AT + 8), "cbz x1, .+8");
        assert_eq!(of(0x5400_0041), Flow::Conditional(AT + 8), "b.ne .+8");
        assert_eq!(of(0x3730_0520), Flow::Conditional(AT + 0xa4), "tbnz w0, #6");
        assert_eq!(of(0x97fe_eb6a), Flow::Call, "bl");
    }

    #[test]
    fn a_path_ends_where_the_stack_pointer_moves_or_the_target_is_unknown() {
        for (word, text) in [
            (0xd10083ff_u32, "sub sp, sp, #0x20"),
            (0x910003ff, "mov sp, x31"),
            (0xa9ba7bfd, "stp x29, x30, [sp, #-96]!"),
            (0xa8c27bfd, "ldp x29, x30, [sp], #32"),
            (0xf81f0ffe, "str x30, [sp, #-16]!"),
            (0xf84107fe, "ldr x30, [sp], #16"),
            (0xcb2063ff, "sub sp, sp, x0"),
            (0x8b2063ff, "add sp, sp, x0"),
            (0x927cec1f, "and sp, x0, #0xfffffffffffffff0"),
            (0x4cdf73e0, "ld1 {v0.16b}, [sp], #16"),
            (0x0d9f03e0, "st1 {v0.b}[0], [sp], #1"),
            (0xf8201fe0, "ldraa x0, [sp, #8]!"),
            (0xd92017e0, "stg x0, [sp], #16"),
            (0x9ac0101f, "irg sp, x0, x0"),
            (0x043f503f, "addvl sp, sp, #1"),
            (0xd63f0020, "blr x1"),
            (0xd65f03c0, "ret"),
            (0xd4000001, "svc #0"),
        ] {
            assert!(matches!(of(word), Flow::Unknown(_)), "{text}: {:?}", of(word));
        }
    }
}
