//! What differs between processors: a new one provides these names in a file of its own.
//!
//! | name | what it does |
//! |---|---|
//! | `stack_pointer` | the stack pointer of the function that it is inlined into |
//! | `stack_block` | the number of the 64-byte block that the stack pointer is in |
//! | `untagged`, `tagged_as` | an address without its tag, and with the tag of another address |
//! | `word_of_stack` | reads a word of a stack, also between variables |
//! | `hits` | whether an entry of an inline cache is valid for this block |
//! | `Registers` | the registers that an unwinder starts from: `here` takes them |
//! | `returns_from_signal` | whether signal handlers return into this code; Linux only |
//! | `linkage_stub` | how much a stub of the procedure linkage table has on the stack |
//! | `strip` | a return address without its signature |
//! | `replace_address` | the word for a foot that leads to another address, signed the same way |
//! | `Signing` | how a function signs its return address |
//! | `shadow_stack_active` | whether a shadow stack checks this thread's returns |
//! | `ends_in_exit` | whether the code at an address passes a result to `exit`; Linux only |
//! | `called_directly` | the target of the direct call before a return address; Linux only |
//! | `called_indirectly` | whether the call before a return address is none by name; glibc only |
//! | `dwarf` | the numbers of registers in unwind tables; Linux only |
//! | `trampoline_result`, `trampoline_goes_on_to`, `hook_argument` | words of the frames in `asm/` |
//! | `landing` | the layout of glibc's `jmp_buf`; Linux only |
//!
//! The layout that `hits` reads is the same for all of them: [`cache_entry`].

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub(crate) mod cache_entry;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

/// `hits` for Rust before 1.87, where inline assembly cannot jump to a label outside of it.
///
/// # Safety
/// The entry must be mapped. If it is the block's entry, so must be the canary.
#[cfg(not(asm_labels))]
#[inline(always)]
pub(crate) unsafe fn hits(entries: *const u8, offset: usize, block: usize) -> bool {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    // SAFETY: the caller promises that the entry is mapped.
    let word = |at: usize| unsafe { (*entries.add(offset + at).cast::<AtomicUsize>()).load(Relaxed) };
    word(cache_entry::BLOCK) == block && {
        let (canary, intact) = (word(cache_entry::CANARY_AT), word(cache_entry::CANARY_AT + 8));
        // SAFETY: it is the block's entry, so the caller promises that the canary is mapped.
        unsafe { word_of_stack(canary) == intact }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("exeunt supports x86_64 and aarch64 only");
