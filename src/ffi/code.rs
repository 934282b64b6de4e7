//! The codes that C functions return, and what they say.

use crate::base::error::Error;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int};
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Success.
pub const EXEUNT_OK: c_int = 0;
/// This stack's exit trampoline is unknown: its function is a fiber's, say, and never
/// returns to code of the system. `exeunt_last_error` says what was found.
pub const EXEUNT_EUNKNOWN_TRAMPOLINE: c_int = -1;
/// The code runs on a signal stack, which belongs to no thread or fiber.
pub const EXEUNT_ESIGNAL_STACK: c_int = -2;
/// The processor checks this thread's returns against a shadow stack. `EXEUNT_REDIRECT=code` in the
/// environment helps.
pub const EXEUNT_ESHADOW_STACK: c_int = -3;
/// All of exeunt's trampolines, or all places for registered wrappers, are taken.
pub const EXEUNT_EPOOL_FULL: c_int = -4;
/// The system refused to change the protection of a page of exeunt's own.
pub const EXEUNT_EPROTECTION: c_int = -5;
/// Something else rewrites return addresses on this stack, as uftrace does.
pub const EXEUNT_EFOREIGN_FOOT: c_int = -6;
/// The stack is armed already, so its end is fixed: use storage and handlers directly.
pub const EXEUNT_EALREADY_ARMED: c_int = -7;
/// The running code is not on the stack that was named.
pub const EXEUNT_ENOT_ON_THAT_STACK: c_int = -8;
/// All slots are allocated.
pub const EXEUNT_ESLOTS_EXHAUSTED: c_int = -9;
/// No slot has this number: it was never allocated, or it was freed.
pub const EXEUNT_ENO_SUCH_SLOT: c_int = -10;
/// There is no memory.
pub const EXEUNT_ENO_MEMORY: c_int = -11;
/// An outer frame of this very stack is changing the stack's storage, or this thread is recognising
/// exit trampolines, or another function is called at every end.
pub const EXEUNT_EBUSY: c_int = -12;
/// A stack local was used while its own value was being created or dropped (Rust only).
pub const EXEUNT_ERECURSIVE_INIT: c_int = -13;
/// This stack has no value under this key, or no handler with this registration.
pub const EXEUNT_EABSENT: c_int = -14;
/// A required argument is null, or a range is empty.
pub const EXEUNT_EINVALID: c_int = -15;
/// A defect of exeunt: it caught a panic of its own. Please report it.
pub const EXEUNT_EPANIC: c_int = -16;
/// The scope's page belongs to another live stack as well. Use `exeunt_enter`.
pub const EXEUNT_ESHARED_PAGE: c_int = -17;

/// The code cannot be patched: that of an exit trampoline under code redirect, or what
/// `exeunt_redirect_call` was given. `exeunt_last_error` says what was found.
pub const EXEUNT_ENO_CODE_SITE: c_int = -18;
/// The process uses another redirect than the one that was chosen, or the environment names an
/// unknown one.
pub const EXEUNT_EREDIRECT: c_int = -19;
/// A call of a system function failed that exeunt needs to recognise exit trampolines, or to patch
/// code. The next use tries again. `exeunt_last_error` names the call and its error number.
pub const EXEUNT_ECALL_FAILED: c_int = -20;

/// This stack's function has ended and its handlers have run. The caller is a destructor of a
/// thread-local, of a pthread key or of a static, or an `atexit` function.
pub const EXEUNT_EENDED: c_int = -21;
/// `main` has not begun. The caller is a constructor, or the initialiser of a static.
pub const EXEUNT_ETOO_EARLY: c_int = -22;

/// The patched exit trampolines are in use: by armed stacks, or by a function that is called at
/// every end.
pub const EXEUNT_EIN_USE: c_int = -23;

/// The word at the given address is no foot of a stack that can be armed.
pub const EXEUNT_ENO_FOOT: c_int = -24;

