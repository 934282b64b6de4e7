//! Dynamic slots: TlsAlloc, TlsSetValue, TlsGetValue and TlsFree for any stack.
//!
//! `cargo run --example slots`

use exeunt::{Slot, slots};
use std::ffi::c_void;
use std::sync::{Arc, Barrier};

fn main() -> Result<(), exeunt::Error> {
    // The typed face: a slot is freed when it is dropped, so it cannot be freed twice or used
    // afterwards.
    let slot = Arc::new(Slot::new()?);
    let everybody = Arc::new(Barrier::new(3));
    let threads: Vec<_> = (1..=3)
        .map(|number| {
            let (slot, everybody) = (Arc::clone(&slot), Arc::clone(&everybody));
            std::thread::spawn(move || {
                assert_eq!(slot.get(), None, "empty on every stack");
                slot.set(number * 100).expect("a thread can be armed");
                everybody.wait();
                println!("thread {number} has {:?}", slot.get());
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    drop(slot);

    // The raw face, for other languages and runtimes. Wrong use is an error, never undefined
    // behaviour.
    unsafe extern "C" fn end(value: *mut c_void) {
        println!("the destructor gets {}", value.addr());
    }
    // SAFETY: `end` takes any value.
    let raw = unsafe { slots::alloc(Some(end)) }?;
    // SAFETY: all code uses the value as a number.
    unsafe { slots::set(raw, std::ptr::without_provenance_mut(7)) }?;
    println!("raw slot {raw:#x} has {:?}", slots::get(raw)?);
    // SAFETY: no other code uses the slot.
    unsafe { slots::free(raw) }?;
    println!("get after free: {}", slots::get(raw).expect_err("it was freed"));
    // SAFETY: as above.
    println!("double free:    {}", unsafe { slots::free(raw) }.expect_err("it was freed"));
    Ok(())
}
