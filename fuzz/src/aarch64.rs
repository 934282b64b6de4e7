//! aarch64: registers, and what is left out.

use crate::{DATA, Machine, Memory, Outcome, SITE_PAGE, Tally, random};
use exeunt_patch::engine::aarch64::{disassemble, displace, flow, jump};
use exeunt_patch::engine::flow::Flow;
use unicorn_engine::{Arch, Arm64CpuModel, Mode, RegisterARM64, Unicorn};

static TALLY: Tally = Tally::new();

/// Distances of the stub's page from the site's.
const STUBS: [i64; 8] = [0x1000, 0x10_0000, 0x400_0000, 0x7ff_0000, -0x1000, -0x10_0000, -0x400_0000, -0x7ff_0000];

pub fn machine() -> Machine {
    Machine::new(Arch::ARM64, Mode::LITTLE_ENDIAN, Some(Arm64CpuModel::MAX as i32), &[0, 0, 0, 0x14], &STUBS)
}

fn general() -> Vec<i32> {
    let mut all: Vec<i32> = (0..29).map(|n| RegisterARM64::X0 as i32 + n).collect();
    all.extend([RegisterARM64::X29 as i32, RegisterARM64::X30 as i32]);
    all
}

fn registers() -> Vec<(i32, usize)> {
    let mut all: Vec<_> = general().into_iter().map(|register| (register, 8)).collect();
    all.extend([(RegisterARM64::SP as i32, 8), (RegisterARM64::NZCV as i32, 8)]);
    all.extend((0..32).map(|n| (RegisterARM64::Q0 as i32 + n, 16)));
    all
}

/// Sets every register, to values that follow from `start`.
fn circumstances(start: u64) -> impl Fn(&mut Unicorn<'static, Memory>) {
    let general = general();
    move |unicorn| {
        let mut state = start;
        unicorn.reg_write(RegisterARM64::CPACR_EL1, 3 << 20).expect("floating point on");
        for &register in &general {
            let number = random(&mut state);
            let value = match number >> 60 {
                0..=9 => DATA + (number & 0xfff8),
                10..=12 => number & 0xff,
                _ => number,
            };
            unicorn.reg_write(register, value).expect("a register");
        }
        unicorn.reg_write(RegisterARM64::SP, DATA + 0x8000).expect("a register");
        unicorn.reg_write(RegisterARM64::NZCV, (random(&mut state) & 15) << 28).expect("a register");
        for n in 0..32 {
            let value: Vec<u8> = (0..2).flat_map(|_| random(&mut state).to_le_bytes()).collect();
            unicorn.reg_write_long(RegisterARM64::Q0 as i32 + n, &value).expect("a register");
        }
    }
}

/// Instructions that the emulator must not get.
fn cannot_be_run(instruction: u32) -> bool {
    // The emulator runs at EL1: system registers that a program cannot reach would reconfigure it.
    // The engine copies accesses to them unchanged.
    instruction & 0xffc0_0000 == 0xd500_0000 && instruction & 0xffff_f000 != 0xd503_2000
    // SIMD with half precision, two or three registers: on unallocated encodings the emulator (QEMU
    // 5.0) fails an assertion. The engine copies them unchanged.
        || instruction & 0x8f7e_0c00 == 0x0e78_0800
        || instruction & 0x8f60_c400 == 0x0e40_0400
}

