//! Code that is generated at run time: with a table that is registered, with none, and with one
//! that no unwinder can read.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod common;

use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

unsafe extern "C" {
    /// The function by which just-in-time compilers register their tables: libgcc's.
    fn __register_frame(begin: *mut u8);
    fn __deregister_frame(begin: *mut u8);
}

/// A page of code, with a table that can be registered for it.
struct Code {
    page: *mut u8,
    table: Box<[u8; 128]>,
    registered: bool,
}

impl Code {
    fn new() -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping touches nothing that exists.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED);
        Self { page: page.cast(), table: Box::new([0; 128]), registered: false }
    }

    /// Makes a function with a frame of `size` bytes, a multiple of 16 and 8, that calls
    /// `callback`.
    fn emit(&mut self, size: u32, callback: extern "C" fn()) {
        self.deregister();
        let mut code = vec![0x48, 0x81, 0xec]; // sub $size,%rsp
        code.extend(size.to_le_bytes());
        code.extend([0x48, 0xb8]); // mov $callback,%rax
        code.extend((callback as *const () as usize).to_le_bytes());
        code.extend([0xff, 0xd0, 0x48, 0x81, 0xc4]); // call *%rax; add $size,%rsp
        code.extend(size.to_le_bytes());
        code.push(0xc3); // ret
        // SAFETY: the page is this long, and nothing runs there.
        unsafe { self.page.copy_from_nonoverlapping(code.as_ptr(), code.len()) };
    }

    /// Registers a table for it: the rule after its first instruction is `instructions` (DWARF's
    /// `DW_CFA_…`).
    fn register(&mut self, instructions: &[u8]) {
        let mut table = Vec::new();
        let common = [1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1, 0, 0, 0, 0, 0, 0];
        table.extend((common.len() as u32 + 4).to_le_bytes());
        table.extend([0; 4]);
        table.extend(common);
        let own = table.len();
        table.extend([0; 4]);
        table.extend((own as u32 + 4).to_le_bytes());
        table.extend(self.page.addr().to_le_bytes());
        table.extend(64_usize.to_le_bytes());
        table.push(0x47); // DW_CFA_advance_loc 7: behind the first instruction
        table.extend(instructions);
        table.resize(table.len().next_multiple_of(8) + 4, 0);
        let length = table.len() - own - 4;
        table[own..own + 4].copy_from_slice(&(length as u32).to_le_bytes());
        table.extend([0; 4]);
        self.table.fill(0);
        self.table[..table.len()].copy_from_slice(&table);
        // SAFETY: a table in the form of .eh_frame, which stays until it is deregistered.
        unsafe { __register_frame(self.table.as_mut_ptr()) };
        self.registered = true;
    }

    /// Registers a table that gives the frame `size` bytes.
    fn register_size(&mut self, size: u32) {
        let mut offset = size + 8;
        let mut instructions = vec![0x0e]; // DW_CFA_def_cfa_offset
        while offset >= 0x80 {
            instructions.push(offset as u8 | 0x80);
            offset >>= 7;
        }
        instructions.push(offset as u8);
        self.register(&instructions);
    }

    fn deregister(&mut self) {
        if std::mem::take(&mut self.registered) {
            // SAFETY: it was registered.
            unsafe { __deregister_frame(self.table.as_mut_ptr()) };
        }
    }

    /// Runs it on a thread of its own.
    fn run(&self) {
        let code = self.page.addr();
        common::on_a_thread(move || {
            // SAFETY: a function of this type was generated there.
            let code = unsafe { std::mem::transmute::<*const c_void, extern "C" fn()>(code as *const c_void) };
            code();
            std::hint::black_box(0);
        });
    }
}

