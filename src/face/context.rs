//! Scoped context: values that are visible to everything that a call runs, on this stack and on
//! stacks that get the context. [`with`], [`get`], [`look`], [`capture`], [`go`], [`wrap`] for
//! futures, and `try_` forms.
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
use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};
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
    // An empty context on a stack without one arms nothing.
    if node.is_none() && NEWEST.peek(|newest| newest.is_none_or(|newest| newest.borrow().is_none())) {
        return Ok(scope());
    }
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
#[must_use]
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
#[must_use]
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
#[must_use]
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
    /// If the stack cannot be armed. [`try_enter`](Self::try_enter) returns an error instead.
    #[track_caller]
    pub fn enter<R>(&self, scope: impl FnOnce() -> R) -> R {
        match self.try_enter(scope) {
            Ok(result) => result,
            Err(error) => refuse(&error),
        }
    }

    /// As [`enter`](Self::enter), with an error if the stack cannot be armed.
    ///
    /// # Errors
    /// An error of arming, or [`Error::OutOfMemory`]. Then `scope` has not run.
    pub fn try_enter<R>(&self, scope: impl FnOnce() -> R) -> Result<R, Error> {
        enter(self.newest.clone(), scope)
    }

    /// A future that is polled, and dropped, with the captured context. [`wrap`] does the same with
    /// the context of the place that calls it.
    pub fn wrap<F>(self, future: F) -> InContext<F> {
        InContext { future: ManuallyDrop::new(future), captured: self }
    }
}

/// A future that carries the context of this place: it is polled with that context wherever it is
/// polled, on whichever thread. A worker's own context is back after each poll.
///
/// # Examples
/// ```
/// use exeunt::context;
///
/// #[derive(Clone)]
/// struct RequestId(u64);
///
/// async fn handle() -> u64 {
///     tokio::task::yield_now().await; // from here on perhaps on another thread
///     context::get::<RequestId>().0
/// }
///
/// # let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
/// # runtime.block_on(async {
/// let task = context::with(RequestId(7), || tokio::spawn(context::wrap(handle())));
/// assert_eq!(task.await.unwrap(), 7);
/// # });
/// ```
pub fn wrap<F>(future: F) -> InContext<F> {
    capture().wrap(future)
}

/// A future that carries a context, made by [`wrap`] and [`Captured::wrap`].
///
/// Each poll costs what [`Captured::enter`] does: two reference counts, and at a stack's first use
/// the arming. A future that carries an empty context arms no stack. Values that its code makes
/// visible by [`with`] end with their scopes, so none outlasts a poll.
///
/// # Panics
/// A poll panics if the stack cannot be armed. A drop then drops the future without its context.
#[must_use = "futures do nothing unless polled"]
pub struct InContext<F> {
    /// Pinned when this is. `drop` drops it, and nothing takes it out.
    future: ManuallyDrop<F>,
    captured: Captured,
}

impl<F> InContext<F> {
    /// The context that the future carries.
    pub fn captured(&self) -> &Captured {
        &self.captured
    }
}

impl<F: Future> Future for InContext<F> {
    type Output = F::Output;

    #[track_caller]
    fn poll(self: Pin<&mut Self>, poll: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `future` is pinned with `self`: it is not moved here nor anywhere else, `drop`
        // drops it in place, and `InContext` is `Unpin` only if `F` is. `captured` is not pinned.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: as above.
        let future = unsafe { Pin::new_unchecked(&mut *this.future) };
        this.captured.enter(|| future.poll(poll))
    }
}

impl<F> Drop for InContext<F> {
    /// Drops the future with its context: destructors of what it holds, as of guards in the middle
    /// of a cancelled task, find their values.
    fn drop(&mut self) {
        struct Dropped<'f, F>(&'f mut ManuallyDrop<F>);
        impl<F> Drop for Dropped<'_, F> {
            fn drop(&mut self) {
                // SAFETY: only this drops the future, once: its owner is being dropped.
                unsafe { ManuallyDrop::drop(self.0) };
            }
        }
        let future = Dropped(&mut self.future);
        // Where the stack cannot be armed, the closure is dropped without a run, and the future
        // with it.
        let _ = self.captured.try_enter(move || drop(future));
    }
}

impl<F: fmt::Debug> fmt::Debug for InContext<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InContext").field("future", &*self.future).field("captured", &self.captured).finish()
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        let ran = inheritance.install().and_then(|()| enter(context.newest, run));
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
