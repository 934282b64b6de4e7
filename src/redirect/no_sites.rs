//! Code redirect where there is none: this says why.

use super::code::CodeSite;
use crate::error::Error;
use crate::trampoline;

const REASON: &str = if !cfg!(target_os = "linux") {
    if cfg!(target_arch = "aarch64") {
        "Apple Silicon runs no page of signed code that was changed"
    } else {
        "it is not written for macOS"
    }
} else {
    "this build of exeunt is without the feature `code`"
};

fn error() -> Error {
    Error::NoCodeSite(REASON.to_owned())
}

/// There is nothing that could be patched.
pub(super) fn ensure(_number: usize) -> Result<(), Error> {
    Err(error())
}

/// Why.
pub(super) fn problem(_number: usize) -> Option<Error> {
    Some(error())
}

/// The same, for each exit trampoline.
pub(crate) fn survey(number: usize) -> Vec<CodeSite> {
    vec![CodeSite {
        trampoline: trampoline::name(number).to_string_lossy().into_owned(),
        kind: trampoline::kind(number),
        address: 0,
        behind: 0,
        before: String::new(),
        after: String::new(),
        stub: None,
        applied: false,
        problem: Some(error()),
    }]
}
