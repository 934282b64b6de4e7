//! Room on the stacks of new threads: the code of this library runs on them as well, before and
//! after the program's.

use std::ffi::c_int;
use std::mem::MaybeUninit;

/// What this library needs at most, several times over: about 20 KiB.
pub const NEED: usize = 64 << 10;
/// libc's stacks that are smaller than this get `NEED` more.
const ENOUGH: usize = 128 << 10;

type Attributes = libc::pthread_attr_t;
/// `pthread_getattr_default_np`, which glibc has since 2.18.
pub type GetDefault = unsafe extern "C" fn(*mut Attributes) -> c_int;

/// The stack of a thread that is to be created.
pub enum Room {
    /// libc allocates this size.
    Libc(usize),
    /// libc is to allocate this size, by these attributes: a copy of the program's.
    Larger(usize, Attributes),
    /// The program's memory, which is large enough.
    Program,
    /// The program's memory (or, with two zeros, libc's) from here to there: too small.
    Small(usize, usize),
    /// That is not known.
    Unknown,
}

impl Room {
    /// The size that libc allocates, or 0.
    pub fn size(&self) -> usize {
        match self {
            Self::Libc(size) | Self::Larger(size, _) => *size,
            _ => 0,
        }
    }
}

/// # Safety
/// `attributes` is what the program passes to `pthread_create`.
pub unsafe fn of(attributes: &Attributes) -> Room {
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: by the contract initialized attributes. The calls read them and fill places of this
    // frame.
    unsafe {
        if libc::pthread_attr_getstack(attributes, &mut low, &mut size) != 0 {
            return Room::Unknown;
        }
        // Without memory of the program's, glibc's answer lies its size below 0.
        let high = (low as usize).wrapping_add(size);
        if high != 0 {
            return match size {
                0 => Room::Unknown,
                1..NEED => Room::Small(low as usize, high),
                _ => Room::Program,
            };
        }
        // The default where the program has chosen none.
        if libc::pthread_attr_getstacksize(attributes, &mut size) != 0 {
            return Room::Unknown;
        }
    }
    if size >= ENOUGH {
        return Room::Libc(size);
    }
    let mut copy = *attributes;
    // SAFETY: a bitwise copy, of which this call changes one number. It is never destroyed, and is
    // used while the original is there, which owns what both refer to.
    let failed = unsafe { libc::pthread_attr_setstacksize(&mut copy, size + NEED) != 0 };
    if failed { Room::Unknown } else { Room::Larger(size + NEED, copy) }
}

/// libc's own attributes, for a thread that is created without any. The caller destroys them.
pub fn default(get: GetDefault) -> Option<Attributes> {
    let mut attributes = MaybeUninit::<Attributes>::uninit();
    // SAFETY: `get` is libc's function, which fills the place if it succeeds.
    unsafe { (get(attributes.as_mut_ptr()) == 0).then(|| attributes.assume_init()) }
}

/// The same for C11's threads, which libc creates without attributes of the program's.
pub fn of_c11(get: GetDefault) -> Room {
    let Some(mut attributes) = default(get) else { return Room::Unknown };
    // SAFETY: what `default` has filled, destroyed once.
    let room = unsafe {
        let room = of(&attributes);
        libc::pthread_attr_destroy(&mut attributes);
        room
    };
    match room {
        Room::Larger(size, _) if size - NEED < NEED => Room::Small(0, 0),
        Room::Larger(size, _) => Room::Libc(size - NEED),
        room => room,
    }
}
