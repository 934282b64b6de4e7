//! Memory that fibers use one after the other.

use crate::acts::Act;
use crate::common::fiber::{Fiber, Inside, Pages};
use crate::common::on_a_thread;
use crate::model::Stack;
use crate::world::World;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// The act of a fiber when it is resumed.
type Orders = Arc<Mutex<VecDeque<Option<Act>>>>;

/// A memory, the fiber there, and the model's state of it and of the one that was abandoned there.
pub struct Memory {
    pub pages: Pages,
    pub fiber: Option<(Fiber, Orders)>,
    pub stack: Stack,
}

impl Memory {
    pub fn new() -> Self {
        Self { pages: Pages::new(256 * 1024), fiber: None, stack: Stack::fiber(None) }
    }

    pub fn ensure_fiber(&mut self, world: &World) {
        if self.fiber.is_some() {
            return;
        }
        let orders = Orders::default();
        let (world, theirs) = (world.clone(), Arc::clone(&orders));
        let life = move |fiber: Inside| {
            world.runs(Some(fiber));
            let next = || theirs.lock().unwrap().pop_front().expect("it is resumed with an order");
            while let Some(act) = next() {
                world.perform(&act);
                world.runs(None);
                fiber.suspend();
                world.runs(Some(fiber));
            }
        };
        // SAFETY: the memory is this fiber's until it has ended or is abandoned.
        self.fiber = Some((unsafe { Fiber::new(self.pages.range(), life) }, orders));
    }

    /// Resumes the fiber with an order, on this thread or on another one.
    pub fn order(&mut self, act: Option<Act>, elsewhere: bool) {
        let (fiber, orders) = self.fiber.take().expect("there is one");
        orders.lock().unwrap().push_back(act);
        let resume = move || {
            let more = fiber.resume();
            (fiber, more)
        };
        let (fiber, more) = if elsewhere { on_a_thread(resume) } else { resume() };
        self.fiber = more.then_some((fiber, orders));
    }

    /// The fiber is not resumed any more.
    pub fn abandon(&mut self) {
        if self.fiber.take().is_none() {
            return;
        }
        self.stack = Stack::fiber(std::mem::take(&mut self.stack).abandoned());
    }
}
