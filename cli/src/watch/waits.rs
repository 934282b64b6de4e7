//! Where threads waited when the process ended: frames from a copy of the innermost part of a stack,
//! by the unwind tables of the files.
//!
//! Of the registers, only the stack pointer and the program counter are known. So a walk ends at a
//! frame that needs another register, unless an inner frame has saved that.

use super::table::{File, Table, Wait};
use gimli::{BaseAddresses, CfaRule, EhFrame, LittleEndian, Register, RegisterRule, UnwindContext, UnwindSection};
use object::{Object, ObjectSection};
use std::collections::HashMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

/// The most frames of a walk.
const FRAMES: usize = 16;

/// The numbers that the unwind tables have for the stack pointer, the frame pointer and the return
/// address.
#[cfg(target_arch = "x86_64")]
const REGISTERS: [Register; 3] = [Register(7), Register(6), Register(16)];
#[cfg(target_arch = "aarch64")]
const REGISTERS: [Register; 3] = [Register(31), Register(29), Register(30)];

/// A frame of a walk.
pub struct Frame<'a> {
    /// An address in the function.
    pub pc: u64,
    pub file: Option<&'a File>,
}

/// The unwind tables of files.
#[derive(Default)]
pub struct Unwinder {
    files: HashMap<String, Option<Section>>,
    /// By file and address: many threads wait at one place.
    known: HashMap<(String, u64), Option<Rules>>,
}

/// How to get from a frame to its caller.
#[derive(Clone)]
struct Rules {
    /// From the stack pointer, or else from the frame pointer.
    cfa_from_sp: bool,
    cfa: i64,
    return_address: RegisterRule<usize>,
    fp: RegisterRule<usize>,
}

/// `.eh_frame`, and the address where it is in the file's own addresses.
struct Section {
    bytes: Vec<u8>,
    address: u64,
    text: u64,
    got: u64,
}

/// What is known of a frame's registers.
struct State {
    pc: u64,
    sp: u64,
    fp: Option<u64>,
}

impl Unwinder {
    /// The frames from the innermost one on.
    pub fn frames<'a>(&mut self, table: &'a Table, wait: &Wait) -> Vec<Frame<'a>> {
        let (from, words) = (wait.sp.load(Relaxed), wait.words.load(Relaxed) as usize);
        let word = |address: u64| {
            let index = usize::try_from(address.checked_sub(from)? / 8).ok().filter(|&index| index < words)?;
            wait.stack.get(index).map(|word| word.load(Relaxed))
        };
        let mut state = State { pc: wait.pc.load(Relaxed), sp: from, fp: None };
        let mut frames = Vec::new();
        while frames.len() < FRAMES && state.pc != 0 {
            // A call lies before the address where it returns to.
            let pc = state.pc - u64::from(!frames.is_empty());
            let used = (table.files_used.load(Acquire) as usize).min(table.files.len());
            let file = table.files[..used].iter().find(|file| {
                let range = file.start.load(Relaxed)..file.end.load(Relaxed);
                file.known.load(Acquire) == 1 && range.contains(&pc)
            });
            frames.push(Frame { pc, file });
            let Some(next) = file.and_then(|file| self.step(file, pc, &state, word)) else { break };
            state = next;
        }
        frames
    }

    /// The caller's registers. None at the outermost frame, and where they are not known.
    fn step(&mut self, file: &File, pc: u64, state: &State, word: impl Fn(u64) -> Option<u64>) -> Option<State> {
        let address = pc.wrapping_sub(file.base.load(Relaxed));
        let place = (file.path.load(), address);
        let rules = match self.known.get(&place) {
            Some(rules) => rules.clone(),
            None => {
                let rules = self.rules(&place.0, address);
                self.known.insert(place, rules.clone());
                rules
            }
        }?;
        let cfa = if rules.cfa_from_sp { state.sp } else { state.fp? }.wrapping_add_signed(rules.cfa);
        let saved = |rule| match rule {
            RegisterRule::Offset(offset) => word(cfa.wrapping_add_signed(offset)),
            _ => None,
        };
        let caller_fp = match rules.fp {
            RegisterRule::Undefined | RegisterRule::SameValue => state.fp,
            rule => saved(rule),
        };
        // The stack grows down: a caller's frame lies above.
        (cfa > state.sp).then_some(())?;
        Some(State { pc: without_signature(saved(rules.return_address)?), sp: cfa, fp: caller_fp })
    }
}

