//! x86_64: registers, and what is left out.

use crate::{DATA, Machine, Memory, Outcome, SITE_PAGE, Tally, random};
use exeunt_patch::engine::flow::Flow;
use exeunt_patch::engine::x86_64::{disassemble, displace, flow, jump, length};
use unicorn_engine::{Arch, Mode, RegisterX86, Unicorn};

static TALLY: Tally = Tally::new();

/// Distances of the stub's page from the site's.
const STUBS: [i64; 8] = [0x1000, 0x10_0000, 0x4000_0000, 0x7ff0_0000, -0x1000, -0x10_0000, -0x4000_0000, -0x4fff_0000];

pub fn machine() -> Machine {
    Machine::new(Arch::X86, Mode::MODE_64, None, &[0xf4], &STUBS)
}

const GENERAL: [RegisterX86; 16] = [
    RegisterX86::RAX,
    RegisterX86::RCX,
    RegisterX86::RDX,
    RegisterX86::RBX,
    RegisterX86::RSP,
    RegisterX86::RBP,
    RegisterX86::RSI,
    RegisterX86::RDI,
    RegisterX86::R8,
    RegisterX86::R9,
    RegisterX86::R10,
    RegisterX86::R11,
    RegisterX86::R12,
    RegisterX86::R13,
    RegisterX86::R14,
    RegisterX86::R15,
];

fn registers() -> Vec<(i32, usize)> {
    let mut all: Vec<_> = GENERAL.iter().map(|&register| (register as i32, 8)).collect();
    let others = [
        RegisterX86::EFLAGS,
        RegisterX86::MXCSR,
        RegisterX86::FS_BASE,
        RegisterX86::GS_BASE,
        RegisterX86::DS,
        RegisterX86::ES,
    ];
    all.extend(others.map(|register| (register as i32, 8)));
    all.extend((0..16).map(|n| (RegisterX86::YMM0 as i32 + n, 32)));
    all.extend((0..8).map(|n| (RegisterX86::ST0 as i32 + n, 10)));
    all
}

/// One step runs one round of a repeated string instruction.
fn repeats(code: &[u8]) -> bool {
    let prefixes = code
        .iter()
        .take_while(|byte| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3 | 0x40..=0x4f));
    let prefixes: Vec<u8> = prefixes.copied().collect();
    let repeated = prefixes.iter().any(|byte| matches!(byte, 0xf2 | 0xf3));
    repeated && matches!(code.get(prefixes.len()), Some(0xa4..=0xa7 | 0xaa..=0xaf | 0x6c..=0x6f))
}

/// A mask for `rcx`, so that a repeated string instruction does not take long.
fn rounds(code: &[u8]) -> u64 {
    if repeats(code) { 0x1f } else { u64::MAX }
}

/// Sets every register, to values that follow from `start`.
fn circumstances(start: u64, rounds: u64) -> impl Fn(&mut Unicorn<'static, Memory>) {
    move |unicorn| {
        let mut state = start;
        for register in GENERAL {
            let number = random(&mut state);
            let value = match number >> 60 {
                0..=9 => DATA + (number & 0xfff8),
                10..=12 => number & 0xff,
                13 => number & 0xffff_ffff,
                _ => number,
            };
            let value = match register {
                RegisterX86::RSP => DATA + 0x8000 + (number & 0xff8),
                RegisterX86::RCX => value & rounds,
                _ => value,
            };
            unicorn.reg_write(register, value).expect("a register");
        }
        // Carry, parity, adjust, zero, sign, direction, overflow.
        unicorn.reg_write(RegisterX86::EFLAGS, random(&mut state) & 0xcd5 | 2).expect("flags");
        unicorn.reg_write(RegisterX86::MXCSR, 0x1f80).expect("a register");
        unicorn.reg_write(RegisterX86::FS_BASE, DATA + 0x2_0000).expect("a register");
        unicorn.reg_write(RegisterX86::GS_BASE, DATA + 0x3_0000).expect("a register");
        for n in 0..16 {
            let value: Vec<u8> = (0..4).flat_map(|_| random(&mut state).to_le_bytes()).collect();
            unicorn.reg_write_long(RegisterX86::YMM0 as i32 + n, &value).expect("a register");
        }
        for n in 0..8 {
            // MMX registers are the mantissas of these.
            let mut value = random(&mut state).to_le_bytes().to_vec();
            value.extend([0xff, 0xff]);
            unicorn.reg_write_long(RegisterX86::ST0 as i32 + n, &value).expect("a register");
        }
    }
}

