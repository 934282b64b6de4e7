//! Retargets a call or branch in running code, or refuses.
#![no_std]

pub mod heart;
