//! Which file of a Rust source tree imports which, and whether that obeys a table of layers.
//!
//! A house with one direction: each file stands on files of its own layer and of lower ones, and no
//! files form a circle, so that a reader can begin at the ground. `cargo test` fails on the first
//! file that breaks this ([`check`]), and `cargo run -p exeunt-layers -- src` prints the graph.
//!
//! | file | has |
//! |---|---|
//! | `sources` | the files' text, from a folder or from a test |
//! | `attributes` | what `#[cfg]` and `#[path]` say |
//! | `use_tree` | a `use` declaration as a list of paths |
//! | `tree` | modules, and the names that each one declares or imports |
//! | `load` | fills the tree from source |
//! | `resolve` | from a path to what it names, through imports, re-exports and globs |
//! | `receivers` | types of what methods are called on, where they are written nearby |
//! | `methods` | which file's `impl` block has a method |
//! | `tokens` | paths and method calls in what a macro is given |
//! | `mentions` | everything a file mentions that another one declares |
//! | `graph` | arrows between files, and their circles |
//! | `table` | the layers, from a table in Markdown |
//! | `check` | all together: the faults of a tree |
//!
//! # What counts as an arrow
//!
//! File A has an arrow to file B if A names something that B declares: in `use`, in a path of any
//! kind, in an attribute, in a macro's tokens or its definition. Re-exports and globs are followed
//! to the file that declares the item. All branches of `cfg` count, but for `cfg(test)`. To import
//! a module is an arrow to that module's file, to mention an item through it is one to the item's.
//! Where the declaring file cannot be found, since a macro made the item, the arrow leads to the
//! last module on the way. `mod name;` is no arrow. Nor is a module that is imported or passed
//! through if it is the crate's root, which everybody re-exports through.
//!
//! `Type::method` and `.method()` are arrows to a file that has the method in an inherent `impl`
//! block, if that is not the file of the type itself: that file is needed without being imported.
//!
//! A declaration in an `extern` block is an arrow to the file that gives a function or a static that
//! symbol. Assembly is not read.
//!
//! # What it can't see
//!
//! Types of expressions are known only for `self`, for parameters, `let` with a type, and fields of
//! these. For other receivers `.method()` counts if all the tree's methods of that name are in such
//! foreign blocks, and std's types have none that is called so (see `methods`). Unseen is a call of
//! a foreign method that shares its name with another type's, on a receiver whose type is inferred.
//! Unseen, and meant to be, are calls through a trait, a function pointer or a generic parameter:
//! that is how an arrow is turned. A field or method of a value whose type the file never names is
//! not an import of that type. Names that only the expansion of a foreign crate's macro has are
//! unseen as well.

mod attributes;
pub mod check;
pub mod graph;
mod load;
mod mentions;
mod methods;
mod receivers;
mod resolve;
pub mod sources;
pub mod table;
mod tokens;
mod tree;
mod use_tree;
