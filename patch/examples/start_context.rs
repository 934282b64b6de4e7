//! Plans the patches that would redirect the exit of every `makecontext` fiber on x86_64 glibc,
//! without applying them. They change the direct calls in `__start_context`. It has no symbol, but
//! `makecontext` writes its address on the new stack as a return address.
//!
//! `cargo run -p exeunt-patch --example start_context`

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
fn main() {
    use exeunt_patch::Site;

    extern "C" fn entry() {}
    extern "C" fn ours() {}
    let mut stack = vec![0usize; 4096];
    // SAFETY: a context on memory of this function, which is never run.
    let context = unsafe {
        let mut context: libc::ucontext_t = std::mem::zeroed();
        assert_eq!(libc::getcontext(&mut context), 0);
        context.uc_stack.ss_sp = stack.as_mut_ptr().cast();
        context.uc_stack.ss_size = size_of_val(&stack[..]);
        libc::makecontext(&mut context, entry, 0);
        context
    };
    let foot = context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize;
    let trampoline = stack[(foot - stack.as_ptr().addr()) / 8];
    println!("the foot of a makecontext fiber returns to {trampoline:#x}");

    for at in trampoline..trampoline + 32 {
        // SAFETY: an address in libc, which is never unmapped. An instruction may not begin there,
        // so nothing is applied.
        let site = unsafe { Site::new(std::ptr::with_exposed_provenance(at)) };
        let Ok(target) = site.target() else { continue };
        match site.retarget(target, ours as *const u8) {
            Ok(patch) => println!("\n{patch}"),
            Err(error) => println!("\n{error}"),
        }
    }
    match instruction(trampoline).divert(ours as *const u8) {
        Ok(patch) => println!("\n{patch}"),
        Err(error) => println!("\nthe first instruction: {error}"),
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
fn instruction(at: usize) -> exeunt_patch::Site {
    // SAFETY: a return address is the first byte of an instruction, and libc is never unmapped.
    unsafe { exeunt_patch::Site::new(std::ptr::with_exposed_provenance(at)) }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
fn main() {
    println!("this example needs x86_64 glibc");
}
