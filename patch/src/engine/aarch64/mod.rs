//! aarch64: the branch at a site, where its stub may be, the relay. Pure arithmetic, so it compiles on every processor.
//!
//! ```text
//!   site ->  b stub              stub   -> b hook                    (or: ldr x16, #8; br x16; hook)
//!   next ->                      resume -> the displaced instruction
//!                                          b next
//! ```

pub mod displace;
pub mod path;
mod text;

use super::place::Window;
pub use displace::displace;
pub use path::step;
pub use text::disassemble;

/// Length of the branch that is put at a site.
pub const BRANCH_LEN: usize = 4;

/// An upper bound of what [`relay`] and [`displace()`] emit together.
pub const STUB_LEN: usize = 64;

const B: u32 = 0x1400_0000;
const IMM26: u32 = 0x03ff_ffff;
const NOP: u32 = 0xd503_201f;

/// Every instruction has this length.
pub fn length(bytes: &[u8], at: u64) -> Result<usize, &'static str> {
    if at & 3 != 0 {
        Err("an instruction's address is a multiple of 4")
    } else if bytes.len() < 4 {
        Err("an instruction has 4 bytes")
    } else {
        Ok(4)
    }
}

/// Whether this instruction may become a `B` while other threads execute it. Arm ARM, B2.2.5 "Concurrent
/// modification and execution of instructions", lists B, BL, BRK, HVC, ISB, NOP, SMC and SVC; of these the ones that can be displaced or
/// retargeted are named here.
pub fn may_run_meanwhile(instruction: &[u8]) -> bool {
    let instruction = word(instruction);
    const ISB: u32 = 0xd503_30df;
    instruction & 0x7c00_0000 == B || instruction == NOP || instruction & !0xf00 == ISB & !0xf00
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("an instruction has 4 bytes"))
}

/// `b target` from `at`, if it reaches (±128 MiB).
fn branch(at: u64, target: u64) -> Option<u32> {
    let distance = target.wrapping_sub(at) as i64;
    if distance & 3 != 0 || distance >> 27 != distance >> 63 {
        return None;
    }
    Some(B | (distance >> 2) as u32 & IMM26)
}

/// A branch to `target`: direct, or, if `scratch`, through `x16`, which procedure-call veneers may use (AAPCS64, 6.1.1; a `BTI c`
/// accepts it).
pub fn relay(at: usize, target: usize, scratch: bool) -> Result<Vec<u8>, &'static str> {
    if let Some(direct) = branch(at as u64, target as u64) {
        return Ok(direct.to_le_bytes().to_vec());
    }
    if !scratch {
        return Err("the hook is out of a direct branch's reach, and x16 is not promised to be free there");
    }
    let mut code = Vec::new();
    for instruction in [0x5800_0050u32, 0xd61f_0200] {
        // ldr x16, #8; br x16
        code.extend_from_slice(&instruction.to_le_bytes());
    }
    code.extend_from_slice(&target.to_le_bytes());
    Ok(code)
}

/// A branch to `to` in place of the instruction.
pub fn jump(_before: &[u8], at: usize, to: usize) -> Option<Vec<u8>> {
    Some(branch(at as u64, to as u64)?.to_le_bytes().to_vec())
}

/// The call or branch `before`, at `at`, leading to `to` instead.
pub fn retargeted(before: &[u8], at: usize, to: usize) -> Option<Vec<u8>> {
    let link = word(before) & 0x8000_0000;
    Some((branch(at as u64, to as u64)? | link).to_le_bytes().to_vec())
}

/// Where a stub may lie: one instruction is always one aligned word.
pub fn jump_windows(_before: &[u8], at: usize) -> Vec<Window> {
    const REACH: usize = 128 << 20;
    vec![Window { start: at.saturating_sub(REACH), end: at.saturating_add(REACH - 4), modulus: 16, remainder: 0 }]
}

/// As [`jump_windows`].
pub fn retarget_windows(before: &[u8], at: usize) -> Vec<Window> {
    jump_windows(before, at)
}
