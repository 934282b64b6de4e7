//! The loaded object that code belongs to, and whether `dlclose` can unload it: what is remembered
//! of code must not outlive the code.
//!
//! | code of | what is remembered of it |
//! |---|---|
//! | the program, this library, every object that these need | rules and whole walks, for ever |
//! | another object, which `dlclose` may unload | rules, under a key of their own (`tables::key`) |
//! | no object (a just-in-time compiler's) | nothing |
//!
//! Where one object is unloaded and another one is loaded at its addresses, its table entries
//! differ wherever its frames do. So no rule of the old object is found.
//!
//! All this uses `_dl_find_object`, which takes no lock, and the objects' own headers.
//! `dl_iterate_phdr` takes a lock of the loader. A child of `fork` may find that lock held for
//! ever, and a signal handler must not wait for it. So it is called only where glibc is older than
//! 2.35, and with musl.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What unwinding has to know of an object.
pub(super) struct Object {
    /// The address of its `.eh_frame_hdr`, the index of its unwind tables; zero if it has none.
    pub(super) header: usize,
    /// Whether it is never unloaded.
    pub(super) permanent: bool,
}

/// `struct dl_find_object` of glibc's `<dlfcn.h>`, since 2.35.
#[repr(C)]
struct Found {
    flags: u64,
    start: usize,
    end: usize,
    link_map: usize,
    eh_frame: usize,
    reserved: [u64; 7],
}

type FindObject = unsafe extern "C" fn(usize, *mut Found) -> c_int;

// The address of glibc's `_dl_find_object`, which takes no lock, and which a signal handler may
// call; zero where there is none.
std::arch::global_asm!(
    ".weak _dl_find_object",
    ".pushsection .data.rel.ro.exeunt_find_object, \"aw\"",
    ".balign 8",
    ".hidden exeunt_find_object",
    ".globl exeunt_find_object",
    "exeunt_find_object: .quad _dl_find_object",
    ".popsection",
);

unsafe extern "C" {
    static exeunt_find_object: Option<FindObject>;
}

/// The public part of `struct link_map` of glibc's `<link.h>`.
#[repr(C)]
struct LinkMap {
    base: usize,
    path: *const c_char,
    dynamic: usize,
}

/// What the loader has of an object.
#[derive(Clone, Copy)]
struct Loaded {
    /// Its lowest address.
    start: usize,
    base: usize,
    path: *const c_char,
    /// The address of its dynamic section; zero if it has none.
    dynamic: usize,
    header: usize,
}

/// The object that has `pc` in its memory.
pub(super) fn object_at(pc: usize) -> Option<Object> {
    let loaded = loaded_at(pc)?;
    Some(Object { header: loaded.header, permanent: is_permanent(&loaded) })
}

fn loaded_at(pc: usize) -> Option<Loaded> {
    // SAFETY: the linker fills in the word, and nothing changes it.
    let Some(find) = (unsafe { exeunt_find_object }) else { return loaded_by_search(pc) };
    let mut found = Found { flags: 0, start: 0, end: 0, link_map: 0, eh_frame: 0, reserved: [0; 7] };
    // SAFETY: glibc's function has this type, and fills in `found`.
    if unsafe { find(pc, &raw mut found) } != 0 {
        return None;
    }
    // SAFETY: null, or the loader's own. It stays as long as the object, whose code is in use.
    let map = unsafe { (found.link_map as *const LinkMap).as_ref() };
    let (base, path, dynamic) = map.map_or((0, std::ptr::null(), 0), |map| (map.base, map.path, map.dynamic));
    Some(Loaded { start: found.start, base, path, dynamic, header: found.eh_frame })
}

