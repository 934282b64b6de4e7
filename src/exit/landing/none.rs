//! Landings: the same names as in `glibc.rs`, for C libraries without them.

/// A thread that ends without a return runs on in `pthread_exit`, under all its frames (musl), or
/// keeps no landing that can be reached (macOS). The safety net alone catches it.
#[derive(Clone, Copy)]
pub(crate) struct Landing(std::convert::Infallible);

impl Landing {
    pub(crate) fn find(_base: usize) -> Option<Self> {
        None
    }

    /// # Safety
    /// None is needed.
    pub(crate) unsafe fn at_distance(_base: usize, _distance: usize, _target: usize) -> Option<Self> {
        None
    }

    pub(crate) fn distance(self) -> usize {
        match self.0 {}
    }

    pub(crate) fn spare(self) -> usize {
        match self.0 {}
    }

    pub(crate) fn target(self, _original: usize) -> Option<usize> {
        match self.0 {}
    }

    /// # Safety
    /// Never called.
    pub(crate) unsafe fn set_target(self, _target: usize) {
        match self.0 {}
    }
}
