//! The handlers of one stack, in the order in which they were registered.
//!
//! [`Handlers`] adds (`push`), takes (`pop`, `take`) and moves handlers (`move_to`). It allocates
//! in none of these: `new_capacity` says how much room must be made before.

use crate::base::alloc::{larger, move_to};

/// A handler, as it was registered.
pub(crate) type Handler = Box<dyn FnOnce()>;

/// A registered handler, or the gap that one has left.
pub(crate) struct Entry {
    /// The number of this registration. No other one in the process has it.
    number: u64,
    handler: Option<Handler>,
}

/// The handlers of one stack.
#[repr(C)]
pub(crate) struct Handlers {
    /// In the order in which they were registered, so with ascending numbers. A handler that was
    /// taken back leaves a gap, but never at the end, except while the stack drains.
    in_order: Vec<Entry>,
}

impl Handlers {
    pub(crate) const fn new() -> Self {
        Self { in_order: Vec::new() }
    }

    /// The number of handlers and gaps.
    #[inline]
    pub(crate) fn len_with_gaps(&self) -> usize {
        self.in_order.len()
    }

    /// Whether there is no handler.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_order.iter().rev().all(|entry| entry.handler.is_none())
    }

    /// The capacity that the list must get before a `push`; `None` if it has room.
    #[inline]
    pub(crate) fn new_capacity(&self) -> Option<usize> {
        larger(&self.in_order, self.in_order.len() + 1)
    }

    /// Moves into the larger list, and returns the one that is to be freed.
    pub(crate) fn move_to(&mut self, larger: Vec<Entry>) -> Vec<Entry> {
        move_to(&mut self.in_order, larger)
    }

    /// Adds a handler, for which there is room. `number` is higher than all before.
    #[inline]
    pub(crate) fn push(&mut self, number: u64, handler: Handler) {
        self.in_order.push(Entry { number, handler: Some(handler) });
    }

    /// Takes the handler that was registered last.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Handler> {
        match self.in_order.pop() {
            None => None,
            Some(Entry { handler: None, .. }) => self.pop_past_gaps(),
            Some(entry) => entry.handler,
        }
    }

    #[cold]
    fn pop_past_gaps(&mut self) -> Option<Handler> {
        while let Some(entry) = self.in_order.pop() {
            if entry.handler.is_some() {
                return entry.handler;
            }
        }
        None
    }

    /// Takes the handler that was registered first. For an `unload` without memory for pending
    /// drops.
    pub(crate) fn take_first(&mut self) -> Option<Handler> {
        let first = self.in_order.iter_mut().find_map(|entry| entry.handler.take());
        self.close_gaps();
        first
    }

    /// Takes the handler with this number, if it is there. `gaps` is the number of gaps, or higher:
    /// it lies elsewhere (`record/contents.rs`) and counts those as well that `pop` has closed.
    pub(crate) fn take(&mut self, number: u64, gaps: &mut usize) -> Option<Handler> {
        let index = self.in_order.binary_search_by_key(&number, |entry| entry.number).ok()?;
        let handler = self.in_order[index].handler.take()?;
        *gaps += 1;
        // The usual order: what was registered last is taken back first.
        while self.in_order.last().is_some_and(|last| last.handler.is_none()) {
            self.in_order.pop();
            *gaps = gaps.saturating_sub(1);
        }
        // Most of the list: so each handler that is taken back moves two others at most, and the
        // list stays in proportion to the handlers that are left.
        if *gaps >= 32 && *gaps > self.in_order.len() / 2 {
            self.close_gaps();
            *gaps = 0;
        }
        Some(handler)
    }

    fn close_gaps(&mut self) {
        self.in_order.retain(|entry| entry.handler.is_some());
    }
}