impl Unwinder {
    /// The table's row for an address of the file's own.
    fn rules(&mut self, path: &str, address: u64) -> Option<Rules> {
        let section = self.files.entry(path.to_owned()).or_insert_with_key(|path| section(path)).as_ref()?;
        let tables = EhFrame::new(&section.bytes, LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(section.address).set_text(section.text).set_got(section.got);
        let mut context = UnwindContext::new();
        let row = tables.unwind_info_for_address(&bases, &mut context, address, EhFrame::cie_from_offset).ok()?;
        let [sp, fp, return_address] = REGISTERS;
        let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else { return None };
        (register == sp || register == fp).then(|| Rules {
            cfa_from_sp: register == sp,
            cfa: offset,
            return_address: row.register(return_address),
            fp: row.register(fp),
        })
    }
}

/// aarch64 can sign return addresses in the bits above an address.
fn without_signature(address: u64) -> u64 {
    if cfg!(target_arch = "aarch64") { address & ((1 << 48) - 1) } else { address }
}

fn section(path: &str) -> Option<Section> {
    let bytes = std::fs::read(path).ok()?;
    let elf = object::File::parse(&bytes[..]).ok()?;
    let address = |name: &str| elf.section_by_name(name).map_or(0, |section| section.address());
    let section = elf.section_by_name(".eh_frame")?;
    let bytes = section.uncompressed_data().ok()?.into_owned();
    Some(Section { bytes, address: section.address(), text: address(".text"), got: address(".got") })
}

/// The calls in which threads wait, by their names.
macro_rules! calls {
    ($($name:ident)*) => { [$((libc::$name, stringify!($name))),*] };
}

/// The system call with this number.
pub fn call_name(number: u32) -> String {
    const CALLS: &[(libc::c_long, &str)] = &calls![
        SYS_accept SYS_accept4 SYS_clock_nanosleep SYS_connect SYS_epoll_pwait SYS_fcntl SYS_fdatasync SYS_flock
        SYS_fsync SYS_futex SYS_io_getevents SYS_io_uring_enter SYS_ioctl SYS_mq_timedreceive SYS_mq_timedsend
        SYS_msgrcv SYS_msgsnd SYS_nanosleep SYS_openat SYS_ppoll SYS_pread64 SYS_pselect6 SYS_pwrite64 SYS_read
        SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_restart_syscall SYS_rt_sigsuspend SYS_rt_sigtimedwait
        SYS_sched_yield SYS_semop SYS_semtimedop SYS_sendmsg SYS_sendto SYS_splice SYS_wait4 SYS_waitid SYS_write
        SYS_writev
    ];
    // Other processors have only the newer ones.
    #[cfg(target_arch = "x86_64")]
    const OLDER: &[(libc::c_long, &str)] = &calls![SYS_epoll_wait SYS_open SYS_pause SYS_poll SYS_select];
    #[cfg(not(target_arch = "x86_64"))]
    const OLDER: &[(libc::c_long, &str)] = &[];
    if number.cast_signed() < 0 {
        return "no system call".into();
    }
    let found = CALLS.iter().chain(OLDER).find(|(call, _)| *call == libc::c_long::from(number));
    let name = found.map(|(_, name)| name.trim_start_matches("SYS_").to_owned());
    name.unwrap_or_else(|| format!("system call {number}"))
}
