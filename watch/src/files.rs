//! Which file an address of code lies in. The command turns addresses into names when the process is
//! gone, so each row says the file.

use crate::shared::table;
use crate::table::{FILES, File};
use std::ffi::{CStr, c_int, c_void};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The file's index plus 1, or 0 for code that lies in none (or when there are more than `FILES`).
pub fn of(address: usize) -> u32 {
    match known(address) {
        0 => find(address as u64).map_or(0, |file| add(&file)),
        known => known,
    }
}

/// The same for a file that is known already, else 0. It allocates nothing.
pub fn known(address: usize) -> u32 {
    let Some(table) = table() else { return 0 };
    let address = address as u64;
    let used = (table.files_used.load(Acquire) as usize).min(FILES);
    let known = table.files[..used].iter().rposition(|file| {
        file.known.load(Acquire) == 1 && (file.start.load(Relaxed)..file.end.load(Relaxed)).contains(&address)
    });
    known.map_or(0, |index| index as u32 + 1)
}

/// Whether code of this library is there. The first call allocates.
pub fn is_own(address: usize) -> bool {
    static OWN: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
    let mut own = [OWN[0].load(Relaxed), OWN[1].load(Relaxed)];
    if own.contains(&0) {
        let Some(found) = find(is_own as *const () as u64) else { return false };
        own = [found.start as usize, found.end as usize];
        OWN[0].store(own[0], Relaxed);
        OWN[1].store(own[1], Relaxed);
    }
    (own[0]..own[1]).contains(&address)
}

/// The memory of the file that an address lies in.
#[cfg(target_arch = "x86_64")]
pub fn range(address: usize) -> Option<std::ops::Range<usize>> {
    find(address as u64).map(|found| found.start as usize..found.end as usize)
}

struct Found {
    address: u64,
    start: u64,
    end: u64,
    base: u64,
    /// Of the dynamic linker's list; empty for the program itself.
    path: Vec<u8>,
}

fn find(address: u64) -> Option<Found> {
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, found: *mut c_void) -> c_int {
        // SAFETY: `find` passes a `Found` of its frame, and nothing else refers to it meanwhile.
        let found = unsafe { &mut *found.cast::<Found>() };
        // SAFETY: the dynamic linker passes a description that is valid during this call, with
        // `dlpi_phnum` program headers.
        let (base, name, headers) = unsafe {
            let info = &*info;
            (info.dlpi_addr, info.dlpi_name, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
        };
        let loaded = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        let ends = |header: &libc::Elf64_Phdr| base + header.p_vaddr + header.p_memsz;
        if !loaded().any(|header| (base + header.p_vaddr..ends(header)).contains(&found.address)) {
            return 0;
        }
        found.base = base;
        found.start = loaded().map(|header| base + header.p_vaddr).min().unwrap_or(0);
        found.end = loaded().map(ends).max().unwrap_or(0);
        if !name.is_null() {
            // SAFETY: a name of the dynamic linker's, which ends with a zero.
            found.path = unsafe { CStr::from_ptr(name) }.to_bytes().to_vec();
        }
        1
    }
    let mut found = Found { address, start: 0, end: 0, base: 0, path: Vec::new() };
    // SAFETY: `visit` takes the pointer as what it is.
    let stopped = unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
    (stopped == 1).then_some(found)
}

/// Adds all files that code lies in.
pub fn add_all() {
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, starts: *mut c_void) -> c_int {
        // SAFETY: `add_all` passes a list of its frame; the dynamic linker passes a description that
        // is valid during this call, with `dlpi_phnum` program headers.
        let (starts, base, headers) = unsafe {
            let info = &*info;
            let headers = std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
            (&mut *starts.cast::<Vec<usize>>(), info.dlpi_addr, headers)
        };
        let first = headers.iter().find(|header| header.p_type == libc::PT_LOAD);
        starts.extend(first.map(|header| (base + header.p_vaddr) as usize));
        0
    }
    let mut starts = Vec::<usize>::new();
    // SAFETY: `visit` takes the pointer as what it is.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut starts).cast()) };
    for start in starts {
        of(start);
    }
}

fn add(found: &Found) -> u32 {
    let Some(table) = table() else { return 0 };
    let index = table.files_used.fetch_add(1, Relaxed) as usize;
    let Some(file): Option<&File> = table.files.get(index) else {
        table.files_used.store(FILES as u32 + 1, Relaxed);
        return 0;
    };
    let program = if found.path.is_empty() { std::fs::read_link("/proc/self/exe").ok() } else { None };
    let program = program.map(|path| path.into_os_string().into_vec());
    file.path.store(program.as_ref().unwrap_or(&found.path));
    file.start.store(found.start, Relaxed);
    file.end.store(found.end, Relaxed);
    file.base.store(found.base, Relaxed);
    file.known.store(1, Release);
    index as u32 + 1
}
