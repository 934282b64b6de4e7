//! The code that is put into the process, and the page of data beside it.
//!
//! The borrowed thread runs `exeunt_attach_begin`, which starts a thread and returns: it waits for no
//! lock of the dynamic linker's. The new thread does the rest. It opens two files without names,
//! since the process may have no right to open this command's, and waits until the command has
//! filled them; not for ever, as the command may be killed. The program may close their descriptors
//! and get the numbers for files of its own, so each use of a number is preceded by a comparison.

use std::mem::offset_of;

/// The stub's data. The process has it at the second page.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Data {
    /// Functions of the process's C library.
    pub functions: [u64; FUNCTIONS.len()],
    pub thread: u64,
    /// The signals that the new thread blocks.
    pub blocked: u64,
    /// What `pthread_create` has returned, or -1.
    pub created: i32,
    /// Descriptors, or what is below 0.
    pub library: i32,
    pub table: i32,
    /// One of `state`, by the new thread.
    pub state: u32,
    /// One of `go`, by the command.
    pub go: u32,
    pub _pad: u32,
    /// The library's function, if the library is loaded already.
    pub attach: u64,
    pub library_name: [u8; 32],
    pub table_name: [u8; 32],
    /// What `dlopen` gets.
    pub path: [u8; 64],
    pub symbol: [u8; 32],
    pub error: [u8; 256],
    /// `struct stat` of both files when they were made, and of what is compared.
    pub library_file: FileStatus,
    pub table_file: FileStatus,
    pub file: FileStatus,
}

/// `struct stat`, which begins with the file's device and number.
type FileStatus = [u64; 18];

const _: () = assert!(size_of::<FileStatus>() == size_of::<libc::stat>() && size_of::<Data>() <= 4096);
const _: () = assert!(offset_of!(libc::stat, st_dev) == 0 && offset_of!(libc::stat, st_ino) == 8);

pub mod state {
    // 1: the descriptors are there.
    /// The library's function runs.
    pub const LOADED: u32 = 2;
    /// `Data::error` says why not.
    pub const FAILED: u32 = 3;
}

pub mod go {
    /// The files are complete.
    pub const ON: u32 = 1;
    /// Leave.
    pub const BACK: u32 = 2;
}

pub const FUNCTIONS: [&std::ffi::CStr; 9] = [
    c"pthread_create",
    c"pthread_self",
    c"pthread_detach",
    c"syscall",
    c"usleep",
    c"dlopen",
    c"dlsym",
    c"dlerror",
    c"close",
];

/// The name of the library in the list of mappings.
pub const LIBRARY_NAME: &str = "exeunt-watch";
pub const TABLE_NAME: &str = "exeunt-watch-table";
/// The library's function.
pub const SYMBOL: &str = "exeunt_watch_attach";