/// Why a call from C failed.
pub(super) enum Failure {
    Error(Error),
    Absent,
    Invalid(&'static str),
    SharedPage,
    /// The text of the patch engine's error.
    NoPatch(String),
    Panic(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    fn code(&self) -> c_int {
        match self {
            Self::Error(error) => match error {
                Error::UnknownTrampoline(_) => EXEUNT_EUNKNOWN_TRAMPOLINE,
                Error::StackHasEnded => EXEUNT_EENDED,
                Error::TooEarly => EXEUNT_ETOO_EARLY,
                Error::SignalStack => EXEUNT_ESIGNAL_STACK,
                Error::ShadowStack => EXEUNT_ESHADOW_STACK,
                Error::NoCodeSite(_) => EXEUNT_ENO_CODE_SITE,
                Error::UnknownRedirect(_) | Error::RedirectChosen { .. } => EXEUNT_EREDIRECT,
                Error::TooManyTrampolines | Error::TooManyWrappers => EXEUNT_EPOOL_FULL,
                Error::Protection { .. } => EXEUNT_EPROTECTION,
                Error::ForeignFoot { .. } => EXEUNT_EFOREIGN_FOOT,
                Error::AlreadyArmed(_) => EXEUNT_EALREADY_ARMED,
                Error::NotOnThatStack { .. } => EXEUNT_ENOT_ON_THAT_STACK,
                Error::SlotsExhausted => EXEUNT_ESLOTS_EXHAUSTED,
                Error::NoSuchSlot(_) => EXEUNT_ENO_SUCH_SLOT,
                Error::OutOfMemory => EXEUNT_ENO_MEMORY,
                Error::Busy | Error::Reentered | Error::EveryEndTaken => EXEUNT_EBUSY,
                Error::CodeSitesInUse { .. } => EXEUNT_EIN_USE,
                Error::NoFoot { .. } => EXEUNT_ENO_FOOT,
                Error::CallFailed { .. } => EXEUNT_ECALL_FAILED,
                Error::RecursiveInit => EXEUNT_ERECURSIVE_INIT,
            },
            Self::Absent => EXEUNT_EABSENT,
            Self::Invalid(_) => EXEUNT_EINVALID,
            Self::SharedPage => EXEUNT_ESHARED_PAGE,
            Self::NoPatch(_) => EXEUNT_ENO_CODE_SITE,
            Self::Panic(_) => EXEUNT_EPANIC,
        }
    }

    /// Writes its text.
    fn tell(&self, to: &mut impl Write) -> fmt::Result {
        match self {
            Self::Error(error) => write!(to, "{error}"),
            Self::Invalid(text) => to.write_str(text),
            Self::NoPatch(text) => to.write_str(text),
            Self::Panic(text) => write!(to, "a defect of exeunt, please report it: {text}"),
            Self::Absent | Self::SharedPage => to.write_str(&words(self.code()).to_string_lossy()),
        }
    }
}

thread_local! {
    /// The thread's last failure. `exeunt_last_error` makes its text, as naming the frames of a
    /// stack takes milliseconds. A thread-local is right here: it has to work where the stack can
    /// have no storage, and it is read right after the call that failed.
    static LAST: RefCell<Option<Failure>> = const { RefCell::new(None) };
    /// The failure's code. It has no destructor, so it exists to the end of the thread.
    static LAST_CODE: Cell<c_int> = const { Cell::new(EXEUNT_OK) };
    /// Whether this thread is storing or reading a failure. That allocates and frees, and an
    /// allocator that uses storage fails again and again meanwhile. Of these failures only the
    /// codes are kept.
    static REPORTS: Cell<bool> = const { Cell::new(false) };
}

/// Stores the failure for `exeunt_last_error`, and returns its code.
#[cold]
#[inline(never)]
pub(super) fn report(failure: Failure) -> c_int {
    let code = failure.code();
    LAST_CODE.set(code);
    // Without memory this uses none: not for the failure's place either, which a thread gets at the
    // first use of a thread-local that has a destructor.
    if code == EXEUNT_ENO_MEMORY || REPORTS.replace(true) {
        return code;
    }
    // A thread that is ending has no place any more. Then the code has to do.
    let before = LAST.try_with(|last| last.try_borrow_mut().map(|mut last| last.replace(failure)));
    drop(before);
    REPORTS.set(false);
    code
}

/// The error's code, which is not kept: where this library was opened by `dlopen`, a thread's first
/// use of a thread-local allocates.
pub(super) fn unkept_code(error: Error) -> c_int {
    Failure::Error(error).code()
}

/// Runs the body of a C function, and turns its result or its panic into a code.
#[inline(always)]
pub(super) fn shielded(body: impl FnOnce() -> Result<(), Failure>) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => EXEUNT_OK,
        Ok(Err(failure)) => report(failure),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref().copied());
            let text = text.unwrap_or("a panic without a text").to_owned();
            // Never dropped: dropping it might panic again.
            std::mem::forget(payload);
            report(Failure::Panic(text))
        }
    }
}

