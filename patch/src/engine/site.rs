//! An instruction of running code, and the patches that can be planned for it. Planning changes
//! nothing.

use super::arch;
use super::code::{self, Reader};
use super::error::{Bytes, Error};
use super::flow::Flow;
use super::free_space::candidates;
use super::patch::{Patch, StubState};
use super::stub::Stub;
use super::window::Window;
use super::{registry, system};
use crate::raw::{self, Reason};

/// One instruction of running code.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    at: usize,
    quiet: bool,
    x16_is_free: bool,
}

/// Builds a stub for an address. Returns its code and the offset of its displaced instruction, if
/// it has one; or the reason why no stub can be there.
type BuildStub<'a> = &'a dyn Fn(usize) -> Result<(Vec<u8>, Option<usize>), &'static str>;
/// Encodes the site's bytes such that they lead to an address.
type EncodeBranch<'a> = &'a dyn Fn(usize) -> Option<Vec<u8>>;

impl Site {
    /// The instruction at `at`.
    ///
    /// # Safety
    ///
    /// `at` is any address, or the first byte of an instruction that stays mapped while this value,
    /// or a [`Patch`] made from it, is used.
    pub unsafe fn new(at: *const u8) -> Self {
        Self { at: at.addr(), quiet: false, x16_is_free: false }
    }

    /// Promises that no thread executes the site, or is suspended at it, while a patch made from
    /// the returned site is applied or undone. On aarch64 this is needed where the instruction is
    /// not one that may be modified while it runs. On x86_64 it is never needed.
    ///
    /// # Safety
    ///
    /// The promise is true.
    pub unsafe fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Promises that the value in `x16` is not needed when the site is reached, so that a relay may
    /// use the register (aarch64; a relay on x86_64 needs no register).
    ///
    /// # Safety
    ///
    /// The promise is true. It is at function entries and at calls (AAPCS64, 6.1.1).
    pub unsafe fn x16_is_free(mut self) -> Self {
        self.x16_is_free = true;
        self
    }

    /// The site's address.
    pub fn address(&self) -> *const u8 {
        std::ptr::with_exposed_provenance(self.at)
    }

    /// The target of the direct call or branch at the site.
    pub fn target(&self) -> Result<*const u8, Error> {
        let found = self.read(arch::BRANCH_LEN)?;
        // SAFETY: just read.
        match unsafe { raw::arch::target(self.at) } {
            Some(target) => Ok(std::ptr::with_exposed_provenance(target)),
            None => Err(Error::NotABranch { found: self.whole_instruction(found) }),
        }
    }

    /// The first direct call on the path that starts here. The path follows jumps. It ends at an
    /// instruction that moves the stack pointer or may continue at several addresses. So every
    /// thread that arrives here makes that call, with the stack pointer that it arrived with.
    ///
    /// A conditional branch may skip one instruction. If that is a call, it comes first in the
    /// list, and the call that every thread makes comes last. Static programs call functions that
    /// may not be linked in this way.
    pub fn first_calls(&self) -> Result<Vec<Site>, Error> {
        let mut skipped = Vec::new();
        let mut site = *self;
        let reader = &mut Reader::new();
        for _ in 0..Self::MAX_PATH {
            let code = site.instruction_by(reader)?;
            let end = |why| Err(Error::NoCall { found: site.bytes(code.clone()), why });
            match arch::flow(&code, site.at) {
                Flow::Call => {
                    skipped.push(site);
                    return Ok(skipped);
                }
                Flow::Next(next) => site.at = next,
                Flow::Conditional(target) => {
                    let other = site.next_by(reader)?;
                    if other.next_by(reader)?.at != target {
                        return end("it may continue elsewhere");
                    }
                    match arch::flow(&other.instruction_by(reader)?, other.at) {
                        Flow::Call => skipped.push(other),
                        Flow::Next(next) if next == target => {}
                        _ => return end("it may continue elsewhere"),
                    }
                    site.at = target;
                }
                Flow::Unknown(why) => return end(why),
            }
        }
        Err(Error::NoCall { found: site.bytes(site.instruction()?), why: "it is already long here" })
    }

    /// The number of instructions that [`Site::first_calls`] follows.
    const MAX_PATH: usize = 32;

    /// Returns an error if the instruction does not begin with these bytes.
    pub fn expect(&self, bytes: &[u8]) -> Result<(), Error> {
        let found = self.instruction()?;
        if found.starts_with(bytes) {
            return Ok(());
        }
        Err(Error::Changed { expected: self.bytes(bytes.to_vec()), found: self.bytes(found) })
    }

    /// The next instruction.
    pub fn next(&self) -> Result<Site, Error> {
        self.next_by(&mut Reader::new())
    }

    fn next_by(&self, reader: &mut Reader) -> Result<Site, Error> {
        Ok(Site { at: self.at + self.instruction_by(reader)?.len(), ..*self })
    }

