//! The packages that tests build programs of: `exeunt-bridge` from `tests/bridge`, `exeunt-programs`
//! from `tests/programs`.
//!
//! In the workspace their manifests lie beside this file. Cargo takes no folder that has a manifest
//! into another package. So exeunt's own package has the sources, and not the manifests; there they
//! are written when a test needs them.

use std::fs;
use std::path::{Path, PathBuf};

/// What the manifests of this folder say, without what they take from the workspace. `ROOT` stands
/// for exeunt's folder.
const BRIDGE: &str = r#"
[lib]
path = "ROOT/tests/bridge/src/lib.rs"
crate-type = ["cdylib", "staticlib", "rlib"]

[[bin]]
name = "hammer"
path = "ROOT/tests/bridge/src/bin/hammer.rs"

[[bin]]
name = "single_step"
path = "ROOT/tests/bridge/src/bin/single_step.rs"

[dependencies]
backtrace = "0.3.77"
exeunt = { path = "ROOT" }
libc = "0.2.191"
"#;
const PROGRAMS: &str = r#"
[[bin]]
name = "optimised"
path = "ROOT/tests/programs/optimised.rs"

[[bin]]
name = "moving_fiber"
path = "ROOT/examples/moving_fiber.rs"

[dependencies]
backtrace = "0.3.77"
corosensei = "0.3.4"
exeunt = { path = "ROOT" }

[profile.lto]
inherits = "release"
lto = "fat"
codegen-units = 1
"#;

/// The manifest of the package `name`, `bridge` or `programs`.
pub fn manifest(name: &str) -> PathBuf {
    let root = env!("CARGO_MANIFEST_DIR");
    let member = Path::new(root).join("tests/members").join(name).join("Cargo.toml");
    if member.exists() {
        return member;
    }
    let text = match name {
        "bridge" => BRIDGE,
        "programs" => PROGRAMS,
        _ => panic!("no package is called {name}"),
    };
    let text = format!(
        "[package]\nname = \"exeunt-{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\
         {}\n[workspace]\n",
        text.replace("ROOT", root)
    );
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("members").join(name);
    let file = directory.join("Cargo.toml");
    if fs::read_to_string(&file).is_ok_and(|present| present == text) {
        return file;
    }
    fs::create_dir_all(&directory).expect("cargo gives tests a folder to write to");
    // The same versions of the dependencies as in the tests.
    if let Ok(lock) = fs::read(Path::new(root).join("Cargo.lock")) {
        fs::write(directory.join("Cargo.lock"), lock).expect("as above");
    }
    // At once, as another process may do the same at this moment.
    let draft = directory.join(format!("draft-{}", std::process::id()));
    fs::write(&draft, text).expect("as above");
    fs::rename(&draft, &file).expect("as above");
    file
}
