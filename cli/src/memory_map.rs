//! The mappings of a process, and, for this process, names for addresses: mapping, file, symbol.

use exeunt::Stack;
use std::ops::Range;
use std::path::Path;

/// One line of `/proc/PID/maps`.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub range: Range<usize>,
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "for the anatomy"))]
    pub readable: bool,
    pub executable: bool,
    /// Where in its file it begins.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "for the anatomy"))]
    pub offset: usize,
    /// The kernel's name for it: a file, or a word like `[heap]`; empty if it has none.
    pub what: String,
}

/// The memory map of a process at the moment when it was read.
pub struct MemoryMap {
    mappings: Vec<Mapping>,
}

impl MemoryMap {
    pub fn read() -> Self {
        Self::of("self").unwrap_or_else(|_| Self { mappings: Vec::new() })
    }

    /// The memory map of another process, by its number.
    pub fn of(process: &str) -> std::io::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{process}/maps"))?;
        Ok(Self { mappings: text.lines().filter_map(parse).collect() })
    }

    /// All mappings, in the order of their addresses.
    #[cfg(target_os = "linux")]
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The mapping that `address` lies in.
    pub fn mapping(&self, address: usize) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| mapping.range.contains(&address))
    }

    /// The file that `address` belongs to, and the distance from where that file is loaded, which
    /// `objdump` shows as the address.
    pub fn in_file(&self, address: usize) -> Option<(&str, usize)> {
        let mapping = self.mapping(address).filter(|mapping| mapping.what.starts_with('/'))?;
        Some((&mapping.what, address.checked_sub(load_bias(address)?)?))
    }

    /// The same in short form: `libc.so.6+0x891f5`.
    pub fn in_short(&self, address: usize) -> Option<String> {
        let (file, distance) = self.in_file(address)?;
        let name = Path::new(file).file_name()?.to_string_lossy();
        Some(format!("{name}+{distance:#x}"))
    }

    /// A description of what a word of `stack` points to.
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

/// The difference between the addresses in the file that holds `address` and those in memory,
/// according to the dynamic linker.
///
/// The list of mappings does not show which of them the linker made: a reader of debug information
/// maps the same file once more at another address.
#[cfg(target_os = "linux")]
fn load_bias(address: usize) -> Option<usize> {
    struct Search {
        address: usize,
        bias: Option<usize>,
    }

    unsafe extern "C" fn visit(
        object: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        search: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: `dl_iterate_phdr` passes a loaded object, and the `Search` below.
        let (object, search) = unsafe { (&*object, &mut *search.cast::<Search>()) };
        let bias = object.dlpi_addr as usize;
        // SAFETY: the object's table of segments has `dlpi_phnum` entries.
        let mut segments = (0..object.dlpi_phnum.into()).map(|at: usize| unsafe { &*object.dlpi_phdr.add(at) });
        let holds = segments.any(|segment| {
            let start = bias.wrapping_add(segment.p_vaddr as usize);
            segment.p_type == libc::PT_LOAD && search.address.wrapping_sub(start) < segment.p_memsz as usize
        });
        if holds {
            search.bias = Some(bias);
        }
        holds.into()
    }

    let mut search = Search { address, bias: None };
    // SAFETY: the function has the right type, and `search` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.bias
}

/// `MemoryMap::read` finds no list of mappings on this system either.
#[cfg(not(target_os = "linux"))]
fn load_bias(_address: usize) -> Option<usize> {
    None
}

fn parse(line: &str) -> Option<Mapping> {
    // Addresses, permissions, offset, device, inode, and the name, before which there are spaces. A
    // file's name can have spaces too.
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let offset = fields.next()?;
    let what = fields.nth(2).unwrap_or_default().trim_start();
    Some(Mapping {
        range: usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?,
        readable: permissions.starts_with('r'),
        executable: permissions.contains('x'),
        offset: usize::from_str_radix(offset, 16).ok()?,
        what: what.to_owned(),
    })
}

/// A return address without its signature, if it has one. The signature is in the bits that
/// addresses do not use; Linux on aarch64 uses 48 bits for a process's addresses.
pub fn without_signature(word: usize) -> usize {
    if cfg!(target_arch = "aarch64") { word & ((1 << 48) - 1) } else { word }
}

/// The function that a code address belongs to, by debug information, symbol table, or its object's
/// exports.
///
/// A return address can be the first address behind its function, if the last instruction was a
/// call that never returns. But far more often such an address is a pointer to the function that
/// begins there.
pub fn symbol(address: usize) -> Option<String> {
    let (before, at) = (before(address), before(address + 1));
    if at != before { at.or(before) } else { before }
}

/// The function of the byte before `address`, because `backtrace` treats its argument as a return
/// address.
fn before(address: usize) -> Option<String> {
    let mut name = None;
    // The last symbol is the function itself; the ones before were inlined into it.
    backtrace::resolve(address as *mut _, |symbol| name = symbol.name().map(|symbol| format!("{symbol:#}")));
    name
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{MemoryMap, load_bias};
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn an_address_in_a_library_is_relative_to_where_the_loader_put_it_even_if_the_file_is_mapped_twice() {
        let exit = libc::exit as *const () as usize;
        // SAFETY: a query.
        let base = unsafe {
            let mut info: libc::Dl_info = std::mem::zeroed();
            assert_ne!(libc::dladdr(exit as *const libc::c_void, &raw mut info), 0);
            info.dli_fbase.addr()
        };
        let file = MemoryMap::read().in_file(exit).map(|(file, _)| file.to_owned()).expect("libc is a file");
        let opened = File::open(&file).expect("libc can be read");
        // Below the loader's mapping of it, so that the list of mappings has this one first.
        let below = (1..4096).map(|step| base - step * 0x10000).find(|&place| {
            let flags = libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE;
            // SAFETY: a new mapping on free addresses.
            let mapped = unsafe { libc::mmap(place as *mut _, 4096, libc::PROT_READ, flags, opened.as_raw_fd(), 0) };
            mapped.addr() == place
        });
        assert!(below.is_some(), "there is room below libc");
        let again = MemoryMap::read();
        assert_eq!(again.in_file(exit), Some((file.as_str(), exit - base)));
        assert_eq!(again.mapping(below.unwrap_or(0)).map(|mapping| mapping.what.as_str()), Some(file.as_str()));
        // The loader did not make the second mapping, so there is no distance for it.
        assert_eq!(below.and_then(load_bias), None);
    }
}
