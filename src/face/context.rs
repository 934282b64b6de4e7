//! Scoped context: values that are visible to everything that a call runs, on this stack and on
//! stacks that get the context. [`with`], [`get`], [`look`], [`capture`], [`go`], and `try_` forms.
//!
//! These are `context.With`, `Get`, `GetSafe` and `Go` of goroutine-context packages, without a
//! limit on depth. A context is a list of values, newest first. Lists are shared and never changed.
//! A stack has a place for the newest value.

use crate::base::alloc::refused;
use crate::base::counted::AcrossThreads;
use crate::base::error::Error;
use crate::face::inherit;
use std::any::{Any, TypeId, type_name};
use std::cell::RefCell;
use std::panic::Location;
use std::thread::{Builder, JoinHandle};

/// One value, and the rest of the list.
struct Node<T: ?Sized = dyn Any + Send + Sync> {
    /// The type of `value`. It stands here so that a search of the list calls no vtable.
    of_type: TypeId,
    outer: Outer,
    value: T,
}

type Newest = Option<AcrossThreads<Node>>;

/// The rest of the list.
struct Outer(Newest);

impl Drop for Outer {
    /// Drops a long list in a loop. If each node dropped the next one, each would need stack.
    fn drop(&mut self) {
        let mut outer = self.0.take();
        while let Some(mut node) = outer {
            // If other code holds the node, that code drops the rest. If two drop their references
            // at once, neither may be the last at this point. Then the later one drops this node
            // with its own `Outer`, which is one call deeper and no more.
            outer = node.get_mut().and_then(|node| node.outer.0.take());
        }
    }
}

impl Node {
    #[inline(always)]
    fn value<T: 'static>(&self) -> Option<&T> {
        // SAFETY: `try_with` stored the type together with the value.
        (self.of_type == TypeId::of::<T>()).then(|| unsafe { &*(&raw const self.value).cast::<T>() })
    }
}

crate::stack_local! {
    static NEWEST: RefCell<Newest> = const { RefCell::new(None) };
}

/// Puts the outer context back, on return and on unwinding alike.
struct Restore {
    outer: Newest,
}

impl Drop for Restore {
    fn drop(&mut self) {
        let outer = self.outer.take();
        // Dropped outside of the borrow: the value's destructor may use the context.
        let inner = match outer {
            // `peek` does not arm the stack again if an inner function has unloaded it.
            None => NEWEST.peek(|newest| newest.map(RefCell::take)).flatten(),
            outer => NEWEST.try_with(|newest| newest.replace(outer)).ok().flatten(),
        };
        drop(inner);
    }
}

fn newest() -> Result<Newest, Error> {
    NEWEST.try_with(|newest| newest.borrow().clone())
}

fn enter<R>(node: Newest, scope: impl FnOnce() -> R) -> Result<R, Error> {
    let outer = NEWEST.try_with(|newest| newest.replace(node))?;
    let _restore = Restore { outer };
    Ok(scope())
}

/// Makes `value` visible to everything that `scope` calls on this stack, in place of an outer value
/// of the same type. On return and on unwinding the outer one is back.
///
/// # Panics
/// If the stack cannot be armed. [`try_with`] returns an error instead.
///
/// # Examples
/// ```
/// use exeunt::context;
///
/// #[derive(Clone)]
/// struct RequestId(u64);
///
/// # std::thread::spawn(|| {
/// context::with(RequestId(7), || {
///     assert_eq!(context::get::<RequestId>().0, 7);
///     context::with(RequestId(8), || assert_eq!(context::get::<RequestId>().0, 8));
///     assert_eq!(context::get::<RequestId>().0, 7);
/// });
/// # }).join().unwrap();
/// ```
#[track_caller]
pub fn with<T: Send + Sync + 'static, R>(value: T, scope: impl FnOnce() -> R) -> R {
    match try_with(value, scope) {
        Ok(result) => result,
        Err(error) => refuse(&error),
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn refuse(error: &Error) -> ! {
    panic!("no context can be kept here: {error}")
}

/// As [`with`], with an error if the stack cannot be armed.
///
/// # Errors
/// An error of arming, or [`Error::OutOfMemory`]. Then `scope` has not run, and `value` is dropped.
pub fn try_with<T: Send + Sync + 'static, R>(value: T, scope: impl FnOnce() -> R) -> Result<R, Error> {
    let node = Node { of_type: TypeId::of::<T>(), outer: Outer(None), value };
    let mut node = AcrossThreads::try_new(node).map_err(|_| refused())?;
    // No other code has the node yet.
    if let (Some(node), outer) = (node.get_mut(), newest()?) {
        node.outer = Outer(outer);
    }
    // SAFETY: the same pointer.
    enter(Some(unsafe { node.unsize::<Node>(|node| node) }), scope)
}

