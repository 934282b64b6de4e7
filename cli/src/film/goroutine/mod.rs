//! The film of a goroutine. The filmed process is a program in Go, which is built for the film.
//!
//! | file | has |
//! |---|---|
//! | `program` | the program's source, the Go module, and their build in a temporary folder |
//! | `actor.go` | the program |
//! | `start` | starts the program |
//! | `stack` | the goroutine: its stack, its words, its record |
//! | `script` | what is filmed, and in which order |
//! | `narrate` | why each step happens |
//! | `processor/` | registers, words and instructions of each processor, with their sentences |

pub mod narrate;
mod processor;
pub mod program;
pub mod script;
pub mod stack;
pub mod start;