/// Inputs: 3 bytes of circumstances, then code.
pub fn check(machine: &mut Machine, data: &[u8]) {
    let [seed, place, stub, code @ ..] = data else { return };
    let code = &code[..code.len().min(15)];
    if code.is_empty() {
        return;
    }
    machine.tidy();
    let at = SITE_PAGE + u64::from(place & 63);
    let to = SITE_PAGE.wrapping_add_signed(STUBS[usize::from(stub & 7)]) + u64::from(stub >> 3);
    let Ok(len) = length(code, at) else {
        return TALLY.count(&TALLY.refused);
    };
    let code = &code[..len];
    let text = disassemble(code, at as usize);
    let Ok(moved) = displace(code, at, to) else {
        return TALLY.count(&TALLY.refused);
    };
    // The engine writes this at the site. It refuses shorter instructions, but their stub can still
    // be tested.
    let patched = (len >= 5).then(|| jump(code, at as usize, to as usize).expect("in reach"));

    let start = u64::from(*seed) << 8 | u64::from(*place);
    let rounds = rounds(code);
    let set_up = circumstances(start, rounds);
    let registers = registers();
    let original = |machine: &mut Machine| {
        let same = |pc| rounds != u64::MAX && pc == at;
        machine.run(&[(at, code), (to, &moved)], &set_up, at, same, &registers)
    };
    let Some(expected) = original(machine) else {
        return TALLY.count(&TALLY.left_out);
    };
    let in_stub = |pc: u64| (to..to + moved.len() as u64).contains(&pc);
    let next = at + len as u64;
    let flags = expected.registers[16].1[1];
    if expected.writes.iter().any(|(at, _)| machine.is_code(*at)) {
        return TALLY.count(&TALLY.left_out);
    }
    // Left out: the instruction itself went into the stub; it set the trap flag, which then traps
    // one instruction early.
    if expected.pc.is_some_and(in_stub) || flags & 1 != 0 {
        return TALLY.count(&TALLY.left_out);
    }
    // Emulator and decoder disagree on the instruction's length, and so on what was run.
    let straight = !matches!(code, [0x70..=0x7f | 0xe0..=0xe3 | 0xe9 | 0xeb, ..] | [0x0f, 0x80..=0x8f, ..]);
    if straight && expected.pc.is_some_and(|pc| pc != next && pc > at && pc < at + 16) {
        return TALLY.count(&TALLY.left_out);
    }
    let (site, from): (&[u8], u64) = match &patched {
        Some(bytes) => (bytes, at),
        None => (code, to),
    };
    let found = machine.run(&[(at, site), (to, &moved)], &set_up, from, in_stub, &registers);
    match found {
        None => TALLY.count(&TALLY.left_out),
        // `rdtsc`, `rdrand`: they differ from run to run.
        Some(found) if found != expected && original(machine).as_ref() != Some(&expected) => {
            TALLY.count(&TALLY.left_out);
        }
        Some(found) => {
            assert_eq!(found, expected, "{text} ({code:02x?}) at {at:#x}, displaced to {to:#x}: {moved:02x?}");
            TALLY.count(&TALLY.compared);
        }
    }
}

/// Instructions that the emulator runs as other ones. `lahf` with a REX prefix: the emulator writes
/// `spl`, where processors write `ah`. AVX-512's instructions on mask registers: it takes them for
/// those without VEX, `cmov` and `setcc`.
fn is_misread(code: &[u8]) -> bool {
    if let [.., 0x40..=0x4f, 0x9f] = code {
        return true;
    }
    let prefixes =
        code.iter().take_while(|byte| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67)).count();
    match &code[prefixes..] {
        [0xc5, _, opcode, ..] => matches!(opcode, 0x40..=0x4f | 0x90..=0x9f),
        [0xc4, map, _, opcode, ..] => map & 31 == 1 && matches!(opcode, 0x40..=0x4f | 0x90..=0x9f),
        _ => false,
    }
}

/// Inputs: 2 bytes of circumstances, then code. The emulator must do what [`flow`] says.
pub fn check_path(machine: &mut Machine, data: &[u8]) {
    let [seed, place, code @ ..] = data else { return };
    let code = &code[..code.len().min(15)];
    machine.tidy();
    let at = SITE_PAGE + u64::from(place & 63);
    let Ok(len) = length(code, at) else {
        return TALLY.count(&TALLY.refused);
    };
    let code = &code[..len];
    if is_misread(code) {
        return TALLY.count(&TALLY.left_out);
    }
    let said = flow(code, at as usize);
    if matches!(said, Flow::Unknown(_)) {
        return TALLY.count(&TALLY.refused);
    }
    let set_up = circumstances(u64::from(*seed) << 8 | u64::from(*place), rounds(code));
    set_up(&mut machine.unicorn);
    let before = machine.unicorn.reg_read(RegisterX86::RSP).expect("a register");
    let again = |pc| repeats(code) && pc == at;
    let found = machine.run(&[(at, code)], set_up, at, again, &[(RegisterX86::RSP as i32, 8)]);
    // It faults, so no execution gets further; or it repeats for long.
    let Some(Outcome { pc: Some(pc), registers, writes, .. }) = found else {
        return TALLY.count(&TALLY.left_out);
    };
    // An exception of the processor itself, such as a division by zero, is no error to the
    // emulator.
    if pc == at && ![Flow::Next(at as usize), Flow::Conditional(at as usize)].contains(&said) {
        return TALLY.count(&TALLY.left_out);
    }
    let after = u64::from_le_bytes(registers[0].1[..8].try_into().expect("8 bytes"));
    let next = at + len as u64;
    let text = disassemble(code, at as usize);
    let told =
        format!("{text} ({code:02x?}) at {at:#x}: {said:x?}, but it went to {pc:#x}, rsp {before:#x} -> {after:#x}");
    match said {
        // Emulator and decoder disagree on the instruction's length, and so on what was run.
        Flow::Next(to) if to as u64 == next && pc != next && pc > at && pc < at + 16 => {
            return TALLY.count(&TALLY.left_out);
        }
        Flow::Next(to) => assert!(pc == to as u64 && after == before, "{told}"),
        Flow::Conditional(to) => assert!((pc == to as u64 || pc == next) && after == before, "{told}"),
        Flow::Call => {
            let target = next.wrapping_add_signed(i32::from_le_bytes(code[1..5].try_into().expect("4 bytes")).into());
            assert!(pc == target && after == before - 8, "{told}");
            assert!(writes == [(after, next.to_le_bytes().to_vec())], "{told}, writing {writes:x?}");
        }
        Flow::Unknown(_) => unreachable!("returned above"),
    }
    TALLY.count(&TALLY.compared);
}
