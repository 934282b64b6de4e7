//! The functions of `exeunt` that the C and C++ programs of the tests call, with numbers and
//! pointers only.
//!
//! No panic crosses to C: each function catches it, and returns `PANICKED`. The two functions that
//! exist to let a panic pass are `extern "C-unwind"`, and their documentation states it. The header
//! is `tests/c/bridge.h`.

pub mod walk;
pub mod watch;

use exeunt::{Error, Kind, Stack};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The call was refused; the reason is on standard error.
const REFUSED: c_int = -1;
/// A panic was caught.
const PANICKED: c_int = -2;

exeunt::stack_local! {
    static NUMBER: Cell<u64> = const { Cell::new(0) };
}

/// A function of the program, and its argument.
struct Callback {
    function: extern "C" fn(*mut c_void),
    argument: *mut c_void,
}

impl Callback {
    fn call(&self) {
        (self.function)(self.argument);
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        self.call();
    }
}

fn answer(call: impl FnOnce() -> Result<c_int, Error>) -> c_int {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(number)) => number,
        Ok(Err(error)) => {
            report(&format!("exeunt: {error}\n"));
            REFUSED
        }
        Err(_) => PANICKED,
    }
}

/// Writes to standard error by a bare system call. C's `write`, which `eprintln!` calls, is a
/// cancellation point, and the calling program may have a pending cancellation request.
fn report(message: &str) {
    // SAFETY: the kernel reads the message's bytes.
    unsafe { libc::syscall(libc::SYS_write, libc::STDERR_FILENO, message.as_ptr(), message.len()) };
}

/// [`exeunt::at_exit`].
#[unsafe(no_mangle)]
pub extern "C" fn bridge_at_exit(function: extern "C" fn(*mut c_void), argument: *mut c_void) -> c_int {
    answer(|| {
        // Removed handlers are not called, so this is not a `Callback`, whose drop calls the
        // function.
        exeunt::at_exit(move || function(argument))?;
        Ok(0)
    })
}

/// Tries to register a handler. Returns 0 if that succeeded, 1 if the stack has ended, 2 if it is
/// too early, and 3 for any other error, with the reason on standard error.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_attempt(function: extern "C" fn(*mut c_void)) -> c_int {
    answer(|| match exeunt::at_exit(move || function(std::ptr::null_mut())) {
        Ok(()) => Ok(0),
        Err(Error::StackHasEnded) => Ok(1),
        Err(Error::TooEarly) => Ok(2),
        Err(error) => {
            report(&format!("exeunt: {error}\n"));
            Ok(3)
        }
    })
}

/// [`exeunt::at_exit`] with a handler that panics.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_panic_at_exit() -> c_int {
    answer(|| {
        exeunt::at_exit(|| panic!("a handler panics"))?;
        Ok(0)
    })
}

/// The name of [`exeunt::ending`]'s variant.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_ending() -> *const c_char {
    name_of(exeunt::ending()).as_ptr()
}

fn name_of(ending: Option<exeunt::Ending>) -> &'static CStr {
    use exeunt::Ending;
    match ending {
        None => c"None",
        Some(Ending::Unknown) => c"Unknown",
        Some(Ending::Returned) => c"Returned",
        Some(Ending::Unwound) => c"Unwound",
        Some(Ending::Exited) => c"Exited",
        Some(Ending::Cancelled) => c"Cancelled",
        Some(Ending::ProcessExit) => c"ProcessExit",
        Some(Ending::Abandoned) => c"Abandoned",
        Some(Ending::Discarded) => c"Discarded",
        Some(Ending::Scope) => c"Scope",
        Some(_) => c"another",
    }
}

/// [`exeunt::on_every_end`]. The function gets the kind as in `bridge_foot`, the name of the ending,
/// whether there is a value, the value, and whether the stack is armed.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_on_every_end(function: extern "C" fn(c_int, *const c_char, c_int, usize, c_int)) -> c_int {
    answer(|| {
        let every_end = exeunt::on_every_end(move |end| {
            let has_value = c_int::from(end.value.is_some());
            let (name, value) = (name_of(Some(end.ending)).as_ptr(), end.value.unwrap_or(0));
            function(end.kind as c_int, name, has_value, value, c_int::from(end.is_armed));
        })?;
        *EVERY_END.lock().unwrap() = Some(every_end);
        Ok(0)
    })
}

