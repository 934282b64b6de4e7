//! Arming by the address of a foot: `exeunt_reserve`, `exeunt_arm_reserved`,
//! `exeunt_drop_reservation`.

use super::code::{EXEUNT_EINVALID, EXEUNT_OK, Failure, shielded, unkept_code};
use super::types::exeunt_fn;
use crate::Reservation;
use crate::base::alloc::{refused, try_box};
use crate::face::reserve::reserve_boxed;
use std::ffi::{c_int, c_void};

/// What `exeunt_reserve` reserves for one stack. Its contents are private.
#[repr(C)]
pub struct exeunt_reservation {
    opaque: [u64; 4],
}

const _: () = {
    assert!(size_of::<Option<Reservation>>() <= size_of::<exeunt_reservation>());
    assert!(align_of::<Option<Reservation>>() <= align_of::<exeunt_reservation>());
};

/// Reserves what it takes to arm a stack whose foot you know: a record with this handler, and room in
/// the stack map. `exeunt_arm_reserved` then arms that stack with a few stores, without code that
/// runs on it. It is for tools that arm threads which are stopped, in any code. It serves stacks of
/// threads and of `main`, with glibc.
///
/// `foot` is the address of the stack's foot: the word that holds the return address of the thread's
/// start routine, or of `main`. `base` is the stack pointer once that function has returned; on
/// x86_64 it is `foot + 8`. `exeunt_stacks` shows both of an armed stack: a thread's base lies at a
/// constant distance below its descriptor (`pthread_self`).
///
/// This takes locks, allocates, and at a process's first use it may start a few threads, which end at
/// once, and patch code (code redirect). So call it while all threads run. It reads the stack, and
/// changes nothing there.
///
/// Returns 0; `EXEUNT_EINVALID` for a null `reservation` or `handler`; `EXEUNT_ENO_FOOT` if the word
/// at `foot` leads to no known exit trampoline of threads or of `main`; `EXEUNT_EALREADY_ARMED`; or a
/// code of `exeunt_at_exit`. After an error no stack has changed, and `reservation` holds nothing. As
/// after a success, what concerns the whole process stays: the exit trampolines that were recognised,
/// its choice of redirect, the code that was patched, and exeunt's functions for `exit` and `fork`.
///
/// Thread-safe. Not for signal handlers.
///
/// # Safety
/// If there is memory at `foot` and `base`, it must stay mapped until this returns, with 512 bytes
/// above the base. `reservation` must be null or good to write to. `handler` as for
/// `exeunt_at_exit`.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn exeunt_reserve(
    reservation: *mut exeunt_reservation,
    foot: *const c_void,
    base: *const c_void,
    handler: exeunt_fn,
    arg: *mut c_void,
) -> c_int {
    shielded(|| {
        if reservation.is_null() {
            return Err(Failure::Invalid("exeunt_reserve: there is no place for the reservation"));
        }
        let place = reservation.cast::<Option<Reservation>>();
        // SAFETY: not null, so good to write to: the caller's promise.
        unsafe { place.write(None) };
        let handler = handler.ok_or(Failure::Invalid("exeunt_reserve: the handler is null"))?;
        // SAFETY: the caller's promise.
        let handler = try_box(move || unsafe { handler(arg) }).map_err(|_| refused())?;
        // SAFETY: the caller's promise.
        let reserved = unsafe { reserve_boxed(foot.addr(), base.addr(), handler) }.map_err(|(error, _)| error)?;
        // SAFETY: as above.
        unsafe { place.write(Some(reserved)) };
        Ok(())
    })
}

/// Arms the stack that `exeunt_reserve` has reserved for, whichever thread calls: from now on its end
/// calls the handler, as if that stack's own code had called `exeunt_at_exit`. (But where `main` calls
/// `exit`, it runs as an `atexit` function.) Stores the stack's identity in `*id`, if `id` is not
/// null.
///
/// This allocates nothing, frees nothing and takes no lock, so the stack's thread may be stopped
/// anywhere, with any lock held.
///
/// Returns 0, and then `reservation` holds nothing any more; `EXEUNT_ENO_FOOT` if the word at the
/// foot is no known exit any more, or an earlier stack on that memory has not been drained, or it is
/// main's and `exit` has run exeunt's `atexit` function already; `EXEUNT_EALREADY_ARMED`;
/// `EXEUNT_ENO_MEMORY` where stacks share a page of memory, and others have taken the room in the
/// stack map since the reservation; or `EXEUNT_EINVALID` for a reservation that is null or holds
/// nothing. After an error nothing has changed, and `reservation` holds what it held.
/// `exeunt_last_code` and `exeunt_last_error` do not tell of it, because a thread's first use of their
/// storage may allocate.
///
/// Thread-safe. Not for signal handlers.
///
/// # Safety
/// `exeunt_reserve` must have written `reservation`. The stack must be the running one, or its thread
/// must be stopped until this returns. Its end must not have begun: its start routine has not
/// returned, and the thread is not in `pthread_exit` and does not act on a cancellation. (Under slot
/// redirect an end is missed that has read already where it goes on, and is in its last instructions:
/// the handler is not called, and the record is left behind on memory that may be unmapped.) The
/// thread must be in its start routine (or `main`) or in what
/// that has called: its stack pointer is at or below the foot, or on another stack while its own one
/// is suspended there. If a signal handler runs on this very stack, the stack pointer of the
/// interrupted code counts. On aarch64 under slot redirect, an unwind of the stopped thread's registers, by
/// unwind tables, must have led to this very word, as the one by which the start routine returns: the
/// word alone does not show that the start routine has stored it, and has not loaded it yet. The
/// thread must not be in a call into exeunt. The memory must be mapped, as for `exeunt_reserve`. `id`
/// must be null or good to write to.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn exeunt_arm_reserved(reservation: *mut exeunt_reservation, id: *mut u64) -> c_int {
    // SAFETY: the caller's promise.
    let place = unsafe { reservation.cast::<Option<Reservation>>().as_mut() };
    let Some((place, reserved)) = place.and_then(|place| place.take().map(|reserved| (place, reserved))) else {
        return EXEUNT_EINVALID;
    };
    // SAFETY: the caller's promises.
    match unsafe { reserved.arm() } {
        Ok(armed) => {
            // SAFETY: the caller's promise.
            if let Some(id) = unsafe { id.as_mut() } {
                *id = armed.get();
            }
            EXEUNT_OK
        }
        Err((error, reserved)) => {
            *place = Some(reserved);
            unkept_code(error)
        }
    }
}

/// Gives back what `exeunt_reserve` has reserved. The handler is not called. Does nothing for a
/// reservation that is null or holds nothing. It frees memory, so call it while all threads run.
///
/// Thread-safe. Not for signal handlers.
///
/// # Safety
/// `exeunt_reserve` must have written `reservation`, unless it is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_drop_reservation(reservation: *mut exeunt_reservation) {
    // SAFETY: the caller's promise.
    if let Some(place) = unsafe { reservation.cast::<Option<Reservation>>().as_mut() } {
        drop(place.take());
    }
}
