//! Which loaded object code belongs to, and whether that can be unloaded: what is remembered of
//! code lives no longer than the code.
//!
//! | code of | what is remembered of it |
//! |---|---|
//! | the program, this library, and every object that these need | rules and whole walks, for ever: none of them is ever unloaded |
//! | another object, which `dlclose` may unload | rules, under a key that is made of their table entry's bytes (`tables.rs`) |
//! | no object (a just-in-time compiler's) | nothing |
//!
//! Where an object is unloaded and another one is loaded at its addresses, its table entries differ
//! wherever its frames do. So no rule of the old one is found.
//!
//! A walk asks `_dl_find_object`, which takes no lock. `dl_iterate_phdr` takes one of the loader's,
//! which a child of `fork` may find held for ever, and which a signal handler must not wait for. So
//! it is called once, when the process first arms a stack, and where glibc is older than 2.35.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is known of an object.
pub(super) struct Object {
    /// Where its `.eh_frame_hdr` is, which finds unwind tables; zero if it has none.
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

// The address of glibc's `_dl_find_object`, or zero where there is none: it takes no lock, and a signal handler may call it.
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

/// The object whose memory `pc` is in.
pub(super) fn object_at(pc: usize) -> Option<Object> {
    let permanent = is_permanent(pc);
    // SAFETY: filled in by the linker, and never changed.
    let header = match unsafe { exeunt_find_object } {
        Some(find) => {
            let mut found = Found { flags: 0, start: 0, end: 0, link_map: 0, eh_frame: 0, reserved: [0; 7] };
            // SAFETY: the function is what its name says, and only asks.
            (unsafe { find(pc, &raw mut found) } == 0).then_some(found.eh_frame)
        }
        None => header_by_search(pc),
    };
    header.map(|header| Object { header, permanent })
}

/// Shows all loaded objects to `look` until it says false.
fn objects<F: FnMut(&libc::dl_phdr_info) -> bool>(mut look: F) {
    unsafe extern "C" fn each<F: FnMut(&libc::dl_phdr_info) -> bool>(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        look: *mut c_void,
    ) -> c_int {
        // SAFETY: what the system gives, and the closure that was passed below.
        let (info, look) = unsafe { (&*info, &mut *look.cast::<F>()) };
        c_int::from(!look(info))
    }
    // SAFETY: the callback fits the closure, which lives longer than the call.
    unsafe { libc::dl_iterate_phdr(Some(each::<F>), (&raw mut look).cast()) };
}

/// The segments of an object.
fn segments(object: &libc::dl_phdr_info) -> &[libc::Elf64_Phdr] {
    // SAFETY: the system's word.
    unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) }
}

/// Where a segment of the object is.
fn place(object: &libc::dl_phdr_info, segment: &libc::Elf64_Phdr) -> Range<usize> {
    let start = (object.dlpi_addr as usize).wrapping_add(segment.p_vaddr as usize);
    start..start.wrapping_add(segment.p_memsz as usize)
}

/// The header of the object that `pc` is in, where glibc is older than `_dl_find_object`.
fn header_by_search(pc: usize) -> Option<usize> {
    let mut header = None;
    objects(|object| {
        let mut loaded = segments(object).iter().filter(|segment| segment.p_type == libc::PT_LOAD);
        if !loaded.any(|segment| place(object, segment).contains(&pc)) {
            return true;
        }
        let frames = segments(object).iter().find(|segment| segment.p_type == libc::PT_GNU_EH_FRAME);
        header = Some(frames.map_or(0, |segment| place(object, segment).start));
        false
    });
    header
}

/// Objects that can be noted as permanent. Others count as ones that may be unloaded, which only takes time.
const MOST: usize = 96;

/// Where the permanent objects are, from and to.
static PERMANENT: [[AtomicUsize; 2]; MOST] = [const { [const { AtomicUsize::new(0) }; 2] }; MOST];
/// How many of them there are, and one; zero before they are known.
static KNOWN: AtomicUsize = AtomicUsize::new(0);

/// Whether `pc` is in an object that is known never to be unloaded.
fn is_permanent(pc: usize) -> bool {
    let known = KNOWN.load(Ordering::Acquire).saturating_sub(1);
    PERMANENT[..known]
        .iter()
        .any(|[start, end]| (start.load(Ordering::Relaxed)..end.load(Ordering::Relaxed)).contains(&pc))
}

/// An object's part in what needs what.
#[derive(Clone, Copy)]
struct Node {
    start: usize,
    end: usize,
    dynamic: usize,
    strings: usize,
    path: *const c_char,
    permanent: bool,
}

