//! `stack_local!`: statics with one value for each stack, as `thread_local!` has one for each
//! thread.
//!
//! The macro, [`LocalKey`], and its operations on values of any type: [`LocalKey::with`],
//! [`LocalKey::try_with`], the crate's own `peek`. `local_cells.rs` adds those for `Cell` and
//! `RefCell`.

use crate::base::alloc::Room;
use crate::base::error::Error;
use crate::life::arm;
use crate::life::lookup;
use crate::life::unload;
use crate::machine::arch::stack_pointer;
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::storage::borrow::lend;
use crate::storage::inline_cache::{Block, InlineCache};
use crate::storage::values::Initialize;
use crate::storage::values::{Addition, LocalValue};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Declares statics that have one value for each stack: thread, main thread or fiber.
///
/// You write it as `thread_local!`, and use it alike: [`LocalKey`] has `with`, `try_with`, and for
/// `Cell` and `RefCell` values `get`, `set`, `take`, `replace` and their like. The first use on a
/// stack arms the stack and makes the value. The values are dropped when the stack ends, after its
/// handlers, last made first.
///
/// # Examples
/// ```
/// use std::cell::{Cell, RefCell};
///
/// exeunt::stack_local! {
///     /// How many requests this stack has served.
///     static SERVED: Cell<u32> = const { Cell::new(0) };
///     pub static LOG: RefCell<Vec<String>> = RefCell::new(Vec::new());
/// }
///
/// std::thread::spawn(|| {
///     SERVED.set(SERVED.get() + 1);
///     LOG.with_borrow_mut(|log| log.push("served".into()));
///     assert_eq!(SERVED.get(), 1);
/// }).join().unwrap();
/// ```
#[macro_export]
macro_rules! stack_local {
    () => {};
    ($(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty = const $init:block $(; $($rest:tt)*)?) => {
        $(#[$attribute])*
        $visibility static $name: $crate::LocalKey<$type> = {
            // A long name, so that the initialiser can call a function of any usual name.
            fn __exeunt_initial_value() -> $type {
                const { $init }
            }
            $crate::LocalKey::new(__exeunt_initial_value)
        };
        $($crate::stack_local!($($rest)*);)?
    };
    ($(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty = $init:expr $(; $($rest:tt)*)?) => {
        $(#[$attribute])*
        $visibility static $name: $crate::LocalKey<$type> = {
            fn __exeunt_initial_value() -> $type {
                $init
            }
            $crate::LocalKey::new(__exeunt_initial_value)
        };
        $($crate::stack_local!($($rest)*);)?
    };
}

/// A static with one value for each stack, made by [`stack_local!`](crate::stack_local).
pub struct LocalKey<T: 'static> {
    cache: InlineCache,
    /// Its number. Zero before its first use.
    number: AtomicUsize,
    init: fn() -> T,
}

impl<T: 'static> LocalKey<T> {
    #[doc(hidden)]
    pub const fn new(init: fn() -> T) -> Self {
        Self { cache: InlineCache::new(), number: AtomicUsize::new(0), init }
    }

    /// The value of the running stack, if the inline cache has it. `block` is the block of the
    /// function that this is inlined into: the quick path and the slow one must use the same block.
    #[inline(always)]
    pub(super) fn quick(&'static self, block: Block) -> Option<*mut T> {
        self.cache.find(block).map(|value| value.as_ptr().cast())
    }

    /// The value of the running stack, made if it is missing.
    #[cold]
    #[inline(never)]
    fn slow(&'static self, block: Block) -> Result<*mut T, Error> {
        self.slow_or_given(block, &mut None, stack_pointer())
    }

    /// The same for callers that cannot return an error.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(super) fn slow_or_panic(&'static self, block: Block) -> *mut T {
        match self.slow_or_given(block, &mut None, stack_pointer()) {
            Ok(value) => value,
            Err(error) => refuse(&error),
        }
    }

    /// The value of the running stack, if the record has it. The inline cache remembers it for the
    /// next use.
    fn in_record(&'static self, block: Block, record: &'static Record) -> Option<*mut T> {
        let value = record.read_values(|values| values.local(self.number()))?;
        if value.is_null() {
            return None;
        }
        // Only a block that the stack map gives to this record: another block may serve another
        // stack next.
        if STACKS.find(block.stack_pointer()).is_some_and(|found| std::ptr::eq(found, record)) {
            self.cache.remember(block, record.canary(), value);
        }
        Some(value.cast())
    }

    /// The value of the running stack. If it is missing, `init` or `given` makes it. After a use of
    /// `given` that is empty. `face` is the stack pointer of the outermost function of exeunt's.
    fn slow_or_given(&'static self, block: Block, given: &mut Option<T>, face: usize) -> Result<*mut T, Error> {
        // A read of an existing value does not verify the record, as no read does
        // (`lookup::is_verified`): on aarch64 that takes a walk to the foot, and a recursion that
        // reads at each depth would make a walk at each.
        if let Some(value) = self.peek_slow(block) {
            return Ok(value);
        }
        let (record, is_new) = arm::record_or_new_for(block.stack_pointer(), face)?;
        if let Some(value) = self.in_record(block, record) {
            return Ok(value);
        }
        self.make(block, record, given).map_err(|error| unload::undo(record, is_new, error))
    }

    /// Makes the value of the running stack.
    fn make(&'static self, block: Block, record: &'static Record, given: &mut Option<T>) -> Result<*mut T, Error> {
        // Inside a key's `Eq` nothing may change, so `init` is not to run in vain.
        record.may_change()?;
        let number = self.number();
        match record.read_values(|_| record.is_initializing(number)) {
            None => return Err(Error::Busy),
            Some(true) => return Err(Error::RecursiveInit),
            Some(false) => {}
        }
        // Allocated before `init` runs: otherwise a failure would have to drop the new value.
        let room = {
            let _kept_armed = record.keep_armed();
            record.room_for(Addition::Local(number))?;
            Room::new()?
        };
        // The allocator may use this very stack local.
        if let Some(value) = self.in_record(block, record) {
            return Ok(value);
        }
        let made = match given.take() {
            Some(given) => given,
            None => record.initializing(number, self.init),
        };
        // `init` is your code. It may have unloaded this stack, and used up the room.
        let ready = arm::record_from(block.stack_pointer()).and_then(|record| {
            let _kept_armed = record.keep_armed();
            record.room_for(Addition::Local(number))?;
            Ok(record)
        });
        let record = match ready {
            Ok(record) => record,
            Err(error) => {
                *given = Some(made);
                return Err(error);
            }
        };
        if let Some(value) = self.in_record(block, record) {
            *given = Some(made);
            return Ok(value);
        }
        let value = room.fill(made);
        let local = LocalValue { number, value: value.cast(), destroy: destroy::<T>, cache: &self.cache };
        let added = record.change_values(|values| values.add_local(local));
        if let Err(error) = added {
            // SAFETY: the value was not stored, so no other code has a pointer to it.
            unsafe { Room::destroy(value) };
            return Err(error);
        }
        Ok(value)
    }

    fn number(&'static self) -> usize {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        let number = self.number.load(Ordering::Acquire);
        if number != 0 {
            return number;
        }
        let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        match self.number.compare_exchange(0, fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                self.cache.register();
                fresh
            }
            Err(first) => first,
        }
    }

    /// Calls `use_it` with the running stack's value, which is made first if it is not there.
    ///
    /// # Panics
    /// If the stack cannot be armed, and in the value's own initialiser or destructor.
    #[inline]
    #[track_caller]
    pub fn with<R>(&'static self, use_it: impl FnOnce(&T) -> R) -> R {
        // SAFETY: the value lives until the stack ends; `lend` keeps it from being dropped earlier.
        unsafe { lend(self.value(), use_it) }
    }

    /// Calls `use_it` with the running stack's value, which is made first if it is not there.
    ///
    /// # Errors
    /// An error of arming if the stack cannot be armed, [`Error::OutOfMemory`], and
    /// [`Error::RecursiveInit`] in the value's own initialiser or destructor. Then nothing has
    /// changed.
    #[inline]
    pub fn try_with<R>(&'static self, use_it: impl FnOnce(&T) -> R) -> Result<R, Error> {
        let block = Block::here();
        let value = match self.quick(block) {
            Some(value) => value,
            None => self.slow(block)?,
        };
        // SAFETY: as in `with`.
        Ok(unsafe { lend(value, use_it) })
    }

    /// Calls `look` with the running stack's value if there is one. Never arms the stack, and makes
    /// no value.
    #[inline(always)]
    pub(crate) fn peek<R>(&'static self, look: impl FnOnce(Option<&T>) -> R) -> R {
        let block = Block::here();
        match self.quick(block).or_else(|| self.peek_slow(block)) {
            // SAFETY: as in `with`.
            Some(value) => unsafe { lend(value, |value| look(Some(value))) },
            None => look(None),
        }
    }

    /// The value of the running stack, if it has one, by the stack map or a walk.
    #[inline(never)]
    fn peek_slow(&'static self, block: Block) -> Option<*mut T> {
        // From the caller's stack pointer: `in_record` keeps the value for the next read only where
        // the stack map has the caller's block.
        self.in_record(block, lookup::lookup_from(block.stack_pointer())?)
    }

    /// The value of the running stack. No code of yours may run while the pointer is in use.
    #[inline(always)]
    #[track_caller]
    pub(super) fn value(&'static self) -> *mut T {
        let block = Block::here();
        match self.quick(block) {
            Some(value) => value,
            None => self.slow_or_panic(block),
        }
    }

    /// Makes the running stack's value from `value`. Returns `value` if the stack has one already.
    #[track_caller]
    pub(super) fn start_with(&'static self, value: T) -> Option<T> {
        let block = Block::here();
        if self.quick(block).is_some() {
            return Some(value);
        }
        let mut given = Some(value);
        if let Err(error) = self.slow_or_given(block, &mut given, stack_pointer()) {
            refuse(&error);
        }
        given
    }
}

impl<T: 'static> std::fmt::Debug for LocalKey<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalKey").finish_non_exhaustive()
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn refuse(error: &Error) -> ! {
    panic!("a stack local cannot be used here: {error}")
}

/// # Safety
/// `value` must be what [`Room::fill`] gave for a `T`, and no other code may use it.
unsafe fn destroy<T>(value: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { Room::destroy(value.cast::<T>()) };
}
