//! [`Unrecognised`]: the report of a stack under which no exit trampoline was found.

use super::symbols::{function_name, object_file, object_offset};
use std::fmt;
use std::ops::Deref;

/// Return addresses of a stack, innermost first. They are stored in place: an error must not
/// allocate.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Addresses {
    words: [usize; Self::MOST],
    count: usize,
}

impl Addresses {
    /// How many addresses a walk keeps (`exit/walk.rs`): the innermost ones and the outermost ones.
    pub(crate) const MOST: usize = 32;

    pub(crate) fn new(addresses: impl Iterator<Item = usize>) -> Self {
        let mut kept = Self { words: [0; Self::MOST], count: 0 };
        for (place, address) in kept.words.iter_mut().zip(addresses) {
            *place = address;
            kept.count += 1;
        }
        kept
    }
}

impl Deref for Addresses {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.words[..self.count]
    }
}

/// What was found at the outer end of a stack that exeunt could not recognise.
///
/// It holds addresses. Their names are looked up each time that a method needs them, which takes
/// milliseconds, so that the refusal itself is fast. Code that was unloaded in the meantime has no
/// name any more.
#[derive(Clone, PartialEq, Eq)]
pub struct Unrecognised {
    addresses: Addresses,
    reason: &'static str,
    advice: &'static str,
}

impl Unrecognised {
    pub(crate) fn new(addresses: Addresses, reason: &'static str, advice: &'static str) -> Self {
        Self { addresses, reason, advice }
    }

    /// The return address in the outermost frame, which is the likeliest exit trampoline; zero if
    /// there was none.
    pub fn address(&self) -> usize {
        self.addresses.last().copied().unwrap_or(0)
    }

    /// The symbol that [`address`](Self::address) lies in, if the dynamic linker has one, or with the
    /// feature `symbols` the debug information.
    pub fn symbol(&self) -> Option<String> {
        function_name(self.address())
    }

    /// The library or program that [`address`](Self::address) lies in.
    pub fn library(&self) -> Option<String> {
        if self.address() == 0 { None } else { object_file(self.address()) }
    }

    /// The return addresses of the frames, innermost first. Of a deep stack, the 16 innermost and
    /// the 16 outermost ones.
    pub fn addresses(&self) -> &[usize] {
        &self.addresses
    }

    /// The same addresses with the names that are known.
    pub fn frames(&self) -> Vec<Frame> {
        self.addresses.iter().map(|&address| Frame { address, symbol: function_name(address) }).collect()
    }

    /// Why exeunt has recognised nothing.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        self.advice
    }
}

/// A frame of a stack that was not recognised: see [`Unrecognised::frames`].
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// The return address in it.
    pub address: usize,
    /// The symbol that the address lies in, if it is known.
    pub symbol: Option<String>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("address", &format_args!("{:#x}", self.address))
            .field("symbol", &self.symbol)
            .finish()
    }
}

impl fmt::Display for Unrecognised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no exit trampoline was recognised at the foot of this stack: {}", self.reason)?;
        let address = self.address();
        if address != 0 {
            write!(f, "  outermost return address: {address:#x}")?;
            if let Some(symbol) = self.symbol() {
                write!(f, " in {symbol}")?;
            }
            if let Some(library) = self.library() {
                write!(f, " ({library})")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "  frames seen, innermost first:")?;
        for &address in &*self.addresses {
            match (function_name(address), object_offset(address)) {
                (Some(name), _) => writeln!(f, "    {address:#x} {name}")?,
                (None, Some((file, offset))) => writeln!(f, "    {address:#x} {file}+{offset:#x}")?,
                (None, None) => writeln!(f, "    {address:#x} ?")?,
            }
        }
        write!(f, "  advice: {}", self.advice)
    }
}

impl fmt::Debug for Unrecognised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
