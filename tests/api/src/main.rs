//! The public interface of the two library crates as a list under version control, one item a line:
//! `api/exeunt.txt`, `api/exeunt-patch.txt`.
//!
//! `cargo run -p exeunt-api` renews the lists, `cargo run -p exeunt-api -- --check` compares them.
//! They come from rustdoc's JSON, whose format changes with Rust: another compiler than the one
//! that CI uses may need another version of the crate `public-api`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const PACKAGES: [&str; 2] = ["exeunt", "exeunt-patch"];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let check = std::env::args().skip(1).any(|argument| argument == "--check");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut differs = false;
    for package in PACKAGES {
        let file = root.join(format!("api/{package}.txt"));
        let now = list(&root, package)?;
        if !check {
            std::fs::write(&file, now)?;
            continue;
        }
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        for line in before.lines().filter(|line| !now.lines().any(|other| other == *line)) {
            println!("{package}: - {line}");
        }
        for line in now.lines().filter(|line| !before.lines().any(|other| other == *line)) {
            println!("{package}: + {line}");
        }
        differs |= before != now;
    }
    if differs {
        println!("the public interface differs from the lists in api/: to renew them, `cargo run -p exeunt-api`");
    }
    Ok(ExitCode::from(u8::from(differs)))
}

/// The public items of a package, with all features except that for C, one a line.
fn list(root: &Path, package: &str) -> Result<String, Box<dyn Error>> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    // rustdoc writes JSON only where unstable options are allowed.
    let status = Command::new(env!("CARGO"))
        .args(["rustdoc", "--quiet", "--locked", "--lib", "--package", package, "--target-dir"])
        .arg(&target)
        .args(["--", "-Z", "unstable-options", "--output-format", "json"])
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(root)
        .status()?;
    if !status.success() {
        return Err(format!("cargo rustdoc for {package}: {status}").into());
    }
    let json = target.join("doc").join(format!("{}.json", package.replace('-', "_")));
    let items = public_api::Builder::from_rustdoc_json(json).omit_blanket_impls(true).build()?;
    // What only the compiler uses, and names differently in each version, is left out.
    let internal = ["marker::Freeze", "UnsafeUnpin", "TrivialClone", "StructuralPartialEq"];
    let kept = |line: &&str| !internal.iter().any(|name| line.contains(name) && line.starts_with("impl"));
    Ok(items.to_string().lines().filter(kept).map(|line| format!("{line}\n")).collect())
}
