//! The extras: the records that the entry of their base's page does not lead to, because another
//! record owns it. Then another stack has its base or its innermost frames on that page, or it has
//! ended, and another thread is just taking its record away.
//!
//! The operations are `insert`, `all` and `remove`. The list only grows, and its nodes are used
//! again. It is short, since stacks rarely share a page. Every publication is a Release, and every
//! load of a pointer an Acquire: without them a reader might see a node, or a record, before its
//! fields.

use super::entry::pointer;
use crate::base::alloc::try_box;
use crate::base::atomics::{AtomicPtr, Ordering};

struct Node<R> {
    record: AtomicPtr<R>,
    next: AtomicPtr<Node<R>>,
}

/// The list.
pub(crate) struct Extras<R> {
    first: AtomicPtr<Node<R>>,
}

impl<R: 'static> Extras<R> {
    pub(super) const fn new() -> Self {
        Self { first: AtomicPtr::new(std::ptr::null_mut()) }
    }

    fn nodes(&self) -> impl Iterator<Item = &'static Node<R>> {
        let mut next = self.first.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            // SAFETY: nodes are leaked when they are published, and never freed.
            let node = unsafe { next.as_ref() }?;
            next = node.next.load(Ordering::Acquire);
            Some(node)
        })
    }

    /// Adds the record; `false` without memory.
    pub(super) fn insert(&self, record: &'static R) -> bool {
        let pointer = pointer(record);
        let null = std::ptr::null_mut();
        let free =
            |node: &&Node<R>| node.record.compare_exchange(null, pointer, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if self.nodes().find(free).is_some() {
            return true;
        }
        let node = Node { record: AtomicPtr::new(pointer), next: AtomicPtr::new(std::ptr::null_mut()) };
        let Ok(node) = try_box(node) else { return false };
        let node = Box::leak(node);
        let mut first = self.first.load(Ordering::Acquire);
        loop {
            node.next.store(first, Ordering::Relaxed);
            match self.first.compare_exchange(first, node, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => first = now,
            }
        }
    }

    /// As [`Self::insert`], without memory: only if a node is free.
    pub(super) fn insert_in_free_node(&self, record: &'static R) -> bool {
        let pointer = pointer(record);
        let null = std::ptr::null_mut();
        self.nodes()
            .any(|node| node.record.compare_exchange(null, pointer, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    pub(super) fn contains(&self, record: &'static R) -> bool {
        self.nodes().any(|node| std::ptr::eq(node.record.load(Ordering::Relaxed), record))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &'static R> {
        // SAFETY: nodes hold null or an item of the slab, which lives for ever.
        self.nodes().filter_map(|node| unsafe { node.record.load(Ordering::Acquire).as_ref() })
    }

    pub(super) fn remove(&self, record: &'static R) {
        let pointer = pointer(record);
        for node in self.nodes() {
            let _ = node.record.compare_exchange(pointer, std::ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}
