//! What a child of `fork` has to be told: that threads of its parent are not its own.
//!
//! Under slot redirect the word in a thread's foot tells one life of a stack from the next. Under code redirect no word of
//! a thread's stack does, which is well for as long as no thread ends without our hook. In a child of `fork` all but one
//! have done so, and its next threads may get their stacks.

use crate::redirect::Way;
use crate::registry;
use crate::stack::Kind;
use std::sync::Once;

/// From now on, children know which threads they do not have. A child that is made by a bare system call is not told.
pub(crate) fn forsake_in_children() {
    static ONCE: Once = Once::new();
    // SAFETY: the handler fits, and this library is pinned. Without memory for it, children are as if made by the bare
    // system call.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(forsake));
    });
}

extern "C" fn forsake() {
    let Some(own) = super::thread_bounds() else { return };
    for record in registry::all() {
        let of_thread = matches!(record.kind(), Kind::Thread | Kind::Main) && record.way() == Way::Code;
        if of_thread && record.id().is_some() && !own.contains(&(record.top() - 1)) {
            record.forsake();
        }
    }
}
