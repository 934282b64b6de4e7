//! Modules and the names that they have.

use std::collections::HashMap;
use syn::{Item, Type};

pub(crate) type FileId = usize;
pub(crate) type ModuleId = usize;
pub(crate) type ItemId = usize;

/// Namespaces, as a set of bits.
pub(crate) mod spaces {
    pub(crate) const TYPE: u8 = 1;
    pub(crate) const VALUE: u8 = 2;
    pub(crate) const MACRO: u8 = 4;
    pub(crate) const ANY: u8 = 7;
}

/// All of a crate.
#[derive(Default)]
pub(crate) struct Tree {
    pub files: Vec<File>,
    pub modules: Vec<Module>,
    pub items: Vec<Declared>,
    /// Macros by example, by name: where `#[macro_use]` and textual scope may lead.
    pub macros: HashMap<String, Vec<FileId>>,
    /// Functions and statics with a symbol of their own, by that: what `extern` blocks declare.
    pub symbols: HashMap<String, Vec<FileId>>,
    /// What could not be read or found.
    pub faults: Vec<String>,
}

pub(crate) struct File {
    /// Below the tree's folder.
    pub path: String,
    /// Whether it is `lib.rs` or `main.rs`.
    pub is_root: bool,
    /// Whether it only exists under `cfg(test)`.
    pub only_tests: bool,
}

pub(crate) struct Module {
    pub file: FileId,
    pub parent: Option<ModuleId>,
    pub root: ModuleId,
    pub names: HashMap<String, Vec<Binding>>,
    pub globs: Vec<Import>,
    pub items: Vec<Item>,
}

/// What a name stands for. A name has several if branches of `cfg` or namespaces differ.
pub(crate) enum Binding {
    /// An item and its namespaces.
    Item(ItemId, u8),
    Module(ModuleId),
    Import(Import),
}

#[derive(Clone)]
pub(crate) struct Import {
    pub path: Vec<String>,
    /// Whether the declaration is inside a function: other modules cannot name it.
    pub local: bool,
}

/// An item that is no module.
pub(crate) struct Declared {
    pub module: ModuleId,
    pub file: FileId,
    /// What a type alias stands for.
    pub alias: Option<Type>,
    pub variants: Vec<String>,
    /// Types of a structure's fields.
    pub fields: HashMap<String, Type>,
}

impl Tree {
    /// Whether the module is a crate's root.
    pub(crate) fn is_root(&self, module: ModuleId) -> bool {
        self.modules[module].parent.is_none()
    }

    pub(crate) fn bind(&mut self, module: ModuleId, name: &str, binding: Binding) {
        self.modules[module].names.entry(name.to_owned()).or_default().push(binding);
    }
}
