//! Code redirect where an exit trampoline has no place for the hook.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod common;

use common::process;
use exeunt::{Builder, Error, Redirect};

std::arch::global_asm!(
    ".text",
    ".globl exeunt_test_wrapper, exeunt_test_place, exeunt_test_nothing",
    "exeunt_test_wrapper: .cfi_startproc",
    "    push rbx",
    "    .cfi_adjust_cfa_offset 8",
    "    call rdi",
    "exeunt_test_place:",
    "    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00", // a nop, as long as a call
    "    pop rbx",
    "    .cfi_adjust_cfa_offset -8",
    "    ret",
    "    .cfi_endproc",
    "exeunt_test_nothing: .cfi_startproc",
    "    ret",
    "    .cfi_endproc",
);

unsafe extern "C" {
    fn exeunt_test_wrapper(function: extern "C" fn());
    safe fn exeunt_test_place();
    safe fn exeunt_test_nothing();
}

extern "C" fn is_refused_twice() {
    let [first, second] = [(); 2].map(|()| exeunt::at_exit(|| unreachable!("it was refused")).unwrap_err());
    assert!(matches!(first, Error::NoCodeSite(_)) && first == second, "{first:?}, {second:?}");
    assert!(first.to_string().contains("no direct call"), "{first}");
}

extern "C" fn is_armed() {
    exeunt::at_exit(|| println!("[handler]")).unwrap();
}

/// Makes the nop a call.
fn put_a_call() {
    let place = exeunt_test_place as *const () as usize;
    let distance = (exeunt_test_nothing as *const () as usize).wrapping_sub(place + 5) as u32;
    let (page, access) = ((place & !4095) as *mut libc::c_void, libc::PROT_READ | libc::PROT_EXEC);
    // SAFETY: nothing runs this code meanwhile, and the contents of its pages stay except for these
    // five bytes.
    unsafe {
        assert_eq!(libc::mprotect(page, 8192, access | libc::PROT_WRITE), 0);
        (place as *mut u8).write(0xe8);
        ((place + 1) as *mut u32).write_unaligned(distance);
        assert_eq!(libc::mprotect(page, 8192, access), 0);
    }
}

#[test]
fn code_that_was_refused_is_refused_with_the_same_error_until_it_has_changed() {
    process::alone("code_that_was_refused_is_refused_with_the_same_error_until_it_has_changed", || {
        Builder::new().redirect(Redirect::Code).install().unwrap();
        let code = exeunt_test_wrapper as *const () as usize;
        // SAFETY: functions return to it, and it stays.
        unsafe { exeunt::register_trampoline("wrapper", code..exeunt_test_nothing as *const () as usize).unwrap() };
        let run = |function: extern "C" fn()| {
            // SAFETY: it calls the function, and returns.
            std::thread::spawn(move || unsafe { exeunt_test_wrapper(function) }).join().unwrap();
        };
        run(is_refused_twice);
        run(is_refused_twice);
        put_a_call();
        run(is_armed);
    });
}
