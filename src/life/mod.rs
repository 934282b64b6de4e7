//! The life of an armed stack: arming, draining, and what may happen in between.

pub(crate) mod arm;
pub(crate) mod drain;
#[cfg(code_redirect)]
pub(crate) mod fork;
#[cfg(target_os = "linux")]
pub(crate) mod main_key;
pub(crate) mod safety_net;
#[cfg(test)]
mod tests;
