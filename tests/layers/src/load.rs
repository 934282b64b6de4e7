//! Reads a tree: files, their modules, and what each declares or imports.

use crate::attributes;
use crate::sources::Sources;
use crate::tree::{Binding, Declared, File, FileId, Import, Module, ModuleId, Tree, spaces};
use crate::use_tree::{leaves, plain};
use std::collections::HashMap;
use syn::visit::{self, Visit};
use syn::{Block, Fields, Item, ItemMod, Type};

/// Reads the crates whose roots are `lib.rs` and `main.rs`, and names each file that neither of
/// them reaches.
pub(crate) fn load(sources: &Sources) -> Tree {
    let mut tree = Tree::default();
    for root in ["lib.rs", "main.rs"] {
        if sources.contains_key(root) {
            let place = Place { here: String::new(), children: String::new() };
            add_file(&mut tree, sources, root, place, None, false);
        }
    }
    for path in sources.keys() {
        if !tree.files.iter().any(|file| file.path == *path) {
            tree.faults.push(format!("{path}: no module declaration leads here, so nothing in it was checked"));
        }
    }
    tree
}

/// Where files of modules are looked for: folders below the tree's, that are empty or end in `/`.
#[derive(Clone)]
struct Place {
    /// For `#[path]`: the folder of the source file, and folders of the inline modules.
    here: String,
    /// Where files of child modules are.
    children: String,
}

/// Adds a module that is a file of its own.
fn add_file(
    tree: &mut Tree,
    sources: &Sources,
    path: &str,
    place: Place,
    parent: Option<ModuleId>,
    tests: bool,
) -> Option<ModuleId> {
    let text = sources.get(path)?;
    let parsed = match syn::parse_file(text) {
        Ok(parsed) => parsed,
        Err(error) => {
            tree.faults.push(format!("{path}:{}: {error}", error.span().start().line));
            return None;
        }
    };
    let tests = tests || attributes::only_in_tests(&parsed.attrs);
    let file = match tree.files.iter().position(|file| file.path == path) {
        Some(file) => file,
        None => {
            tree.files.push(File { path: path.to_owned(), is_root: parent.is_none(), only_tests: true });
            tree.files.len() - 1
        }
    };
    tree.files[file].only_tests &= tests;
    Some(add_module(tree, sources, file, parsed.items, place, parent, tests))
}

fn add_module(
    tree: &mut Tree,
    sources: &Sources,
    file: FileId,
    items: Vec<Item>,
    place: Place,
    parent: Option<ModuleId>,
    tests: bool,
) -> ModuleId {
    let module = tree.modules.len();
    let root = parent.map_or(module, |parent| tree.modules[parent].root);
    tree.modules.push(Module { file, parent, root, names: HashMap::new(), globs: Vec::new(), items: Vec::new() });
    let mut collector = Collector { tree, sources, module, file, place, depth: 0, tests };
    items.iter().for_each(|item| collector.visit_item(item));
    if !tests {
        tree.modules[module].items = items;
    }
    module
}

/// Collects a module's names. Items and imports inside functions belong to the module too: where
/// several functions have one name for different things, each of them counts.
struct Collector<'t> {
    tree: &'t mut Tree,
    sources: &'t Sources,
    module: ModuleId,
    file: FileId,
    place: Place,
    /// How many blocks are around.
    depth: usize,
    tests: bool,
}

impl Collector<'_> {
    fn declare(&mut self, name: &proc_macro2::Ident, spaces: u8) -> &mut Declared {
        let item = self.tree.items.len();
        let (alias, variants, fields) = (None, Vec::new(), HashMap::new());
        self.tree.items.push(Declared { module: self.module, file: self.file, alias, variants, fields });
        self.tree.bind(self.module, &plain(name), Binding::Item(item, spaces));
        &mut self.tree.items[item]
    }

    fn module(&mut self, item: &ItemMod, tests: bool) {
        let name = plain(&item.ident);
        let (paths, always) = attributes::paths(&item.attrs);
        let mut found = Vec::new();
        if let Some((_, items)) = &item.content {
            let folder = paths.first().unwrap_or(&name);
            let here = format!("{}{folder}/", if paths.is_empty() { &self.place.children } else { &self.place.here });
            let place = Place { here: here.clone(), children: here };
            let (tree, file) = (&mut *self.tree, self.file);
            found.push(add_module(tree, self.sources, file, items.clone(), place, Some(self.module), tests));
        } else {
            let children = &self.place.children;
            let mut files: Vec<(String, bool)> = Vec::new();
            files.extend(paths.iter().map(|path| (normal(&format!("{}{path}", self.place.here)), true)));
            if !always {
                files.push((format!("{children}{name}.rs"), false));
                files.push((format!("{children}{name}/mod.rs"), true));
            }
            for (path, is_folder_of_its_own) in files {
                let here = path.rfind('/').map_or(String::new(), |end| path[..=end].to_owned());
                let children = if is_folder_of_its_own { here.clone() } else { format!("{here}{name}/") };
                let place = Place { here, children };
                found.extend(add_file(self.tree, self.sources, &path, place, Some(self.module), tests));
            }
            if found.is_empty() {
                let line = item.ident.span().start().line;
                let path = &self.tree.files[self.file].path;
                let fault = format!("{path}:{line}: the file of module `{name}` was not found, or could not be read");
                self.tree.faults.push(fault);
            }
        }
        if !tests || self.tests {
            for module in found {
                self.tree.bind(self.module, &name, Binding::Module(module));
            }
        }
    }
}

