//! The running stack, for diagnosis: what it is, where its foot is, whether it is armed.

use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::base::redirect::Method;
use crate::base::stack_id::StackId;
use crate::exit::redirect;
use crate::exit::trampoline;
use crate::exit::walk::{self, Found};
use crate::life::lookup;
use crate::machine::arch::{self, Registers};
use crate::machine::clib;
use crate::machine::os;
use crate::record::header::Record;
use std::fmt;
use std::ops::Range;

/// A stack's foot: the word that holds its entry function's return address.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FootInfo {
    /// Where the word is.
    pub address: usize,
    /// The word that is there. On a stack that is armed by slot redirect it is the address of a
    /// trampoline of exeunt's, while the stack drains a mark, otherwise the return address. On
    /// aarch64 it may be signed.
    pub word: usize,
    /// The return address into the exit trampoline: the word of an unarmed stack.
    pub original: usize,
    /// The name of the exit trampoline.
    pub trampoline: String,
}

impl fmt::Debug for FootInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FootInfo")
            .field("address", &format_args!("{:#x}", self.address))
            .field("word", &format_args!("{:#x}", self.word))
            .field("original", &format_args!("{:#x}", self.original))
            .field("trampoline", &self.trampoline)
            .finish()
    }
}

/// The running stack, as it was when [`Stack::current`] was called. This does not arm the stack.
///
/// # Examples
/// ```
/// std::thread::spawn(|| {
///     let before = exeunt::Stack::current();
///     assert!(!before.is_armed());
///     exeunt::at_exit(|| ())?;
///     let after = exeunt::Stack::current();
///     assert!(after.is_armed());
///     assert_eq!(after.kind(), exeunt::Kind::Thread);
///     println!("{after:#?}");
///     Ok::<(), exeunt::Error>(())
/// }).join().unwrap().unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Stack {
    id: Option<StackId>,
    kind: Kind,
    bounds: Option<Bounds>,
    foot: Option<FootInfo>,
    draining: bool,
    problem: Option<Error>,
}

#[derive(Clone)]
struct Bounds(Range<usize>);

impl fmt::Debug for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.0.start, self.0.end)
    }
}

impl Stack {
    /// Describes the running stack.
    #[must_use]
    pub fn current() -> Self {
        // SAFETY: these are registers of the running stack.
        let found = unsafe { walk::walk_to_foot(Registers::here()) };
        let find_other_stack = match found {
            Ok(Found::Armed(record, _)) => lookup::find_other_stack(record, arch::stack_pointer()),
            _ => None,
        };
        match find_other_stack.map_or(found, Ok) {
            Ok(Found::Armed(record, _)) => Self::armed(record),
            Ok(Found::Unarmed(foot, _)) => {
                let kind = trampoline::kind(foot.trampoline);
                Self {
                    id: None,
                    kind,
                    bounds: bounds(kind, foot.base),
                    foot: Some(info(foot.address, foot.word, foot.trampoline)),
                    draining: false,
                    problem: redirect::plan::problem(foot),
                }
            }
            Err(error) => Self {
                id: None,
                kind: if error == Error::SignalStack { Kind::Signal } else { Kind::Unknown },
                bounds: None,
                foot: None,
                draining: false,
                problem: Some(error),
            },
        }
    }

    fn armed(record: &'static Record) -> Self {
        // The foot may have moved. If no walk leads to it, the record has its former place.
        lookup::locate_foot(record);
        // While the stack drains, the mark's place. Otherwise the foot itself, which is not always
        // the canary.
        let foot =
            if record.method() == Method::Code && !record.is_draining() { record.foot() } else { record.canary_at() };
        // SAFETY: a live record's foot is a word of this stack.
        let word = unsafe { (foot as *const usize).read_volatile() };
        Self {
            id: record.id(),
            kind: record.kind(),
            bounds: bounds(record.kind(), record.base()),
            foot: Some(info(foot, word, record.trampoline())),
            draining: record.is_draining(),
            problem: None,
        }
    }

    /// The stack's identity, if it is armed.
    pub fn id(&self) -> Option<StackId> {
        self.id
    }

    /// The kind of stack.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The addresses of the stack's memory. For a thread and for the main thread the system gives
    /// them. For a fiber the upper one is where its entry function returns, and the lower one is
    /// the start of the mapping that its memory is part of.
    pub fn bounds(&self) -> Option<Range<usize>> {
        self.bounds.as_ref().map(|bounds| bounds.0.clone())
    }

    /// The stack's foot, if it was found.
    pub fn foot(&self) -> Option<&FootInfo> {
        self.foot.as_ref()
    }

    /// Whether the stack is armed, or is draining already.
    pub fn is_armed(&self) -> bool {
        self.id.is_some()
    }

    /// Whether the stack's entry function has returned and its handlers are running.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Why the stack cannot be armed, if it cannot.
    pub fn problem(&self) -> Option<&Error> {
        self.problem.as_ref()
    }
}

fn info(address: usize, word: usize, number: usize) -> FootInfo {
    FootInfo {
        address,
        word,
        original: trampoline::original(number),
        trampoline: trampoline::name(number).to_string_lossy().into_owned(),
    }
}

fn bounds(kind: Kind, base: usize) -> Option<Bounds> {
    let base = arch::untagged(base);
    let range = match kind {
        Kind::Thread | Kind::Main => clib::thread_bounds().filter(|bounds| bounds.contains(&(base - 1))),
        _ => None,
    };
    range.or_else(|| os::mapping_around(base - 1).map(|mapping| mapping.start..base)).map(Bounds)
}
