//! A stack that no exit trampoline was found under.

use super::symbols::{function_name, object_file};
use std::fmt;
use std::ops::Deref;

/// Return addresses of a stack, innermost first. They are kept in place: an error must not need memory for a list.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Addresses {
    words: [usize; Self::MOST],
    count: usize,
}

impl Addresses {
    /// As many as a walk keeps (`foot.rs`): the innermost ones and the outermost ones.
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

/// What was found at the bottom of a stack that was not recognised.
///
/// It holds addresses. Their names are looked up each time that somebody asks for them, which takes milliseconds: the
/// refusal itself is quick. Code that was unloaded in the meantime has no name any more.
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

    /// The return address into the outermost function, the likeliest exit trampoline; zero if there was none.
    pub fn address(&self) -> usize {
        self.addresses.last().copied().unwrap_or(0)
    }

    /// The symbol that [`address`](Self::address) lies in, if the dynamic linker or the debug information knows one.
    pub fn symbol(&self) -> Option<String> {
        function_name(self.address())
    }

    /// The library or program that [`address`](Self::address) lies in.
    pub fn library(&self) -> Option<String> {
        if self.address() == 0 { None } else { object_file(self.address()) }
    }

    /// The return addresses seen, innermost first. Of a deep stack the 16 innermost and the 16 outermost.
    pub fn addresses(&self) -> &[usize] {
        &self.addresses
    }

    /// The same with their names, where one is known.
    pub fn frames(&self) -> Vec<(usize, Option<String>)> {
        self.addresses.iter().map(|&address| (address, function_name(address))).collect()
    }

    /// Why nothing was recognised.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        self.advice
    }
}

impl fmt::Display for Unrecognised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no exit trampoline was recognised at the bottom of this stack: {}", self.reason)?;
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
            writeln!(f, "    {address:#x} {}", function_name(address).as_deref().unwrap_or("?"))?;
        }
        write!(f, "  advice: {}", self.advice)
    }
}

impl fmt::Debug for Unrecognised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
