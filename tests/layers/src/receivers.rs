//! Types of the expressions that methods are called on, as far as they are written nearby.

use crate::tree::{ItemId, ModuleId, Tree};
use crate::use_tree::plain;
use std::collections::HashMap;
use syn::Expr;

/// What an expression's type is known to be.
#[derive(Clone)]
pub(crate) enum Known {
    /// One of these, or what refers to one.
    Types(Vec<ItemId>),
    /// Of another crate.
    Foreign,
    Nothing,
}

/// What names stand for in a function.
#[derive(Default)]
pub(crate) struct Receivers {
    /// What `Self` is.
    pub of: Vec<ItemId>,
    /// Types of parameters and variables.
    pub locals: HashMap<String, Known>,
}

impl Receivers {
    pub(crate) fn known(&self, tree: &Tree, module: ModuleId, of: &syn::Type) -> Known {
        let types = tree.types(module, of);
        match of {
            _ if !types.is_empty() => Known::Types(types),
            syn::Type::Reference(of) => self.known(tree, module, &of.elem),
            syn::Type::Path(of) if of.path.is_ident("Self") => Known::Types(self.of.clone()),
            // What begins with `Self` is what a trait says, and a single letter is a generic
            // parameter.
            syn::Type::Path(of) if of.qself.is_none() && of.path.segments[0].ident.to_string().len() > 1 => {
                if of.path.segments[0].ident == "Self" { Known::Nothing } else { Known::Foreign }
            }
            _ => Known::Nothing,
        }
    }

    pub(crate) fn type_of(&self, tree: &Tree, expression: &Expr) -> Known {
        match expression {
            Expr::Path(path) => match path.path.get_ident() {
                Some(name) if name == "self" => Known::Types(self.of.clone()),
                Some(name) => self.locals.get(&plain(name)).cloned().unwrap_or(Known::Nothing),
                None => Known::Nothing,
            },
            Expr::Field(field) => {
                let Known::Types(types) = self.type_of(tree, &field.base) else { return Known::Nothing };
                let name = match &field.member {
                    syn::Member::Named(name) => plain(name),
                    syn::Member::Unnamed(index) => index.index.to_string(),
                };
                let found = types.iter().find_map(|of| {
                    let of = &tree.items[*of];
                    of.fields.get(&name).map(|field| self.known(tree, of.module, field))
                });
                found.unwrap_or(Known::Nothing)
            }
            Expr::Paren(inner) => self.type_of(tree, &inner.expr),
            Expr::Reference(inner) => self.type_of(tree, &inner.expr),
            Expr::Unary(inner) if matches!(inner.op, syn::UnOp::Deref(_)) => self.type_of(tree, &inner.expr),
            _ => Known::Nothing,
        }
    }
}
