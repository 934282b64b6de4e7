//! Code that is unloaded, and other code that is loaded at its address: what exeunt remembers of
//! the old code is not used for the new code.
#![cfg(target_os = "linux")]

mod common;
#[path = "c/harness.rs"]
mod harness;

use std::ffi::{CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

static ARMED: AtomicUsize = AtomicUsize::new(0);
static ENDED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn callback() {
    exeunt::at_exit(|| _ = ENDED.fetch_add(1, Ordering::SeqCst)).expect("a thread below a plugin can be armed");
    exeunt::set("k", ARMED.fetch_add(1, Ordering::SeqCst)).expect("it is armed");
    assert_eq!(exeunt::get::<usize>(&"k"), Some(ARMED.load(Ordering::SeqCst) - 1));
}

/// The contents of a stack that others have used before: addresses of code and of the stack.
#[inline(never)]
fn leave_words(depth: usize) {
    let words = [leave_words as *const () as usize, &raw const depth as usize, 0, 1].map(std::hint::black_box);
    if depth > 0 {
        leave_words(depth - 1);
    }
    std::hint::black_box(&words);
}

/// Loads a plugin, runs it on a thread of its own, and unloads it. Returns its function's address.
fn life_of(plugin: &Path) -> usize {
    let path = CString::new(plugin.as_os_str().as_bytes()).expect("no zero in a path");
    // SAFETY: a plugin without initialisers.
    let plugin = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!plugin.is_null(), "{path:?} cannot be loaded");
    // SAFETY: the name of its function.
    let run = unsafe { libc::dlsym(plugin, c"plugin_run".as_ptr()) };
    assert!(!run.is_null());
    let place = run.addr();
    // SAFETY: that is its type.
    let run = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(extern "C" fn())>(run) };
    let (armed, ended) = (ARMED.load(Ordering::SeqCst), ENDED.load(Ordering::SeqCst));
    common::on_a_thread(move || {
        leave_words(64);
        run(callback);
    });
    let done = (ARMED.load(Ordering::SeqCst) - armed, ENDED.load(Ordering::SeqCst) - ended);
    assert_eq!(done, (1, 1), "armed, and ended");
    // SAFETY: its code has returned.
    assert_eq!(unsafe { libc::dlclose(plugin) }, 0);
    place
}

#[test]
fn a_plugin_that_is_built_anew_and_loaded_at_the_same_address_is_walked_by_its_own_table() {
    // Built before the child needs it. The child has one thread and so the same addresses again.
    let sizes = [40, 72, 200, 40, 1000, 88];
    let plugins: Vec<PathBuf> =
        sizes.iter().map(|size| harness::plugin("plugin.c", &[&format!("-DFRAME={size}")])).collect();
    common::process::alone(
        "a_plugin_that_is_built_anew_and_loaded_at_the_same_address_is_walked_by_its_own_table",
        || {
            let places: Vec<usize> = plugins.iter().map(|plugin| life_of(plugin)).collect();
            // QEMU's user mode maps at another address each time.
            assert!(
                common::process::is_emulated() || places.windows(2).any(|two| two[0] == two[1]),
                "no build came to the place of the one before: {places:x?}"
            );
            // What exeunt remembers of a plugin that stays is used again, and is invalidated as
            // well.
            for _ in 0..3 {
                life_of(&plugins[0]);
            }
            life_of(&plugins[1]);
        },
    );
}
