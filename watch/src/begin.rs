//! Finds the shared memory when the library is loaded, and leaves the program's environment as it
//! would be without it.

use crate::table::{BIRTHS_AT, Births, Table, VARIABLE, flag, state};
use crate::{life, shared};
use std::ffi::{CStr, c_char, c_int};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::{Relaxed, Release};

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) = begin;

/// glibc passes `main`'s arguments to each function of `.init_array`.
extern "C" fn begin(_: c_int, _: *mut *mut c_char, environment: *mut *mut c_char) {
    shared::keeping_errno(|| find_table(environment));
}

fn find_table(environment: *mut *mut c_char) {
    // SAFETY: libc's list, which ends with a null, before any code of the program runs.
    let Some((_, place)) = (unsafe { find(environment, VARIABLE) }) else { return };
    let file = place.split_once(':').and_then(|(process, descriptor)| open(process, descriptor));
    let table = file.as_ref().and_then(|file| map::<Table>(file, 0));
    if table.is_none_or(|table| table.follow.load(Relaxed) == 0) {
        // SAFETY: as above. The command put this library's path, and a colon if more follow, in
        // front.
        unsafe {
            take(environment, VARIABLE);
            restore(environment);
        }
    }
    let (Some(file), Some(table)) = (file, table) else { return };
    let births = if table.backtraces.load(Relaxed) == 1 { map::<Births>(&file, BIRTHS_AT) } else { None };
    let process = std::process::id();
    let is_first = table.process.compare_exchange(0, process, Relaxed, Relaxed).is_ok();
    if !is_first && table.follow.load(Relaxed) == 0 {
        return;
    }
    // A program that this process was before has left its rows.
    let used = (table.rows_used.load(Relaxed) as usize).min(table.rows.len());
    for row in table.rows[..used].iter().filter(|row| row.process.load(Relaxed) == process) {
        let lives = matches!(row.state.load(Relaxed), state::ALIVE | state::BORN);
        if lives && row.flags.load(Relaxed) & flag::REPLACED == 0 {
            row.ended.store(shared::now(), Relaxed);
            row.flags.fetch_or(flag::REPLACED, Release);
        }
    }
    life::watch();
    if is_first {
        table.began.store(shared::now(), Relaxed);
    }
    shared::set(table, births);
    life::find_files();
}

fn open(process: &str, descriptor: &str) -> Option<File> {
    OpenOptions::new().read(true).write(true).open(format!("/proc/{process}/fd/{descriptor}")).ok()
}

/// A part of the file as a value of atomics.
pub fn map<T>(file: &File, from: usize) -> Option<&'static T> {
    if file.metadata().ok()?.len() < (from + size_of::<T>()) as u64 {
        return None;
    }
    // SAFETY: a new mapping of a file that the command does not shorten. The advice keeps it out of
    // core files.
    let memory = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let from = libc::off_t::try_from(from).ok()?;
        let memory = libc::mmap(std::ptr::null_mut(), size_of::<T>(), protection, flags, file.as_raw_fd(), from);
        libc::madvise(memory, size_of::<T>(), libc::MADV_DONTDUMP);
        memory
    };
    // SAFETY: the mapping has the type's size, is aligned to pages and is never unmapped. `T` is
    // `Table` or `Births`: any bytes are valid for their atomics.
    (memory != libc::MAP_FAILED).then(|| unsafe { &*memory.cast::<T>() })
}

/// Removes a variable from the list and returns its value.
///
/// # Safety
/// `list` is an environment that nothing else changes meanwhile.
unsafe fn take(list: *mut *mut c_char, name: &str) -> Option<String> {
    // SAFETY: by the contract.
    let (at, text) = unsafe { find(list, name)? };
    let mut to = at;
    loop {
        // SAFETY: `to` is an entry before the list's null, so the next one is in the list as well.
        unsafe {
            *to = *to.add(1);
            if (*to).is_null() {
                return Some(text);
            }
            to = to.add(1);
        }
    }
}

/// Removes the first of the paths in LD_PRELOAD, and the variable if none is left.
///
/// # Safety
/// As `take`.
unsafe fn restore(list: *mut *mut c_char) {
    const NAME: &str = "LD_PRELOAD";
    // SAFETY: by the contract.
    let Some((at, value)) = (unsafe { find(list, NAME) }) else { return };
    let Some((own, rest)) = value.split_once(':') else {
        // SAFETY: by the contract.
        unsafe { take(list, NAME) };
        return;
    };
    // In place, as the program may have the list already. SAFETY: the text is writable memory of
    // the process's initial stack, and what is moved to the front lies in it, with its zero.
    unsafe {
        let value_at = (*at).add(NAME.len() + 1);
        std::ptr::copy(value_at.add(own.len() + 1), value_at, rest.len() + 1);
    }
}

/// The entry of a variable, and its value.
///
/// # Safety
/// As `take`.
unsafe fn find(list: *mut *mut c_char, name: &str) -> Option<(*mut *mut c_char, String)> {
    let mut at = list;
    // SAFETY: by the contract `at` does not pass the null at the list's end, and each entry before
    // it is a text that ends with a zero.
    while !at.is_null() && unsafe { !(*at).is_null() } {
        // SAFETY: as above.
        let entry = unsafe { CStr::from_ptr(*at) }.to_str().ok();
        if let Some(value) = entry.and_then(|entry| entry.strip_prefix(name)?.strip_prefix('=')) {
            return Some((at, value.to_owned()));
        }
        // SAFETY: as above.
        at = unsafe { at.add(1) };
    }
    None
}
