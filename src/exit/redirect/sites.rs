//! Where in an exit trampoline's code the hook goes, and the patch that puts it there: once per process each.

use super::code_site::CodeSite;
use super::return_points;
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::exit::process_lock::{Learning, Lock};
use crate::exit::recognition;
use crate::exit::trampoline;
use exeunt_patch::{Bytes, Patch, Site};
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{ptr, slice};

/// Whether all sites of trampoline N are patched.
static DONE: [AtomicBool; trampoline::COUNT] = [const { AtomicBool::new(false) }; trampoline::COUNT];

/// Whether stacks of trampoline N have an end that comes by none of the sites, so that their landings are to be redirected.
static LANDS: [AtomicBool; trampoline::COUNT] = [const { AtomicBool::new(false) }; trampoline::COUNT];

/// The places for the hook in one exit trampoline.
struct Sites {
    found: Vec<Found>,
    /// As in [`LANDS`].
    lands: bool,
}

/// A place that is found.
#[derive(Clone, Copy)]
struct Found {
    site: Site,
    entered: Entered,
}

/// How the hook is entered, and what it goes on to.
#[derive(Clone, Copy)]
enum Entered {
    /// By a direct call, in place of its target.
    ByCall,
    /// By the call of `setcontext` in x86_64's `__start_context`.
    #[cfg(target_arch = "x86_64")]
    ByContextCall,
    /// By a branch in place of the `nop` that aarch64's `__start_context` begins with.
    #[cfg(target_arch = "aarch64")]
    ByContextBranch,
}

/// A patch that is applied, for ever.
struct Applied {
    patch: Patch,
    address: usize,
    target: usize,
}

/// Only used under the recognition lock.
static APPLIED: Mutex<Vec<Applied>> = Mutex::new(Vec::new());

/// What was found where an exit trampoline has no place for the hook. It is the same each time as long as the code is, and to
/// look at code means to read the list of mappings for each instruction.
struct Refusal {
    /// From where entry functions return to up to the instruction that is in the way.
    code: &'static [u8],
    text: &'static str,
}

impl Refusal {
    /// The code between is no longer than this, or nothing is kept.
    const LONGEST: usize = 256;

    /// The code of the exit trampoline `number`.
    ///
    /// # Safety
    /// Its first `length` bytes must be mapped.
    unsafe fn code(number: usize, length: usize) -> &'static [u8] {
        // SAFETY: the caller's promise; code that stacks return to stays.
        unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(trampoline::original(number)), length) }
    }

    fn note(number: usize, found: &Bytes, text: &str) {
        let length = (found.at + found.bytes.len()).checked_sub(trampoline::original(number));
        if let Some(length) = length.filter(|length| *length <= Self::LONGEST) {
            // SAFETY: both ends were read as instructions, and no page is between them that holds neither.
            let code = unsafe { Self::code(number, length) };
            let leak = || Self { code: code.to_vec().leak(), text: text.to_owned().leak() };
            REFUSED[number].get_or_init(leak);
        }
    }
}

/// The refusal of trampoline N; leaked, once.
static REFUSED: [OnceLock<Refusal>; trampoline::COUNT] = [const { OnceLock::new() }; trampoline::COUNT];

/// The error of the exit trampoline `number`, if it was refused before and the code is as it was.
fn refused_before(number: usize) -> Option<Error> {
    let refusal = REFUSED[number].get()?;
    // SAFETY: it was read before.
    let code = unsafe { Refusal::code(number, refusal.code.len()) };
    (code == refusal.code).then_some(Error::NoCodeSite(Cow::Borrowed(refusal.text)))
}

/// More bytes than patching one exit trampoline allocates.
const PATCHING: usize = 256 * 1024;

