//! Steps through a stack's life one instruction at a time, with the processor's trap flag. After
//! each instruction it checks that the stack can be walked, and that reads return the right values.
//! x86_64 only.
//!
//! Arguments: the mode of the handler (`walking`, `reading`, `reading-elsewhere`), how the thread
//! ends (`return`, `pthread_exit`), and whether it is the first (`cold`), or the library has cached
//! the unwind rules of such a thread (`warm`).
//!
//! It leaves out the first recognition of exit trampolines, which blocks all signals: no handler
//! can run then, and a trap that is blocked kills the process. `hammer` covers it.

#[cfg(target_arch = "x86_64")]
fn main() {
    stepping::main();
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    panic!("only x86_64 has a trap flag");
}

#[cfg(target_arch = "x86_64")]
mod stepping {
    use exeunt_bridge::walk::Outermost;
    use exeunt_bridge::watch::{self, How};
    use std::arch::asm;
    use std::ffi::{c_int, c_void};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    const TRAP_FLAG: i64 = 0x100;

    static OUTERMOST: OnceLock<Outermost> = OnceLock::new();
    static STEPPING: AtomicBool = AtomicBool::new(false);

    unsafe extern "C-unwind" {
        fn pthread_exit(result: *mut c_void) -> !;
    }

    extern "C" fn on_step(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel passes the interrupted code's context to a handler with SA_SIGINFO.
        let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        let pc = registers[libc::REG_RIP as usize] as usize;
        let outermost = OUTERMOST.get().expect("stepping starts after it is known");
        if outermost.is_beyond(pc) {
            registers[libc::REG_EFL as usize] &= !TRAP_FLAG;
            return;
        }
        watch::look(outermost, pc);
    }

    #[inline(always)]
    fn start_stepping() {
        if !STEPPING.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: sets the trap flag; each instruction from here on is followed by SIGTRAP, which
        // has its handler.
        unsafe { asm!("pushfq", "or qword ptr [rsp], {flag}", "popfq", flag = const TRAP_FLAG) };
    }

    extern "C-unwind" fn returns(elsewhere: *mut c_void) -> *mut c_void {
        begin(elsewhere);
        start_stepping();
        watch::live(|| ());
        std::ptr::null_mut()
    }

    extern "C-unwind" fn exits(elsewhere: *mut c_void) -> *mut c_void {
        begin(elsewhere);
        start_stepping();
        watch::live(|| ());
        // SAFETY: no frame of this stack holds anything to drop.
        unsafe { pthread_exit(std::ptr::null_mut()) }
    }

    fn begin(elsewhere: *mut c_void) {
        OUTERMOST.get_or_init(Outermost::here);
        if elsewhere.is_null() {
            return;
        }
        let memory = vec![0_u8; 1 << 20].leak();
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
        // SAFETY: the memory is never freed.
        assert_eq!(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
    }

    /// Runs a thread on a stack of `size` bytes. Each thread gets a larger stack than the last,
    /// because the C library would use the memory of a smaller one again, which still holds the
    /// words that the library wrote for the previous thread.
    fn run(routine: extern "C-unwind" fn(*mut c_void) -> *mut c_void, elsewhere: bool, size: usize) {
        // SAFETY: the routine uses its argument as a flag only, and is joined here.
        unsafe {
            let routine = std::mem::transmute::<
                extern "C-unwind" fn(*mut c_void) -> *mut c_void,
                extern "C" fn(*mut c_void) -> *mut c_void,
            >(routine);
            let mut thread = std::mem::zeroed();
            let flag = if elsewhere { &raw mut thread as *mut c_void } else { std::ptr::null_mut() };
            let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
            assert_eq!(libc::pthread_attr_init(&raw mut attributes), 0);
            assert_eq!(libc::pthread_attr_setstacksize(&raw mut attributes, size), 0);
            assert_eq!(libc::pthread_create(&raw mut thread, &raw const attributes, routine, flag), 0);
            assert_eq!(libc::pthread_attr_destroy(&raw mut attributes), 0);
            assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
        }
    }

    pub(super) fn main() {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let [how, end, warm] = arguments.as_slice() else { panic!("three arguments, not {arguments:?}") };
        let how = match how.as_str() {
            "walking" => How::Walking,
            "reading" => How::Reading,
            "reading-elsewhere" => How::ReadingElsewhere,
            _ => panic!("how: {how}?"),
        };
        let routine = match end.as_str() {
            "return" => returns as extern "C-unwind" fn(*mut c_void) -> *mut c_void,
            "pthread_exit" => exits,
            _ => panic!("end: {end}?"),
        };
        std::thread::spawn(exeunt::id).join().expect("a thread").expect("threads can be armed");
        watch::prepare(how);
        let elsewhere = how == How::ReadingElsewhere;
        // SAFETY: installs a handler that is allowed to do all of this at any instruction: the test
        // checks that.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_step as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | if elsewhere { libc::SA_ONSTACK } else { 0 };
            assert_eq!(libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut()), 0);
        }
        let lives = if warm == "warm" { 2 } else { 1 };
        for life in 1..=lives {
            STEPPING.store(life == lives, Ordering::Relaxed);
            run(routine, elsewhere, life << 23);
            watch::life_is_over();
        }
        std::process::exit(watch::verdict(lives));
    }
}
