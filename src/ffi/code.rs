//! The codes that C functions return, and what they say.

use crate::error::Error;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// It was done.
pub const EXEUNT_OK: c_int = 0;
/// Unwinding this stack led to no exit trampoline that is known. `exeunt_last_error` tells what was found.
pub const EXEUNT_EUNKNOWN_TRAMPOLINE: c_int = -1;
/// The code runs on a signal stack, which belongs to no thread or fiber.
pub const EXEUNT_ESIGNAL_STACK: c_int = -2;
/// Returns on this thread are checked against a shadow stack.
pub const EXEUNT_ESHADOW_STACK: c_int = -3;
/// All trampolines, or all places for registered wrappers, are taken.
pub const EXEUNT_EPOOL_FULL: c_int = -4;
/// The system refused to change the protection of a page of the library's own.
pub const EXEUNT_EPROTECTION: c_int = -5;
/// Something else rewrites return addresses on this stack.
pub const EXEUNT_EFOREIGN_FOOT: c_int = -6;
/// The stack is armed already, so its end is settled.
pub const EXEUNT_EALREADY_ARMED: c_int = -7;
/// The running code is not on the stack that was named.
pub const EXEUNT_ENOT_ON_THAT_STACK: c_int = -8;
/// All dynamic slots are allocated.
pub const EXEUNT_ESLOTS_EXHAUSTED: c_int = -9;
/// No dynamic slot is allocated under this index: it never was, or it was freed.
pub const EXEUNT_ENO_SUCH_SLOT: c_int = -10;
/// There is no memory.
pub const EXEUNT_ENO_MEMORY: c_int = -11;
/// The stack's storage is being changed further up on this very stack.
pub const EXEUNT_EBUSY: c_int = -12;
/// A stack local was asked for while its own value was being made or dropped (Rust only).
pub const EXEUNT_EIN_MAKING: c_int = -13;
/// There is no value under this key on this stack.
pub const EXEUNT_EABSENT: c_int = -14;
/// An argument is null that must not be, or a range is empty.
pub const EXEUNT_EINVALID: c_int = -15;
/// A defect of the library: a panic was caught at the border.
pub const EXEUNT_EPANIC: c_int = -16;
/// The page that the scope is on belongs to another live stack as well: use `exeunt_enter`.
pub const EXEUNT_ESHARED_PAGE: c_int = -17;

/// The code cannot be patched: an exit trampoline's under code redirect, or what `exeunt_redirect_call` was given.
/// `exeunt_last_error` tells what was found.
pub const EXEUNT_ENO_CODE_SITE: c_int = -18;
/// Another redirect than the one that was asked for is in use, or the environment asks for none that there is.
pub const EXEUNT_EREDIRECT: c_int = -19;

/// Why a call from C failed.
pub(super) enum Failure {
    Error(Error),
    Absent,
    Invalid(&'static str),
    SharedPage,
    /// The patch engine's own words.
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
                Error::SignalStack => EXEUNT_ESIGNAL_STACK,
                Error::ShadowStack => EXEUNT_ESHADOW_STACK,
                Error::NoCodeSite(_) => EXEUNT_ENO_CODE_SITE,
                Error::UnknownRedirect(_) | Error::RedirectChosen { .. } => EXEUNT_EREDIRECT,
                Error::PoolFull | Error::TooManyWrappers => EXEUNT_EPOOL_FULL,
                Error::Protection { .. } => EXEUNT_EPROTECTION,
                Error::ForeignFoot { .. } => EXEUNT_EFOREIGN_FOOT,
                Error::AlreadyArmed(_) => EXEUNT_EALREADY_ARMED,
                Error::NotOnThatStack { .. } => EXEUNT_ENOT_ON_THAT_STACK,
                Error::SlotsExhausted => EXEUNT_ESLOTS_EXHAUSTED,
                Error::NoSuchSlot(_) => EXEUNT_ENO_SUCH_SLOT,
                Error::OutOfMemory => EXEUNT_ENO_MEMORY,
                Error::Busy => EXEUNT_EBUSY,
                Error::InItsOwnMaking => EXEUNT_EIN_MAKING,
            },
            Self::Absent => EXEUNT_EABSENT,
            Self::Invalid(_) => EXEUNT_EINVALID,
            Self::SharedPage => EXEUNT_ESHARED_PAGE,
            Self::NoPatch(_) => EXEUNT_ENO_CODE_SITE,
            Self::Panic(_) => EXEUNT_EPANIC,
        }
    }

    fn text(self) -> String {
        let code = self.code();
        match self {
            Self::Error(error) => error.to_string(),
            Self::Invalid(text) => text.to_owned(),
            Self::NoPatch(text) => text,
            Self::Panic(text) => format!("a defect of exeunt, please report it: {text}"),
            Self::Absent | Self::SharedPage => words(code).to_string_lossy().into_owned(),
        }
    }
}

thread_local! {
    /// The text of the thread's last failure. A thread-local is right here: where no storage of the stack can be had,
    /// this has to work, and it is read right after the call that failed.
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
    /// Its code. Without a destructor, it is there to the end of the thread.
    static LAST_CODE: Cell<c_int> = const { Cell::new(EXEUNT_OK) };
}

