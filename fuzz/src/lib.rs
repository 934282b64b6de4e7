//! One instruction, run where it is and run displaced, in the Unicorn emulator: registers, memory
//! and the address where it goes on must be the same.
//!
//! ```text
//!   original:   step at SITE                                        -> state, next pc
//!   displaced:  step from SITE (a branch to the stub) until outside  -> state, next pc
//! ```

pub mod aarch64;
pub mod x86_64;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use unicorn_engine::{Arch, HookType, MemType, Mode, Prot, Unicorn, uc_error};

/// The page of the site.
pub const SITE_PAGE: u64 = 0x5000_0000;
/// Where most registers point.
pub const DATA: u64 = 0x2000_0000;
/// More steps than this are taken for a loop, and the input is left out.
const MOST_STEPS: usize = 100;
/// The number of mapped pages at which all but the code are unmapped.
const MOST_PAGES: usize = 256;

/// Pages other than code: filled with a pattern, then written to by the input.
#[derive(Default)]
pub struct Memory {
    pages: Vec<u64>,
    writes: Vec<(u64, usize)>,
    /// The missing page at which the run stopped. It is mapped after the run: if a hook maps a
    /// page, the emulator frees memory that a load in progress still uses.
    missing: Vec<u64>,
}

/// The result of a run.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The address where it goes on; `None` after an error, which the emulator reports at different
    /// addresses.
    pub pc: Option<u64>,
    pub error: Option<uc_error>,
    pub registers: Vec<(i32, Vec<u8>)>,
    /// All written memory, as it is at the end.
    pub writes: Vec<(u64, Vec<u8>)>,
}

/// An emulator with no memory but code and what a run touches.
pub struct Machine {
    pub unicorn: Unicorn<'static, Memory>,
    code_pages: Vec<u64>,
    /// An instruction that ends a block of translation.
    end: &'static [u8],
}

/// The next number of a sequence (splitmix64).
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// What memory holds until it is written: eight bytes at a time, made from their address.
fn pattern(address: u64) -> u8 {
    let mut state = address & !7;
    (random(&mut state) >> (8 * (address & 7))) as u8
}

impl Machine {
    pub fn new(arch: Arch, mode: Mode, model: Option<i32>, end: &'static [u8], stubs: &[i64]) -> Self {
        let mut unicorn = Unicorn::new_with_data(arch, mode, Memory::default()).expect("the emulator");
        if let Some(model) = model {
            // First of all, as any other call would fix the setting.
            unicorn.ctl_set_cpu_model(model).expect("a processor");
        }
        unicorn
            .add_mem_hook(HookType::MEM_READ_UNMAPPED | HookType::MEM_WRITE_UNMAPPED, 1, 0, note_missing)
            .expect("a hook");
        unicorn.add_mem_hook(HookType::MEM_WRITE, 1, 0, log_write).expect("a hook");
        let code_pages: Vec<u64> =
            stubs.iter().map(|&distance| SITE_PAGE.wrapping_add_signed(distance)).chain([SITE_PAGE]).collect();
        for &page in &code_pages {
            // Two: a stub may begin near the end of the first.
            for page in [page, page + 0x1000] {
                if unicorn.mem_map(page, 0x1000, Prot::ALL).is_ok() {
                    // The emulator translates ahead: give it something that ends a block.
                    unicorn.mem_write(page, &end.repeat(0x1000 / end.len())).expect("code");
                }
            }
        }
        Self { unicorn, code_pages, end }
    }

    /// Whether an address is in a page of code, which an input must not write.
    pub fn is_code(&self, address: u64) -> bool {
        self.code_pages.iter().any(|&page| address.wrapping_sub(page) < 0x2000)
    }

