//! Hot reloads: a plugin whose frames are on an armed stack is unloaded, and another build of it is
//! loaded, mostly at the same address.

use crate::{life, signals, threads};
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

static SAME_ADDRESS: AtomicU64 = AtomicU64::new(0);

/// How often a build was loaded at the address of the previous one.
pub fn at_the_same_address() -> u64 {
    SAME_ADDRESS.load(Ordering::Relaxed)
}

#[repr(C)]
struct Call {
    function: extern "C-unwind" fn(*mut c_void),
    argument: *mut c_void,
}

struct Visits {
    life: Option<u64>,
    target: Option<signals::Target>,
    random: fastrand::Rng,
}

/// The plugin calls it: the first time it arms the stack, the second time it reads.
extern "C-unwind" fn visit(visits: *mut c_void) {
    // SAFETY: `lives` passes it, and keeps it until the thread is joined.
    let visits = unsafe { &mut *visits.cast::<Visits>() };
    match visits.life {
        None => {
            visits.target = Some(signals::Target::new("reloads"));
            visits.life = Some(life::begin());
        }
        Some(life) => threads::act(life, &mut visits.random),
    }
}

pub fn lives(random: &mut fastrand::Rng) {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    let file = format!("{}/plugin-{}.so", env!("OUT_DIR"), random.u32(..4));
    let file = CString::new(file).expect("a path without zeroes");
    let mut visits = Visits { life: None, target: None, random: random.fork() };
    let mut call = Call { function: visit, argument: (&raw mut visits).cast() };
    // SAFETY: the functions are those of plugin.c. Each life's stack has ended before its code is
    // unloaded.
    unsafe {
        let plugin = libc::dlopen(file.as_ptr(), libc::RTLD_NOW);
        assert!(!plugin.is_null(), "{}", file.to_string_lossy());
        let (run, entry) = (libc::dlsym(plugin, c"run".as_ptr()), libc::dlsym(plugin, c"entry".as_ptr()));
        if LAST.swap(run.addr(), Ordering::Relaxed) == run.addr() {
            SAME_ADDRESS.fetch_add(1, Ordering::Relaxed);
        }
        if random.bool() {
            let entry: threads::Entry = std::mem::transmute(entry);
            threads::start(1 << 18, entry, (&raw mut call).cast());
        } else {
            let run: extern "C-unwind" fn(*const Call) = std::mem::transmute(run);
            threads::run("reloads", 1 << 18, random.bool(), || run(&raw const call));
        }
        assert_eq!(libc::dlclose(plugin), 0);
    }
}
