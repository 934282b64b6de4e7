//! Finds the mapping that an address lies in: reads the kernel's lists without allocation.
//!
//! `maps` has the permissions (proc(5)). On aarch64 only the `VmFlags` in
//! `smaps` show whether a page is guarded (`PROT_BTI`: `bt`) or tagged (`PROT_MTE`:
//! `mt`), and `mprotect` would drop both:
//!
//! ```text
//! 7f5b3c000000-7f5b3c021000 r-xp 00000000 00:00 0        /usr/lib/aarch64-linux-gnu/libc.so.6
//! Size:                132 kB
//! VmFlags: rd ex mr mw me bt
//! ```

use super::refusal::{Reason, Refusal};
use super::syscall::{File, PROT_BTI, PROT_EXEC, PROT_MTE, PROT_READ, PROT_WRITE};
use core::mem::MaybeUninit;

/// In the flags of `smaps`: pages are locked in memory when they are first used. This is not a
/// `PROT_…` bit.
const LOCKED_ON_FAULT: u32 = 1 << 31;

/// One mapping. [`Mapping::NONE`] where nothing is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: usize,
    /// One past its last address. Not above `start` if only the protection is known.
    pub end: usize,
    /// Its `PROT_…` bits.
    pub protection: u32,
    /// Whether it is a private copy of a file, as the code of programs and libraries is.
    pub of_file: bool,
}

impl Mapping {
    /// No mapping.
    pub const NONE: Self = Self::unknown(0);

    /// A mapping of which only the protection is known.
    pub const fn unknown(protection: u32) -> Self {
        Self { start: 0, end: 0, protection, of_file: false }
    }
}

/// The mapping at `address`, if it is readable and executable.
pub fn executable(address: usize) -> Result<Mapping, Refusal> {
    let found = mapping(address)?;
    if found.protection & (PROT_READ | PROT_EXEC) == PROT_READ | PROT_EXEC {
        Ok(found)
    } else {
        Err(Refusal::new(Reason::NotExecutable))
    }
}

/// The mapping at `address`.
pub fn mapping(address: usize) -> Result<Mapping, Refusal> {
    let answer = || {
        let mut found = search(b"/proc/self/maps\0", b"/proc/thread-self/maps\0", address, false)?;
        if cfg!(target_arch = "aarch64") {
            found.protection |= flags(address)? & !LOCKED_ON_FAULT;
        }
        Ok(found)
    };
    answer().map_err(|errno| Refusal::with(Reason::NoMaps, errno))
}

/// Whether pages of the mapping at `address`, which is locked, are locked when they are first used
/// (`MLOCK_ONFAULT`), and not all of them at once.
pub(super) fn is_locked_on_fault(address: usize) -> Result<bool, u16> {
    Ok(flags(address)? & LOCKED_ON_FAULT != 0)
}

/// The flags of the mapping at `address`, from `smaps`.
fn flags(address: usize) -> Result<u32, u16> {
    Ok(search(b"/proc/self/smaps\0", b"/proc/thread-self/smaps\0", address, true)?.protection)
}

/// Falls back to this thread's own list: `/proc/self` is the main thread, whose list is empty once
/// that thread has ended.
fn search(path: &[u8], of_thread: &[u8], address: usize, flags: bool) -> Result<Mapping, u16> {
    match search_in(path, address, flags)? {
        Some(found) => Ok(found),
        None => Ok(search_in(of_thread, address, flags)?.unwrap_or(Mapping::NONE)),
    }
}

/// The mapping at `address`; from `smaps`, only the protection that its flags show. `None` if the
/// file is empty.
fn search_in(path: &[u8], address: usize, flags: bool) -> Result<Option<Mapping>, u16> {
    let mut text =
        Text { file: File::open(path)?, next: 0, end: 0, refused: 0, buffer: [const { MaybeUninit::uninit() }; 512] };
    let mut empty = true;
    let mut here = false;
    while let Some(first) = text.byte() {
        if let Some(digit) = hex_digit(first) {
            empty = false;
            let start = text.hex(digit);
            let end = text.hex(0);
            here = start <= address && address < end;
            if here && !flags {
                return Ok(Some(text.mapping(start, end)));
            }
        } else if here && first == b'V' {
            return Ok(Some(Mapping::unknown(text.flags())));
        }
        text.skip_line();
    }
    match text.refused {
        0 if empty => Ok(None),
        0 => Ok(Some(Mapping::NONE)),
        errno => Err(errno),
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// A file as a stream of bytes.
struct Text {
    file: File,
    next: usize,
    end: usize,
    /// Error number of a failed read; such a read ends the stream.
    refused: u16,
    // Left uninitialised: zeroing it would call `memset`, an external symbol.
    buffer: [MaybeUninit<u8>; 512],
}

impl Text {
    fn byte(&mut self) -> Option<u8> {
        let start = self.buffer.as_mut_ptr().cast::<u8>();
        if self.next >= self.end {
            self.next = 0;
            // SAFETY: this value owns the buffer, which has this length.
            self.end = match unsafe { self.file.read(start, self.buffer.len()) } {
                Ok(len) => len,
                Err(refused) => {
                    self.refused = refused;
                    0
                }
            };
            if self.end == 0 {
                return None;
            }
        }
        // SAFETY: `next < end`, and `read` filled the buffer up to `end`. A pointer, since an index
        // could panic.
        let byte = unsafe { start.add(self.next).read() };
        self.next += 1;
        Some(byte)
    }

    /// Parses the rest of a number that began with `first`, and consumes the byte after it.
    fn hex(&mut self, first: u8) -> usize {
        let mut value = first as usize;
        while let Some(byte) = self.byte() {
            match hex_digit(byte) {
                Some(digit) => value = value << 4 | digit as usize,
                None => return value,
            }
        }
        value
    }

    /// Parses the rest of the line, behind the addresses: `r-xp 00026000 fe:01 1234 /path`. Memory
    /// without a file has inode 0.
    fn mapping(&mut self, start: usize, end: usize) -> Mapping {
        let protection = self.permissions();
        let is_private = self.byte() == Some(b'p');
        let mut spaces = 0;
        let inode = loop {
            match self.byte() {
                None | Some(b'\n') => break b'0',
                Some(b' ') => spaces += 1,
                Some(digit) if spaces == 3 => break digit,
                Some(_) => {}
            }
        };
        Mapping { start, end, protection, of_file: is_private && inode != b'0' }
    }

    /// Parses `rwx` into `PROT_…` bits.
    fn permissions(&mut self) -> u32 {
        let mut bits = 0;
        for bit in [PROT_READ, PROT_WRITE, PROT_EXEC] {
            if !matches!(self.byte(), None | Some(b'-')) {
                bits |= bit;
            }
        }
        bits
    }

    /// Parses the rest of a `VmFlags:` line: two-letter words.
    fn flags(&mut self) -> u32 {
        let mut bits = 0;
        let mut last = 0;
        while let Some(byte) = self.byte() {
            match (last, byte) {
                (_, b'\n') => break,
                (b'b', b't') => bits |= PROT_BTI,
                (b'm', b't') => bits |= PROT_MTE,
                (b'l', b'f') => bits |= LOCKED_ON_FAULT,
                _ => {}
            }
            last = byte;
        }
        bits
    }

    fn skip_line(&mut self) {
        while !matches!(self.byte(), None | Some(b'\n')) {}
    }
}