static ANSWER: AtomicI32 = AtomicI32::new(0);
static ENDED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn arms() {
    let armed = exeunt::set("k", 5).and_then(|()| exeunt::at_exit(|| _ = ENDED.fetch_add(1, Ordering::SeqCst)));
    let answer = match armed {
        Ok(()) => exeunt::get::<i32>(&"k").unwrap_or(-1),
        Err(error) => {
            assert!(error.to_string().contains("unwind") || error.to_string().contains("unwound"), "{error}");
            0
        }
    };
    ANSWER.store(answer, Ordering::SeqCst);
}

/// Whether a thread could be armed with the code among its outer frames. Its handler must have run
/// if so, and not otherwise.
#[track_caller]
fn is_armed(code: &Code) -> bool {
    let before = ENDED.load(Ordering::SeqCst);
    ANSWER.store(-2, Ordering::SeqCst);
    code.run();
    let (answer, ended) = (ANSWER.load(Ordering::SeqCst), ENDED.load(Ordering::SeqCst) - before);
    assert!([(0, 0), (5, 1)].contains(&(answer, ended)), "{answer}, and {ended} handlers");
    answer == 5
}

#[test]
fn code_that_is_generated_anew_at_the_same_address_is_walked_by_its_new_table() {
    common::process::alone("code_that_is_generated_anew_at_the_same_address_is_walked_by_its_new_table", || {
        let mut code = Code::new();
        code.emit(0x28, arms);
        assert!(!is_armed(&code), "without a table");
        for size in [0x28, 0x68, 0x28, 0xa8, 0x128] {
            code.emit(size, arms);
            code.register_size(size);
            assert!(is_armed(&code) && is_armed(&code), "{size:#x} with a table");
        }
        code.emit(0x28, arms);
        assert!(!is_armed(&code), "without a table again");
    });
}

static SEEN: AtomicI32 = AtomicI32::new(0);

extern "C" fn reads() {
    SEEN.store(exeunt::get::<i32>(&"k").map_or(0, |value| value), Ordering::SeqCst);
    assert_eq!(exeunt::tag::current(), None);
}

#[test]
fn a_table_that_no_unwinder_can_read_is_refused_without_a_crash() {
    common::process::alone("a_table_that_no_unwinder_can_read_is_refused_without_a_crash", || {
        exeunt::set("k", 1).expect("this thread can be armed");
        let mut code = Code::new();
        // Instructions that no version of DWARF has; an expression of such an operation; one that
        // reads an unmapped address; an endless loop; and a register that does not exist.
        let tables: [&[u8]; 5] = [
            &[0x3c, 0x3d, 0x3f],
            &[0x0f, 1, 0xdf],
            &[0x0f, 3, 0x08, 0x10, 0x06],
            &[0x0f, 3, 0x2f, 0xfd, 0xff],
            &[0x0c, 0x7f, 8],
        ];
        for table in tables {
            code.emit(0x28, arms);
            code.register(table);
            assert!(!is_armed(&code), "{table:x?}");
            code.emit(0x28, reads);
            code.register(table);
            SEEN.store(-1, Ordering::SeqCst);
            code.run();
            assert_eq!(SEEN.load(Ordering::SeqCst), 0, "{table:x?}");
        }
    });
}

#[test]
fn rules_of_every_form_are_followed() {
    common::process::alone("rules_of_every_form_are_followed", || {
        let mut code = Code::new();
        // The frame of 0x28 bytes, given by an expression (DW_OP_breg7 0x30). The return address is
        // given by another expression (DW_OP_breg7 0x28), by a computed value (DW_OP_breg7 0x28,
        // DW_OP_deref), and by an offset of the usual form.
        let cfa: &[u8] = &[0x0f, 2, 0x77, 0x30];
        let returns: [&[u8]; 3] = [&[0x10, 0x10, 2, 0x77, 0x28], &[0x16, 0x10, 3, 0x77, 0x28, 0x06], &[0x90, 1]];
        for at in returns {
            code.emit(0x28, arms);
            code.register(&[cfa, at].concat());
            // Where the table does not say that the return address is stored, it is no foot that
            // could be redirected, but a frame like any other.
            assert!(is_armed(&code), "{at:x?}");
        }
    });
}
