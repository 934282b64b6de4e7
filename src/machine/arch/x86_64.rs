//! x86_64. `call` pushes the return address, so it always lies right below the caller's frame. The
//! head of `mod.rs` lists the names.

#[cfg(asm_labels)]
use super::cache_entry;
use std::arch::asm;

/// The stack pointer of the function that this is inlined into.
#[inline(always)]
pub fn stack_pointer() -> usize {
    let sp: usize;
    // SAFETY: reads a register. `pure` and `nomem` let the compiler read it once per function:
    // within one activation of a function the result is always on the same stack, on whichever
    // thread it runs.
    unsafe { asm!("mov {}, rsp", out(reg) sp, options(pure, nomem, nostack, preserves_flags)) };
    sp
}

/// The number of the 64-byte block that contains the stack pointer of the function that this is
/// inlined into.
#[inline(always)]
pub(crate) fn stack_block() -> usize {
    stack_pointer() >> 6
}

/// The part of an address by which addresses are compared and looked up: here all of it.
#[inline(always)]
pub(crate) const fn untagged(address: usize) -> usize {
    address
}

/// `address` with the tag of `like`: x86_64 has no tags.
pub(crate) const fn tagged_as(address: usize, _like: usize) -> usize {
    address
}

/// The word at an address of a stack, whatever it holds. Sanitizers do not see this load; they
/// would report a load between two variables as an error.
///
/// # Safety
/// `address` must be aligned, and the stack must be mapped.
#[inline(always)]
pub(crate) unsafe fn word_of_stack(address: usize) -> usize {
    let word: usize;
    // SAFETY: the caller promises that the word is mapped and aligned.
    unsafe { asm!("mov {}, [{}]", out(reg) word, in(reg) address, options(readonly, nostack, preserves_flags)) };
    word
}

/// Where the frame of `exeunt_trampoline_body` (`asm/`) keeps the first register of the entry
/// function's result. `base` is that of the stack that drains.
pub(crate) const fn trampoline_result(base: usize) -> usize {
    base - 64
}

/// Where the same frame keeps the address that the trampoline goes on to.
pub(crate) const fn trampoline_goes_on_to(base: usize) -> usize {
    base - 16
}

/// Where the frame of `exeunt_exit_hook_body` keeps the first argument of the call that led to the
/// hook.
pub(crate) const fn hook_argument(base: usize) -> usize {
    base - 208
}

/// Whether an entry of an inline cache (`inline_cache::CacheEntry`), `offset` bytes behind
/// `entries`, is valid for `block`: it is the block's entry, and the canary that it refers to is
/// intact. In assembly, since compilers load memory that other threads may change into a register
/// before they compare it: 6 instructions instead of 8.
///
/// The processor may reorder these loads. Only the running stack changes entries of its own blocks.
/// Where a stack moves to another thread, the code that moves it synchronises the two threads.
///
/// # Safety
/// The entry must be mapped. If it is the block's entry, so must be the canary.
#[cfg(asm_labels)]
#[inline(always)]
pub(crate) unsafe fn hits(entries: *const u8, offset: usize, block: usize) -> bool {
    // SAFETY: reads the words that the caller promises to be mapped, and clobbers two registers.
    unsafe {
        asm!(
            "cmp [{entries} + {offset} + {BLOCK}], {block}", // is this the block's entry?
            "jne {other}",
            "mov rax, [{entries} + {offset} + {CANARY}]",      // the address of the canary,
            "mov rcx, [{entries} + {offset} + {CANARY} + 8]",  // and what it must be
            "cmp [rax], rcx",                               // is it intact?
            "jne {other}",
            entries = in(reg) entries,
            offset = in(reg) offset,
            block = in(reg) block,
            other = label { return false },
            BLOCK = const cache_entry::BLOCK,
            CANARY = const cache_entry::CANARY_AT,
            out("rax") _, out("rcx") _,
            options(readonly, nostack),
        );
    }
    true
}

/// The state from which unwinding starts: the registers that unwind rules refer to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    /// Program counter: a return address, except in the first frame and in one that a signal has
    /// interrupted, where it is exact.
    pub pc: usize,
    /// Stack pointer.
    pub sp: usize,
    /// Frame pointer (rbp), whatever the code uses it for.
    pub fp: usize,
    /// Unused on x86_64: the return address is never in a register.
    pub link: usize,
}