/// Makes sure that the exit trampoline `number` is patched. After an error none of it is.
pub(super) fn ensure(number: usize, before_patching: fn() -> Result<(), Error>) -> Result<(), Error> {
    if DONE[number].load(Ordering::Acquire) {
        return Ok(());
    }
    if let Some(error) = refused_before(number).filter(|_| !is_left_to_net(number)) {
        return Err(error);
    }
    // To find and to patch them takes memory that std's collections allocate.
    if !crate::machine::os::has_memory(PATCHING) {
        return Err(Error::OutOfMemory);
    }
    {
        let _learning = Learning::begin()?;
        // First, as it must be known to a fork that begins while code is written.
        before_patching()?;
    }
    get_ready(number)?;
    recognition::locked(|lock| {
        // Others may have been at it, and what is half patched looks like no shape that is known.
        let sites = match find(number) {
            Err(_) if is_left_to_net(number) => Sites { found: Vec::new(), lands: false },
            sites => sites?,
        };
        let mut applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
        let before = applied.len();
        for found in sites.found {
            let done = patch(lock, found, &mut applied, number);
            if let Err(error) = done {
                let undone = applied.split_off(before);
                // Writing it has worked a moment ago. If not, the hook stays, and does nothing on stacks without a record.
                applied.extend(undone.into_iter().filter_map(|mut kept| kept.patch.undo().is_err().then_some(kept)));
                return Err(error);
            }
        }
        LANDS[number].store(sites.lands, Ordering::Relaxed);
        DONE[number].store(true, Ordering::Release);
        Ok(())
    })
}

/// What the search for sites of the exit trampoline `number` stands on: where `main` ends otherwise than by a return, a call is
/// made that threads make as well.
fn get_ready(number: usize) -> Result<(), Error> {
    if trampoline::kind(number) == Kind::Main { recognition::probe() } else { Ok(()) }
}

/// Whether the landing of stacks of the exit trampoline `number`, which is patched, is to be redirected as well.
pub(super) fn lands_elsewhere(number: usize) -> bool {
    LANDS[number].load(Ordering::Relaxed)
}

/// Why the exit trampoline `number` cannot be patched, if it cannot.
pub(super) fn problem(number: usize) -> Option<Error> {
    if DONE[number].load(Ordering::Acquire) {
        return None;
    }
    let search = |_: &Lock| match find(number) {
        Ok(sites) => Ok(sites.found.into_iter().find_map(|found| plan(found, number, &|_| Ok(0)).err())),
        Err(_) if is_left_to_net(number) => Ok(None),
        Err(error) => Err(error),
    };
    get_ready(number).and_then(|()| recognition::locked(search)).unwrap_or_else(Some)
}

/// What is known of the sites of the exit trampoline `number`.
pub(crate) fn survey(number: usize) -> Vec<CodeSite> {
    let looked = get_ready(number).and_then(|()| recognition::locked(|_| Ok(look(number))));
    looked.unwrap_or_else(|error| vec![CodeSite { problem: Some(error), ..CodeSite::blank(number) }])
}

fn look(number: usize) -> Vec<CodeSite> {
    let blank = CodeSite::blank(number);
    let found = match find(number) {
        Ok(sites) => sites.found,
        Err(Error::NoCodeSite(found)) if is_left_to_net(number) => {
            let found = format!("{found}; so the safety net drains main's stack, when exit runs");
            return vec![CodeSite { problem: Some(Error::NoCodeSite(found.into())), ..blank }];
        }
        Err(error) => return vec![CodeSite { problem: Some(error), ..blank }],
    };
    let applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    let of = |found: Found| {
        let address = found.site.address().addr();
        let behind = found.site.next().map_or(0, |next| next.address().addr());
        let shown = |patch: &Patch| CodeSite {
            address,
            behind,
            before: patch.before().to_string(),
            after: patch.after().to_string(),
            stub: patch.stub().map(<*const u8>::addr),
            applied: patch.is_applied(),
            ..blank.clone()
        };
        match applied.iter().find(|applied| applied.address == address) {
            Some(known) => shown(&known.patch),
            None => match plan(found, number, &|_| Ok(0)) {
                Ok((patch, _)) => shown(&patch),
                Err(error) => CodeSite { address, behind, problem: Some(error), ..blank.clone() },
            },
        }
    };
    found.into_iter().map(of).collect()
}

/// An error of the patch engine, in the words of this library.
fn refused(number: usize) -> impl Fn(exeunt_patch::Error) -> Error {
    use exeunt_patch::Error::{Changed, Membarrier, NoCall, NoMaps, NotABranch, Protect, Reentered, Stub};
    move |error| {
        let failed = match error {
            NoMaps { errno } => Some(("open(\"/proc/self/maps\")", errno)),
            Protect { errno, .. } => Some(("mprotect", errno)),
            Membarrier { errno } => Some(("membarrier", errno)),
            Stub { step, errno } => Some((step, errno)),
            Reentered => return Error::Reentered,
            _ => None,
        };
        if let Some((call, errno)) = failed.filter(|&(_, errno)| is_passing(errno)) {
            return Error::CallFailed { call, errno };
        }
        let text = format!("{}: {error}", trampoline::name(number).to_string_lossy());
        if let NoCall { found, .. } | NotABranch { found } | Changed { found, .. } = &error {
            Refusal::note(number, found, &text);
        }
        Error::NoCodeSite(text.into())
    }
}

