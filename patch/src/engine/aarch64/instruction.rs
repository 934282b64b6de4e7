//! One instruction: its length, and whether it may be replaced while it runs.

/// `B` without its distance.
pub const B: u32 = 0x1400_0000;
/// `NOP`.
pub const NOP: u32 = 0xd503_201f;

/// The length of the instruction at the start of `bytes`: always 4.
pub fn length(bytes: &[u8], at: u64) -> Result<usize, &'static str> {
    if at & 3 != 0 {
        Err("an instruction's address is a multiple of 4")
    } else if bytes.len() < 4 {
        Err("an instruction has 4 bytes")
    } else {
        Ok(4)
    }
}

/// Whether a `B` may replace this instruction while other threads execute it. Arm ARM, B2.2.5
/// "Concurrent modification and execution of instructions", lists B, BL, BRK, HVC, ISB, NOP, SMC
/// and SVC. This function accepts those that can be displaced or retargeted.
pub fn may_be_replaced_while_running(instruction: &[u8]) -> bool {
    let instruction = word(instruction);
    const ISB: u32 = 0xd503_30df;
    instruction & 0x7c00_0000 == B || instruction == NOP || instruction & !0xf00 == ISB & !0xf00
}

/// The instruction as a number.
pub fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("an instruction has 4 bytes"))
}