impl Registers {
    /// The registers of the function that this is inlined into.
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let (pc, sp, fp): (usize, usize, usize);
        // SAFETY: reads registers only.
        unsafe {
            asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) pc, out(reg) sp, out(reg) fp,
                options(nomem, nostack, preserves_flags));
        }
        Self { pc, sp, fp, link: 0 }
    }
}

/// Whether signal handlers return into the code at `pc`: `mov $15,%rax; syscall`. A table may mark
/// other code as a signal's frame; corosensei's tables do, for debuggers.
///
/// # Safety
/// `pc` must be the address of code.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn returns_from_signal(pc: usize) -> bool {
    let sigreturn = [0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05];
    // SAFETY: the caller promises code here. Each byte is read only if the bytes before it begin a
    // longer instruction or this very sequence.
    (0..).zip(sigreturn).all(|(at, byte): (usize, u8)| unsafe { (pc as *const u8).add(at).read() } == byte)
}

/// The distance from the stack pointer to the beginning of the caller's frame, if the code at `pc`
/// is in a stub of the procedure linkage table. Not every linker makes unwind tables for these
/// stubs (LLVM's does not), and a signal may arrive there. The forms are those of the System V ABI,
/// x86_64, section 5.2; those with `endbr64` are of its section on control flow protection.
///
/// # Safety
/// `pc` must be the address of an instruction that has just run, or is about to run.
pub(crate) unsafe fn linkage_stub(pc: usize) -> Option<usize> {
    // SAFETY: stubs are 16 bytes long and aligned to 16, and 16 aligned bytes lie in one page,
    // which holds the instruction at `pc`.
    let code: [u8; 16] = unsafe { ((pc & !15) as *const [u8; 16]).read() };
    let at = pc & 15;
    // The bytes that a stub begins with; then the offset of each of its instructions, with the
    // number of bytes on the stack there.
    type Form<'a> = (&'a [u8], &'a [(usize, usize)]);
    let forms: [Form; 5] = [
        // The first stub, for functions that are not bound yet: `push link; jmp *resolver`. The
        // index is on the stack already.
        (&[0xff, 0x35], &[(0, 16), (6, 24)]),
        // `jmp *slot`, possibly followed by `push index; jmp first`.
        (&[0xff, 0x25], &[(0, 8), (6, 8), (11, 16)]),
        // With `endbr64` a stub has two halves: `jmp *slot`, and `push index; jmp first`. The jumps
        // may have a prefix.
        (&[0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25], &[(0, 8), (4, 8)]),
        (&[0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25], &[(0, 8), (4, 8)]),
        (&[0xf3, 0x0f, 0x1e, 0xfa, 0x68], &[(0, 8), (4, 8), (9, 16)]),
    ];
    let (_, places) = forms.iter().find(|(begins, _)| code.starts_with(begins))?;
    places.iter().find(|(place, _)| *place == at).map(|(_, above)| *above)
}

/// The address in a return address word: x86_64 does not sign addresses.
pub(crate) fn strip(word: usize) -> usize {
    word
}

/// The word that leads to `new` instead of `original`, for the place where `found` is; `None` if
/// `found` does not lead to `original`.
pub(crate) fn replace_address(
    found: usize,
    original: usize,
    new: usize,
    _base: usize,
    _signing: impl FnOnce() -> Option<Signing>,
) -> Option<usize> {
    (found == original).then_some(new)
}

/// How a function signs its return address: on x86_64 not at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "aarch64 has it")]
pub(crate) enum Signing {
    Plain,
}

/// Whether the processor checks this thread's returns against a shadow stack (CET). `rdsspq` reads
/// the shadow stack pointer. Where there is no shadow stack it is a no-operation (Intel SDM vol. 2,
/// RDSSPQ), so zero stays zero.
pub(crate) fn shadow_stack_active() -> bool {
    let pointer: usize;
    // SAFETY: reads a register, or does nothing.
    unsafe { asm!("xor {0:e}, {0:e}", "rdsspq {0}", out(reg) pointer, options(nomem, nostack)) };
    pointer != 0
}

/// The numbers of registers in unwind tables (System V ABI, x86_64, figure 3.36).
#[cfg(target_os = "linux")]
pub(crate) mod dwarf {
    pub(crate) const STACK_POINTER: u16 = 7;
    pub(crate) const FRAME_POINTER: u16 = 6;
}

