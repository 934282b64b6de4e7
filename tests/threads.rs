//! Threads: arming, draining, values.
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

#[test]
fn handlers_run_last_in_first_out_when_a_thread_ends() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&log);
    std::thread::spawn(move || {
        for number in 0..3 {
            let log = Arc::clone(&theirs);
            exeunt::at_exit(move || log.lock().unwrap().push(number)).unwrap();
        }
    })
    .join()
    .unwrap();
    assert_eq!(*log.lock().unwrap(), [2, 1, 0]);
}

#[test]
fn a_backtrace_is_complete() {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        exeunt::set("x", 1).unwrap();
        println!("{:#?}", exeunt::Stack::current());
        println!("ARMED {}", std::backtrace::Backtrace::force_capture());
        exeunt::at_exit(move || {
            println!("IN HANDLER {}", std::backtrace::Backtrace::force_capture());
            println!("{:#?}", exeunt::Stack::current());
            sender.send(exeunt::get::<i32>(&"x")).unwrap();
        })
        .unwrap();
    })
    .join()
    .unwrap();
    assert_eq!(receiver.recv(), Ok(Some(1)));
}
