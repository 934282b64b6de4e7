//! The loaded programs and libraries, by the dynamic linker's list ([`object_at`]).

use std::ffi::{c_int, c_void};

/// A program or library.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Object {
    /// The difference between the addresses in memory and those in the file.
    pub(crate) bias: usize,
    /// Whether it has an index of its unwind tables (`.eh_frame_hdr`). Without one, unwinders do
    /// not find the tables.
    pub(crate) has_index: bool,
}

struct Search {
    address: usize,
    found: Option<Object>,
}

/// The object that has a segment with `address` in it.
pub(crate) fn object_at(address: usize) -> Option<Object> {
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: libc::size_t, search: *mut c_void) -> c_int {
        // SAFETY: `dl_iterate_phdr` passes an object that stays loaded during the call, and the
        // `Search` below.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
        // SAFETY: the object has `dlpi_phnum` program headers.
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
    // SAFETY: the callback has the right type, and `search` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}
