//! From a path to what it names.

use crate::tree::{Binding, Import, ItemId, ModuleId, Tree, spaces};
use syn::{GenericArgument, PathArguments, Type};

/// What a path leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Module(ModuleId),
    Item(ItemId),
}

/// What a path leads to, and how many of its segments it took: the others name something inside of
/// an item (a method, a variant), or what no module is known to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub target: Target,
    pub taken: usize,
}

/// Names that are being resolved, so that imports that form a circle end.
type Pending = Vec<(ModuleId, String, u8)>;

impl Tree {
    /// What `path` may name in `module`; nothing if it belongs to another crate. What no module has
    /// leads to the last module on the way.
    pub(crate) fn resolve(&self, module: ModuleId, path: &[String], space: u8) -> Vec<Found> {
        let mut found = self.walk(module, path, space, &mut Vec::new());
        if found.iter().all(|found| found.taken == 0) && space != spaces::ANY {
            found = self.walk(module, path, spaces::ANY, &mut Vec::new());
        }
        // An item is a better answer than a module where a name was not found.
        if found.iter().any(|found| found.taken == path.len() || matches!(found.target, Target::Item(_))) {
            found.retain(|found| found.taken == path.len() || matches!(found.target, Target::Item(_)));
        }
        found
    }

    fn walk(&self, module: ModuleId, path: &[String], space: u8, pending: &mut Pending) -> Vec<Found> {
        let Some(first) = path.first() else { return vec![Found { target: Target::Module(module), taken: 0 }] };
        let space_at = |i: usize| if i + 1 == path.len() { space } else { spaces::TYPE };
        let mut at: Vec<Target> = match first.as_str() {
            "crate" | "$crate" => vec![Target::Module(self.modules[module].root)],
            "self" => vec![Target::Module(module)],
            "super" => self.modules[module].parent.map(Target::Module).into_iter().collect(),
            name => self.names(module, name, space_at(0), true, pending),
        };
        let mut found = Vec::new();
        for (i, name) in path.iter().enumerate().skip(1) {
            let mut next = Vec::new();
            for target in at {
                let Target::Module(module) = target else {
                    add(&mut found, Found { target, taken: i });
                    continue;
                };
                let names = match name.as_str() {
                    "super" => self.modules[module].parent.map(Target::Module).into_iter().collect(),
                    "self" => vec![target],
                    name => self.names(module, name, space_at(i), false, pending),
                };
                if names.is_empty() {
                    add(&mut found, Found { target, taken: i });
                }
                names.into_iter().for_each(|name| add(&mut next, name));
            }
            at = next;
        }
        at.into_iter().for_each(|target| add(&mut found, Found { target, taken: path.len() }));
        found
    }

    /// What a name is in a module, seen from `inside` or by a path from elsewhere.
    fn names(&self, module: ModuleId, name: &str, space: u8, inside: bool, pending: &mut Pending) -> Vec<Target> {
        let key = (module, name.to_owned(), space);
        if pending.contains(&key) {
            return Vec::new();
        }
        pending.push(key);
        let mut found = Vec::new();
        let mut is_bound = false;
        for binding in self.modules[module].names.get(name).into_iter().flatten() {
            match binding {
                Binding::Item(item, its) if its & space != 0 => add(&mut found, Target::Item(*item)),
                Binding::Module(module) if space & spaces::TYPE != 0 => add(&mut found, Target::Module(*module)),
                Binding::Import(import) if inside || !import.local => {
                    let targets = self.imported(module, import, space, pending);
                    // Another crate's item, which hides those of globs.
                    is_bound |= targets.is_empty();
                    targets.into_iter().for_each(|target| add(&mut found, target));
                }
                _ => {}
            }
        }
        if found.is_empty() && !is_bound {
            for glob in self.modules[module].globs.iter().filter(|glob| inside || !glob.local) {
                for target in self.imported(module, glob, spaces::TYPE, pending) {
                    match target {
                        Target::Module(from) => {
                            let names = self.names(from, name, space, false, pending);
                            names.into_iter().for_each(|name| add(&mut found, name));
                        }
                        Target::Item(item) if self.items[item].variants.iter().any(|variant| variant == name) => {
                            add(&mut found, target);
                        }
                        Target::Item(_) => {}
                    }
                }
            }
        }
        pending.pop();
        found
    }

    /// What a `use` declaration brings: an item's part (a variant) is the item.
    fn imported(&self, module: ModuleId, import: &Import, space: u8, pending: &mut Pending) -> Vec<Target> {
        let found = self.walk(module, &import.path, space, pending).into_iter();
        found
            .filter(|found| found.taken == import.path.len() || matches!(found.target, Target::Item(_)))
            .map(|found| found.target)
            .collect()
    }

    /// The tree's types that `of` is made of: those it is, refers to, or has as parameters if it is
    /// another crate's (`Box<Record>`).
    pub(crate) fn types(&self, module: ModuleId, of: &Type) -> Vec<ItemId> {
        let mut found = Vec::new();
        self.add_types(module, of, 0, &mut found);
        found
    }

    fn add_types(&self, module: ModuleId, of: &Type, depth: usize, found: &mut Vec<ItemId>) {
        if depth > 20 {
            return; // an alias of itself
        }
        match of {
            Type::Reference(of) => self.add_types(module, &of.elem, depth + 1, found),
            Type::Ptr(of) => self.add_types(module, &of.elem, depth + 1, found),
            Type::Paren(of) => self.add_types(module, &of.elem, depth + 1, found),
            Type::Group(of) => self.add_types(module, &of.elem, depth + 1, found),
            Type::Path(of) if of.qself.is_none() && of.path.leading_colon.is_none() => {
                let items = self.resolve(module, &segments(&of.path), spaces::TYPE).into_iter();
                let items: Vec<_> = items
                    .filter_map(|found| match found.target {
                        Target::Item(item) => Some(item),
                        Target::Module(_) => None,
                    })
                    .collect();
                if items.is_empty()
                    && let Some(PathArguments::AngleBracketed(arguments)) =
                        of.path.segments.last().map(|last| &last.arguments)
                {
                    for argument in &arguments.args {
                        if let GenericArgument::Type(of) = argument {
                            self.add_types(module, of, depth + 1, found);
                        }
                    }
                }
                for item in items {
                    add(found, item);
                    if let Some(alias) = &self.items[item].alias {
                        self.add_types(self.items[item].module, alias, depth + 1, found);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The names of a path's segments.
pub(crate) fn segments(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| crate::use_tree::plain(&segment.ident)).collect()
}

fn add<T: PartialEq>(to: &mut Vec<T>, value: T) {
    if !to.contains(&value) {
        to.push(value);
    }
}
