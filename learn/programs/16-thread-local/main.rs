// A fiber that moves between threads, and a thread-local. rustc -O main.rs (linux, x86_64, glibc)
use std::cell::Cell;
use std::ffi::{c_int, c_void};

thread_local! { static COUNT: Cell<u32> = const { Cell::new(0) }; }

const CONTEXT: usize = 4096; // more than a ucontext_t needs
#[repr(C, align(64))]
struct Context([u8; CONTEXT]);
unsafe extern "C" {
    fn getcontext(context: *mut Context) -> c_int;
    fn makecontext(context: *mut Context, function: extern "C" fn(), count: c_int, ...);
    fn swapcontext(from: *mut Context, to: *const Context) -> c_int;
}

static mut FIBER: Context = Context([0; CONTEXT]);
static mut RESUMER: Context = Context([0; CONTEXT]);
static mut STACK: [u8; 256 * 1024] = [0; 256 * 1024];

#[inline(never)]
fn add(count: &Cell<u32>) {
    count.set(count.get() + 1);
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn job() {
    // The compiler may take the address of COUNT for one that does not change in a function. No
    // rule of the language says that a call can continue on another thread.
    COUNT.with(add); // on the first thread
    unsafe { swapcontext(&raw mut FIBER, &raw const RESUMER) };
    COUNT.with(add); // on the second thread?
    unsafe { swapcontext(&raw mut FIBER, &raw const RESUMER) };
}

// Runs the fiber until it switches back, and returns this thread's count.
fn resume() -> u32 {
    unsafe { swapcontext(&raw mut RESUMER, &raw const FIBER) };
    COUNT.with(Cell::get)
}

fn main() {
    unsafe {
        getcontext(&raw mut FIBER);
        // uc_flags, uc_link, then uc_stack: ss_sp, ss_flags, ss_size
        let words = (&raw mut FIBER).cast::<*mut c_void>();
        words.add(2).write((&raw mut STACK).cast());
        words.add(4).cast::<usize>().write(256 * 1024);
        makecontext(&raw mut FIBER, job, 0);
    }
    // The first thread stays alive, so that its variable does.
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let (report, reported) = std::sync::mpsc::channel();
    let first = std::thread::spawn(move || {
        report.send(resume()).unwrap();
        wait.recv().unwrap();
        COUNT.with(Cell::get)
    });
    println!("the first thread resumes the fiber: its count is {}", reported.recv().unwrap());
    let second = std::thread::spawn(resume).join().unwrap();
    println!("the second thread resumes the fiber: its count is {second}");
    go_on.send(()).unwrap();
    println!("the first thread's count, at its end: {}", first.join().unwrap());
}
