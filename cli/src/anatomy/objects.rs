//! The ELF files that a process has mapped: the names of their functions and their unwind tables.

use super::process::Process;
use crate::memory_map::{Mapping, MemoryMap};
use gimli::{BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, Expression, LittleEndian, RegisterRule};
use gimli::{DebugFrame, Register, UnwindContext, UnwindOffset, UnwindSection};
use object::{Object as _, ObjectSection, ObjectSegment, SymbolMap, SymbolMapName};
use std::cell::OnceCell;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub type Reader = EndianSlice<'static, LittleEndian>;

/// The data of ELF files stay mapped to the end of this program: everything borrows from them.
type Elf = object::File<'static>;

/// A file that the process runs code of.
pub struct Object {
    /// Its name in the process's list of mappings.
    pub path: String,
    /// The difference between its addresses in memory and those in the file.
    pub bias: usize,
    code: Range<usize>,
    elf: Elf,
    symbols: OnceCell<SymbolMap<SymbolMapName<'static>>>,
    tables: OnceCell<Tables>,
}

/// The unwind tables of a file.
struct Tables {
    bases: BaseAddresses,
    eh_frame: Option<EhFrame<Reader>>,
    index: Option<gimli::ParsedEhFrameHdr<Reader>>,
    debug_frame: Option<DebugFrame<Reader>>,
}

/// One row of an unwind table: how to get from a frame to its caller.
#[derive(Clone)]
pub struct Row {
    pub cfa: Place,
    /// The rules for registers.
    pub rules: Vec<(u16, Rule)>,
    pub return_address: u16,
    /// Whether the frame is that of a signal handler's caller: its program counter is no return
    /// address.
    pub is_signal_frame: bool,
    pub encoding: gimli::Encoding,
}

#[derive(Clone)]
pub enum Place {
    Register(u16, i64),
    Expression(Expression<Reader>),
}

#[derive(Clone)]
pub enum Rule {
    Undefined,
    Same,
    /// Saved at this distance from the CFA.
    Saved(i64),
    /// The CFA and this distance.
    Value(i64),
    /// In another register.
    Register(u16),
    /// Saved where the expression says.
    SavedAt(Expression<Reader>),
    /// What the expression gives.
    ValueOf(Expression<Reader>),
}

/// Opens the files whose code is mapped. Those that cannot be read are left out: their frames have
/// neither names nor tables.
pub fn of(process: &Process) -> Vec<Object> {
    let map = &process.map;
    map.mappings().iter().filter(|mapping| mapping.executable).filter_map(|code| open(process, map, code)).collect()
}

fn open(process: &Process, map: &MemoryMap, code: &Mapping) -> Option<Object> {
    let (elf, bias) = if code.what == "[vdso]" {
        // It is in no file; all of it is mapped.
        let words = process.words(code.range.clone())?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        (Elf::parse(bytes.leak()).ok()?, code.range.start)
    } else if code.what.starts_with('/') {
        let elf = parse(&process.files(code)?)?;
        let bias = bias(&elf, code)?;
        (elf, bias)
    } else {
        return None;
    };
    // Several mappings can be of one segment, and code can be in several segments.
    let range = map.mapping(code.range.start)?.range.clone();
    Some(Object { path: code.what.clone(), bias, code: range, elf, symbols: OnceCell::new(), tables: OnceCell::new() })
}

fn parse(path: &Path) -> Option<Elf> {
    let file = File::open(path).ok()?;
    // SAFETY: a private mapping for reading. A file that is written meanwhile can give wrong names,
    // and one that is made shorter ends this program; both are true of every reader of its kind.
    let bytes: &'static memmap2::Mmap = Box::leak(Box::new(unsafe { memmap2::Mmap::map(&file) }.ok()?));
    Elf::parse(&bytes[..]).ok()
}

/// The load bias, from the segment that a mapping is of.
fn bias(elf: &Elf, code: &Mapping) -> Option<usize> {
    const PAGE: u64 = 4096;
    let offset = code.offset as u64;
    // The first page of a segment can be in the last page of another one's range of the file.
    let is_code = |segment: &object::Segment<'static, '_>| match segment.flags() {
        object::SegmentFlags::Elf { p_flags } => p_flags & object::elf::PF_X != 0,
        _ => false,
    };
    elf.segments().filter(is_code).find_map(|segment| {
        let (start, size) = segment.file_range();
        let within = offset.checked_sub(start & !(PAGE - 1)).filter(|_| offset < start + size)?;
        Some(code.range.start.wrapping_sub(((segment.address() & !(PAGE - 1)) + within) as usize))
    })
}

impl Object {
    pub fn contains(&self, address: usize) -> bool {
        self.code.contains(&address)
    }

