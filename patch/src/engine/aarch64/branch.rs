//! Encodes the branch at a site and the relay in a stub, and computes where the stub may be.

use super::instruction::{B, word};
use crate::engine::window::Window;

/// Length of the branch that is written at a site.
pub const BRANCH_LEN: usize = 4;

/// An upper bound for the code that [`relay`] and [`displace()`](super::displace()) emit together.
pub const STUB_LEN: usize = 64;

const IMM26: u32 = 0x03ff_ffff;

/// `b target` from `at`, if it reaches (±128 MiB).
pub fn branch(at: u64, target: u64) -> Option<u32> {
    let distance = target.wrapping_sub(at) as i64;
    if distance & 3 != 0 || distance >> 27 != distance >> 63 {
        return None;
    }
    Some(B | (distance >> 2) as u32 & IMM26)
}

/// A branch to `target`: direct if `target` is in reach, else through `x16` if that is free.
/// Procedure-call veneers may use `x16` (AAPCS64, 6.1.1), and a `BTI c` accepts such a branch.
pub fn relay(at: usize, target: usize, x16_is_free: bool) -> Result<Vec<u8>, &'static str> {
    if let Some(direct) = branch(at as u64, target as u64) {
        return Ok(direct.to_le_bytes().to_vec());
    }
    if !x16_is_free {
        return Err(
            "the hook is out of a direct branch's reach, and no promise says that x16 is free there (`Site::x16_is_free`)",
        );
    }
    let mut code = Vec::new();
    for instruction in [0x5800_0050u32, 0xd61f_0200] {
        // ldr x16, #8; br x16
        code.extend_from_slice(&instruction.to_le_bytes());
    }
    code.extend_from_slice(&target.to_le_bytes());
    Ok(code)
}

/// A branch to `to`, to replace the instruction at `at`.
pub fn jump(_before: &[u8], at: usize, to: usize) -> Option<Vec<u8>> {
    Some(branch(at as u64, to as u64)?.to_le_bytes().to_vec())
}

/// The call or branch `before` at `at`, retargeted to `to`.
pub fn retargeted(before: &[u8], at: usize, to: usize) -> Option<Vec<u8>> {
    let link = word(before) & 0x8000_0000;
    Some((branch(at as u64, to as u64)? | link).to_le_bytes().to_vec())
}

/// Where a stub may be: anywhere in reach, because an instruction is always one aligned word.
pub fn jump_windows(_before: &[u8], at: usize) -> Vec<Window> {
    const REACH: usize = 128 << 20;
    vec![Window { start: at.saturating_sub(REACH), end: at.saturating_add(REACH - 4), modulus: 16, remainder: 0 }]
}

/// As [`jump_windows`].
pub fn retarget_windows(before: &[u8], at: usize) -> Vec<Window> {
    jump_windows(before, at)
}
