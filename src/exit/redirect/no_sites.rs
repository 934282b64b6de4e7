//! The names of `sites.rs` where code redirect does not exist: each says why.

use super::code_site::CodeSite;
use crate::base::error::Error;

const REASON: &str = if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
    "Apple Silicon runs no page of signed code that was changed"
} else {
    "this build of exeunt is without the feature `code`"
};

fn error() -> Error {
    Error::NoCodeSite(REASON.into())
}

/// No exit trampoline can be patched.
pub(super) fn ensure(_number: usize, _before_patching: fn() -> Result<(), Error>) -> Result<(), Error> {
    Err(error())
}

/// No exit trampoline is patched.
pub(super) fn landing_bypasses_hook(_number: usize) -> bool {
    false
}

/// Why it cannot be patched.
pub(super) fn problem(_number: usize) -> Option<Error> {
    Some(error())
}

/// One description of the exit trampoline, with the reason.
pub(crate) fn survey(number: usize) -> Vec<CodeSite> {
    vec![CodeSite { problem: Some(error()), ..CodeSite::blank(number) }]
}
