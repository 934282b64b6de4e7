//! The system unwinder's search for a table entry.

/// `struct dwarf_eh_bases` of libgcc's `unwind-dw2-fde.h`. LLVM's libunwind has the same one.
#[repr(C)]
pub(super) struct Bases {
    pub(super) text: usize,
    pub(super) data: usize,
    pub(super) function: usize,
}

unsafe extern "C" {
    /// Finds the table entry for a program counter. libgcc, which std is linked with, also has the
    /// tables that just-in-time compilers register.
    pub(super) safe fn _Unwind_Find_FDE(pc: usize, bases: &mut Bases) -> *const u8;
}

/// The address of that function, which lies in an object that this one needs.
pub(super) fn find_fde_address() -> usize {
    _Unwind_Find_FDE as *const () as usize
}
