//! A planned change of code: inert until applied; undone byte for byte.

use super::error::{Bytes, Error};
use super::registry::{self, Registry};
use super::stub::Stub;
use super::wording::WORDING;
use super::{code, system};
use crate::raw::{self, Fallback, Reason, Store};
use std::fmt;
use std::ops::Range;

/// The stub of a patch.
#[derive(Debug)]
pub(super) enum StubState {
    /// The patch needs no stub.
    None,
    /// Mapped, by this patch or an earlier one.
    Mapped { at: usize, resume: Option<usize> },
    /// To be mapped on pages that are free now, and reserved against other patches of this process.
    Planned { stub: Stub, resume: Option<usize>, pages: Range<usize> },
}

/// A planned change: the bytes before and after, the stub, and whether it is applied. Its
/// [`Display`](fmt::Display) shows these and why the change is safe.
///
/// Dropping a patch changes nothing: an applied patch stays applied.
#[derive(Debug)]
pub struct Patch {
    at: usize,
    before: Vec<u8>,
    after: Vec<u8>,
    stub: StubState,
    fallback: Fallback,
    applied: bool,
}

impl Patch {
    pub(super) fn new(at: usize, before: Vec<u8>, after: Vec<u8>, stub: StubState) -> Self {
        Self { at, before, after, stub, fallback: Fallback::ProcMem, applied: false }
    }

    /// Sets what to do where `mprotect` is refused. The default is [`Fallback::ProcMem`]. macOS has
    /// no fallback and ignores this.
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.fallback = fallback;
        self
    }

    /// The site's bytes while the patch is not applied.
    pub fn before(&self) -> Bytes {
        self.bytes(&self.before)
    }

    /// The site's bytes while the patch is applied.
    pub fn after(&self) -> Bytes {
        self.bytes(&self.after)
    }

    /// The stub's address, if there is one.
    pub fn stub(&self) -> Option<*const u8> {
        let at = match &self.stub {
            StubState::None => return None,
            StubState::Mapped { at, .. } => *at,
            StubState::Planned { stub, .. } => stub.at,
        };
        Some(std::ptr::with_exposed_provenance(at))
    }

    /// The address of the displaced instruction, where a hook jumps to continue as if there were no
    /// patch. It is executable from the first `apply` on, for the rest of the process. `None` for a
    /// retargeted branch.
    pub fn resume(&self) -> Option<*const u8> {
        let at = match &self.stub {
            StubState::None => return None,
            StubState::Mapped { at, resume } => at + (*resume)?,
            StubState::Planned { stub, resume, .. } => stub.at + (*resume)?,
        };
        Some(std::ptr::with_exposed_provenance(at))
    }

    /// Whether the patch is applied.
    pub fn is_applied(&self) -> bool {
        self.applied
    }

    /// Writes the patch. When it returns, every thread executes the new code; until then each
    /// thread executes the old or the new code. On an error the code and its protection are as
    /// before; a stub that was mapped stays for the next attempt.
    ///
    /// # Safety
    ///
    /// Until the patch is undone, the new target or hook may be entered wherever the old
    /// instruction could be executed, and its code and the site's stay mapped. No code outside this
    /// crate unmaps the site's page or another page of its mapping, or changes their protection, at
    /// the same time.
    pub unsafe fn apply(&mut self) -> Result<(), Error> {
        let at = self.at;
        if self.applied {
            return Err(Error::AlreadyApplied { at });
        }
        let mut registry = registry::lock()?;
        if let Some(other) = registry.overlapping(at, self.before.len()) {
            return Err(Error::Overlaps { at, other });
        }
        self.expect(&self.before)?;
        self.map_stub(&mut registry)?;
        self.write(&self.before, &self.after)?;
        registry.insert(at, self.before.len());
        self.applied = true;
        Ok(())
    }

    /// Undoes the patch: every byte at the site is as it was. A stub stays mapped, because a thread
    /// may still be in it.
    pub fn undo(&mut self) -> Result<(), Error> {
        let at = self.at;
        if !self.applied {
            return Err(Error::NotApplied { at });
        }
        let mut registry = registry::lock()?;
        self.write(&self.after, &self.before)?;
        registry.remove(at);
        self.applied = false;
        Ok(())
    }

    fn map_stub(&mut self, registry: &mut Registry) -> Result<(), Error> {
        let StubState::Planned { stub, resume, pages } = &self.stub else {
            return Ok(());
        };
        stub.map()?;
        let mapped = StubState::Mapped { at: stub.at, resume: *resume };
        registry.release(pages);
        registry.stubs.push(stub.clone());
        self.stub = mapped;
        Ok(())
    }

    /// Checks the site's bytes. The registry must be locked.
    fn expect(&self, bytes: &[u8]) -> Result<(), Error> {
        let found = code::read(self.at, bytes.len())?;
        if found == bytes {
            Ok(())
        } else {
            Err(Error::Changed { expected: self.bytes(bytes), found: self.bytes(&found) })
        }
    }

    /// Replaces the site's bytes by one store. The registry must be locked.
    fn write(&self, from: &[u8], to: &[u8]) -> Result<(), Error> {
        self.expect(from)?;
        let at = self.at;
        let Some((first, changed)) = changed(from, to) else {
            return Ok(());
        };
        let word = (at + first) & !(size_of::<raw::arch::Word>() - 1);
        // The planner chose the stub so that all changed bytes share a word.
        debug_assert!(at + first + changed.len() <= word + size_of::<raw::arch::Word>());
        let mapping = system::executable(word).map_err(|refused| Error::refused(refused, at, from))?;
        // SAFETY: aligned, and just looked up as mapped readable.
        let before = unsafe { raw::arch::read(word) };
        let mut after = before.to_le_bytes();
        after[at + first - word..][..changed.len()].copy_from_slice(changed);
        let store = Store { at: word, before, after: raw::arch::Word::from_le_bytes(after) };
        // SAFETY: the word lies in this mapping, and no other code changes it: patches of this
        // crate hold the registry's lock, and `apply`'s contract excludes others. Both words may be
        // executed: the old one is there (`expect`, and the store compares the whole word), and the
        // new one differs by the planned branch, which `apply`'s contract covers.
        unsafe { system::write(store, mapping, self.fallback) }.map_err(|refused| match refused.reason {
            Reason::Changed => self.expect(from).err().unwrap_or_else(|| Error::Changed {
                // Another byte of the same word changed, and may have changed back.
                expected: self.bytes(from),
                found: self.bytes(from),
            }),
            _ => Error::refused(refused, at, from),
        })
    }

    fn bytes(&self, bytes: &[u8]) -> Bytes {
        Bytes { at: self.at, bytes: bytes.to_vec() }
    }
}

