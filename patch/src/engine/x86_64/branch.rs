//! Encodes the branch at a site and the relay in a stub, and computes where the stub may be.

use crate::engine::window::Window;

/// Length of the branch that is written at a site.
pub const BRANCH_LEN: usize = 5;

/// An upper bound for the code that [`relay`] and [`displace()`](super::displace()) emit together.
pub const STUB_LEN: usize = 64;

/// `jmp *[rip]` and the address: it reaches every address and uses no register. Only aarch64 uses
/// the other arguments.
pub fn relay(_at: usize, target: usize, _x16_is_free: bool) -> Result<Vec<u8>, &'static str> {
    let mut code = vec![0xff, 0x25, 0, 0, 0, 0];
    code.extend_from_slice(&target.to_le_bytes());
    Ok(code)
}

/// `before` with a jump to `to` as its first five bytes. The remaining bytes stay, and are never
/// executed.
pub fn jump(before: &[u8], at: usize, to: usize) -> Option<Vec<u8>> {
    let displacement = rel32(at as u64 + 5, to as u64)?;
    let mut after = before.to_vec();
    after[0] = 0xe9;
    after[1..5].copy_from_slice(&displacement.to_le_bytes());
    Some(after)
}

/// The call or branch `before` at `at`, retargeted to `to`.
pub fn retargeted(before: &[u8], at: usize, to: usize) -> Option<Vec<u8>> {
    let displacement = rel32(at as u64 + 5, to as u64)?;
    let mut after = before.to_vec();
    after[1..5].copy_from_slice(&displacement.to_le_bytes());
    Some(after)
}

/// The displacement from the end of an instruction to a target.
pub fn rel32(next: u64, target: u64) -> Option<i32> {
    i32::try_from(target.wrapping_sub(next) as i64).ok()
}

/// Where a stub may be such that [`jump`] changes bytes of one aligned quadword only: bytes of the
/// displacement that lie in the next quadword must stay as they are.
pub fn jump_windows(before: &[u8], at: usize) -> Vec<Window> {
    let fixed = BRANCH_LEN.saturating_sub(8 - (at & 7));
    vec![window_with_fixed_high_bytes(before, at, fixed)]
}

/// Where a stub may be such that [`retargeted`] changes bytes of one aligned quadword only.
pub fn retarget_windows(before: &[u8], at: usize) -> Vec<Window> {
    let into = (at + 1) & 7;
    let spill = (into + 4).saturating_sub(8);
    let mut windows = vec![window_with_fixed_high_bytes(before, at, spill)];
    if spill > 0 {
        // Or the low bytes stay, and those in the next quadword change.
        let any = window_with_fixed_high_bytes(before, at, 0);
        let modulus = 1usize << (8 * (4 - spill));
        let old = u32::from_le_bytes(before[1..5].try_into().expect("a branch has 5 bytes"));
        windows.push(Window { modulus, remainder: (at + 5).wrapping_add(old as usize) & (modulus - 1), ..any });
    }
    windows
}

/// All addresses for which the displacement's highest `fixed` bytes stay as they are.
fn window_with_fixed_high_bytes(before: &[u8], at: usize, fixed: usize) -> Window {
    let old = i32::from_le_bytes(before[1..5].try_into().expect("a branch has 5 bytes")) as i64;
    let (low, span) = match fixed {
        0 => (i32::MIN as i64, 1 << 32),
        n => {
            let span = 1i64 << (8 * (4 - n));
            (old & !(span - 1), span)
        }
    };
    let start = (at as i64 + 5).saturating_add(low).max(0);
    Window {
        start: start as usize,
        end: (at as i64 + 5).saturating_add(low + span).max(start) as usize,
        modulus: 1,
        remainder: 0,
    }
}
