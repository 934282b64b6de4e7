//! The same names as in `linux.rs`, for systems where nothing is known of a thread's end.

pub(crate) fn is_exiting() -> Option<bool> {
    None
}

pub(crate) fn value() -> Option<usize> {
    None
}

pub(crate) fn is_cancelled() -> Option<bool> {
    None
}
