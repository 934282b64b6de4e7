//! Everything that a file mentions and another one declares.

use crate::attributes;
use crate::methods::Methods;
use crate::receivers::{Known, Receivers};
use crate::resolve::{Target, segments};
use crate::tokens::{Token, scan};
use crate::tree::{FileId, ModuleId, Tree, spaces};
use crate::use_tree::{leaves, plain};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, Expr, FnArg, ImplItem, Item, Meta, Pat, Signature, Stmt, TraitItem};

/// A mention of something in another file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mention {
    pub from: FileId,
    pub to: FileId,
    /// As it is written.
    pub name: String,
    pub line: usize,
}

/// All mentions in a tree.
pub(crate) fn mentions(tree: &Tree) -> Vec<Mention> {
    let methods = Methods::new(tree);
    let mut found = Vec::new();
    for module in 0..tree.modules.len() {
        let mut reader = Reader { tree, methods: &methods, module, receivers: Receivers::default(), found: &mut found };
        tree.modules[module].items.iter().for_each(|item| reader.visit_item(item));
    }
    found
}

struct Reader<'t> {
    tree: &'t Tree,
    methods: &'t Methods,
    module: ModuleId,
    receivers: Receivers,
    found: &'t mut Vec<Mention>,
}

impl Reader<'_> {
    fn file(&self) -> FileId {
        self.tree.modules[self.module].file
    }

    fn add(&mut self, to: FileId, name: &str, line: usize) {
        let from = self.file();
        if from != to {
            self.found.push(Mention { from, to, name: name.to_owned(), line });
        }
    }

    fn path(&mut self, path: &[String], space: u8, line: usize) {
        let name = path.join("::");
        if let [first, method, ..] = path
            && first == "Self"
        {
            let files = self.methods.of(&self.receivers.of, method).unwrap_or_default();
            return files.into_iter().for_each(|file| self.add(file, &name, line));
        }
        for found in self.tree.resolve(self.module, path, space) {
            match found.target {
                Target::Module(module) if self.tree.is_root(module) || found.taken == 0 => {}
                Target::Module(module) => self.add(self.tree.modules[module].file, &name, line),
                Target::Item(item) => {
                    let declared = &self.tree.items[item];
                    self.add(declared.file, &name, line);
                    if let Some(method) = path.get(found.taken) {
                        let mut types = vec![item];
                        if let Some(alias) = &declared.alias {
                            types.extend(self.tree.types(declared.module, alias));
                        }
                        let files = self.methods.of(&types, method).unwrap_or_default();
                        files.into_iter().for_each(|file| self.add(file, &name, line));
                    }
                }
            }
        }
    }

    fn macro_path(&mut self, path: &[String], line: usize) {
        let before = self.found.len();
        let has_name =
            self.tree.resolve(self.module, path, spaces::MACRO).iter().any(|found| found.taken == path.len());
        if has_name || path.len() > 1 {
            self.path(path, spaces::MACRO, line);
        }
        // A macro by example that no path leads to is in textual scope, or handed on by its name
        // alone.
        if let Some(name) = path.last()
            && self.found.len() == before
        {
            let files = self.tree.macros.get(name).cloned().unwrap_or_default();
            if !files.contains(&self.file()) {
                files.into_iter().for_each(|file| self.add(file, &format!("{name}!"), line));
            }
        }
    }

    fn method(&mut self, receiver: &Known, name: &str, line: usize) {
        let files = match receiver {
            // What is not the type's own may be that of what it refers to.
            Known::Types(types) => {
                self.methods.of(types, name).unwrap_or_else(|| self.methods.of_unknown(name).to_vec())
            }
            Known::Foreign => Vec::new(),
            Known::Nothing => self.methods.of_unknown(name).to_vec(),
        };
        files.into_iter().for_each(|file| self.add(file, &format!(".{name}()"), line));
    }

    fn tokens(&mut self, tokens: proc_macro2::TokenStream, are_of_attribute: bool) {
        for token in scan(tokens) {
            match token {
                Token::Text { .. } if !are_of_attribute => {}
                // A name alone may be a variable's, and is not a module's.
                Token::Path { path, line } if path.len() == 1 => {
                    let found = self.tree.resolve(self.module, &path, spaces::ANY);
                    if found.iter().any(|found| matches!(found.target, Target::Item(_))) {
                        self.path(&path, spaces::ANY, line);
                    }
                }
                Token::Path { path, line } | Token::Text { path, line } => self.path(&path, spaces::ANY, line),
                Token::Macro { path, line } => self.macro_path(&path, line),
                Token::Method { name, on_self, line } => {
                    let receiver = if on_self { Known::Types(self.receivers.of.clone()) } else { Known::Nothing };
                    self.method(&receiver, &name, line);
                }
            }
        }
    }

    /// Reads a function with the types of its parameters.
    fn function(&mut self, signature: &Signature, read: impl FnOnce(&mut Self)) {
        let outer = self.receivers.locals.clone();
        for input in &signature.inputs {
            if let FnArg::Typed(input) = input
                && let Pat::Ident(name) = &*input.pat
            {
                let known = self.receivers.known(self.tree, self.module, &input.ty);
                self.receivers.locals.insert(plain(&name.ident), known);
            }
        }
        read(self);
        self.receivers.locals = outer;
    }
}