static EVERY_END: std::sync::Mutex<Option<exeunt::EveryEnd>> = std::sync::Mutex::new(None);

/// [`exeunt::EveryEnd::stop`].
#[unsafe(no_mangle)]
pub extern "C" fn bridge_stop_every_end() -> c_int {
    answer(|| {
        let every_end = EVERY_END.lock().unwrap().take();
        if let Some(every_end) = every_end {
            every_end.stop();
        }
        Ok(0)
    })
}

/// Arms the running stack, notes the places of its foot and its base, and unloads it.
///
/// # Safety
/// `foot` and `base` must be good to write to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bridge_place(foot: *mut usize, base: *mut usize) -> c_int {
    answer(|| {
        let id = exeunt::id()?;
        let here = exeunt::stacks().find(|stack| stack.id == id).expect("this stack is armed");
        exeunt::unload()?;
        // SAFETY: the caller's promise.
        unsafe { (*foot, *base) = (here.foot, here.base) };
        Ok(0)
    })
}

/// [`exeunt::reserve`] with a function as C has it.
///
/// # Safety
/// As for that.
unsafe fn reserved(
    foot: usize,
    base: usize,
    function: extern "C" fn(*mut c_void),
    argument: *mut c_void,
) -> Result<exeunt::Reservation, exeunt::Error> {
    let argument = argument.expose_provenance();
    // SAFETY: the caller's promise.
    unsafe { exeunt::reserve(foot, base, move || function(std::ptr::with_exposed_provenance_mut(argument))) }
}

/// [`exeunt::reserve`] and [`exeunt::Reservation::arm`].
///
/// # Safety
/// As for these two.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bridge_arm_at(
    foot: usize,
    base: usize,
    function: extern "C" fn(*mut c_void),
    argument: *mut c_void,
) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        let reserved = unsafe { reserved(foot, base, function, argument) }?;
        // SAFETY: as above.
        unsafe { reserved.arm() }.map(|_| 0).map_err(|(error, _)| error)
    })
}

static RESERVED: std::sync::Mutex<Option<exeunt::Reservation>> = std::sync::Mutex::new(None);

/// [`exeunt::reserve`]. [`bridge_arm_reserved`] takes what it returns.
///
/// # Safety
/// As for that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bridge_reserve(
    foot: usize,
    base: usize,
    function: extern "C" fn(*mut c_void),
    argument: *mut c_void,
) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        let reserved = unsafe { reserved(foot, base, function, argument) }?;
        *RESERVED.lock().unwrap() = Some(reserved);
        Ok(0)
    })
}

/// [`exeunt::Reservation::arm`] of what [`bridge_reserve`] has reserved.
///
/// # Safety
/// As for that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bridge_arm_reserved() -> c_int {
    let reserved = RESERVED.lock().unwrap().take().expect("something is reserved");
    // SAFETY: the caller's promise.
    answer(|| unsafe { reserved.arm() }.map(|_| 0).map_err(|(error, _)| error))
}

/// [`exeunt::restore_code_sites`]; 1 if the sites are in use.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_restore_code_sites() -> c_int {
    answer(|| match exeunt::restore_code_sites() {
        Err(Error::CodeSitesInUse { .. }) => Ok(1),
        other => other.map(|()| 0),
    })
}

/// [`exeunt::returned_value`]; 1 where there is one, otherwise 0.
///
/// # Safety
/// `value` must be good to write to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bridge_returned_value(value: *mut usize) -> c_int {
    let Some(found) = exeunt::returned_value() else { return 0 };
    // SAFETY: the caller's promise.
    unsafe { *value = found };
    1
}

/// [`exeunt::set`] with a number.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_set(key: u64, value: u64) -> c_int {
    answer(|| {
        exeunt::set(key, value)?;
        Ok(0)
    })
}

/// [`exeunt::set`] with a value whose drop calls `function`.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_set_dropped(key: u64, function: extern "C" fn(*mut c_void), argument: *mut c_void) -> c_int {
    answer(|| {
        exeunt::set(key, Callback { function, argument })?;
        Ok(0)
    })
}

