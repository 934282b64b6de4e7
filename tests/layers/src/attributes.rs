//! What attributes say about where code exists and in which file.

use crate::use_tree::plain;
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, Item, Lit, Meta, Token};

/// Whether these attributes leave an item to builds of tests alone: `#[cfg(test)]`,
/// `#[cfg(all(test, ...))]`, `#[test]`.
pub(crate) fn only_in_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg") && attribute.parse_args::<Meta>().is_ok_and(|meta| needs_test(&meta))
    })
}

fn needs_test(predicate: &Meta) -> bool {
    match predicate {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) => {
            let Ok(inner) = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated) else { return false };
            if list.path.is_ident("all") {
                inner.iter().any(needs_test)
            } else {
                list.path.is_ident("any") && !inner.is_empty() && inner.iter().all(needs_test)
            }
        }
        Meta::NameValue(_) => false,
    }
}

/// The files that `#[path = "..."]` and `#[cfg_attr(..., path = "...")]` name, and whether one of
/// them always holds.
pub(crate) fn paths(attributes: &[Attribute]) -> (Vec<String>, bool) {
    let (mut found, mut always) = (Vec::new(), false);
    for attribute in attributes {
        if attribute.path().is_ident("path") {
            found.extend(path(&attribute.meta));
            always = true;
        } else if attribute.path().is_ident("cfg_attr")
            && let Ok(inner) = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
        {
            found.extend(inner.iter().skip(1).filter_map(path));
        }
    }
    (found, always)
}

fn path(meta: &Meta) -> Option<String> {
    text(meta, "path")
}

/// The symbol that `#[unsafe(no_mangle)]`, `#[unsafe(export_name = "...")]` or, for a declaration in an
/// `extern` block, `#[link_name = "..."]` gives to an item.
pub(crate) fn symbol(attributes: &[Attribute], name: &proc_macro2::Ident) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let inner = attribute.path().is_ident("unsafe").then(|| attribute.parse_args::<Meta>().ok()).flatten();
        let meta = inner.as_ref().unwrap_or(&attribute.meta);
        let exported = text(meta, "export_name").or_else(|| text(meta, "link_name"));
        exported.or_else(|| meta.path().is_ident("no_mangle").then(|| plain(name)))
    })
}

/// What `key = "..."` says.
fn text(meta: &Meta, key: &str) -> Option<String> {
    let Meta::NameValue(pair) = meta else { return None };
    match &pair.value {
        Expr::Lit(literal) if pair.path.is_ident(key) => match &literal.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

/// The attributes of an item.
pub(crate) fn of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
