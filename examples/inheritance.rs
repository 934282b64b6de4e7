//! Inheritance: values that `context::go` passes to the stacks that it starts.
//!
//! `cargo run --example inheritance`

use exeunt::context;

fn tree(name: &'static str, children: u32) {
    let tenant = exeunt::get::<String>(&"tenant");
    let level = exeunt::get::<u32>(&"level");
    println!("{name}: tenant {tenant:?}, level {level:?}, scratch {:?}", exeunt::get::<u32>(&"scratch"));
    if children > 0 {
        context::go(move || tree("  its heir", children - 1)).join().expect("it does not panic");
    }
}

fn main() {
    let family = std::thread::spawn(|| -> Result<(), exeunt::Error> {
        // Inherited as a clone.
        exeunt::set_inheritable("tenant", String::from("acme"))?;
        // Inherited through a function, which may also decide that there is nothing to inherit:
        // here not deeper than level 2.
        exeunt::set_inheritable_by("level", 0_u32, |level| (*level < 2).then_some(level + 1))?;
        // Not inherited.
        exeunt::set("scratch", 1_u32)?;
        tree("the first", 3);
        Ok(())
    });
    family.join().expect("it does not panic").expect("a thread can be armed");
}
