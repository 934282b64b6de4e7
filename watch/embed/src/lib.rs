//! [`preload!`]: the bytes of the library that `exeunt watch` loads into programs.
//!
//! Cargo builds a dependency's `cdylib` beside its `rlib`, under the same name but for the ending,
//! before it compiles a program that depends on it. It tells the compiler the path of the `rlib`
//! (`--extern exeunt_watch=.../libexeunt_watch-....rlib`). A macro runs in the compiler, so it can
//! read that argument. A build script cannot do the same: it runs before the library is built.
//! Cargo's artifact dependencies will make this unnecessary, once they are stable.

use proc_macro::TokenStream;
use std::path::{Path, PathBuf};

/// Expands to the bytes of the preload library, a `&'static [u8]`. It is empty where there is none:
/// for a target without shared libraries (static musl), on systems that are not Linux, and where the
/// compiler only checks.
#[proc_macro]
pub fn preload(_: TokenStream) -> TokenStream {
    let expression = match rlib(std::env::args()) {
        Some(rlib) if rlib.extension().is_some_and(|ending| ending == "rlib") => {
            let library = rlib.with_extension("so");
            if library.is_file() {
                format!("include_bytes!({:?})", library.display().to_string())
            } else {
                "&[]".into()
            }
        }
        _ => "&[]".to_owned(),
    };
    format!("{{ const LIBRARY: &[u8] = {expression}; LIBRARY }}").parse().expect("this is an expression")
}

/// What the compiler's arguments give as the file of the crate `exeunt_watch`.
fn rlib(arguments: impl Iterator<Item = String>) -> Option<PathBuf> {
    arguments
        .filter_map(|argument| {
            let argument = argument.strip_prefix("--extern=").unwrap_or(&argument).to_owned();
            // `noprelude:exeunt_watch=...` with some options.
            let (name, path) = argument.split_once('=')?;
            (name.rsplit(':').next() == Some("exeunt_watch")).then(|| Path::new(path).to_owned())
        })
        .last()
}