fn words(code: c_int) -> &'static CStr {
    match code {
        EXEUNT_OK => c"success",
        EXEUNT_EUNKNOWN_TRAMPOLINE => {
            c"unwinding this stack led to no known exit trampoline: run a fiber's function in exeunt_enter, or register its \
              runtime's wrapper with exeunt_register_trampoline"
        }
        EXEUNT_EENDED => {
            c"this stack's function has ended and its handlers have run: let a handler do what is to be done at the end"
        }
        EXEUNT_ETOO_EARLY => c"main has not begun: use storage and handlers in main, or later",
        EXEUNT_ESIGNAL_STACK => c"this code runs on a signal stack: arm the stack before the signal comes",
        EXEUNT_ESHADOW_STACK => {
            c"the processor checks this thread's returns against a shadow stack: set EXEUNT_REDIRECT=code, or run without it"
        }
        EXEUNT_ENO_CODE_SITE => c"this code cannot be patched; exeunt_last_error says what was found there",
        EXEUNT_EREDIRECT => {
            c"the process uses another redirect already, or EXEUNT_REDIRECT is none of slot, code and auto"
        }
        EXEUNT_EPOOL_FULL => c"all trampolines or all places for registered wrappers are taken",
        EXEUNT_EPROTECTION => c"the system refused to change the protection of a page of exeunt's own",
        EXEUNT_EFOREIGN_FOOT => c"something else rewrites return addresses on this stack (as uftrace does), so it is left alone: run without it",
        EXEUNT_EALREADY_ARMED => c"this stack is armed already: use storage and handlers directly",
        EXEUNT_ENOT_ON_THAT_STACK => c"the running code is not on the stack that was named",
        EXEUNT_ESLOTS_EXHAUSTED => c"all slots are allocated: free some",
        EXEUNT_ENO_SUCH_SLOT => c"no slot has this number: it was never allocated, or it was freed",
        EXEUNT_ENO_MEMORY => c"no memory for this stack's record or its place in the stack map",
        EXEUNT_EBUSY => {
            c"an outer frame of this very stack is changing its storage, or this thread is recognising exit trampolines, or \
              another function is called at every end"
        }
        EXEUNT_ECALL_FAILED => {
            c"a call failed that exeunt needs to recognise exit trampolines; the next use tries again, and \
              exeunt_last_error names the call"
        }
        EXEUNT_ERECURSIVE_INIT => c"an outer frame of this very stack is creating or dropping this stack local's value",
        EXEUNT_EABSENT => c"this stack has no value under this key, or no handler with this registration",
        EXEUNT_EINVALID => c"a required argument is null, or a range is empty",
        EXEUNT_EPANIC => c"a defect of exeunt: it caught a panic of its own",
        EXEUNT_ESHARED_PAGE => c"the scope's page belongs to another live stack as well: use exeunt_enter",
        EXEUNT_EIN_USE => {
            c"the patched exit trampolines are in use: unload armed stacks, or let them end, and take the function of \
              every end back"
        }
        EXEUNT_ENO_FOOT => {
            c"the word at the given address is no foot of a stack that can be armed: it leads to no known exit trampoline, \
              is not where it was reserved, or an earlier stack on that memory has not been drained"
        }
        _ => c"not a code of exeunt",
    }
}

/// The meaning of a code, in one sentence. The string is static: never null, and never to be freed.
///
/// Thread-safe and async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_strerror(code: c_int) -> *const c_char {
    words(code).as_ptr()
}

/// The code of the last failure of a call on this thread, for the function that does not return
/// one: `exeunt_id`. `EXEUNT_OK` if nothing has failed yet. A call that succeeds does not change
/// it, nor does `exeunt_arm_reserved`.
///
/// Thread-safe: it concerns the running thread alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_last_code() -> c_int {
    LAST_CODE.get()
}