/// Calls `visit` with all loaded objects until it returns false.
fn objects<F: FnMut(&libc::dl_phdr_info) -> bool>(mut visit: F) {
    unsafe extern "C" fn each<F: FnMut(&libc::dl_phdr_info) -> bool>(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        visit: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader passes a valid description, and the closure is the one that was passed
        // below.
        let (info, visit) = unsafe { (&*info, &mut *visit.cast::<F>()) };
        c_int::from(!visit(info))
    }
    // SAFETY: the callback fits the closure, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(each::<F>), (&raw mut visit).cast()) };
}

/// The segments of an object.
fn segments(object: &libc::dl_phdr_info) -> &[libc::Elf64_Phdr] {
    // SAFETY: the loader's description has the address and the number of the segments.
    unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) }
}

/// The addresses of a segment of the object.
fn place(object: &libc::dl_phdr_info, segment: &libc::Elf64_Phdr) -> Range<usize> {
    let start = (object.dlpi_addr as usize).wrapping_add(segment.p_vaddr as usize);
    start..start.wrapping_add(segment.p_memsz as usize)
}

/// [`loaded_at`] for musl, and for glibc before `_dl_find_object`.
fn loaded_by_search(pc: usize) -> Option<Loaded> {
    let mut found = None;
    objects(|object| {
        let of = |kind| segments(object).iter().filter(move |segment| segment.p_type == kind);
        if !of(libc::PT_LOAD).any(|segment| place(object, segment).contains(&pc)) {
            return true;
        }
        let first = |kind| of(kind).next().map_or(0, |segment| place(object, segment).start);
        found = Some(Loaded {
            start: of(libc::PT_LOAD).map(|segment| place(object, segment).start).min().unwrap_or(0),
            base: object.dlpi_addr as usize,
            path: object.dlpi_name,
            dynamic: first(libc::PT_DYNAMIC),
            header: first(libc::PT_GNU_EH_FRAME),
        });
        false
    });
    found
}

/// How many permanent objects are noted. Further ones count as objects that may be unloaded, which
/// only takes time.
const MOST: usize = 96;

/// A permanent object.
struct Permanent {
    /// Its lowest address; zero while the place is free or being filled in.
    start: AtomicUsize,
    dynamic: AtomicUsize,
    strings: AtomicUsize,
}

static PERMANENT: [Permanent; MOST] =
    [const { Permanent { start: AtomicUsize::new(0), dynamic: AtomicUsize::new(0), strings: AtomicUsize::new(0) } };
        MOST];
/// How many places of `PERMANENT` are taken.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// The start addresses of objects that are not permanent, each at the place of its address. An
/// object that is loaded at such an address later is not permanent either: the objects that a
/// permanent one needs were loaded before it.
static NOT_PERMANENT: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];

fn permanent() -> impl Iterator<Item = &'static Permanent> {
    let taken = TAKEN.load(Ordering::Acquire).min(MOST);
    PERMANENT[..taken].iter().filter(|known| known.start.load(Ordering::Acquire) != 0)
}

/// Whether the object is never unloaded: the program, the object with this code (which is pinned
/// before anything leads into it), libc, the unwinder, and every object that a permanent one needs.
fn is_permanent(object: &Loaded) -> bool {
    let is_known = || permanent().any(|known| known.start.load(Ordering::Relaxed) == object.start);
    if is_known() {
        return true;
    }
    let other = &NOT_PERMANENT[(object.start >> 12) % NOT_PERMANENT.len()];
    if other.load(Ordering::Relaxed) == object.start {
        return false;
    }
    if TAKEN.load(Ordering::Acquire) == 0 {
        note_initial();
        if is_known() {
            return true;
        }
    }
    let is_needed = permanent().any(|known| needs(known, object));
    if is_needed {
        note(object);
    } else {
        other.store(object.start, Ordering::Relaxed);
    }
    is_needed
}