std::arch::global_asm!(
    ".pushsection .rodata.exeunt_attach, \"a\", @progbits",
    // The code that copies this can be in another object file of this program.
    ".globl exeunt_attach_begin",
    ".hidden exeunt_attach_begin",
    ".globl exeunt_attach_end",
    ".hidden exeunt_attach_end",
    "exeunt_attach_begin:",
    "endbr64",
    "push rbx",
    "mov rbx, rdi",
    "lea rdi, [rbx + {thread}]",
    "xor esi, esi",
    "lea rdx, [rip + exeunt_attach_thread]",
    "mov rcx, rbx",
    "call [rbx + 0]",
    "mov [rbx + {created}], eax",
    "pop rbx",
    "ret",
    "exeunt_attach_thread:",
    "endbr64",
    "push rbx",
    "push r12",
    "push r13",
    "mov rbx, rdi",
    // SYS_rt_sigprocmask, SIG_SETMASK: libc's function would leave out libc's signals.
    "mov edi, 14",
    "mov esi, 2",
    "lea rdx, [rbx + {blocked}]",
    "xor ecx, ecx",
    "mov r8d, 8",
    "xor eax, eax",
    "call [rbx + 24]",
    // SYS_prctl, PR_SET_NAME: by it the library knows this thread as none of the program's.
    "mov edi, 157",
    "mov esi, 15",
    "lea rdx, [rbx + {library_name}]",
    "xor eax, eax",
    "call [rbx + 24]",
    "call [rbx + 8]",
    "mov rdi, rax",
    "call [rbx + 16]",
    // SYS_memfd_create, with MFD_CLOEXEC.
    "mov edi, 319",
    "lea rsi, [rbx + {library_name}]",
    "mov edx, 1",
    "xor eax, eax",
    "call [rbx + 24]",
    "mov [rbx + {library}], eax",
    "mov esi, eax",
    "lea rdx, [rbx + {library_file}]",
    "call exeunt_attach_status",
    "mov edi, 319",
    "lea rsi, [rbx + {table_name}]",
    "mov edx, 1",
    "xor eax, eax",
    "call [rbx + 24]",
    "mov [rbx + {table}], eax",
    "mov esi, eax",
    "lea rdx, [rbx + {table_file}]",
    "call exeunt_attach_status",
    "mov dword ptr [rbx + {state}], 1",
    // 10 s.
    "mov r12d, 10000",
    "2:",
    "cmp dword ptr [rbx + {go}], 0",
    "jne 3f",
    "mov edi, 1000",
    "call [rbx + 32]",
    "dec r12d",
    "jnz 2b",
    "jmp 6f",
    "3:",
    "cmp dword ptr [rbx + {go}], 1",
    "jne 6f",
    "mov rax, [rbx + {attach}]",
    "test rax, rax",
    "jz 22f",
    // The thread of a command that was killed may be loading it still: `dlopen` of no name waits for
    // the dynamic linker's lock.
    "xor edi, edi",
    "mov esi, 2",
    "call [rbx + 40]",
    "mov rax, [rbx + {attach}]",
    "jmp 4f",
    "22:",
    "mov esi, [rbx + {library}]",
    "lea r12, [rbx + {library_file}]",
    "call exeunt_attach_is_same",
    "jne 8f",
    "lea rdi, [rbx + {path}]",
    // RTLD_NOW.
    "mov esi, 2",
    "call [rbx + 40]",
    "test rax, rax",
    "jz 5f",
    "mov rdi, rax",
    "lea rsi, [rbx + {symbol}]",
    "call [rbx + 48]",
    "test rax, rax",
    "jz 5f",
    "4:",
    "mov r13, rax",
    "mov esi, [rbx + {table}]",
    "lea r12, [rbx + {table_file}]",
    "call exeunt_attach_is_same",
    "jne 8f",
    "mov esi, [rbx + {library}]",
    "lea r12, [rbx + {library_file}]",
    "call exeunt_attach_close",
    "mov dword ptr [rbx + {state}], 2",
    "mov edi, [rbx + {table}]",
    "lea rsi, [rip + exeunt_attach_thread]",
    "mov rdx, rbx",
    "call r13",
    "jmp 9f",
    // The reason, of at most 255 bytes.
    "5:",
    "call [rbx + 56]",
    "test rax, rax",
    "jz 8f",
    "xor ecx, ecx",
    "7:",
    "mov dl, [rax + rcx]",
    "mov [rbx + rcx + {error}], dl",
    "test dl, dl",
    "jz 8f",
    "inc ecx",
    "cmp ecx, 255",
    "jb 7b",
    "8:",
    "mov dword ptr [rbx + {state}], 3",
    "6:",
    "mov esi, [rbx + {library}]",
    "lea r12, [rbx + {library_file}]",
    "call exeunt_attach_close",
    "mov esi, [rbx + {table}]",
    "lea r12, [rbx + {table_file}]",
    "call exeunt_attach_close",
    "9:",
    "xor eax, eax",
    "pop r13",
    "pop r12",
    "pop rbx",
    "ret",
    // SYS_fstat, of the descriptor in esi, to rdx.
    "exeunt_attach_status:",
    "sub rsp, 8",
    "mov edi, 5",
    "xor eax, eax",
    "call [rbx + 24]",
    "add rsp, 8",
    "ret",
    // Whether the descriptor in esi is that of the file at r12: the zero flag.
    "exeunt_attach_is_same:",
    "sub rsp, 8",
    "lea rdx, [rbx + {file}]",
    "call exeunt_attach_status",
    "add rsp, 8",
    "test rax, rax",
    "jnz 2f",
    "mov rax, [rbx + {file}]",
    "cmp rax, [r12]",
    "jne 2f",
    "mov rax, [rbx + {file} + 8]",
    "cmp rax, [r12 + 8]",
    "2:",
    "ret",
    // Closes the descriptor in esi if it is.
    "exeunt_attach_close:",
    "push rsi",
    "call exeunt_attach_is_same",
    "pop rdi",
    "jne 2f",
    "sub rsp, 8",
    "call [rbx + 64]",
    "add rsp, 8",
    "2:",
    "ret",
    "exeunt_attach_end:",
    ".popsection",
    thread = const offset_of!(Data, thread),
    blocked = const offset_of!(Data, blocked),
    created = const offset_of!(Data, created),
    library_name = const offset_of!(Data, library_name),
    library = const offset_of!(Data, library),
    table_name = const offset_of!(Data, table_name),
    table = const offset_of!(Data, table),
    state = const offset_of!(Data, state),
    go = const offset_of!(Data, go),
    attach = const offset_of!(Data, attach),
    path = const offset_of!(Data, path),
    symbol = const offset_of!(Data, symbol),
    error = const offset_of!(Data, error),
    library_file = const offset_of!(Data, library_file),
    table_file = const offset_of!(Data, table_file),
    file = const offset_of!(Data, file),
);

/// The code, which begins with what the borrowed thread runs.
pub fn code() -> &'static [u8] {
    unsafe extern "C" {
        static exeunt_attach_begin: u8;
        static exeunt_attach_end: u8;
    }
    let (begin, end) = (&raw const exeunt_attach_begin, &raw const exeunt_attach_end);
    // SAFETY: the bytes between two labels of the block above, in one section that nothing changes.
    unsafe { std::slice::from_raw_parts(begin, end.addr() - begin.addr()) }
}

impl Data {
    pub fn new(functions: [u64; FUNCTIONS.len()]) -> Self {
        fn text<const N: usize>(text: &str) -> [u8; N] {
            let mut bytes = [0; N];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            bytes
        }
        Self {
            functions,
            thread: 0,
            // All but the two that are libc's own, as in each thread of the process: 32 and 33.
            blocked: !(3 << 31),
            created: -1,
            library: -1,
            table: -1,
            state: 0,
            go: 0,
            _pad: 0,
            attach: 0,
            library_name: text(LIBRARY_NAME),
            table_name: text(TABLE_NAME),
            path: [0; 64],
            symbol: text(SYMBOL),
            // Unless the dynamic linker says another reason.
            error: text("the program has closed the descriptor of exeunt's file"),
            library_file: [0; 18],
            table_file: [0; 18],
            file: [0; 18],
        }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: integers and arrays of them, without padding between them.
        unsafe { std::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }
}
