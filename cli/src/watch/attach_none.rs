//! In place of `attach`, where a process that runs already cannot be watched.

use super::options::Options;
use super::refusal::{FAILED, Refusal};
use std::process::ExitCode;

pub fn watch(_: &Options, _: i32, _: &[u8]) -> Result<ExitCode, Refusal> {
    Err(Refusal { reason: "--pid is for glibc on x86_64".into(), status: FAILED })
}
