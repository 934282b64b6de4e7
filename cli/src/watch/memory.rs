//! Files without names: the memory that is shared with the watched program, and the preload library.
//!
//! The program opens them as `/proc/PROCESS/fd/DESCRIPTOR` of this process. So it inherits no
//! descriptor, and nothing is left on a disk.

use super::table::{BIRTHS_AT, Births, Table};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};

/// A file without a name.
fn unnamed(name: &CStr) -> io::Result<File> {
    // glibc has a function for this since 2.27. SAFETY: the name ends with a zero.
    let descriptor = unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), libc::MFD_CLOEXEC) };
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nothing else owns it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// The path by which another process opens a file of this one.
pub fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// What the library finds the table by: `table::VARIABLE`.
pub fn place(file: &File) -> String {
    format!("{}:{}", std::process::id(), file.as_raw_fd())
}

/// The preload library as a file.
pub fn library(bytes: &[u8]) -> io::Result<File> {
    let mut file = unnamed(c"exeunt-watch")?;
    file.write_all(bytes)?;
    Ok(file)
}

/// The shared table, all zeros, and what follows it.
pub fn table() -> io::Result<(File, &'static Table, &'static Births)> {
    let file = unnamed(c"exeunt-watch-table")?;
    let (table, births) = table_in(&file)?;
    Ok((file, table, births))
}

/// The same in an empty file.
pub fn table_in(file: &File) -> io::Result<(&'static Table, &'static Births)> {
    file.set_len((BIRTHS_AT + size_of::<Births>()) as u64)?;
    Ok((map::<Table>(file, 0)?, map::<Births>(file, BIRTHS_AT)?))
}

/// A part of the file as a value of atomics.
fn map<T>(file: &File, from: usize) -> io::Result<&'static T> {
    // SAFETY: a new mapping of a file that has the size.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size_of::<T>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            from as libc::off_t,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping has the type's size, is aligned to pages and is never unmapped. `T` is
    // `Table` or `Births`: any bytes are valid for their atomics.
    Ok(unsafe { &*memory.cast::<T>() })
}