    /// The file's name without its directory.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    pub fn build_id(&self) -> Option<&[u8]> {
        self.elf.build_id().ok().flatten()
    }

    /// The address of a symbol with this name, in memory.
    pub fn address_of(&self, name: &str) -> Option<usize> {
        let found = self.symbols().symbols().iter().find(|symbol| symbol.name() == name)?;
        Some((found.address() as usize).wrapping_add(self.bias))
    }

    /// The function at an address and the distance from its start.
    pub fn function(&self, address: usize) -> Option<(String, usize)> {
        let at = address.wrapping_sub(self.bias) as u64;
        let symbol = self.symbols().get(at)?;
        Some((demangled(symbol.name()), (at - symbol.address()) as usize))
    }

    fn symbols(&self) -> &SymbolMap<SymbolMapName<'static>> {
        self.symbols.get_or_init(|| {
            // Debian and others keep the table of all symbols in a file of its own.
            let apart = self.elf.symbol_table().is_none().then(|| self.build_id()).flatten().and_then(|id| {
                let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
                let (folder, file) = hex.split_at_checked(2)?;
                parse(&PathBuf::from(format!("/usr/lib/debug/.build-id/{folder}/{file}.debug")))
            });
            apart.as_ref().unwrap_or(&self.elf).symbol_map()
        })
    }

    fn tables(&self) -> &Tables {
        self.tables.get_or_init(|| {
            let section = |name: &str| {
                let section = self.elf.section_by_name(name)?;
                let data: &'static [u8] = match section.uncompressed_data().ok()? {
                    std::borrow::Cow::Borrowed(data) => data,
                    std::borrow::Cow::Owned(data) => data.leak(),
                };
                Some((section.address(), data))
            };
            let mut bases = BaseAddresses::default();
            if let Some((address, _)) = section(".text") {
                bases = bases.set_text(address);
            }
            if let Some((address, _)) = section(".got") {
                bases = bases.set_got(address);
            }
            let eh_frame = section(".eh_frame").map(|(address, data)| {
                bases = bases.clone().set_eh_frame(address);
                EhFrame::new(data, LittleEndian)
            });
            let index = section(".eh_frame_hdr").and_then(|(address, data)| {
                bases = bases.clone().set_eh_frame_hdr(address);
                EhFrameHdr::new(data, LittleEndian).parse(&bases, 8).ok()
            });
            let debug_frame = section(".debug_frame").map(|(_, data)| DebugFrame::new(data, LittleEndian));
            Tables { bases, eh_frame, index, debug_frame }
        })
    }

    /// The row of the unwind table for an address. `None` if no table covers it.
    pub fn row(&self, address: usize) -> Option<Row> {
        let (tables, at) = (self.tables(), address.wrapping_sub(self.bias) as u64);
        let in_eh_frame = || {
            let section = tables.eh_frame.as_ref()?;
            let index = tables.index.as_ref().and_then(gimli::ParsedEhFrameHdr::table);
            let entry = match index {
                Some(index) => index.fde_for_address(section, &tables.bases, at, EhFrame::cie_from_offset),
                None => section.fde_for_address(&tables.bases, at, EhFrame::cie_from_offset),
            };
            row(section, &tables.bases, entry.ok().filter(|entry| entry.contains(at))?, at)
        };
        let in_debug_frame = || {
            let section = tables.debug_frame.as_ref()?;
            let entry = section.fde_for_address(&tables.bases, at, DebugFrame::cie_from_offset).ok()?;
            row(section, &tables.bases, entry, at)
        };
        in_eh_frame().or_else(in_debug_frame)
    }
}

fn row<S>(section: &S, bases: &BaseAddresses, entry: gimli::FrameDescriptionEntry<Reader>, at: u64) -> Option<Row>
where
    S: UnwindSection<Reader>,
    S::Offset: UnwindOffset<usize>,
{
    let mut context = UnwindContext::new();
    let row = entry.unwind_info_for_address(section, bases, &mut context, at).ok()?;
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => Place::Register(register.0, *offset),
        CfaRule::Expression(expression) => Place::Expression(expression.get(section).ok()?),
    };
    let rule = |(register, rule): &(Register, RegisterRule<usize>)| {
        let rule = match rule {
            RegisterRule::Undefined => Rule::Undefined,
            RegisterRule::SameValue => Rule::Same,
            RegisterRule::Offset(offset) => Rule::Saved(*offset),
            RegisterRule::ValOffset(offset) => Rule::Value(*offset),
            RegisterRule::Register(register) => Rule::Register(register.0),
            RegisterRule::Expression(expression) => Rule::SavedAt(expression.get(section).ok()?),
            RegisterRule::ValExpression(expression) => Rule::ValueOf(expression.get(section).ok()?),
            // The state of pointer authentication is one of these: addresses lose their signatures
            // here in any case.
            _ => return None,
        };
        Some((register.0, rule))
    };
    Some(Row {
        cfa,
        rules: row.registers().filter_map(rule).collect(),
        return_address: entry.cie().return_address_register().0,
        is_signal_frame: entry.cie().is_signal_trampoline(),
        encoding: entry.cie().encoding(),
    })
}

fn demangled(name: &str) -> String {
    // A symbol's version is no part of its name.
    let name = name.split('@').next().unwrap_or(name);
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return format!("{rust:#}");
    }
    let options = cpp_demangle::DemangleOptions::new().no_params().no_return_type();
    let cpp = name.starts_with("_Z").then(|| cpp_demangle::Symbol::new(name).ok()).flatten();
    cpp.and_then(|symbol| symbol.demangle(&options).ok()).unwrap_or_else(|| name.to_owned())
}
