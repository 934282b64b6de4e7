//! A `use` declaration as a list of paths.

use syn::UseTree;

/// One path that is imported.
pub(crate) struct Leaf {
    pub path: Vec<String>,
    /// What it is called here; `None` for `*` and `as _`.
    pub name: Option<String>,
    /// Whether all that the path has is imported.
    pub glob: bool,
    pub line: usize,
}

/// All paths of a declaration, without those of other crates that begin with `::`.
pub(crate) fn leaves(item: &syn::ItemUse) -> Vec<Leaf> {
    let mut found = Vec::new();
    if item.leading_colon.is_none() {
        add(&item.tree, &[], &mut found);
    }
    found
}

fn add(tree: &UseTree, prefix: &[String], found: &mut Vec<Leaf>) {
    let with = |ident: &syn::Ident| {
        let mut path = prefix.to_vec();
        // `{self}` is what the braces belong to.
        if ident != "self" || prefix.is_empty() {
            path.push(plain(ident));
        }
        path
    };
    match tree {
        UseTree::Path(tree) => add(&tree.tree, &with(&tree.ident), found),
        UseTree::Name(tree) => {
            let path = with(&tree.ident);
            let name = path.last().cloned();
            found.push(Leaf { path, name, glob: false, line: tree.ident.span().start().line });
        }
        UseTree::Rename(tree) => {
            let name = (tree.rename != "_").then(|| plain(&tree.rename));
            found.push(Leaf { path: with(&tree.ident), name, glob: false, line: tree.ident.span().start().line });
        }
        UseTree::Glob(tree) => {
            let line = tree.star_token.spans[0].start().line;
            found.push(Leaf { path: prefix.to_vec(), name: None, glob: true, line });
        }
        UseTree::Group(tree) => tree.items.iter().for_each(|tree| add(tree, prefix, found)),
    }
}

/// `r#name` names what `name` names.
pub(crate) fn plain(ident: &proc_macro2::Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").map_or_else(|| text.clone(), str::to_owned)
}