/// Keeps the failure's text for `exeunt_last_error`, and gives its code.
#[cold]
#[inline(never)]
pub(super) fn report(failure: Failure) -> c_int {
    let code = failure.code();
    LAST_CODE.set(code);
    if code == EXEUNT_ENO_MEMORY {
        // A text takes memory, and so does its place: the first use of a thread-local that has a
        // destructor.
        return code;
    }
    let text = failure.text();
    // No place any more on a thread that is ending: then the code has to do.
    let _ = LAST.try_with(|last| last.try_borrow_mut().map(|mut last| *last = text));
    code
}

/// Runs the body of a C function, and makes a code of its result or of its panic.
#[inline(always)]
pub(super) fn shielded(body: impl FnOnce() -> Result<(), Failure>) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => EXEUNT_OK,
        Ok(Err(failure)) => report(failure),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref().copied());
            let text = text.unwrap_or("a panic without a text").to_owned();
            // Whatever it is, dropping it might panic again.
            std::mem::forget(payload);
            report(Failure::Panic(text))
        }
    }
}

fn words(code: c_int) -> &'static CStr {
    match code {
        EXEUNT_OK => c"it was done",
        EXEUNT_EUNKNOWN_TRAMPOLINE => {
            c"no exit trampoline was recognised at the bottom of this stack: run a fiber's function in exeunt_enter, or \
              register its runtime's wrapper with exeunt_register_trampoline"
        }
        EXEUNT_ESIGNAL_STACK => c"this code runs on a signal stack: arm the stack before the signal comes",
        EXEUNT_ESHADOW_STACK => {
            c"this thread's returns are checked against a shadow stack: set EXEUNT_REDIRECT=code, or run without it"
        }
        EXEUNT_ENO_CODE_SITE => c"this code cannot be patched; exeunt_last_error tells what was found there",
        EXEUNT_EREDIRECT => {
            c"another redirect is in use already, or EXEUNT_REDIRECT is none of slot, code and auto"
        }
        EXEUNT_EPOOL_FULL => c"all trampolines or all places for registered wrappers are taken",
        EXEUNT_EPROTECTION => c"the system refused to change the protection of a page of exeunt's own",
        EXEUNT_EFOREIGN_FOOT => c"something else rewrites return addresses on this stack, so it is left alone",
        EXEUNT_EALREADY_ARMED => c"this stack is armed already: here, just use storage and handlers",
        EXEUNT_ENOT_ON_THAT_STACK => c"the running code is not on the stack that was named",
        EXEUNT_ESLOTS_EXHAUSTED => c"all dynamic slots are allocated: free some",
        EXEUNT_ENO_SUCH_SLOT => c"no dynamic slot is allocated under this index: it never was, or it was freed",
        EXEUNT_ENO_MEMORY => c"no memory for this stack's record or its place in the page map",
        EXEUNT_EBUSY => c"this stack's storage is being changed further up on this very stack",
        EXEUNT_EIN_MAKING => c"this stack local's value is being made or dropped further up on this very stack",
        EXEUNT_EABSENT => c"there is no value under this key on this stack",
        EXEUNT_EINVALID => c"an argument is null that must not be, or a range is empty",
        EXEUNT_EPANIC => c"a defect of exeunt: a panic was caught at the border to C",
        EXEUNT_ESHARED_PAGE => c"the scope's page belongs to another live stack as well: use exeunt_enter",
        _ => c"this is no code of exeunt",
    }
}

/// What a code says, in one sentence. The string is static: never null, never to be freed.
///
/// Thread-safe and async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_strerror(code: c_int) -> *const c_char {
    words(code).as_ptr()
}

/// The code of the last failure of a call on this thread, for those functions that do not return one, such as
/// `exeunt_id`; `EXEUNT_OK` if nothing has failed yet.
///
/// Thread-safe: it concerns the running thread alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_last_code() -> c_int {
    LAST_CODE.get()
}

/// Copies what is known about the last failure of a call on this thread into `buffer`: more than `exeunt_strerror` can
/// tell, such as the frames that were found on a stack that cannot be armed. Call it before the fiber may be switched.
/// Where a thread is so near its end that no thread-local can be used, it is what `exeunt_strerror` says.
///
/// At most `size` bytes are written, the last one being zero. Returns the length of the whole text, without the zero, as
/// `snprintf` does; 0 if nothing has failed yet. `buffer` may be null if `size` is 0.
/// Thread-safe: it concerns the running thread alone. Not for signal handlers.
///
/// # Safety
/// `buffer` must be good to write `size` bytes to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_last_error(buffer: *mut c_char, size: usize) -> usize {
    let copy = |text: &[u8]| {
        if size > 0 && !buffer.is_null() {
            let count = text.len().min(size - 1);
            // SAFETY: the caller's promise; `count` and the zero are at most `size` bytes.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, count);
                buffer.add(count).write(0);
            }
        }
        text.len()
    };
    let code = exeunt_last_code();
    if code == EXEUNT_ENO_MEMORY {
        return copy(words(code).to_bytes());
    }
    LAST.try_with(|last| copy(last.borrow().as_bytes())).unwrap_or_else(|_| match code {
        EXEUNT_OK => copy(b""),
        code => copy(words(code).to_bytes()),
    })
}
