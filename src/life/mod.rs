//! The life of an armed stack: arming, look-ups, draining, and what may happen in between.

pub(crate) mod abandoned;
pub(crate) mod arm;
pub(crate) mod drain;
pub(crate) mod ending;
#[cfg(code_redirect)]
pub(crate) mod every_end;
#[cfg(code_redirect)]
pub(crate) mod fork;
mod hooks;
mod lent;
pub(crate) mod lookup;
#[cfg(target_env = "gnu")]
mod main_key;
#[cfg(all(test, target_os = "linux", feature = "code"))]
mod redirect_tests;
#[cfg(target_env = "gnu")]
pub(crate) mod reserve;
mod safety_net;
#[cfg(test)]
mod tests;
pub(crate) mod unload;