/// The bytes of `to` from the first to the last that differs, and the index of the first.
fn changed<'a>(from: &[u8], to: &'a [u8]) -> Option<(usize, &'a [u8])> {
    let differs = |(old, new): (&u8, &u8)| old != new;
    let first = from.iter().zip(to).position(differs)?;
    let last = from.iter().zip(to).rposition(differs)?;
    Some((first, &to[first..=last]))
}

impl Drop for Patch {
    fn drop(&mut self) {
        if let StubState::Planned { pages, .. } = &self.stub {
            // If this thread already holds the lock, the pages stay reserved. Only that address
            // range is lost to later patches.
            if let Ok(mut registry) = registry::lock() {
                registry.release(pages);
            }
        }
    }
}

impl fmt::Display for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "before  {}", self.before())?;
        writeln!(f, "after   {}", self.after())?;
        match &self.stub {
            StubState::None => {}
            StubState::Mapped { at, .. } => writeln!(f, "stub    {at:#x}, mapped r-x")?,
            StubState::Planned { stub, .. } => {
                let bytes = Bytes { at: stub.at, bytes: stub.code.clone() };
                writeln!(f, "stub    {bytes}, to be mapped rw-, filled, then r-x")?;
            }
        }
        match changed(&self.before, &self.after) {
            None => write!(f, "safe    nothing changes"),
            Some((first, bytes)) => {
                let at = self.at + first;
                let word = size_of::<raw::arch::Word>();
                write!(
                    f,
                    "safe    {} byte(s) change at {at:#x}, all in the aligned {word} bytes at {:#x}: one store, then {}",
                    bytes.len(),
                    at & !(word - 1),
                    WORDING.then
                )
            }
        }
    }
}
