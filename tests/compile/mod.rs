//! Builds a program of `tests/programs` with a profile of the workspace, and runs it: optimisation
//! is part of the test.

#[path = "../members/mod.rs"]
mod members;

use std::process::Command;

/// The profile that optimises a program as a whole (root `Cargo.toml`).
#[allow(dead_code, reason = "not every test file that builds programs wants this profile")]
pub const LTO: &str = "lto";

/// Builds the program `name` with `profile`, runs it, and returns what it printed. Panics where it
/// fails.
pub fn run(profile: &str, name: &str) -> String {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // A target directory of its own, because the one of this build may be locked.
    let directory = concat!(env!("CARGO_TARGET_TMPDIR"), "/optimised");
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--bin", name, "--profile", profile, "--manifest-path"])
        .arg(members::manifest("programs"))
        .args(["--target", &target, "--target-dir", directory])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // Variables that a cargo which runs the test, or an instrumented build of it, has set are
        // not for this build.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}, {profile}: {}\n{text}\n{errors}", output.status);
    text
}