    /// Plans that the direct call or branch here leads to `new` instead of `expected`.
    ///
    /// It leads there directly if the instruction reaches `new` and one aligned store suffices.
    /// Otherwise it leads through a relay, a stub in reach that jumps on. On x86_64 the relay's
    /// address is chosen such that one aligned store suffices wherever the instruction lies. On
    /// aarch64 the relay uses `x16`, as linkers' veneers do between a call and its target.
    pub fn retarget(&self, expected: *const u8, new: *const u8) -> Result<Patch, Error> {
        let (expected, new) = (expected.addr(), new.addr());
        let target = self.target()?.addr();
        let before = self.read(arch::BRANCH_LEN)?;
        if target != expected {
            return Err(Error::OtherTarget { found: self.whole_instruction(before), target, expected });
        }
        system::ready(self.at)?;
        // SAFETY: `read` has looked up the whole instruction, which stays mapped by `new`'s
        // contract.
        match unsafe { raw::arch::plan(self.at, expected, new) } {
            Ok(_) => {
                let after = arch::retargeted(&before, self.at, new).expect("`plan` found it in reach");
                Ok(Patch::new(self.at, before, after, StubState::None))
            }
            Err(refusal) => match refusal.reason {
                Reason::OutOfReach | Reason::Straddles => self.with_stub(
                    &before,
                    &arch::retarget_windows(&before, self.at),
                    &|at| Ok((arch::relay(at, new, true)?, None)),
                    &|stub| arch::retargeted(&before, self.at, stub),
                ),
                _ => Err(Error::refused(refusal.into(), self.at, &before)),
            },
        }
    }

    /// Plans that a branch to `hook` replaces the instruction here. The hook starts with every
    /// register and flag as at the site. To continue, it jumps to [`Patch::resume`], where the
    /// displaced instruction is, followed by a branch back.
    pub fn divert(&self, hook: *const u8) -> Result<Patch, Error> {
        self.displace_with_hook(Some(hook.addr()))
    }

    /// Plans that the instruction here runs in a stub, with no other effect: [`Site::divert`]
    /// without a hook.
    pub fn displace(&self) -> Result<Patch, Error> {
        self.displace_with_hook(None)
    }

    fn displace_with_hook(&self, hook: Option<usize>) -> Result<Patch, Error> {
        let (at, before) = (self.at, self.instruction()?);
        if before.len() < arch::BRANCH_LEN {
            return Err(Error::TooShort { found: self.bytes(before), needed: arch::BRANCH_LEN });
        }
        if !self.quiet && !arch::may_be_replaced_while_running(&before) {
            return Err(Error::NotWhileRunning { found: self.bytes(before) });
        }
        system::ready(at)?;
        // An instruction that can never be displaced is refused for that reason, before addresses
        // for a stub are tried.
        arch::displace(&before, at as u64, at as u64)
            .map_err(|why| Error::NotDisplaceable { found: self.bytes(before.clone()), why })?;
        self.with_stub(
            &before,
            &arch::jump_windows(&before, at),
            &|stub| {
                let mut code = match hook {
                    Some(hook) => arch::relay(stub, hook, self.x16_is_free)?,
                    None => Vec::new(),
                };
                let resume = code.len();
                code.extend(arch::displace(&before, at as u64, (stub + resume) as u64)?);
                Ok((code, Some(resume)))
            },
            &|stub| arch::jump(&before, at, stub),
        )
    }

    /// Uses a mapped stub with the same code if there is one, else plans a stub at a free address
    /// in reach, the nearest first.
    fn with_stub(
        &self,
        before: &[u8],
        windows: &[Window],
        build: BuildStub,
        encode: EncodeBranch,
    ) -> Result<Patch, Error> {
        let mut registry = registry::lock()?;
        for Stub { at, code } in &registry.stubs {
            if !windows.iter().any(|window| window.contains(*at)) {
                continue;
            }
            let Some((_, resume)) = build(*at).ok().filter(|(wanted, _)| wanted == code) else { continue };
            if let Some(after) = encode(*at) {
                let stub = StubState::Mapped { at: *at, resume };
                return Ok(Patch::new(self.at, before.to_vec(), after, stub));
            }
        }
        let mut why = None;
        let reserved = registry.reserved.clone();
        for at in candidates(self.at, windows, arch::STUB_LEN, reserved.into_iter())? {
            let (code, resume) = match build(at) {
                Ok(built) => built,
                Err(reason) => {
                    why = Some(reason);
                    continue;
                }
            };
            if let Some(after) = encode(at) {
                let stub = Stub { at, code };
                let pages = stub.pages();
                registry.reserved.push(pages.clone());
                let stub = StubState::Planned { stub, resume, pages };
                return Ok(Patch::new(self.at, before.to_vec(), after, stub));
            }
        }
        Err(Error::NoRoom { found: self.bytes(before.to_vec()), why })
    }

    /// The bytes of the instruction here.
    fn instruction(&self) -> Result<Vec<u8>, Error> {
        self.instruction_by(&mut Reader::new())
    }

    fn instruction_by(&self, reader: &mut Reader) -> Result<Vec<u8>, Error> {
        // The longest instruction has 15 bytes; fewer may be mapped.
        let mut code = reader.read(self.at, 1)?;
        for len in (1..=15).rev() {
            if let Ok(all) = reader.read(self.at, len) {
                code = all;
                break;
            }
        }
        match arch::length(&code, self.at as u64) {
            Ok(len) => {
                code.truncate(len);
                Ok(code)
            }
            Err(why) => Err(Error::NotDisplaceable { found: self.bytes(code), why }),
        }
    }

    fn read(&self, len: usize) -> Result<Vec<u8>, Error> {
        code::read(self.at, len)
    }

    fn bytes(&self, bytes: Vec<u8>) -> Bytes {
        Bytes { at: self.at, bytes }
    }

    /// For an error message: the whole instruction here, if it can be decoded; else the bytes that
    /// were read.
    fn whole_instruction(&self, read: Vec<u8>) -> Bytes {
        self.bytes(self.instruction().unwrap_or(read))
    }
}
