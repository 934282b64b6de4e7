//! The files that are mapped in the child: names of their functions, and their unwind tables.

use super::debug_frame::DebugFrames;
use super::processor;
use super::result::Result;
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SegmentFlags, SymbolKind};
use std::ops::Range;
use std::path::Path;

/// The smallest page of memory.
const PAGE: u64 = 4096;

/// One line of `/proc/PID/maps`.
pub struct Mapping {
    pub range: Range<u64>,
    pub executable: bool,
    /// A file, a word such as `[heap]`, or nothing.
    pub what: String,
    offset: u64,
}

/// A file's contents that the film needs.
pub struct ObjectFile {
    pub name: String,
    /// Addresses in memory less those in the file.
    pub bias: u64,
    /// Data of `.eh_frame` and `.eh_frame_hdr`, each with its address in the file.
    pub eh_frame: (u64, Vec<u8>),
    pub eh_frame_hdr: (u64, Vec<u8>),
    pub text: u64,
    /// The table of files that have no `.eh_frame`: Go's.
    pub debug_frame: Option<DebugFrames>,
    /// Functions: address in the file, size, name as it is there. In order.
    symbols: Vec<(u64, u64, String)>,
}

impl ObjectFile {
    /// The symbol of the function at `address`.
    fn symbol(&self, address: u64) -> Option<&(u64, u64, String)> {
        let place = address.checked_sub(self.bias)?;
        let after = self.symbols.partition_point(|&(start, ..)| start <= place);
        let symbol = self.symbols.get(after.checked_sub(1)?)?;
        (place < symbol.0 + symbol.1.max(1)).then_some(symbol)
    }
}

/// The child's address space.
pub struct AddressSpace {
    process: i32,
    /// An emulator maps the process's code as data, since it translates it.
    is_emulated: bool,
    mappings: Vec<Mapping>,
    files: Vec<(Range<u64>, ObjectFile)>,
    /// Exit trampolines by the address that is returned to.
    trampolines: Vec<(u64, String)>,
}

impl AddressSpace {
    pub fn of(process: i32, is_emulated: bool, trampolines: Vec<(u64, String)>) -> Result<Self> {
        let mut space = Self { process, is_emulated, mappings: Vec::new(), files: Vec::new(), trampolines };
        space.read_mappings()?;
        for mapping in &space.mappings {
            if !mapping.executable || !mapping.what.starts_with('/') {
                continue;
            }
            if let Some(file) = read_file(mapping, is_emulated) {
                space.files.push((mapping.range.clone(), file));
            }
        }
        // Of the read-only mappings of files now only those are left that are code.
        space.read_mappings()?;
        Ok(space)
    }

    /// Reads the list of mappings anew: threads get stacks.
    pub fn read_mappings(&mut self) -> Result<()> {
        let text = std::fs::read_to_string(format!("/proc/{}/maps", self.process))?;
        self.mappings = text.lines().filter_map(|line| parse(line, self.is_emulated)).collect();
        if self.is_emulated && !self.files.is_empty() {
            for mapping in self.mappings.iter_mut().filter(|mapping| mapping.what.starts_with('/')) {
                mapping.executable = self.files.iter().any(|(range, _)| range.start == mapping.range.start);
            }
        }
        Ok(())
    }

    pub fn mapping(&self, address: u64) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| mapping.range.contains(&address))
    }

    /// Ranges that can hold records.
    pub fn data(&self) -> impl Iterator<Item = Range<u64>> {
        self.mappings
            .iter()
            .filter(|mapping| !mapping.executable && !mapping.what.starts_with("[v"))
            .map(|mapping| mapping.range.clone())
    }

    pub fn file(&self, address: u64) -> Option<&ObjectFile> {
        self.files.iter().find(|(range, _)| range.contains(&address)).map(|(_, file)| file)
    }

    /// The function at `address`: its name, and where it begins.
    pub fn function(&self, address: u64) -> Option<(String, u64)> {
        let file = self.file(address)?;
        let (start, _, name) = file.symbol(address)?;
        Some((shown(name), start + file.bias))
    }

    /// Where the function at `address` begins.
    pub fn beginning(&self, address: u64) -> Option<u64> {
        let file = self.file(address)?;
        Some(file.symbol(address)?.0 + file.bias)
    }

    /// `name+0x12`, by a symbol; by the exit trampoline; by the file.
    pub fn place(&self, address: u64) -> String {
        let with = |name: &str, distance: u64| {
            if distance == 0 { name.to_owned() } else { format!("{name}+{distance:#x}") }
        };
        if let Some((name, start)) = self.function(address) {
            return with(&name, address - start);
        }
        if let Some((at, name)) = self.trampolines.iter().find(|(at, _)| address.abs_diff(*at) < 0x80) {
            return match address.checked_sub(*at) {
                Some(0) => format!("{name}, behind its call"),
                Some(after) => format!("{name}, {after} bytes behind its call"),
                None => format!("{name}, {} bytes before the address behind its call", at - address),
            };
        }
        match self.file(address) {
            Some(file) => with(&file.name, address - file.bias),
            None if self.mapping(address).is_some_and(|mapping| mapping.executable) => {
                format!("code of no file, at {address:#x}")
            }
            None => format!("{address:#x}"),
        }
    }

    /// The function's name alone, for backtraces.
    pub fn name(&self, address: u64) -> String {
        if self.function(address).is_none()
            && let Some((_, name)) = self.trampolines.iter().find(|(at, _)| address.abs_diff(*at) < 0x80)
        {
            return name.clone();
        }
        match (self.function(address), self.file(address)) {
            (Some((name, _)), _) => name,
            (None, Some(file)) => format!("{}+{:#x}", file.name, address - file.bias),
            (None, None) => format!("{address:#x}"),
        }
    }
}