/// Whether an error number says that something has run out, which may be there again at the next use.
fn is_passing(errno: i32) -> bool {
    let out = [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EINTR];
    cfg!(target_os = "linux") && out.contains(&errno)
}

/// Plans the patch: with it comes what the hook goes on to. `hook` gives the number of one that goes on to a target.
fn plan(found: Found, number: usize, hook: &dyn Fn(usize) -> Result<usize, Error>) -> Result<(Patch, usize), Error> {
    let address = |address: usize| std::ptr::with_exposed_provenance::<u8>(address);
    let refused = refused(number);
    match found.entered {
        Entered::ByCall => {
            let target = found.site.target().map_err(&refused)?;
            let hook = trampoline::hook(hook(target.addr())?);
            Ok((found.site.retarget(target, address(hook)).map_err(&refused)?, target.addr()))
        }
        #[cfg(target_arch = "x86_64")]
        Entered::ByContextCall => {
            let target = found.site.target().map_err(&refused)?;
            let hook = address(trampoline::context_hook());
            Ok((found.site.retarget(target, hook).map_err(&refused)?, target.addr()))
        }
        #[cfg(target_arch = "aarch64")]
        Entered::ByContextBranch => {
            // SAFETY: x16 is free where a function returns to (AAPCS64, 6.1.1), and __start_context does not set it.
            let site = unsafe { found.site.x16_is_free() };
            let patch = site.divert(address(trampoline::context_hook())).map_err(&refused)?;
            let resume = patch.resume().map_or(0, <*const u8>::addr);
            Ok((patch, resume))
        }
    }
}

/// How often a patch is planned anew when somebody takes the page for its stub.
const MOST_TRIES: usize = 1000;

/// Patches one place, if it is not patched yet: two exit trampolines can share one.
fn patch(lock: &Lock, found: Found, applied: &mut Vec<Applied>, number: usize) -> Result<(), Error> {
    let address = found.site.address().addr();
    if applied.iter().any(|known| known.address == address) {
        return Ok(());
    }
    if applied.len() == trampoline::HOOKS {
        return Err(Error::PoolFull);
    }
    // What is pushed below must find room: an applied patch that is not noted could not be taken back.
    applied.try_reserve(1).map_err(|_| Error::OutOfMemory)?;
    return_points::add(found.site.next().map_err(refused(number))?.address().addr());
    let mut tries = 0;
    let (patch, target) = loop {
        // The hook is complete before anybody can get there.
        let (mut patch, target) = plan(found, number, &|target| trampoline::hook_to(lock, target))?;
        match found.entered {
            Entered::ByCall => {}
            #[cfg(target_arch = "x86_64")]
            Entered::ByContextCall => trampoline::set_context_hook(lock, target, 0)?,
            #[cfg(target_arch = "aarch64")]
            Entered::ByContextBranch => trampoline::set_context_hook(lock, target, address + 4)?,
        }
        // SAFETY: the hooks keep what a call keeps and go on to the target, so they may be entered wherever that may; this
        // library is pinned, libc stays, and who else changes protections of libc's code is not known to this process.
        match unsafe { patch.apply() } {
            Ok(()) => break (patch, target),
            // Another thread has mapped the page that was free for the stub.
            Err(exeunt_patch::Error::StubTaken { .. }) if tries < MOST_TRIES => tries += 1,
            Err(error) => return Err(refused(number)(error)),
        }
    };
    applied.push(Applied { patch, address, target });
    Ok(())
}

/// Whether a stack of the exit trampoline `number` is armed where no place for the hook is found. dyld's `start` calls `exit`
/// through a table since macOS 12. `main` has no end but `exit` and `pthread_exit` there, and both run the safety net, which
/// main's stack has in any case.
fn is_left_to_net(number: usize) -> bool {
    cfg!(target_os = "macos") && trampoline::kind(number) == Kind::Main
}

