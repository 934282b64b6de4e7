//! The armed stacks of the process: [`stacks`].

use crate::base::kind::Kind;
use crate::base::stack_id::StackId;
use crate::record::header::Description;
use crate::record::stacks::STACKS;
use std::fmt;

/// An armed stack: see [`stacks`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArmedStack {
    /// Its identity.
    pub id: StackId,
    /// What it is to the system.
    pub kind: Kind,
    /// The address of its foot. Of a C scope, and of a stack whose function has returned already,
    /// it is where the foot was.
    pub foot: usize,
    /// The highest address that belongs to the stack: its stack pointer once its entry function has
    /// returned. Without a tag.
    pub base: usize,
    /// The return address of the call into exeunt that has armed the stack, in the function that
    /// has made this call. `None` if no walk leads there.
    pub armed_from: Option<usize>,
    /// Whether the stack has ended, and its handlers are running.
    pub is_draining: bool,
}

impl fmt::Debug for ArmedStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArmedStack")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("foot", &format_args!("{:#x}", self.foot))
            .field("base", &format_args!("{:#x}", self.base))
            .field("armed_from", &format_args!("{:#x?}", self.armed_from))
            .field("is_draining", &self.is_draining)
            .finish()
    }
}

/// The armed stacks of the process, in no order: for leak detectors, which ask what is left of
/// threads and fibers that should have ended.
///
/// It is a snapshot, taken stack by stack as the iterator goes on. A stack that is armed or ends
/// meanwhile may be missing or not, and each that is given may have ended by now. The fields of one
/// stack belong together. A stack is given once, unless it is unloaded and armed again meanwhile.
/// Read its memory only if you know that it does not end.
///
/// A fiber that was suspended for ever is given until it is [discarded](crate::discard), or until
/// exeunt arms another stack on its memory. In a child of `fork` the stacks of the parent's other
/// threads are given until a new stack uses their memory.
///
/// This takes no lock, allocates nothing and arms nothing. Its time is in proportion to the most
/// stacks that were ever armed at once.
///
/// [`ArmedStack::armed_from`] costs nothing but one store when a stack is armed from where another
/// one was. It is exact for functions, as [`at_exit`](crate::at_exit) and [`set`](crate::set). A
/// [`LocalKey`](crate::LocalKey)'s methods are inlined into your function. In a program without
/// optimisation they are not, and then the address lies in the method. Give the address less one to
/// tools that name code, such as `addr2line`: a call may be the last instruction of its function.
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// let here = exeunt::id()?;
/// let found = exeunt::stacks().find(|stack| stack.id == here).expect("this stack is armed");
/// assert_eq!(found.kind, exeunt::Kind::Thread);
/// for stack in exeunt::stacks() {
///     println!("stack {}, a {:?}, armed from {:#x?}", stack.id, stack.kind, stack.armed_from);
/// }
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
pub fn stacks() -> impl Iterator<Item = ArmedStack> {
    STACKS.all().filter_map(|record| record.description()).map(|stack| {
        let Description { id, kind, foot, base, armed_from, is_draining } = stack;
        ArmedStack { id, kind, foot, base, armed_from: (armed_from != 0).then_some(armed_from), is_draining }
    })
}