    /// Steps from `start` while `inside` holds, on memory that is the same each time. `None` if it
    /// does not end.
    pub fn run(
        &mut self,
        code: &[(u64, &[u8])],
        set_up: impl Fn(&mut Unicorn<'static, Memory>),
        start: u64,
        inside: impl Fn(u64) -> bool,
        registers: &[(i32, usize)],
    ) -> Option<Outcome> {
        let Self { unicorn, code_pages, end } = self;
        for &(at, bytes) in code {
            unicorn.mem_write(at, bytes).expect("code");
            unicorn.ctl_remove_cache(at, at + bytes.len() as u64).expect("fresh code");
        }
        let mut outcome = None;
        for _ in 0..MOST_STEPS {
            outcome = Some(attempt(unicorn, &set_up, start, &inside, registers));
            for (at, bytes) in outcome.iter().flat_map(|outcome| &outcome.writes) {
                let addresses = (0..bytes.len() as u64).map(|n| at.wrapping_add(n));
                let original: Vec<u8> = if code_pages.iter().any(|&page| at.wrapping_sub(page) < 0x2000) {
                    addresses.map(|at| end[at as usize % end.len()]).collect()
                } else {
                    addresses.map(pattern).collect()
                };
                unicorn.mem_write(*at, &original).expect("mapped memory");
            }
            if !map_missing(unicorn) {
                break;
            }
        }
        for &(at, bytes) in code {
            let filler: Vec<u8> = (at..at + bytes.len() as u64).map(|at| end[at as usize % end.len()]).collect();
            unicorn.mem_write(at, &filler).expect("code");
            unicorn.ctl_remove_cache(at, at + bytes.len() as u64).expect("fresh code");
        }
        outcome.filter(|outcome| outcome.pc.is_some_and(|pc| !inside(pc)) || outcome.error.is_some())
    }

    /// Unmaps pages when there are many. Not between two runs of one input, which must see the
    /// same.
    pub fn tidy(&mut self) {
        if self.unicorn.get_data().pages.len() >= MOST_PAGES / 2 {
            for page in std::mem::take(&mut self.unicorn.get_data_mut().pages) {
                self.unicorn.mem_unmap(page, 0x1000).expect("a mapped page");
            }
        }
    }
}

fn read(unicorn: &Unicorn<'static, Memory>, id: i32, len: usize) -> Vec<u8> {
    if len > 8 {
        unicorn.reg_read_long(id).expect("a register").to_vec()
    } else {
        unicorn.reg_read(id).expect("a register").to_le_bytes().to_vec()
    }
}

/// One run from the start.
fn attempt(
    unicorn: &mut Unicorn<'static, Memory>,
    set_up: impl Fn(&mut Unicorn<'static, Memory>),
    start: u64,
    inside: impl Fn(u64) -> bool,
    registers: &[(i32, usize)],
) -> Outcome {
    set_up(unicorn);
    let mut pc = start;
    let mut error = None;
    for _ in 0..MOST_STEPS {
        error = unicorn.emu_start(pc, u64::MAX & !0xf, 0, 1).err();
        if error.is_some() {
            break;
        }
        pc = unicorn.pc_read().expect("the program counter");
        if !inside(pc) {
            break;
        }
    }
    let registers = registers.iter().map(|&(id, len)| (id, read(unicorn, id, len))).collect();
    let written = std::mem::take(&mut unicorn.get_data_mut().writes);
    let writes =
        written.into_iter().filter_map(|(at, len)| Some((at, unicorn.mem_read_as_vec(at, len).ok()?))).collect();
    Outcome { pc: error.is_none().then_some(pc), error, registers, writes }
}

/// Maps the page that the last run missed. Returns whether a run may now get further.
fn map_missing(unicorn: &mut Unicorn<'static, Memory>) -> bool {
    let mut done = false;
    for page in std::mem::take(&mut unicorn.get_data_mut().missing) {
        if unicorn.get_data().pages.len() >= MOST_PAGES
            || unicorn.mem_map(page, 0x1000, Prot::READ | Prot::WRITE).is_err()
        {
            continue;
        }
        unicorn.get_data_mut().pages.push(page);
        let content: Vec<u8> = (0..0x1000).map(|n| pattern(page + n)).collect();
        unicorn.mem_write(page, &content).expect("a mapped page");
        done = true;
    }
    done
}

fn note_missing(unicorn: &mut Unicorn<Memory>, _: MemType, address: u64, size: usize, _: i64) -> bool {
    let first = address & !0xfff;
    let last = address.wrapping_add(size.max(1) as u64 - 1) & !0xfff;
    unicorn.get_data_mut().missing.extend([first, last]);
    false
}

fn log_write(unicorn: &mut Unicorn<Memory>, _: MemType, address: u64, size: usize, _: i64) -> bool {
    unicorn.get_data_mut().writes.push((address, size));
    true
}

/// Counts of what became of the inputs. Printed now and then, so that a run's last lines are its
/// figures.
#[derive(Default)]
pub struct Tally {
    pub refused: AtomicU64,
    pub compared: AtomicU64,
    pub left_out: AtomicU64,
}

impl Tally {
    pub const fn new() -> Self {
        Self { refused: AtomicU64::new(0), compared: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    pub fn count(&self, one: &AtomicU64) {
        one.fetch_add(1, Relaxed);
        let all = self.refused.load(Relaxed) + self.compared.load(Relaxed) + self.left_out.load(Relaxed);
        if all.is_multiple_of(1 << 12) {
            eprintln!(
                "tally: {} compared, {} refused, {} left out",
                self.compared.load(Relaxed),
                self.refused.load(Relaxed),
                self.left_out.load(Relaxed)
            );
        }
    }
}