/// Copies a text as far as there is room.
struct Copy {
    buffer: *mut c_char,
    size: usize,
    /// The length of the whole text so far.
    length: usize,
}

impl Copy {
    /// Begins anew.
    fn clear(&mut self) {
        self.length = 0;
    }

    /// Ends the text with a zero, if there is room for anything. Returns its length.
    fn end(&self) -> usize {
        if self.size > 0 && !self.buffer.is_null() {
            // SAFETY: one of the `size` bytes that `exeunt_last_error` was given.
            unsafe { self.buffer.add(self.length.min(self.size - 1)).write(0) };
        }
        self.length
    }
}

impl Write for Copy {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.size.saturating_sub(self.length.saturating_add(1));
        if room > 0 && !self.buffer.is_null() {
            // SAFETY: behind what was written before, and within the `size` bytes that
            // `exeunt_last_error` was given.
            unsafe {
                self.buffer.add(self.length).copy_from_nonoverlapping(text.as_ptr().cast(), text.len().min(room))
            };
        }
        self.length += text.len();
        Ok(())
    }
}

/// Copies the text of the last failure of a call on this thread into `buffer`. It says more than
/// `exeunt_strerror`, such as the frames that were found on a stack that cannot be armed. Call it
/// before the fiber may be switched. This call makes the text, and naming a stack's frames takes
/// some milliseconds. On a thread so near its end that no thread-local can be used, the text is
/// that of `exeunt_strerror`.
///
/// It writes at most `size` bytes, the last one being zero. Returns the length of the whole text,
/// without the zero, as `snprintf` does; 0 if nothing has failed yet. `buffer` may be null if
/// `size` is 0.
///
/// Thread-safe: it concerns the running thread alone. Not for signal handlers.
///
/// # Safety
/// `buffer` must be good to write `size` bytes to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_last_error(buffer: *mut c_char, size: usize) -> usize {
    let mut copy = Copy { buffer, size, length: 0 };
    let code = exeunt_last_code();
    let tell = |copy: &mut Copy, failure: &Failure| {
        // The reader of debug information may panic.
        failure.code() == code && catch_unwind(AssertUnwindSafe(|| failure.tell(copy).is_ok())).unwrap_or(false)
    };
    // `report` does not store all failures.
    let told = code != EXEUNT_OK
        && code != EXEUNT_ENO_MEMORY
        && LAST
            .try_with(|last| {
                last.try_borrow().is_ok_and(|last| last.as_ref().is_some_and(|failure| tell(&mut copy, failure)))
            })
            .unwrap_or(false);
    if !told {
        copy.clear();
        if code != EXEUNT_OK {
            let _ = copy.write_str(&words(code).to_string_lossy());
        }
    }
    copy.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_error(size: usize) -> (usize, String) {
        let mut buffer = vec![b'#'; size + 1];
        // SAFETY: the buffer has so many bytes, and one more that must stay as it is.
        let length = unsafe { exeunt_last_error(buffer.as_mut_ptr().cast(), size) };
        assert_eq!(buffer[size], b'#');
        let text =
            CStr::from_bytes_until_nul(&buffer).map_or_else(|_| String::new(), |text| text.to_string_lossy().into());
        (length, text)
    }

    #[test]
    fn a_failure_is_kept_and_its_text_is_made_when_it_is_asked_for() {
        assert_eq!(last_error(10), (0, String::new()));
        for (error, code) in [(Error::StackHasEnded, EXEUNT_EENDED), (Error::TooEarly, EXEUNT_ETOO_EARLY)] {
            let text = error.to_string();
            assert_eq!(report(error.into()), code);
            assert_eq!(last_error(1000), (text.len(), text.clone()));
            assert_eq!(last_error(8), (text.len(), text[..7].to_owned()));
            assert_eq!(last_error(1), (text.len(), String::new()));
            assert_eq!(last_error(0).0, text.len());
            assert_ne!(words(code), words(-1000));
        }
        report(Failure::SharedPage);
        assert_eq!(last_error(1000).1, words(EXEUNT_ESHARED_PAGE).to_string_lossy());
    }
}