fn parse(line: &str, is_emulated: bool) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let what = fields.nth(2).unwrap_or_default();
    Some(Mapping {
        range: u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?,
        executable: if is_emulated { permissions.starts_with("r--") } else { permissions.contains('x') },
        what: what.to_owned(),
        offset,
    })
}

fn read_file(mapping: &Mapping, is_emulated: bool) -> Option<ObjectFile> {
    let bytes = std::fs::read(&mapping.what).ok()?;
    let file = object::File::parse(&*bytes).ok()?;
    if file.architecture() != processor::ARCHITECTURE {
        return None;
    }
    // The segment that the mapping is of. Its first and last page may have parts of other segments.
    let segment = file.segments().find(|segment| {
        let (offset, size) = segment.file_range();
        let flags = segment.flags();
        matches!(flags, SegmentFlags::Elf { p_flags } if p_flags & object::elf::PF_X != 0)
            && offset < mapping.offset + (mapping.range.end - mapping.range.start)
            && mapping.offset < offset + size
            && (!is_emulated || mapping.offset == offset & !(PAGE - 1))
    })?;
    let bias = mapping
        .range
        .start
        .wrapping_sub(mapping.offset)
        .wrapping_add(segment.file_range().0)
        .wrapping_sub(segment.address());
    let section = |name: &str| {
        let section = file.section_by_name(name)?;
        Some((section.address(), section.data().ok()?.to_vec()))
    };
    let mut symbols = symbols(&file);
    if let Some(debug) = debug_file(&file)
        && let Ok(debug) = object::File::parse(&*debug)
    {
        symbols.extend(self::symbols(&debug));
    }
    symbols.sort_unstable();
    // Of several names of one function the first one, and none of the local ones of assembly.
    symbols.dedup_by_key(|(start, ..)| *start);
    Some(ObjectFile {
        name: Path::new(&mapping.what).file_name()?.to_string_lossy().into_owned(),
        bias,
        eh_frame: section(".eh_frame").unwrap_or_default(),
        eh_frame_hdr: section(".eh_frame_hdr").unwrap_or_default(),
        text: file.section_by_name(".text").map_or(0, |section| section.address()),
        debug_frame: file
            .section_by_name(".debug_frame")
            .filter(|_| file.section_by_name(".eh_frame").is_none())
            .and_then(|section| DebugFrames::of(&section.uncompressed_data().ok()?)),
        symbols,
    })
}

/// The functions of a file: address, size, name.
fn symbols(file: &object::File<'_>) -> Vec<(u64, u64, String)> {
    file.symbols()
        .chain(file.dynamic_symbols())
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .filter_map(|symbol| Some((symbol.address(), symbol.size(), symbol.name().ok()?.to_owned())))
        .collect()
}

/// The separate file with a library's symbols, where distributions put it.
fn debug_file(file: &object::File<'_>) -> Option<Vec<u8>> {
    let id = file.build_id().ok()??;
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (folder, name) = hex.split_at_checked(2)?;
    std::fs::read(format!("/usr/lib/debug/.build-id/{folder}/{name}.debug")).ok()
}

/// A symbol's name as a reader wants it: demangled, without a version, and without the calling
/// convention that Go's linker adds to names of assembly.
fn shown(name: &str) -> String {
    let name = name.split('@').next().unwrap_or(name);
    let name = name.strip_suffix(".abi0").unwrap_or(name);
    format!("{:#}", rustc_demangle::demangle(name))
}