impl<'a> Visit<'a> for Reader<'_> {
    fn visit_item(&mut self, item: &'a Item) {
        // What is inside of a module is read as that module's.
        if !attributes::only_in_tests(attributes::of(item)) && !matches!(item, Item::Mod(_)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'a ImplItem) {
        let attributes = match item {
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            ImplItem::Macro(item) => &item.attrs,
            _ => return visit::visit_impl_item(self, item),
        };
        if !attributes::only_in_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_trait_item(&mut self, item: &'a TraitItem) {
        let TraitItem::Fn(function) = item else { return visit::visit_trait_item(self, item) };
        if !attributes::only_in_tests(&function.attrs) {
            self.function(&function.sig, |reader| visit::visit_trait_item(reader, item));
        }
    }

    fn visit_field(&mut self, field: &'a syn::Field) {
        if !attributes::only_in_tests(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_field_value(&mut self, field: &'a syn::FieldValue) {
        if !attributes::only_in_tests(&field.attrs) {
            visit::visit_field_value(self, field);
        }
    }

    fn visit_arm(&mut self, arm: &'a syn::Arm) {
        if !attributes::only_in_tests(&arm.attrs) {
            visit::visit_arm(self, arm);
        }
    }

    fn visit_variant(&mut self, variant: &'a syn::Variant) {
        if !attributes::only_in_tests(&variant.attrs) {
            visit::visit_variant(self, variant);
        }
    }

    fn visit_stmt(&mut self, statement: &'a Stmt) {
        let attributes: &[Attribute] = match statement {
            Stmt::Local(local) => &local.attrs,
            Stmt::Macro(statement) => &statement.attrs,
            Stmt::Expr(Expr::Block(expression), _) => &expression.attrs,
            Stmt::Expr(Expr::Call(expression), _) => &expression.attrs,
            Stmt::Expr(Expr::MethodCall(expression), _) => &expression.attrs,
            Stmt::Expr(Expr::If(expression), _) => &expression.attrs,
            Stmt::Expr(Expr::Macro(expression), _) => &expression.attrs,
            Stmt::Expr(Expr::Return(expression), _) => &expression.attrs,
            _ => &[],
        };
        if !attributes::only_in_tests(attributes) {
            visit::visit_stmt(self, statement);
        }
    }

    fn visit_block(&mut self, block: &'a Block) {
        let outer = self.receivers.locals.clone();
        visit::visit_block(self, block);
        self.receivers.locals = outer;
    }

    fn visit_local(&mut self, local: &'a syn::Local) {
        visit::visit_local(self, local);
        let (pattern, known) = match &local.pat {
            Pat::Type(typed) => (&*typed.pat, self.receivers.known(self.tree, self.module, &typed.ty)),
            pattern => (
                pattern,
                local.init.as_ref().map_or(Known::Nothing, |init| self.receivers.type_of(self.tree, &init.expr)),
            ),
        };
        if let Pat::Ident(name) = pattern {
            self.receivers.locals.insert(plain(&name.ident), known);
        }
    }

    fn visit_pat_ident(&mut self, pattern: &'a syn::PatIdent) {
        // A name that hides an outer one.
        self.receivers.locals.remove(&plain(&pattern.ident));
        visit::visit_pat_ident(self, pattern);
    }

    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        let of = std::mem::take(&mut self.receivers.of);
        self.function(&item.sig, |reader| {
            visit::visit_signature(reader, &item.sig);
            reader.function(&item.sig, |reader| reader.visit_block(&item.block));
        });
        item.attrs.iter().for_each(|attribute| self.visit_attribute(attribute));
        self.receivers.of = of;
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        item.attrs.iter().for_each(|attribute| self.visit_attribute(attribute));
        visit::visit_signature(self, &item.sig);
        self.function(&item.sig, |reader| reader.visit_block(&item.block));
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        let of = self.tree.types(self.module, &item.self_ty);
        let outer = std::mem::replace(&mut self.receivers.of, of);
        visit::visit_item_impl(self, item);
        self.receivers.of = outer;
    }

    fn visit_foreign_item(&mut self, item: &'a syn::ForeignItem) {
        let (attributes, name) = match item {
            syn::ForeignItem::Fn(item) => (&item.attrs, &item.sig.ident),
            syn::ForeignItem::Static(item) => (&item.attrs, &item.ident),
            _ => return visit::visit_foreign_item(self, item),
        };
        if !attributes::only_in_tests(attributes) {
            let symbol = attributes::symbol(attributes, name).unwrap_or_else(|| plain(name));
            let files = self.tree.symbols.get(&symbol).cloned().unwrap_or_default();
            files.into_iter().for_each(|file| self.add(file, &symbol, name.span().start().line));
            visit::visit_foreign_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        for leaf in leaves(item) {
            self.path(&leaf.path, spaces::ANY, leaf.line);
        }
    }

    fn visit_visibility(&mut self, _: &'a syn::Visibility) {
        // `pub(in path)` names a module that is around.
    }

    fn visit_expr_path(&mut self, expression: &'a syn::ExprPath) {
        if let Some(qself) = &expression.qself
            && qself.position == 0
            && let Some(method) = expression.path.segments.first()
        {
            // `<Type>::method`
            let types = self.tree.types(self.module, &qself.ty);
            let (name, line) = (plain(&method.ident), method.ident.span().start().line);
            self.method(&Known::Types(types), &name, line);
            visit::visit_qself(self, qself);
        } else {
            if expression.path.leading_colon.is_none() {
                let line = expression.path.span().start().line;
                self.path(&segments(&expression.path), spaces::VALUE, line);
            }
            expression.qself.iter().for_each(|qself| self.visit_qself(qself));
            expression.path.segments.iter().for_each(|segment| self.visit_path_segment(segment));
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if path.leading_colon.is_none() {
            self.path(&segments(path), spaces::TYPE, path.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'a syn::ExprMethodCall) {
        let receiver = self.receivers.type_of(self.tree, &call.receiver);
        self.method(&receiver, &plain(&call.method), call.method.span().start().line);
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, invocation: &'a syn::Macro) {
        if invocation.path.leading_colon.is_none() {
            let line = invocation.path.span().start().line;
            if !invocation.path.is_ident("macro_rules") {
                self.macro_path(&segments(&invocation.path), line);
            }
        }
        self.tokens(invocation.tokens.clone(), false);
    }

    fn visit_attribute(&mut self, attribute: &'a Attribute) {
        let path = segments(attribute.path());
        if path[0] == "doc" || path[0] == "cfg" {
            return;
        }
        if path.len() > 1 {
            self.path(&path, spaces::MACRO, attribute.span().start().line);
        }
        match &attribute.meta {
            Meta::Path(_) => {}
            Meta::List(list) => self.tokens(list.tokens.clone(), true),
            Meta::NameValue(pair) => match &pair.value {
                Expr::Lit(literal) => self.tokens(quote(&literal.lit), true),
                value => self.visit_expr(value),
            },
        }
    }

    fn visit_token_stream(&mut self, tokens: &'a proc_macro2::TokenStream) {
        // What `syn` did not parse.
        self.tokens(tokens.clone(), false);
    }
}

/// A literal as tokens.
fn quote(literal: &syn::Lit) -> proc_macro2::TokenStream {
    match literal {
        syn::Lit::Str(text) => {
            let token = proc_macro2::TokenTree::Literal(text.token());
            std::iter::once(token).collect()
        }
        _ => proc_macro2::TokenStream::new(),
    }
}
