//! Names for addresses: which mapping, which object, which symbol.

use exeunt::Stack;
use std::ops::Range;
use std::path::Path;

/// One line of `/proc/self/maps`.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub range: Range<usize>,
    pub executable: bool,
    /// What the kernel says it is of: a file, or a word like `[heap]`; empty if it says nothing.
    pub what: String,
    offset: usize,
}

/// The memory map of this process, as it was when it was read.
pub struct Places {
    mappings: Vec<Mapping>,
}

impl Places {
    pub fn read() -> Self {
        let text = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Self { mappings: text.lines().filter_map(parse).collect() }
    }

    /// The mapping that `address` lies in.
    pub fn mapping(&self, address: usize) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| mapping.range.contains(&address))
    }

    /// The file that `address` is of, and its distance from where that file is loaded: what `objdump` calls its address.
    pub fn in_file(&self, address: usize) -> Option<(&str, usize)> {
        let mapping = self.mapping(address).filter(|mapping| mapping.what.starts_with('/'))?;
        let first = self.mappings.iter().find(|other| other.what == mapping.what && other.offset == 0)?;
        Some((&mapping.what, address.checked_sub(first.range.start)?))
    }

    /// The same in short: `libc.so.6+0x891f5`.
    pub fn in_short(&self, address: usize) -> Option<String> {
        let (file, distance) = self.in_file(address)?;
        let name = Path::new(file).file_name()?.to_string_lossy();
        Some(format!("{name}+{distance:#x}"))
    }

    /// What a word of `stack` points to, if anything.
    pub fn pointed_to(&self, word: usize, stack: &Stack) -> String {
        if let Some(found) = self.direct(word, stack) {
            return found;
        }
        let plain = without_signature(word);
        if plain != word && self.mapping(plain).is_some_and(|mapping| mapping.executable) {
            return self.direct(plain, stack).map_or_else(String::new, |found| format!("{found}, signed"));
        }
        if word == 0 { "zero".to_owned() } else { "no address".to_owned() }
    }

    fn direct(&self, word: usize, stack: &Stack) -> Option<String> {
        if stack.bounds().is_some_and(|bounds| bounds.contains(&word)) {
            return Some("this stack".to_owned());
        }
        let mapping = self.mapping(word)?;
        if mapping.executable {
            let recognised = stack.foot().filter(|foot| foot.original == word).map(|foot| foot.trampoline.clone());
            let name = recognised.or_else(|| symbol(word));
            return match (name, self.in_short(word)) {
                (Some(name), Some(place)) => Some(format!("{name} ({place})")),
                (name, place) => name.or(place),
            };
        }
        Some(match mapping.what.as_str() {
            "" => "other memory".to_owned(),
            "[heap]" => "the heap".to_owned(),
            "[stack]" => "the main thread's stack".to_owned(),
            _ => format!("data of {}", self.in_short(word).unwrap_or_else(|| mapping.what.clone())),
        })
    }
}

fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let offset = fields.next()?;
    let what = fields.nth(2).unwrap_or_default();
    Some(Mapping {
        range: usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?,
        executable: permissions.contains('x'),
        what: what.to_owned(),
        offset: usize::from_str_radix(offset, 16).ok()?,
    })
}

/// The address in a return address that may be signed. The signature is in the bits that addresses do not use, of which
/// Linux on aarch64 gives 48 to a process.
pub fn without_signature(word: usize) -> usize {
    if cfg!(target_arch = "aarch64") { word & ((1 << 48) - 1) } else { word }
}

/// The function that a code address is of: by debug information, symbol table, or what its object exports.
///
/// A return address can be the first one behind its function, where a call that never returns was the last instruction.
/// But far more often a function's first address is a pointer to that function.
pub fn symbol(address: usize) -> Option<String> {
    let (before, at) = (before(address), before(address + 1));
    if at != before { at.or(before) } else { before }
}

/// The function that the byte before `address` is of: `backtrace` takes what it is given for a return address.
fn before(address: usize) -> Option<String> {
    let mut name = None;
    // The last one is the function itself, those before it were inlined into it.
    backtrace::resolve(address as *mut _, |symbol| name = symbol.name().map(|symbol| format!("{symbol:#}")));
    name
}
