//! Which file has a method of which type.
//!
//! A type's inherent methods may stand in other files than the type. A caller of such a method
//! needs that file, and never imports it: `record.drain()` is an arrow to the file with `impl
//! Record { fn drain }`.

use crate::attributes;
use crate::tree::{FileId, ItemId, ModuleId, Tree};
use crate::use_tree::plain;
use std::collections::{HashMap, HashSet};
use syn::visit::{self, Visit};
use syn::{ImplItem, Item, ItemImpl, ItemTrait, TraitItem};

/// Names that std's types have as well: without a receiver's type they say nothing.
const STD: &[&str] = &[
    "add",
    "as_mut",
    "as_ptr",
    "as_ref",
    "borrow",
    "borrow_mut",
    "cast",
    "chain",
    "clear",
    "clone",
    "cloned",
    "cmp",
    "collect",
    "compare_exchange",
    "contains",
    "copied",
    "count",
    "drop",
    "end",
    "entry",
    "eq",
    "extend",
    "fetch_add",
    "fetch_sub",
    "fill",
    "filter",
    "find",
    "first",
    "flush",
    "fmt",
    "get",
    "get_mut",
    "hash",
    "insert",
    "into_inner",
    "is_empty",
    "is_null",
    "iter",
    "iter_mut",
    "join",
    "keys",
    "kind",
    "last",
    "len",
    "load",
    "lock",
    "map",
    "max",
    "min",
    "name",
    "next",
    "offset",
    "pop",
    "position",
    "push",
    "read",
    "remove",
    "replace",
    "retain",
    "rev",
    "set",
    "skip",
    "sort",
    "split",
    "start",
    "store",
    "sub",
    "swap",
    "take",
    "try_lock",
    "unwrap",
    "update",
    "values",
    "with",
    "write",
    "zip",
];

/// The inherent methods and associated constants of a tree's types.
#[derive(Default)]
pub(crate) struct Methods {
    /// Files of foreign blocks; none if the type's own file has the method.
    of_type: HashMap<(ItemId, String), Vec<FileId>>,
    /// Files of foreign blocks by name alone.
    foreign: HashMap<String, Vec<FileId>>,
    /// Names that a trait or a type's own file has.
    at_home: HashSet<String>,
}

impl Methods {
    pub(crate) fn new(tree: &Tree) -> Methods {
        let mut methods = Methods::default();
        for module in 0..tree.modules.len() {
            let mut collector = Collector { tree, module, methods: &mut methods };
            tree.modules[module].items.iter().for_each(|item| collector.visit_item(item));
        }
        methods
    }

    /// The files that one must have to call this method of one of these types; `None` if none of
    /// them has it.
    pub(crate) fn of(&self, types: &[ItemId], name: &str) -> Option<Vec<FileId>> {
        let mut files = None;
        for of in types {
            if let Some(found) = self.of_type.get(&(*of, name.to_owned())) {
                files.get_or_insert_with(Vec::new).extend(found);
            }
        }
        files
    }

    /// The files that a method of this name must be in, whatever its receiver is.
    pub(crate) fn of_unknown(&self, name: &str) -> &[FileId] {
        if STD.contains(&name) || self.at_home.contains(name) {
            return &[];
        }
        self.foreign.get(name).map_or(&[], Vec::as_slice)
    }
}

struct Collector<'t> {
    tree: &'t Tree,
    module: ModuleId,
    methods: &'t mut Methods,
}

impl<'a> Visit<'a> for Collector<'_> {
    fn visit_item(&mut self, item: &'a Item) {
        // Items of inline modules are those of another module.
        if !attributes::only_in_tests(attributes::of(item)) && !matches!(item, Item::Mod(_)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_trait(&mut self, item: &'a ItemTrait) {
        for item in &item.items {
            if let TraitItem::Fn(item) = item {
                self.methods.at_home.insert(plain(&item.sig.ident));
            }
        }
        visit::visit_item_trait(self, item);
    }

    fn visit_item_impl(&mut self, item: &'a ItemImpl) {
        if item.trait_.is_none() {
            let file = self.tree.modules[self.module].file;
            let types = self.tree.types(self.module, &item.self_ty);
            let at_home = types.iter().any(|of| self.tree.items[*of].file == file);
            for item in &item.items {
                let (name, attributes) = match item {
                    ImplItem::Fn(item) => (plain(&item.sig.ident), &item.attrs),
                    ImplItem::Const(item) => (plain(&item.ident), &item.attrs),
                    _ => continue,
                };
                if types.is_empty() || attributes::only_in_tests(attributes) {
                    continue;
                }
                if at_home {
                    self.methods.at_home.insert(name.clone());
                } else {
                    self.methods.foreign.entry(name.clone()).or_default().push(file);
                }
                for of in &types {
                    let files = self.methods.of_type.entry((*of, name.clone())).or_default();
                    if !at_home {
                        files.push(file);
                    }
                }
            }
        }
        visit::visit_item_impl(self, item);
    }
}
