//! Instructions as text.

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

/// All instructions in `bytes`, separated by semicolons.
pub fn disassemble(bytes: &[u8], at: usize) -> String {
    let mut formatter = IntelFormatter::new();
    formatter.options_mut().set_branch_leading_zeros(false);
    formatter.options_mut().set_space_after_operand_separator(true);
    formatter.options_mut().set_hex_prefix("0x");
    formatter.options_mut().set_hex_suffix("");
    formatter.options_mut().set_uppercase_hex(false);
    let mut lines = Vec::new();
    for instruction in Decoder::with_ip(64, bytes, at as u64, DecoderOptions::NONE).iter() {
        let mut line = String::new();
        if instruction.is_invalid() {
            // Often the rest of an instruction that a jump has replaced.
            line.push_str("(bad)");
        } else {
            formatter.format(&instruction, &mut line);
        }
        lines.push(line);
    }
    lines.join("; ")
}
