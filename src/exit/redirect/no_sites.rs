//! The names of `sites.rs` where code redirect does not exist: each says why.

use super::code_site::CodeSite;
use crate::base::error::Error;

const REASON: &str = if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
    "Apple Silicon runs no page of signed code that was changed"
} else {
    "this build of exeunt is without the feature `code`"
};

/// Why code redirect does not exist here.
pub(crate) fn unavailable() -> Error {
    Error::NoCodeSite(REASON.into())
}

/// No exit trampoline can be patched.
pub(super) fn ensure(_number: usize, _before_patching: fn() -> Result<(), Error>) -> Result<(), Error> {
    Err(unavailable())
}

/// All stacks that are armed by code redirect: none.
pub(super) fn is_patched(_number: usize) -> bool {
    true
}

/// There is nothing to undo.
pub(crate) fn restore(_refuse: impl FnOnce() -> Option<Error>) -> Result<(), Error> {
    Ok(())
}

/// No exit trampoline is patched.
pub(super) fn landing_bypasses_hook(_number: usize) -> bool {
    false
}

/// Why it cannot be patched.
pub(super) fn problem(_number: usize) -> Option<Error> {
    Some(unavailable())
}

/// One description of the exit trampoline, with the reason.
pub(crate) fn survey(number: usize) -> Vec<CodeSite> {
    vec![CodeSite { problem: Some(unavailable()), ..CodeSite::blank(number) }]
}