/// Whether there is a value of either kind.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_has(key: u64) -> c_int {
    answer(|| {
        let number = exeunt::with(&key, |value: Option<&u64>| value.is_some());
        Ok(c_int::from(number || exeunt::with(&key, |value: Option<&Callback>| value.is_some())))
    })
}

/// The number under `key`, or `otherwise`.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_get(key: u64, otherwise: u64) -> u64 {
    catch_unwind(|| exeunt::get(&key).unwrap_or(otherwise)).unwrap_or(otherwise)
}

/// Stores a number in a stack local, and returns the previous one.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_swap_local(value: u64) -> u64 {
    catch_unwind(|| NUMBER.replace(value)).unwrap_or(u64::MAX)
}

/// [`exeunt::id`], or zero.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_id() -> u64 {
    catch_unwind(|| exeunt::id().map_or(0, exeunt::StackId::get)).unwrap_or(0)
}

/// [`exeunt::unload`].
#[unsafe(no_mangle)]
pub extern "C" fn bridge_unload() -> c_int {
    answer(|| {
        exeunt::unload().unwrap();
        Ok(0)
    })
}

/// Whether the running stack is armed.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_is_armed() -> c_int {
    answer(|| Ok(c_int::from(Stack::current().is_armed())))
}

/// The running stack's foot.
#[repr(C)]
pub struct Foot {
    /// Its address.
    pub address: usize,
    /// The word that it holds.
    pub word: usize,
    /// The return address into the exit trampoline.
    pub original: usize,
    /// 1 for a thread, 2 for main, 3 for a fiber, 0 for anything else.
    pub kind: c_int,
}

/// Fills in `foot`. Returns 0, or -1 where the stack has none.
///
/// # Safety
/// `foot` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bridge_foot(foot: *mut Foot) -> c_int {
    answer(|| {
        let stack = Stack::current();
        let Some(info) = stack.foot() else { return Ok(REFUSED) };
        let kind = match stack.kind() {
            Kind::Thread => 1,
            Kind::Main => 2,
            Kind::Fiber => 3,
            _ => 0,
        };
        // SAFETY: the caller's promise.
        unsafe { foot.write(Foot { address: info.address, word: info.word, original: info.original, kind }) };
        Ok(0)
    })
}

/// [`exeunt::enter`], of a function without a result.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_enter(function: extern "C" fn(*mut c_void), argument: *mut c_void) -> c_int {
    answer(|| exeunt::enter(|| function(argument)).map(|()| 0))
}

/// [`exeunt::tag::run`].
#[unsafe(no_mangle)]
pub extern "C" fn bridge_tagged(tag: u64, function: extern "C" fn(*mut c_void), argument: *mut c_void) {
    exeunt::tag::run(tag, || function(argument));
}

/// [`exeunt::tag::current`], or `otherwise`.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_tag(otherwise: u64) -> u64 {
    exeunt::tag::current().unwrap_or(otherwise)
}

/// [`exeunt::register_trampoline`].
///
/// # Safety
/// That function's promise, for the code from `start` to `end`; `name` must be a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bridge_register(name: *const c_char, start: usize, end: usize) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        unsafe {
            let name = CStr::from_ptr(name).to_string_lossy();
            exeunt::register_trampoline(&name, start..end)?;
        }
        Ok(0)
    })
}

/// Stores the return addresses of the running stack, innermost first, as the `backtrace` crate
/// (libgcc's unwinder) finds them. Returns their number.
///
/// # Safety
/// `addresses` must have room for `room` words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bridge_walk(addresses: *mut usize, room: usize) -> usize {
    // SAFETY: the caller's promise.
    let addresses = unsafe { std::slice::from_raw_parts_mut(addresses, room) };
    walk::walk(addresses)
}

/// Panics. Unwinds into its caller.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn bridge_panic() {
    panic!("the program asked for it");
}

/// Calls `function`, which may panic, and catches as the outermost frame of a Rust stack would: 1
/// if it panicked, 0 if not.
#[unsafe(no_mangle)]
pub extern "C" fn bridge_catch(function: extern "C-unwind" fn(*mut c_void), argument: *mut c_void) -> c_int {
    c_int::from(catch_unwind(AssertUnwindSafe(|| function(argument))).is_err())
}
