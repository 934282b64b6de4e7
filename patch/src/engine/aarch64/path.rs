//! What one instruction does to a path that is followed without running it. Encodings: Arm ARM, C4.1.

use crate::engine::site::Step;

/// Where the path goes on behind the instruction `bytes`, which is at `at`.
pub fn step(bytes: &[u8], at: usize) -> Step {
    let word = u32::from_le_bytes(bytes[..4].try_into().expect("an instruction has 4 bytes"));
    // B and BL.
    if word & 0x7c00_0000 == 0x1400_0000 {
        let distance = ((word << 6) as i32 >> 4) as isize;
        return if word >> 31 == 1 { Step::Call } else { Step::On(at.wrapping_add_signed(distance)) };
    }
    // B.cond, CBZ and CBNZ have 19 bits of distance, TBZ and TBNZ 14.
    let to = |bits: u32| at.wrapping_add_signed(((word << (27 - bits)) as i32 >> (32 - bits)) as isize * 4);
    if word & 0xff00_0000 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 {
        return Step::Fork(to(19));
    }
    if word & 0x7e00_0000 == 0x3600_0000 {
        return Step::Fork(to(14));
    }
    // Branches, exceptions and system instructions; of these, hints and barriers go on.
    if word >> 26 & 7 == 0b101 {
        return if word & 0xffc0_0000 == 0xd500_0000 { Step::On(at + 4) } else { Step::End("it leads elsewhere") };
    }
    // Register 31 is the stack pointer as destination of additions and logic with immediates, and as a base, which pairs
    // (bit 23) and single registers (bit 10 without bit 21) may write back. What might be one of these ends the path.
    let (destination, base) = (word & 31, word >> 5 & 31);
    let immediate = word >> 26 & 7 == 0b100;
    let memory = word & 0x0a00_0000 == 0x0800_0000;
    let pair = word & 0x3a00_0000 == 0x2800_0000;
    let offset = word & 0x3b00_0000 == 0x3900_0000;
    let written_back = if pair { word >> 23 & 1 == 1 } else { !offset && word & 0x0020_0400 == 0x0000_0400 };
    if immediate && destination == 31 || memory && base == 31 && written_back {
        return Step::End("it moves the stack pointer");
    }
    Step::On(at + 4)
}
