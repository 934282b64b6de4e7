//! Instructions as text: branches and PC-relative instructions by name, the others as `.inst`.

use super::instruction::NOP;

/// All instructions in `bytes`, separated by semicolons.
pub fn disassemble(bytes: &[u8], at: usize) -> String {
    let lines: Vec<String> = bytes
        .chunks_exact(4)
        .enumerate()
        .map(|(index, word)| {
            let word = u32::from_le_bytes(word.try_into().expect("chunks of 4"));
            disassemble_one(word, (at + index * 4) as u64)
        })
        .collect();
    lines.join("; ")
}

fn disassemble_one(word: u32, at: u64) -> String {
    let to = |low: u32, bits: u32| {
        let distance = ((word << (32 - low - bits)) as i32 >> (32 - bits)) as i64 * 4;
        at.wrapping_add(distance as u64)
    };
    let register = word & 31;
    let size = if word >> 31 == 1 { 'x' } else { 'w' };
    if word == NOP {
        return "nop".into();
    }
    if word & 0x7c00_0000 == 0x1400_0000 {
        let name = if word >> 31 == 1 { "bl" } else { "b" };
        return format!("{name} {:#x}", to(0, 26));
    }
    if word & 0xff00_0010 == 0x5400_0000 {
        const CONDITIONS: [&str; 16] =
            ["eq", "ne", "cs", "cc", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le", "al", "nv"];
        return format!("b.{} {:#x}", CONDITIONS[(word & 15) as usize], to(5, 19));
    }
    if word & 0x7e00_0000 == 0x3400_0000 {
        let name = if word >> 24 & 1 == 1 { "cbnz" } else { "cbz" };
        return format!("{name} {size}{register}, {:#x}", to(5, 19));
    }
    if word & 0x7e00_0000 == 0x3600_0000 {
        let name = if word >> 24 & 1 == 1 { "tbnz" } else { "tbz" };
        let bit = word >> 31 << 5 | word >> 19 & 31;
        return format!("{name} {size}{register}, #{bit}, {:#x}", to(5, 14));
    }
    if word & 0x1f00_0000 == 0x1000_0000 {
        let low = (word >> 29 & 3) as u64;
        let distance = to(5, 19).wrapping_sub(at) | low;
        return if word >> 31 == 0 {
            format!("adr x{register}, {:#x}", at.wrapping_add(distance))
        } else {
            format!("adrp x{register}, {:#x}", (at & !0xfff).wrapping_add(distance << 12))
        };
    }
    if word & 0x3b00_0000 == 0x1800_0000 {
        let name = match (word >> 30, word >> 26 & 1) {
            (0, 0) => format!("ldr w{register}"),
            (1, 0) => format!("ldr x{register}"),
            (2, 0) => format!("ldrsw x{register}"),
            (3, 0) => format!("prfm #{register}"),
            (opc, _) => format!("ldr {}{register}", ['s', 'd', 'q', '?'][opc as usize]),
        };
        return format!("{name}, {:#x}", to(5, 19));
    }
    match word & 0xffff_fc1f {
        0xd61f_0000 => format!("br x{}", word >> 5 & 31),
        0xd63f_0000 => format!("blr x{}", word >> 5 & 31),
        0xd65f_0000 => format!("ret x{}", word >> 5 & 31),
        _ => format!(".inst {word:#010x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::disassemble;

    // The text that `llvm-mc` and `objdump` print for the same words.
    #[test]
    fn branches_and_pc_relative_instructions_are_named() {
        for (word, text) in [
            (0xd503_201fu32, "nop"),
            (0x1400_0002, "b 0x1008"),
            (0x97ff_ffff, "bl 0xffc"),
            (0x5400_0041, "b.ne 0x1008"),
            (0xb500_0043, "cbnz x3, 0x1008"),
            (0x3608_0041, "tbz w1, #1, 0x1008"),
            (0x1000_0040, "adr x0, 0x1008"),
            (0xb000_0000, "adrp x0, 0x2000"),
            (0x5800_0050, "ldr x16, 0x1008"),
            (0xd61f_0200, "br x16"),
            (0x9100_0000, ".inst 0x91000000"),
        ] {
            assert_eq!(disassemble(&word.to_le_bytes(), 0x1000), text);
        }
    }
}