/// The places at which the hook has to be, so that every end of a stack of the exit trampoline `number` comes by.
fn find(number: usize) -> Result<Sites, Error> {
    let original = trampoline::original(number);
    // SAFETY: a return address that unwinding gave is the first byte of an instruction, in code that stays mapped.
    let start = unsafe { Site::new(std::ptr::with_exposed_provenance(original)) };
    // Only glibc before 2.34 needs it, and only for `main`: this library's own tests, and they alone, can pretend.
    #[cfg(test)]
    if std::env::var_os("EXEUNT_TEST_LANDS").is_some() {
        return Ok(Sites { found: Vec::new(), lands: true });
    }
    let mut lands = false;
    let found = match trampoline::kind(number) {
        // In code of our own, which has the hook in it.
        Kind::Entered => Vec::new(),
        Kind::Fiber => context(start).map_err(refused(number))?,
        kind => {
            let mut sites = start.first_calls().map_err(refused(number))?;
            if kind == Kind::Main && cfg!(target_os = "linux") {
                let unwound = sites.last().copied().and_then(unwound_main);
                lands = unwound.is_none();
                sites.extend(unwound);
            }
            sites.into_iter().map(|site| Found { site, entered: Entered::ByCall }).collect()
        }
    };
    Ok(Sites { found, lands })
}

/// The other end of `main` in glibc: `pthread_exit` does not make it return, and lands behind the call of `exit`, where a call is
/// that `start_thread` makes as well, behind its first one (`__nptl_deallocate_tsd`, behind `__call_tls_dtors`).
///
/// Before glibc 2.34 that call is made by a pointer, and in another build it may be elsewhere. Then main's landing is redirected
/// (`os/landing.rs`). The safety net would not do: on this way glibc runs no destructors of thread-locals.
fn unwound_main(exit: Site) -> Option<Site> {
    let thread = (0..trampoline::known()).find(|&number| trampoline::kind(number) == Kind::Thread)?;
    // SAFETY: as in `find`.
    let start = unsafe { Site::new(std::ptr::with_exposed_provenance(trampoline::original(thread))) };
    let calls = start.first_calls().ok()?;
    let second = if calls.len() > 1 { calls[1] } else { calls[0].next().ok()? };
    let site = exit.next().ok()?;
    (target(site)? == target(second)?).then_some(site)
}

/// Where the call at a site leads, or led before it was patched.
fn target(site: Site) -> Option<usize> {
    let applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    match applied.iter().find(|applied| applied.address == site.address().addr()) {
        Some(patched) => Some(patched.target),
        None => Some(site.target().ok()?.addr()),
    }
}

/// The call of `setcontext` in
///
/// ```text
///     mov %rbx,%rsp; mov (%rsp),%rdi; test %rdi,%rdi; je +8; call setcontext; mov %rax,%rdi; call exit
/// ```
#[cfg(target_arch = "x86_64")]
fn context(start: Site) -> Result<Vec<Found>, exeunt_patch::Error> {
    const SHAPE: [&[u8]; 5] =
        [&[0x48, 0x89, 0xdc], &[0x48, 0x8b, 0x3c, 0x24], &[0x48, 0x85, 0xff], &[0x74, 0x08], &[0xe8]];
    let mut site = start;
    let mut call = start;
    for expected in SHAPE {
        site.expect(expected)?;
        call = site;
        site = site.next()?;
    }
    site.expect(&[0x48, 0x89, 0xc7])?;
    site.next()?.expect(&[0xe8])?;
    Ok(vec![Found { site: call, entered: Entered::ByContextCall }])
}

/// The `nop` in
///
/// ```text
///     nop; mov x0, x19; cbnz x0, setcontext; b exit
/// ```
#[cfg(target_arch = "aarch64")]
fn context(start: Site) -> Result<Vec<Found>, exeunt_patch::Error> {
    // It is a branch once it has been patched, which the registry of patches says.
    if !is_patched(start) {
        start.expect(&0xd503_201f_u32.to_le_bytes())?;
    }
    start.next()?.expect(&0xaa13_03e0_u32.to_le_bytes())?;
    Ok(vec![Found { site: start, entered: Entered::ByContextBranch }])
}

#[cfg(target_arch = "aarch64")]
fn is_patched(site: Site) -> bool {
    let applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    applied.iter().any(|applied| applied.address == site.address().addr())
}