/// A copy of the innermost value of type `T` around the running code.
///
/// # Panics
/// If there is none. [`try_get`] returns `None` instead.
#[inline]
#[track_caller]
pub fn get<T: Clone + Send + Sync + 'static>() -> T {
    match try_get() {
        Some(value) => value,
        None => missing(type_name::<T>()),
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn missing(name: &str) -> ! {
    panic!(
        "no context holds a {name} here: call this below context::with({name}, ...), on the same stack or on one that \
         the context was handed on to by context::go or Captured::enter"
    )
}

/// A copy of the innermost value of type `T` around the running code, or `None`. Never arms the
/// stack. Not for signal handlers: one that interrupts a change of the context may read half of it.
#[inline]
pub fn try_get<T: Clone + Send + Sync + 'static>() -> Option<T> {
    look(|value: Option<&T>| value.cloned())
}

/// Calls `look` with the innermost value of type `T` around the running code, or with `None`. Never
/// arms the stack.
///
/// `look` may do anything, and may use the context. Not for signal handlers, as [`try_get`].
#[inline]
pub fn look<T: Send + Sync + 'static, R>(look: impl FnOnce(Option<&T>) -> R) -> R {
    NEWEST.peek(|newest| {
        // SAFETY: no code changes the cell while this reference lives: it is gone before `look` is
        // called. The nodes never change, and they outlive `look`. An inner function that replaces
        // the newest node keeps it, in a node that points to it or in a `Restore`. Code that drops
        // the cell's value (`reset`, `unload`, `exit`) leaves a lent one alone.
        let newest = newest.and_then(|newest| unsafe { newest.try_borrow_unguarded() }.ok()?.as_deref());
        let mut node = newest;
        while let Some(found) = node {
            if let Some(value) = found.value() {
                return look(Some(value));
            }
            node = found.outer.0.as_deref();
        }
        look(None)
    })
}

/// The context of the place that captured it, for use on any other stack.
#[derive(Clone)]
pub struct Captured {
    newest: Newest,
}

/// Captures the context of this place. This costs one reference count, however deep the context is.
///
/// # Examples
/// ```
/// use exeunt::context;
/// # std::thread::spawn(|| {
/// let captured = context::with("outer", || context::capture());
/// std::thread::spawn(move || {
///     captured.enter(|| assert_eq!(context::get::<&str>(), "outer"));
/// }).join().unwrap();
/// # }).join().unwrap();
/// ```
pub fn capture() -> Captured {
    Captured { newest: NEWEST.peek(|newest| newest.and_then(|newest| newest.borrow().clone())) }
}

impl Captured {
    /// Runs `scope` with the captured context instead of the present one.
    ///
    /// # Panics
    /// If the stack cannot be armed.
    #[track_caller]
    pub fn enter<R>(&self, scope: impl FnOnce() -> R) -> R {
        match enter(self.newest.clone(), scope) {
            Ok(result) => result,
            Err(error) => refuse(&error),
        }
    }
}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let depth = std::iter::successors(self.newest.as_ref(), |node| node.outer.0.as_ref()).count();
        f.debug_struct("Captured").field("values", &depth).finish()
    }
}

/// Starts a thread that `run`s with the context of this place, and with this stack's inheritable
/// values ([`set_inheritable`](crate::set_inheritable)).
///
/// # Panics
/// If the system cannot start a thread, as [`std::thread::spawn`]. The new thread panics if it
/// cannot be armed.
///
/// # Examples
/// ```
/// use exeunt::context;
/// # std::thread::spawn(|| {
/// let there = context::with(3_u8, || context::go(|| context::get::<u8>()));
/// assert_eq!(there.join().unwrap(), 3);
/// # }).join().unwrap();
/// ```
#[track_caller]
pub fn go<R: Send + 'static>(run: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
    let context = capture();
    let inheritance = inherit::collect();
    let place = Location::caller();
    let started = Builder::new().spawn(move || {
        let ran = inheritance.install().and_then(|()| match context.newest {
            Some(_) => enter(context.newest, run),
            None => Ok(run()),
        });
        ran.unwrap_or_else(|error| {
            panic!("the context of context::go at {place} cannot be kept on the thread that it has started: {error}")
        })
    });
    match started {
        Ok(thread) => thread,
        Err(error) => panic!("context::go cannot start a thread: {error}"),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::Builder;
    use crate::Redirect;
    use crate::base::testing::alone;

    #[test]
    fn a_started_thread_that_cannot_keep_its_context_says_where_it_was_started() {
        let name = "face::context::tests::a_started_thread_that_cannot_keep_its_context_says_where_it_was_started";
        alone(name, "EXEUNT_TEST_ALONE", || {
            assert_eq!(Builder::new().redirect(Redirect::Slot).install(), Ok(()));
            let thread = with(7_u8, || {
                crate::id().expect("this stack is armed");
                // SAFETY: the only other thread of this process, the harness's, waits. Each new one
                // is said to have a shadow stack.
                unsafe { std::env::set_var("EXEUNT_TEST_SHADOW_STACK", "yes") };
                let (line, start) = (line!(), || go(|| unreachable!("it cannot keep its context")).join());
                (line, std::panic::catch_unwind(start))
            });
            let (line, Ok(Err(payload))) = thread else { panic!("the thread is started, and panics") };
            let text = payload.downcast::<String>().expect("a text");
            assert!(text.contains(&format!("context.rs:{line}:")) && text.contains("shadow stack"), "{text}");
        });
    }
}
