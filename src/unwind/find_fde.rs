//! The unwinder's own search for the table entry of a place in the code.

/// `struct dwarf_eh_bases` of libgcc's `unwind-dw2-fde.h`, which LLVM's libunwind has as well.
#[repr(C)]
pub(super) struct Bases {
    pub(super) text: usize,
    pub(super) data: usize,
    pub(super) function: usize,
}

unsafe extern "C" {
    /// Finds the table entry for a program counter: libgcc, with which std is linked, knows what just-in-time compilers register.
    pub(super) safe fn _Unwind_Find_FDE(pc: usize, bases: &mut Bases) -> *const u8;
}

/// The address of the unwinder's function, which is in an object that this one needs.
pub(super) fn find_fde_address() -> usize {
    _Unwind_Find_FDE as *const () as usize
}
