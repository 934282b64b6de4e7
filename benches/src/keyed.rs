//! Keyed values beside a map in a `thread_local!`.

use crate::sample::{Stopwatch, bench};
use criterion::{Criterion, measurement::WallTime};
use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hint::black_box;
use std::rc::Rc;

thread_local! {
    // The plainest map there is: one type of key, one type of value.
    static PLAIN: RefCell<HashMap<&'static str, u64>> = RefCell::default();
    // One that holds values of any type, as keyed values are.
    static ANY: RefCell<HashMap<&'static str, Rc<dyn Any>>> = RefCell::default();
}

fn plain_get(key: &'static str) -> Option<u64> {
    PLAIN.with_borrow(|map| map.get(key).copied())
}

fn any_get(key: &'static str) -> Option<u64> {
    ANY.with_borrow(|map| map.get(key).and_then(|value| value.downcast_ref::<u64>()).copied())
}

fn measure_one<R: 'static>(criterion: &mut Criterion<WallTime>, name: &str, code: fn(u64) -> R) {
    bench(criterion, name, |count| {
        let body = move || {
            for (number, key) in ["one", "two", "three", "request", "user"].into_iter().enumerate() {
                exeunt::set(key, number as u64).expect("a thread can be armed");
                PLAIN.with_borrow_mut(|map| map.insert(key, number as u64));
                ANY.with_borrow_mut(|map| map.insert(key, Rc::new(number as u64)));
            }
            let start = Stopwatch::start();
            for number in 0..count {
                black_box(code(number));
            }
            start.elapsed()
        };
        std::thread::spawn(body).join().expect("the loop does not panic")
    });
}

fn key() -> &'static str {
    black_box("request")
}

/// Measures all of them.
pub fn measure(criterion: &mut Criterion<WallTime>) {
    measure_one(criterion, "keyed/get exeunt", |_| exeunt::get::<u64>(&key()));
    measure_one(criterion, "keyed/get thread_local HashMap", |_| plain_get(key()));
    measure_one(criterion, "keyed/get thread_local HashMap of any", |_| any_get(key()));
    measure_one(criterion, "keyed/set exeunt", |number| exeunt::set(key(), number));
    measure_one(criterion, "keyed/set thread_local HashMap", |number| {
        PLAIN.with_borrow_mut(|map| map.insert(key(), number))
    });
    measure_one(criterion, "keyed/set thread_local HashMap of any", |number| {
        ANY.with_borrow_mut(|map| map.insert(key(), Rc::new(number)))
    });
}
