//! A process whose stacks are drawn: its mappings, its files, its memory.

use crate::memory_map::{Mapping, MemoryMap};
use std::ops::Range;
use std::path::PathBuf;

pub const WORD: usize = size_of::<usize>();

/// A process, this one or another.
pub struct Process {
    pub map: MemoryMap,
    /// Its number, if it is another process.
    pub other: Option<libc::pid_t>,
}

impl Process {
    pub fn own() -> Self {
        Self { map: MemoryMap::read(), other: None }
    }

    pub fn other(number: libc::pid_t) -> std::io::Result<Self> {
        Ok(Self { map: MemoryMap::of(&number.to_string())?, other: Some(number) })
    }

    /// The words of a range, or as many as can be read from its start; `None` if none can.
    pub fn words(&self, range: Range<usize>) -> Option<Vec<usize>> {
        let mapping = self.map.mapping(range.start).filter(|mapping| mapping.readable)?;
        let count = (range.end.min(mapping.range.end) - range.start) / WORD;
        let mut words = vec![0_usize; count];
        match self.other {
            None => {
                for (at, word) in words.iter_mut().enumerate() {
                    // SAFETY: a word of a readable mapping of this process. The stacks that are
                    // read belong to threads that wait, and exeunt unmaps nothing meanwhile.
                    *word = unsafe { ((range.start + at * WORD) as *const usize).read_unaligned() };
                }
            }
            Some(number) => {
                let size = count * WORD;
                let here = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size };
                let there = libc::iovec { iov_base: range.start as *mut _, iov_len: size };
                // SAFETY: the kernel fills at most `size` bytes of the vector, which has that many,
                // and checks the other process's addresses.
                let read = unsafe { libc::process_vm_readv(number, &raw const here, 1, &raw const there, 1, 0) };
                words.truncate(usize::try_from(read).ok()? / WORD);
            }
        }
        (!words.is_empty()).then_some(words)
    }

    pub fn word(&self, address: usize) -> Option<usize> {
        self.words(address..address.checked_add(WORD)?)?.first().copied()
    }

    /// Where to open the file of a mapping: the process may have another root directory.
    pub fn files(&self, mapping: &Mapping) -> Option<PathBuf> {
        let Some(number) = self.other else { return Some(mapping.what.clone().into()) };
        let range = &mapping.range;
        let places = [
            format!("/proc/{number}/map_files/{:x}-{:x}", range.start, range.end),
            format!("/proc/{number}/root{}", mapping.what),
            mapping.what.clone(),
        ];
        places.into_iter().map(PathBuf::from).find(|path| std::fs::File::open(path).is_ok())
    }
}

/// The memory of a process with the words of one stack as they were when they were copied.
pub struct Memory<'p> {
    pub process: &'p Process,
    pub start: usize,
    pub words: &'p [usize],
}

impl Memory<'_> {
    pub fn word(&self, address: usize) -> Option<usize> {
        let at = address.wrapping_sub(self.start);
        let copied = at.is_multiple_of(WORD).then(|| self.words.get(at / WORD)).flatten();
        copied.copied().or_else(|| self.process.word(address))
    }
}
