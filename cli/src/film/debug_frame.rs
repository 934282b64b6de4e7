//! The unwind table of Go's programs. Their linker writes `.debug_frame` and no `.eh_frame`, and no
//! index with it.

use super::processor;
use gimli::{BaseAddresses, DebugFrame, EndianSlice, FrameDescriptionEntry, LittleEndian, UnwindSection};

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// Functions of the runtime whose callers are none: they have the flag TOPFRAME in
/// `src/runtime/asm_amd64.s` and `asm_arm64.s` (Go 1.22 to 1.27). Only on processors with a link
/// register does the linker mark them in `.debug_frame` (`writeframes` in
/// `cmd/link/internal/ld/dwarf.go`).
const TOP_FRAMES: [&str; 3] = ["runtime.goexit", "runtime.mstart", "runtime.rt0_go"];

pub struct DebugFrames {
    section: Vec<u8>,
    /// Functions: first address, the address behind it, where its entry is. In order.
    functions: Vec<(u64, u64, usize)>,
}

impl DebugFrames {
    pub fn of(section: &[u8]) -> Option<Self> {
        let section = section.to_vec();
        let table = DebugFrame::new(&section, LittleEndian);
        let bases = BaseAddresses::default();
        let mut functions = Vec::new();
        let mut entries = table.entries(&bases);
        while let Some(entry) = entries.next().ok()? {
            let gimli::CieOrFde::Fde(partial) = entry else { continue };
            let fde = partial.parse(DebugFrame::cie_from_offset).ok()?;
            functions.push((fde.initial_address(), fde.end_address(), fde.offset()));
        }
        functions.sort_unstable();
        Some(Self { section, functions })
    }

    /// The entry for an address of the file.
    pub fn find(&self, place: u64) -> Option<(FrameDescriptionEntry<Bytes<'_>>, DebugFrame<Bytes<'_>>, BaseAddresses)> {
        let behind = self.functions.partition_point(|&(start, ..)| start <= place);
        let &(_, end, offset) = self.functions.get(behind.checked_sub(1)?)?;
        if place >= end {
            return None;
        }
        let table = DebugFrame::new(&self.section, LittleEndian);
        let bases = BaseAddresses::default();
        let fde = table.fde_from_offset(&bases, offset.into(), DebugFrame::cie_from_offset).ok()?;
        Some((fde, table, bases))
    }

    /// Why a walk ends at this function, if it does.
    pub fn ends_at(&self, function: &str) -> Option<&'static str> {
        let why = if processor::LINK_REGISTER.is_some() {
            "this function has the flag TOPFRAME, by which Go's runtime knows that there is no caller. The table says \
             so as well: the return address is undefined."
        } else {
            "this function has the flag TOPFRAME, by which Go's runtime knows that there is no caller. The table does \
             not say it: its row would lead to a word above the foot."
        };
        TOP_FRAMES.contains(&function).then_some(why)
    }
}
