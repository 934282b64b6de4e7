//! The stack locals whose values are being created or dropped.

use super::contents::Initializing;
use super::header::Record;
use crate::base::guard::OnDrop;
use crate::storage::values::Initialize;

impl Initialize for Record {
    /// Runs `code`, which creates or drops the value of the stack local with this number. A use of
    /// that value meanwhile is refused.
    fn initializing<R>(&self, number: usize, code: impl FnOnce() -> R) -> R {
        let _kept_armed = self.keep_armed();
        // SAFETY: this is the record's own stack, or the one that drains it.
        let innermost = unsafe { &(*self.contents.get()).initializing };
        let this = Initializing { number, outer: innermost.get() };
        innermost.set(&raw const this);
        let _made = OnDrop(|| innermost.set(this.outer));
        code()
    }
}

impl Record {
    /// Whether the value of this stack local is being created or dropped.
    pub(crate) fn is_initializing(&self, number: usize) -> bool {
        // SAFETY: this is the record's own stack.
        let mut next = unsafe { (*self.contents.get()).initializing.get() };
        std::iter::from_fn(|| {
            // SAFETY: these lie in frames of `initializing`, which takes them off this list. Where
            // those frames do not go on, `abandon_frames` and `leak_contents` have emptied it.
            let initializing = unsafe { next.as_ref() }?;
            next = initializing.outer;
            Some(initializing.number)
        })
        .any(|other| other == number)
    }
}