/// Inputs: 2 bytes of circumstances, then one instruction.
pub fn check(machine: &mut Machine, data: &[u8]) {
    let &[seed, stub, a, b, c, d, ..] = data else { return };
    let bytes = [a, b, c, d];
    let instruction = u32::from_le_bytes(bytes);
    if cannot_be_run(instruction) {
        return TALLY.count(&TALLY.left_out);
    }
    machine.tidy();
    let at = SITE_PAGE + u64::from(seed & 0x3f) * 4;
    let to = SITE_PAGE.wrapping_add_signed(STUBS[usize::from(stub & 7)]) + 0x200 + u64::from(stub >> 3) * 16;
    let text = disassemble(&bytes, at as usize);
    let Ok(moved) = displace(&bytes, at, to) else {
        return TALLY.count(&TALLY.refused);
    };
    let site = jump(&bytes, at as usize, to as usize).expect("in reach");

    let set_up = circumstances(u64::from(seed) << 8 | u64::from(stub));
    let registers = registers();
    let in_stub = |pc: u64| (to..to + moved.len() as u64).contains(&pc);
    let original =
        |machine: &mut Machine| machine.run(&[(at, &bytes), (to, &moved)], &set_up, at, |_| false, &registers);
    let Some(expected) = original(machine) else {
        return TALLY.count(&TALLY.left_out);
    };
    // The instruction itself went into the stub, or wrote code.
    if expected.pc.is_some_and(in_stub) || expected.writes.iter().any(|(at, _)| machine.is_code(*at)) {
        return TALLY.count(&TALLY.left_out);
    }
    let found = machine.run(&[(at, &site), (to, &moved)], &set_up, at, in_stub, &registers);
    match found {
        None => TALLY.count(&TALLY.left_out),
        // A random number, a counter: not the same twice.
        Some(found) if found != expected && original(machine).as_ref() != Some(&expected) => {
            TALLY.count(&TALLY.left_out);
        }
        Some(found) => {
            assert_eq!(found, expected, "{text} ({instruction:#010x}) at {at:#x}, displaced to {to:#x}: {moved:02x?}");
            TALLY.count(&TALLY.compared);
        }
    }
}

/// Inputs: 2 bytes of circumstances, then one instruction. The emulator must do what [`flow`] says.
pub fn check_path(machine: &mut Machine, data: &[u8]) {
    let &[seed, place, a, b, c, d, ..] = data else { return };
    let bytes = [a, b, c, d];
    let instruction = u32::from_le_bytes(bytes);
    if cannot_be_run(instruction) {
        return TALLY.count(&TALLY.left_out);
    }
    machine.tidy();
    let at = SITE_PAGE + u64::from(place & 0x3f) * 4;
    let said = flow(&bytes, at as usize);
    if matches!(said, Flow::Unknown(_)) {
        return TALLY.count(&TALLY.refused);
    }
    let set_up = circumstances(u64::from(seed) << 8 | u64::from(place));
    set_up(&mut machine.unicorn);
    let before = machine.unicorn.reg_read(RegisterARM64::SP).expect("a register");
    let registers = [(RegisterARM64::SP as i32, 8), (RegisterARM64::X30 as i32, 8)];
    let found = machine.run(&[(at, &bytes)], &set_up, at, |_| false, &registers);
    // It faults, so no execution gets further.
    let Some(Outcome { pc: Some(pc), registers, .. }) = found else {
        return TALLY.count(&TALLY.left_out);
    };
    let value = |n: usize| u64::from_le_bytes(registers[n].1[..8].try_into().expect("8 bytes"));
    let (after, link, next) = (value(0), value(1), at + 4);
    let text = disassemble(&bytes, at as usize);
    let told = format!(
        "{text} ({instruction:#010x}) at {at:#x}: {said:x?}, but it went to {pc:#x}, sp {before:#x} -> {after:#x}"
    );
    assert_eq!(after, before, "{told}");
    match said {
        Flow::Next(to) => assert_eq!(pc, to as u64, "{told}"),
        Flow::Conditional(to) => assert!(pc == to as u64 || pc == next, "{told}"),
        Flow::Call => {
            let distance = i64::from((instruction << 6) as i32 >> 4);
            assert!(pc == at.wrapping_add_signed(distance) && link == next, "{told}, x30 {link:#x}");
        }
        Flow::Unknown(_) => unreachable!("returned above"),
    }
    TALLY.count(&TALLY.compared);
}
