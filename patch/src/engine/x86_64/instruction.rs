//! One instruction: its length, its prefixes, and whether it may be replaced while it runs.

use iced_x86::{Decoder, DecoderOptions};

/// The length of the instruction at the start of `bytes`.
pub fn length(bytes: &[u8], at: u64) -> Result<usize, &'static str> {
    let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
    if instruction.is_invalid() { Err("these bytes are not an instruction") } else { Ok(instruction.len()) }
}

/// Why a branch with an operand-size prefix is refused: Intel's processors ignore the prefix (SDM
/// vol. 2, "Jcc", "JMP"); AMD's use 16 bits of the distance and of the target (APM vol. 3, same
/// places).
pub const VENDOR_DEPENDENT: &str =
    "its operand-size prefix makes it a different branch on Intel's and on AMD's processors";

/// Whether a branch has such a prefix.
pub fn has_size_prefix(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .take_while(|byte| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3))
        .any(|&byte| byte == 0x66)
}

/// Whether a branch may replace the first bytes of this instruction while other threads execute
/// them. On x86_64 always, if one aligned store suffices (AMD64 APM vol. 2, 7.6.1).
pub fn may_be_replaced_while_running(_instruction: &[u8]) -> bool {
    true
}
