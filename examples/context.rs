//! Scoped context: values that all callees of a call see, and stacks to which you hand them on.
//!
//! `cargo run --example context`

use exeunt::context;

#[derive(Clone, Debug)]
struct RequestId(u64);

#[derive(Clone, Debug)]
struct User(&'static str);

/// Deep in the call stack, where no caller passed the values on as arguments.
fn log(message: &str) {
    let user = context::try_get::<User>().map_or("nobody", |user| user.0);
    println!("[request {}, {user}] {message}", context::get::<RequestId>().0);
}

fn handle() {
    log("begins");
    context::with(User("ann"), || {
        log("is signed in");
        context::with(User("root"), || log("does what only root may"));
        log("is ann again");

        // A new thread that gets this context.
        context::go(|| log("goes on in another thread")).join().expect("it does not panic");

        // A pool, an executor, a fiber: anything that runs jobs. The context travels in a handle.
        let captured = context::capture();
        let job = move || captured.enter(|| log("goes on in somebody's pool"));
        std::thread::spawn(job).join().expect("it does not panic");
    });
    log("ends");
}

fn main() {
    context::with(RequestId(1), handle);

    // A panic leaves the scopes as a return does.
    let result =
        std::panic::catch_unwind(|| context::with(RequestId(2), || std::panic::resume_unwind(Box::new("out"))));
    assert!(result.is_err() && context::try_get::<RequestId>().is_none());
    println!("no request here: {:?}", context::try_get::<RequestId>().map(|id| id.0));
}