/// Notes the objects that are permanent in themselves. If two threads do so at once, the objects
/// are noted twice.
#[cold]
fn note_initial() {
    // SAFETY: `getauxval` has no preconditions.
    let program = unsafe { libc::getauxval(libc::AT_ENTRY) } as usize;
    let own = note_initial as *const () as usize;
    let unwinder = super::find_fde::find_fde_address();
    for code in [program, own, libc::malloc as *const () as usize, unwinder] {
        if let Some(object) = loaded_at(code) {
            note(&object);
        }
    }
}

fn note(object: &Loaded) {
    let at = TAKEN.fetch_add(1, Ordering::AcqRel);
    let Some(free) = PERMANENT.get(at) else {
        TAKEN.store(MOST, Ordering::Release);
        return;
    };
    free.dynamic.store(object.dynamic, Ordering::Relaxed);
    free.strings.store(strings(object), Ordering::Relaxed);
    free.start.store(object.start, Ordering::Release);
}

/// The address of the object's string table.
fn strings(object: &Loaded) -> usize {
    // SAFETY: the loader's description has the address of the dynamic section, or zero.
    let table = unsafe { entries(object.dynamic) }.find(|&(tag, _)| tag == DT_STRTAB).map_or(0, |(_, value)| value);
    // glibc has added the base where it can write to the section.
    if table != 0 && table < object.base { table + object.base } else { table }
}

/// Whether a permanent object needs this one: whether it has its name, as the loader compares
/// names.
fn needs(known: &Permanent, object: &Loaded) -> bool {
    let table = known.strings.load(Ordering::Relaxed);
    // SAFETY: the dynamic section of an object that is never unloaded, and the strings that it
    // refers to.
    let mut needed = unsafe { entries(known.dynamic.load(Ordering::Relaxed)) }
        .filter(|&(tag, _)| tag == DT_NEEDED && table != 0)
        .map(|(_, name)| unsafe { CStr::from_ptr((table + name) as *const c_char) });
    needed.any(|name| is_called(object, name))
}

fn is_called(object: &Loaded, name: &CStr) -> bool {
    let table = strings(object);
    // SAFETY: as in `strings`; the object's code is in use.
    let own = unsafe { entries(object.dynamic) }.find(|&(tag, _)| tag == DT_SONAME).map(|(_, at)| table + at);
    // SAFETY: a string of the object's string table.
    if table != 0 && own.is_some_and(|own| unsafe { CStr::from_ptr(own as *const c_char) } == name) {
        return true;
    }
    if object.path.is_null() {
        return false;
    }
    // SAFETY: the loader's own string.
    let path = unsafe { CStr::from_ptr(object.path) }.to_bytes();
    path == name.to_bytes() || path.rsplit(|&byte| byte == b'/').next() == Some(name.to_bytes())
}

const DT_NULL: i64 = 0;
const DT_NEEDED: i64 = 1;
const DT_STRTAB: i64 = 5;
const DT_SONAME: i64 = 14;

/// The entries of a dynamic section: tag and value.
///
/// # Safety
/// `dynamic` must be the address of a dynamic section, or zero.
unsafe fn entries(dynamic: usize) -> impl Iterator<Item = (i64, usize)> {
    let mut next = dynamic as *const [usize; 2];
    std::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        // SAFETY: the caller promises a section; the tag of its last entry is `DT_NULL`.
        let [tag, value] = unsafe { next.read() };
        next = next.wrapping_add(1);
        (tag as i64 != DT_NULL).then_some((tag as i64, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    extern "C" fn own() {}

    #[test]
    fn the_program_and_what_it_needs_are_permanent_and_a_heap_is_no_object() {
        for code in [own as *const () as usize, libc::malloc as *const () as usize, libc::dlopen as *const () as usize]
        {
            assert!(object_at(code).is_some_and(|object| object.permanent && object.header != 0), "{code:#x}");
            assert_eq!(loaded_by_search(code).map(|object| object.header), object_at(code).map(|object| object.header));
        }
        let heap = Box::new(1);
        assert!(object_at(std::ptr::from_ref(&*heap).addr()).is_none() && loaded_by_search(8).is_none());
    }
}