impl<'a> Visit<'a> for Collector<'_> {
    fn visit_block(&mut self, block: &'a Block) {
        self.depth += 1;
        visit::visit_block(self, block);
        self.depth -= 1;
    }

    fn visit_macro(&mut self, invocation: &'a syn::Macro) {
        // `include_str!` and `include_bytes!` bring no code.
        if invocation.path.segments.last().is_some_and(|last| last.ident == "include") {
            let (path, line) = (&self.tree.files[self.file].path, invocation.bang_token.span.start().line);
            let fault = format!("{path}:{line}: what `include!` brings cannot be read: declare a module");
            self.tree.faults.push(fault);
        }
    }

    fn visit_item(&mut self, item: &'a Item) {
        let tests = attributes::only_in_tests(attributes::of(item));
        if let Item::Mod(item) = item {
            return self.module(item, tests || self.tests);
        }
        if tests {
            return;
        }
        let symbol = match item {
            Item::Fn(item) => attributes::symbol(&item.attrs, &item.sig.ident),
            Item::Static(item) => attributes::symbol(&item.attrs, &item.ident),
            _ => None,
        };
        if let Some(symbol) = symbol {
            self.tree.symbols.entry(symbol).or_default().push(self.file);
        }
        match item {
            Item::Const(item) => _ = self.declare(&item.ident, spaces::VALUE),
            Item::Static(item) => _ = self.declare(&item.ident, spaces::VALUE),
            Item::Fn(item) => _ = self.declare(&item.sig.ident, spaces::VALUE),
            Item::Trait(item) => _ = self.declare(&item.ident, spaces::TYPE),
            Item::TraitAlias(item) => _ = self.declare(&item.ident, spaces::TYPE),
            Item::Type(item) => self.declare(&item.ident, spaces::TYPE).alias = Some((*item.ty).clone()),
            Item::Union(item) => {
                let fields = item.fields.named.iter();
                let fields =
                    fields.map(|field| (field.ident.as_ref().map(plain).unwrap_or_default(), field.ty.clone()));
                self.declare(&item.ident, spaces::TYPE).fields = fields.collect();
            }
            Item::Struct(item) => {
                let space =
                    if matches!(item.fields, Fields::Named(_)) { spaces::TYPE } else { spaces::TYPE | spaces::VALUE };
                self.declare(&item.ident, space).fields = fields(&item.fields);
            }
            Item::Enum(item) => {
                let variants = item.variants.iter().map(|variant| plain(&variant.ident)).collect();
                self.declare(&item.ident, spaces::TYPE).variants = variants;
            }
            Item::ForeignMod(item) => {
                for item in &item.items {
                    match item {
                        syn::ForeignItem::Fn(item) => _ = self.declare(&item.sig.ident, spaces::VALUE),
                        syn::ForeignItem::Static(item) => _ = self.declare(&item.ident, spaces::VALUE),
                        syn::ForeignItem::Type(item) => _ = self.declare(&item.ident, spaces::TYPE),
                        _ => {}
                    }
                }
            }
            Item::Macro(item) => {
                if let Some(name) = &item.ident {
                    self.tree.macros.entry(plain(name)).or_default().push(self.file);
                    if item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export")) {
                        // It belongs to the root, wherever it is written.
                        let id = self.tree.items.len();
                        self.declare(name, spaces::MACRO);
                        let root = self.tree.modules[self.module].root;
                        self.tree.bind(root, &plain(name), Binding::Item(id, spaces::MACRO));
                    }
                }
            }
            Item::ExternCrate(item) if item.ident == "self" => {
                let name = item.rename.as_ref().map_or("self".to_owned(), |(_, name)| plain(name));
                let root = self.tree.modules[self.module].root;
                self.tree.bind(self.module, &name, Binding::Module(root));
            }
            Item::Use(item) => {
                for leaf in leaves(item) {
                    let import = Import { path: leaf.path, local: self.depth > 0 };
                    if leaf.glob {
                        self.tree.modules[self.module].globs.push(import);
                    } else if let Some(name) = leaf.name {
                        self.tree.bind(self.module, &name, Binding::Import(import));
                    }
                }
            }
            _ => {}
        }
        visit::visit_item(self, item);
    }
}

fn fields(fields: &Fields) -> HashMap<String, Type> {
    let named = fields.iter().enumerate();
    named.map(|(i, field)| (field.ident.as_ref().map_or(i.to_string(), plain), field.ty.clone())).collect()
}

/// A path without `.` and `..`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