/// Notes the objects that are never unloaded, once: the program, which is the first one, the object
/// with this code, which is pinned before anything leads into it, and what these need. It is not for
/// signal handlers. Until it has been called every object counts as one that may be unloaded.
///
/// Another thread that comes here at the same time stores the same: an object that one of these
/// needs was there before it, and stays.
#[cold]
#[inline(never)]
pub(crate) fn find_permanent() {
    if KNOWN.load(Ordering::Acquire) != 0 {
        return;
    }
    let mut nodes = [Node { start: 0, end: 0, dynamic: 0, strings: 0, path: std::ptr::null(), permanent: false }; MOST];
    let mut count = 0;
    let here = find_permanent as *const () as usize;
    objects(|object| {
        let base = object.dlpi_addr as usize;
        let mut node = Node { start: usize::MAX, path: object.dlpi_name, permanent: count == 0, ..nodes[count] };
        for segment in segments(object) {
            let place = place(object, segment);
            match segment.p_type {
                libc::PT_LOAD => (node.start, node.end) = (node.start.min(place.start), node.end.max(place.end)),
                libc::PT_DYNAMIC => node.dynamic = place.start,
                _ => {}
            }
        }
        node.permanent |= (node.start..node.end).contains(&here);
        // SAFETY: the segment says that its entries are there.
        let strings = unsafe { entries(node.dynamic) }.find(|&(tag, _)| tag == DT_STRTAB).map_or(0, |(_, value)| value);
        // glibc has added the base where it can write there.
        node.strings = if strings != 0 && strings < base { strings + base } else { strings };
        nodes[count] = node;
        count += 1;
        count < MOST
    });
    let nodes = &mut nodes[..count];
    while let Some(needed) = next_needed(nodes) {
        nodes[needed].permanent = true;
    }
    let mut noted = 0;
    for node in nodes.iter().filter(|node| node.permanent) {
        PERMANENT[noted][0].store(node.start, Ordering::Relaxed);
        PERMANENT[noted][1].store(node.end, Ordering::Relaxed);
        noted += 1;
    }
    KNOWN.store(noted + 1, Ordering::Release);
}

/// An object that a permanent one needs, and that is not known as one.
fn next_needed(nodes: &[Node]) -> Option<usize> {
    for node in nodes.iter().filter(|node| node.permanent) {
        // SAFETY: the dynamic section of a loaded object, as `find_permanent` found it.
        for (_, name) in unsafe { entries(node.dynamic) }.filter(|&(tag, _)| tag == DT_NEEDED) {
            // SAFETY: names are strings of the object's string table.
            let name = unsafe { CStr::from_ptr((node.strings + name) as *const c_char) };
            let is_it = |other: &Node| !other.permanent && other.is_called(name);
            if let Some(found) = nodes.iter().position(is_it) {
                return Some(found);
            }
        }
    }
    None
}

impl Node {
    /// Whether the loader takes this object for the one that is needed by that name.
    fn is_called(&self, name: &CStr) -> bool {
        // SAFETY: as in `next_needed`.
        let own = unsafe { entries(self.dynamic) }.find(|&(tag, _)| tag == DT_SONAME).map(|(_, at)| self.strings + at);
        // SAFETY: a string of the object's string table.
        if own.is_some_and(|own| unsafe { CStr::from_ptr(own as *const c_char) } == name) {
            return true;
        }
        if self.path.is_null() {
            return false;
        }
        // SAFETY: the loader's own string.
        let path = unsafe { CStr::from_ptr(self.path) }.to_bytes();
        path == name.to_bytes() || path.rsplit(|&byte| byte == b'/').next() == Some(name.to_bytes())
    }
}

const DT_NULL: i64 = 0;
const DT_NEEDED: i64 = 1;
const DT_STRTAB: i64 = 5;
const DT_SONAME: i64 = 14;

/// The entries of a dynamic section, tag and value.
///
/// # Safety
/// There must be one at this address, or it must be zero.
unsafe fn entries(dynamic: usize) -> impl Iterator<Item = (i64, usize)> {
    let mut next = dynamic as *const [usize; 2];
    std::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        // SAFETY: the caller's promise; the last entry says that it is the last.
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
        find_permanent();
        for code in [own as *const () as usize, libc::malloc as *const () as usize, libc::dlopen as *const () as usize]
        {
            assert!(object_at(code).is_some_and(|object| object.permanent && object.header != 0), "{code:#x}");
            assert_eq!(header_by_search(code), object_at(code).map(|object| object.header));
        }
        let heap = Box::new(1);
        assert!(object_at(std::ptr::from_ref(&*heap).addr()).is_none() && header_by_search(8).is_none());
    }
}
