//! The programs and libraries that are loaded.

use std::ffi::{c_int, c_void};

/// A program or library.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Object {
    /// The difference between the addresses in its file and those in memory.
    pub(crate) bias: usize,
    /// Whether it has an index of its unwind tables (`.eh_frame_hdr`), without which no unwinder finds them.
    pub(crate) has_index: bool,
}

struct Search {
    address: usize,
    found: Option<Object>,
}

/// The object whose segments `address` lies in, as the dynamic linker knows it.
pub(crate) fn object_at(address: usize) -> Option<Object> {
    unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _size: libc::size_t, search: *mut c_void) -> c_int {
        // SAFETY: `dl_iterate_phdr` passes an object that stays loaded meanwhile, and the `Search` below.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
        // SAFETY: the object's program header has so many entries.
        let entries = (0..info.dlpi_phnum.into()).map(|at: usize| unsafe { &*info.dlpi_phdr.add(at) });
        let bias = info.dlpi_addr as usize;
        let (mut is_here, mut has_index) = (false, false);
        for entry in entries {
            let start = bias.wrapping_add(entry.p_vaddr as usize);
            let holds = search.address.wrapping_sub(start) < entry.p_memsz as usize;
            is_here |= entry.p_type == libc::PT_LOAD && holds;
            has_index |= entry.p_type == libc::PT_GNU_EH_FRAME;
        }
        if is_here {
            search.found = Some(Object { bias, has_index });
        }
        is_here.into()
    }

    let mut search = Search { address, found: None };
    // SAFETY: the function fits, and `search` lives longer than the call.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    search.found
}
