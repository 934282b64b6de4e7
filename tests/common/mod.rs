//! Shared by the behaviour tests.

// Each test crate uses a part of it.
#![allow(dead_code)]

#[cfg(target_env = "gnu")]
pub mod fiber;
pub mod process;
pub mod selection;

use std::sync::{Arc, Mutex, Once};

/// The name of the threads' exit trampoline.
pub const THREADS_EXIT: &str = if cfg!(target_env = "musl") { "start" } else { "start_thread" };

/// The events, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line.
    pub fn note(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    /// A handler that adds a line.
    pub fn noting(&self, line: &str) -> impl FnOnce() + 'static + use<> {
        let (log, line) = (self.clone(), line.to_owned());
        move || log.note(line)
    }

    /// A value that adds `drop <name>` when it is dropped.
    pub fn loud(&self, name: impl Into<String>) -> Loud {
        Loud { log: self.clone(), name: name.into() }
    }

    /// Removes and returns the lines so far.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// A value whose drop is logged.
pub struct Loud {
    log: Log,
    /// Its name in the log.
    pub name: String,
}

impl Drop for Loud {
    fn drop(&mut self) {
        self.log.note(format!("drop {}", self.name));
    }
}

/// A value whose destructor is a closure.
pub struct OnDrop<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Runs `code` as a thread's closure, and waits until the thread has ended.
pub fn on_a_thread<R: Send + 'static>(code: impl FnOnce() -> R + Send + 'static) -> R {
    std::thread::spawn(code).join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
}

/// Whether this process was told to use code redirect. The suites run with both redirects. Their
/// expectations hold for both, or name the one for which they hold.
pub fn is_code() -> bool {
    std::env::var("EXEUNT_REDIRECT").is_ok_and(|redirect| redirect == "code")
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From now on the panic hook records messages for [`panics_with`].
pub fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // `payload_as_str` needs Rust 1.91.
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(|text| &**text));
            PANICS.lock().unwrap().push(text.unwrap_or("?").to_owned());
            before(info);
        }));
    });
}

/// How often the panic hook was called with this message.
pub fn panics_with(message: &str) -> usize {
    PANICS.lock().unwrap().iter().filter(|panic| *panic == message).count()
}

/// The part of a count that a test does here: all of it on the processor itself, a part where every
/// instruction is emulated (the suite runs on aarch64 under QEMU, which is some twenty times
/// slower).
pub fn scaled(count: usize, emulated: usize) -> usize {
    if cfg!(target_arch = "aarch64") { emulated } else { count }
}

/// Bytes of this process that are in memory (`VmRSS`).
pub fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux reports it");
    let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}
