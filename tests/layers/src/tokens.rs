//! What a macro is given: `syn` can't parse it, so every path and every method call in it is found
//! by its form.

use crate::use_tree::plain;
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Something that tokens mention.
pub(crate) enum Token {
    Path {
        path: Vec<String>,
        line: usize,
    },
    /// `name!(...)`
    Macro {
        path: Vec<String>,
        line: usize,
    },
    /// `.name(...)`
    Method {
        name: String,
        on_self: bool,
        line: usize,
    },
    /// A string that has the form of a path, as attributes have them.
    Text {
        path: Vec<String>,
        line: usize,
    },
}

/// All that these tokens mention.
pub(crate) fn scan(tokens: TokenStream) -> Vec<Token> {
    let mut found = Vec::new();
    add(tokens, &[], &mut found);
    found
}

/// `prefix` is what stands before the braces of an import.
fn add(tokens: TokenStream, prefix: &[String], found: &mut Vec<Token>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is = |i: usize, c: char| matches!(tokens.get(i), Some(TokenTree::Punct(punct)) if punct.as_char() == c);
    let is_before = |i: usize, back: usize, c: char| i >= back && is(i - back, c);
    let mut i = 0;
    while i < tokens.len() {
        let at = i;
        i += 1;
        let line = tokens[at].span().start().line;
        match &tokens[at] {
            TokenTree::Group(group) => add(group.stream(), &[], found),
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                let path: Vec<String> = text.trim_matches('"').split("::").map(str::to_owned).collect();
                let is_name = |name: &String| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
                if text.starts_with('"') && path.len() > 1 && path.iter().all(is_name) {
                    found.push(Token::Text { path, line });
                }
            }
            TokenTree::Ident(ident) => {
                let name = plain(ident);
                if is_before(at, 1, '.') && !is_before(at, 2, '.') {
                    let is_call = matches!(tokens.get(i), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis);
                    if is_call || is(i, ':') && is(i + 1, ':') {
                        let on_self = at >= 2
                            && matches!(&tokens[at - 2], TokenTree::Ident(of) if of == "self")
                            && !is_before(at, 3, '.');
                        found.push(Token::Method { name, on_self, line });
                    }
                    continue;
                }
                // A lifetime, a macro's variable, another crate's path, what an import is renamed
                // to.
                let is_renamed =
                    !prefix.is_empty() && at > 0 && matches!(&tokens[at - 1], TokenTree::Ident(of) if of == "as");
                let is_skipped = is_before(at, 1, '\'')
                    || is_before(at, 1, '$') && name != "crate"
                    || is_before(at, 1, ':') && is_before(at, 2, ':')
                    || is_renamed
                    || !prefix.is_empty() && name == "as";
                let mut path = prefix.to_vec();
                if prefix.is_empty() || name != "self" {
                    path.push(name);
                }
                while is(i, ':') && is(i + 1, ':') {
                    match tokens.get(i + 2) {
                        Some(TokenTree::Ident(ident)) => path.push(plain(ident)),
                        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace && !is_skipped => {
                            add(group.stream(), &path, found);
                            i += 3;
                            break;
                        }
                        Some(TokenTree::Punct(punct)) if punct.as_char() == '*' => {
                            i += 3;
                            break;
                        }
                        _ => break,
                    }
                    i += 3;
                }
                let is_macro = is(i, '!') && matches!(tokens.get(i + 1), Some(TokenTree::Group(_)));
                match (is_skipped, is_macro) {
                    (true, _) => {}
                    (false, true) => found.push(Token::Macro { path, line }),
                    (false, false) => found.push(Token::Path { path, line }),
                }
            }
            TokenTree::Punct(_) => {}
        }
    }
}
