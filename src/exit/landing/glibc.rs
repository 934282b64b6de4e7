//! The *landing*: where glibc takes a thread that ends without a return. `Landing::find` and
//! `Landing::at_distance` find it, `Landing::set_target` redirects it.
//!
//! glibc's exit trampolines keep a `struct pthread_unwind_buf` (`nptl/descr.h`; the public
//! `__pthread_unwind_buf_t` of `<pthread.h>` is the same) in their frame, right above the foot.
//! `pthread_exit` and cancellation unwind the stack and then jump to the `jmp_buf` in it. The last
//! of the buffer's four words of padding is one that glibc neither reads nor writes. This gives two
//! possibilities:
//!
//! - The jump can be redirected as a return can, so that these ends also drain before thread-local
//!   destructors run.
//! - The spare word can keep the original return address, as a part of the stack. Profilers that
//!   unwind a copy of the stack later, without the process (`perf record --call-graph dwarf`), find
//!   it there.
//!
//! ```text
//!   |  exit trampoline's frame:                      |
//!   |    pad[3]          spare: the original address |
//!   |    pad[2..0]       prev, cleanup, canceltype   |
//!   |    jmp_buf         where the thread lands      |
//!   +------------------------------------------------+  base
//!   |  foot                                          |
//! ```

use crate::machine::arch::landing::{PROGRAM_COUNTER, ROTATION, STACK_POINTER, WORDS};
use crate::unwind::tables::function_at;
use std::ptr;

/// `__pthread_unwind_buf_t`.
#[repr(C, align(16))]
struct Buffer {
    /// The `jmp_buf`, and its flag for a saved signal mask.
    jump: [usize; WORDS + 1],
    previous: *mut Buffer,
    cleanup: usize,
    cancel_type: usize,
    spare: usize,
}

unsafe extern "C" {
    /// What `pthread_cleanup_push` calls in C: makes a buffer the thread's newest one, and stores
    /// the former one in it.
    fn __pthread_register_cancel(buffer: *mut Buffer);
    fn __pthread_unregister_cancel(buffer: *mut Buffer);
}

/// A thread's landing.
#[derive(Clone, Copy)]
pub(crate) struct Landing {
    buffer: *mut Buffer,
    base: usize,
}

/// The largest distance of the buffer's end from the base: exit trampolines have small frames.
pub(crate) const REACH: usize = 512;

/// The running thread's newest buffer; null before its exit trampoline has made the first one.
fn newest() -> *mut Buffer {
    let mut mine = Buffer { jump: [0; WORDS + 1], previous: ptr::null_mut(), cleanup: 0, cancel_type: 0, spare: 0 };
    // SAFETY: registered and removed at once, with no cancellation point between.
    unsafe {
        __pthread_register_cancel(&raw mut mine);
        __pthread_unregister_cancel(&raw mut mine);
    }
    mine.previous
}

/// Whether the running thread's exit trampoline has made its buffer, which it does right before it
/// calls the thread's function, or `main`.
pub(crate) fn has_begun() -> bool {
    !newest().is_null()
}

impl Landing {
    /// The landing of the running thread, if its buffer lies right above `base`, in the frame of
    /// the exit trampoline.
    pub(crate) fn find(base: usize) -> Option<Self> {
        let mut buffer = newest();
        loop {
            // SAFETY: these are buffers of outer functions on this stack. The outermost is the exit
            // trampoline's.
            match unsafe { buffer.as_ref() } {
                Some(inner) if !inner.previous.is_null() => buffer = inner.previous,
                _ => break,
            }
        }
        let place = buffer as usize;
        let end = place.wrapping_add(size_of::<Buffer>());
        (place >= base && end > place && end - base <= REACH).then_some(Self { buffer, base })
    }

    /// As [`Self::find`], for an exit trampoline that was met before: with the buffer at `distance`
    /// above the base, and `target` where the thread lands. `None` if the thread lands elsewhere. A
    /// function's frame has one shape, so this finds the landing of every thread that is not
    /// redirected yet. It calls nothing, so it is quick.
    ///
    /// # Safety
    /// The running stack's entry function must return to the address at which `distance` was found,
    /// with the stack pointer `base`.
    pub(crate) unsafe fn at_distance(base: usize, distance: usize, target: usize) -> Option<Self> {
        let landing = Self { buffer: ptr::with_exposed_provenance_mut(base + distance), base };
        (landing.leads_to() == target).then_some(landing)
    }

    /// The landing of a stack with this base, whose entry function returns to `original`, by what
    /// its exit trampoline's frame holds: for code of another stack, which cannot ask libc. `secret`
    /// is that of any other landing of the process. Two words have to fit: the stack pointer, which
    /// is the base, and an address in the exit trampoline.
    ///
    /// # Safety
    /// The [`REACH`] bytes from `base` on must be memory of a stack.
    pub(crate) unsafe fn search(base: usize, secret: usize, original: usize) -> Option<Self> {
        (0..=REACH - size_of::<Buffer>()).step_by(size_of::<usize>()).find_map(|distance| {
            let landing = Self { buffer: ptr::with_exposed_provenance_mut(base + distance), base };
            // In this order: the second one looks up unwind tables.
            (landing.secret() == secret && landing.target(original).is_some()).then_some(landing)
        })
    }

    /// How far above the base the buffer is.
    pub(crate) fn distance(self) -> usize {
        self.buffer.addr() - self.base
    }

    /// The address of the word that glibc does not use.
    pub(crate) fn spare(self) -> usize {
        // SAFETY: the buffer is a local variable of the exit trampoline's frame.
        unsafe { &raw const (*self.buffer).spare as usize }
    }

    fn jump(self, index: usize) -> *mut usize {
        // SAFETY: as above. The indices are in the `jmp_buf`.
        unsafe { (&raw mut (*self.buffer).jump).cast::<usize>().add(index) }
    }

    /// glibc mixes the pointers in a `jmp_buf` with a secret of the process. One of them is known:
    /// the exit trampoline fills the `jmp_buf` in the frame from which it calls, so the stack
    /// pointer in it is the base. That gives the secret.
    pub(crate) fn secret(self) -> usize {
        // SAFETY: a word of the `jmp_buf`.
        unsafe { self.jump(STACK_POINTER).read_volatile() }.rotate_right(ROTATION) ^ self.base
    }

    /// Where the thread lands.
    fn leads_to(self) -> usize {
        // SAFETY: a word of the `jmp_buf`.
        unsafe { self.jump(PROGRAM_COUNTER).read_volatile() }.rotate_right(ROTATION) ^ self.secret()
    }

    /// Where the thread lands, if that is a trampoline, a known original, or an address in the
    /// function that the entry function returns into, at `original`.
    pub(crate) fn target(self, original: usize) -> Option<usize> {
        let target = self.leads_to();
        let known =
            crate::exit::trampoline::is_label(target) || crate::exit::trampoline::number_of_original(target).is_some();
        (known || function_at(original - 1).is_some_and(|function| function_at(target) == Some(function)))
            .then_some(target)
    }

    /// Makes the thread land at `target`.
    ///
    /// # Safety
    /// The code at `target` must run with the exit trampoline's stack pointer and saved registers.
    pub(crate) unsafe fn set_target(self, target: usize) {
        let word = (target ^ self.secret()).rotate_left(ROTATION);
        // SAFETY: a word of the `jmp_buf`, which glibc reads when the thread ends.
        unsafe { self.jump(PROGRAM_COUNTER).write_volatile(word) };
    }
}