/// The layout of glibc's `jmp_buf` (`sysdeps/x86_64/jmpbuf-offsets.h`), and how glibc encrypts the
/// pointers in it (`sysdeps/unix/sysv/linux/x86_64/pointer_guard.h`).
#[cfg(target_env = "gnu")]
pub(crate) mod landing {
    pub(crate) const WORDS: usize = 8;
    pub(crate) const STACK_POINTER: usize = 6;
    pub(crate) const PROGRAM_COUNTER: usize = 7;
    pub(crate) const ROTATION: u32 = 17;
}

/// Whether the code at `address` passes an entry function's result to `exit`: `mov %eax,%edi; call
/// exit`.
///
/// # Safety
/// `address` must be a return address, so that the seven bytes from there on are code.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn ends_in_exit(address: usize, exit: usize) -> bool {
    // SAFETY: the caller promises code here. A function that calls another one does not end within
    // seven bytes of an unmapped page: where the first bytes match, at least this call's encoding
    // follows.
    unsafe {
        let code = address as *const u8;
        if [code.read(), code.add(1).read()] != [0x89, 0xc7] || code.add(2).read() != 0xe8 {
            return false;
        }
        let distance = code.add(3).cast::<i32>().read_unaligned();
        (address + 7).wrapping_add_signed(distance as isize) == exit
    }
}

/// Whether the call that returns to `address` is made through a register or through memory.
///
/// # Safety
/// The 7 bytes before `address` must be code.
#[cfg(target_env = "gnu")]
pub(crate) unsafe fn called_indirectly(address: usize) -> bool {
    // SAFETY: the caller's promise.
    let before = |distance: usize| unsafe { ((address - distance) as *const u8).read() };
    // `call r/m64` is ff /2. The length follows from the ModRM byte's mode, and its register 4 has
    // a SIB byte.
    let is_call = |length: usize, mode: u8, has_sib: bool| {
        let modrm = before(length - 1);
        before(length) == 0xff && modrm >> 6 == mode && modrm >> 3 & 7 == 2 && (modrm & 7 == 4) == has_sib
    };
    before(2) == 0xff && before(1) >> 3 == 0b11_010
        || is_call(2, 0, false) && before(1) & 7 != 5
        || is_call(3, 0, true)
        || is_call(3, 1, false)
        || is_call(4, 1, true)
        || is_call(6, 2, false)
        || is_call(7, 2, true)
        || before(6) == 0xff && before(5) == 0x15
}

/// Whether the code at `address` passes an entry function's result to `target`: moves it from `rax`
/// to `rdi`, perhaps extended, and calls `target`.
///
/// # Safety
/// `address` must be a return address.
#[cfg(target_env = "musl")]
pub(crate) unsafe fn passes_result_to(address: usize, target: usize) -> bool {
    // `movslq %eax,%rdi`; `mov %rax,%rdi`; `cltq; mov %rax,%rdi`; each with the call's first byte.
    const MOVES: [&[u8]; 3] =
        [&[0x48, 0x63, 0xf8, 0xe8], &[0x48, 0x89, 0xc7, 0xe8], &[0x48, 0x98, 0x48, 0x89, 0xc7, 0xe8]];
    // SAFETY: the caller promises code here. Each byte is read only if the bytes before it begin a
    // longer instruction, or an instruction that another one must follow.
    unsafe {
        let code = address as *const u8;
        MOVES.iter().any(|moves| {
            let fits = moves.iter().enumerate().all(|(at, &byte)| code.add(at).read() == byte);
            fits && {
                let distance = code.add(moves.len()).cast::<i32>().read_unaligned();
                (address + moves.len() + 4).wrapping_add_signed(distance as isize) == target
            }
        })
    }
}

/// The target of the direct call that returns to `address`; `None` if that call is not direct.
///
/// # Safety
/// The five bytes before `address`, a return address, must be code.
#[cfg(target_env = "gnu")]
pub(crate) unsafe fn called_directly(address: usize) -> Option<usize> {
    // SAFETY: the caller promises code here.
    let code = unsafe { ((address - 5) as *const [u8; 5]).read() };
    // An indirect call (`ff /2`) is shorter or longer than a direct one. Its last bytes may look
    // like the end of a direct call.
    let is_indirect = matches!(code, [.., 0xff, 0xd0..=0xd7] | [.., 0xff, 0x10..=0x17, _] | [.., 0xff, 0x50..=0x57, _])
        || matches!(code, [.., 0xff, 0x10..=0x17] | [_, 0xff, 0x54, ..]);
    if code[0] != 0xe8 || is_indirect {
        return None;
    }
    let distance = i32::from_le_bytes([code[1], code[2], code[3], code[4]]);
    Some(address.wrapping_add_signed(distance as isize))
}
