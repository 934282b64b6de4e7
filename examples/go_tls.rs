//! Keyed values and handlers for any stack, as go-tls had them for goroutines.
//!
//! `cargo run --example go_tls`

use std::sync::mpsc::channel;

fn main() -> Result<(), exeunt::Error> {
    let (log, lines) = channel();
    let worker = std::thread::spawn(move || -> Result<(), exeunt::Error> {
        // The code that started this thread does not use exeunt. The first use arms the stack.
        exeunt::set("my key", 1234)?;
        assert_eq!(exeunt::get::<i32>(&"my key"), Some(1234));
        println!("stack {} holds {:?}", exeunt::id()?, exeunt::get::<i32>(&"my key"));

        let at_end = log.clone();
        exeunt::at_exit(move || {
            // All values are still there.
            let value = exeunt::get::<i32>(&"my key");
            at_end.send(format!("first registered, last run; my key is {value:?}")).expect("main listens");
        })?;
        exeunt::at_exit(move || log.send("last registered, first run".into()).expect("main listens"))?;

        assert!(exeunt::del(&"my key")?);
        exeunt::set("my key", 5)?;
        exeunt::reset()?; // drops the values, keeps the handlers
        exeunt::set("my key", 99)?;

        let before = exeunt::id()?;
        std::thread::spawn(move || {
            // You can drop the handlers and values of a stack before its end; its identity goes
            // with them.
            exeunt::at_exit(|| unreachable!("forgotten")).expect("a thread can be armed");
            let old = exeunt::id().expect("armed");
            exeunt::unload().expect("no key is being compared");
            assert_ne!(exeunt::id().expect("armed again"), old);
            assert_ne!(old, before);
        })
        .join()
        .expect("it does not panic");
        Ok(())
    });
    worker.join().expect("it does not panic")?;
    for line in lines {
        println!("{line}");
    }

    // go-tls could not do this: run a handler at the end of main.
    exeunt::at_exit(|| println!("main has returned"))
}
