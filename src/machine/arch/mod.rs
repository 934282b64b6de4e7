//! What differs between processors: reading registers, the shape of a return address, shadow stacks.
//!
//! Both files offer the same names:
//!
//! | name | what it does |
//! |---|---|
//! | `stack_pointer` | the stack pointer of the function it is inlined into |
//! | `stack_block` | the number of the 64 bytes that the stack pointer is in |
//! | `untagged`, `tagged_as` | an address without the tag in its base byte, and with another one's |
//! | `word_of_stack` | a word of a stack, also between variables |
//! | `hits` | whether what a stack local remembers is of this block, and the stack is still the one |
//! | `Registers::here` | what an unwinder needs to start from the function it is inlined into |
//! | `returns_from_signal` | whether code is what the system has signal handlers return into |
//! | `strip` | a return address without its signature |
//! | `replace_address` | a word to store in a foot in place of the one found, signed the same way |
//! | `shadow_stack_active` | whether returns of this thread are checked against a shadow stack |
//! | `dwarf` | the numbers that unwind tables give to registers |
//! | `landing` | where glibc's `jmp_buf` keeps what |
//! | `ends_in_exit` | whether the code at an address hands a result to `exit` |

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub(crate) mod cache_entry;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("exeunt knows the stacks of x86_64 and aarch64 only");
