//! The filmed program's source, the Go module that it uses, and their build.

use super::processor::{FILES, GOARCH, embedded};
use crate::film::result::Result;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const ACTOR: &str = include_str!("actor.go");

/// The files that a program for Linux is built of on each processor. [`FILES`] are the others.
const MODULE: &[(&str, &[u8])] = embedded![
    "go.mod" "arm.go" "capture.go" "collected.go" "context.go" "coroutine_experiment_linux.go" "coroutine_linux.go"
    "coroutine_old_linux.go" "descriptor.go" "direct_linux.go" "doc.go" "drain.go" "exit.go" "foot.go" "foot_frame.go"
    "frames.go" "gobuf_linux.go" "gobuf_old_linux.go" "goroutines.go" "hooks_linux.go" "image_linux.go" "inherit.go"
    "install.go" "local.go" "lookup.go" "map.go" "mode.go" "number.go" "probe.go" "read.go" "record.go"
    "redirect_linux.go" "report.go" "slot.go" "slow.go" "slow_registers.go" "stack.go" "table.go" "unnoticed_linux.go"
    "internal/patch/patch.go" "internal/patch/refusal.go" "internal/report/report.go" "internal/site/amd64.go"
    "internal/site/arm64.go" "internal/site/coro.go" "internal/site/decode.go" "internal/site/site.go"
];

/// The built program. Its folder is removed when this is dropped.
pub struct Program {
    pub folder: TempDir,
    pub file: PathBuf,
    /// The path of the module, which names of its functions begin with.
    pub module: &'static str,
    /// As `go1.26.8`.
    pub version: String,
}

pub fn build() -> Result<Program> {
    let go = find().ok_or(
        "nothing can be filmed here: this film is of a program in Go, so install Go 1.22 or later, so that `go` is \
         found on PATH or in $GOROOT/bin",
    )?;
    let folder = tempfile::Builder::new().prefix("exeunt-film-").tempdir()?;
    let module = module().ok_or("the embedded go.mod names no module")?;
    for (name, contents) in MODULE.iter().chain(FILES) {
        write(&folder.path().join("module").join(name), contents)?;
    }
    let actor = folder.path().join("actor");
    write(&actor.join("main.go"), ACTOR.replace("exeunt.invalid/exeunt", module).as_bytes())?;
    let requires = format!("module film\n\ngo 1.22\n\nrequire {module} v0.0.0\n\nreplace {module} => ../module\n");
    write(&actor.join("go.mod"), requires.as_bytes())?;
    let file = folder.path().join("goroutine");
    let mut build = command(&go, &actor);
    if ["GOCACHE", "XDG_CACHE_HOME", "HOME"].into_iter().all(|name| std::env::var_os(name).is_none()) {
        build.env("GOCACHE", folder.path().join("cache"));
    }
    let output = build
        .args(["build", "-buildmode=exe", "-ldflags=-compressdwarf=false", "-o"])
        .arg(&file)
        .arg(".")
        .output()
        .map_err(|error| format!("{}: {error}", go.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the filmed program cannot be built by {}: {}", go.display(), said.trim()).into());
    }
    let version = command(&go, &actor).args(["env", "GOVERSION"]).output()?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    Ok(Program { folder, file, module, version })
}

/// `go` on PATH, or that of GOROOT.
fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let root = std::env::var_os("GOROOT").map(|root| Path::new(&root).join("bin"));
    let mut folders = std::env::split_paths(&path).chain(root);
    folders.find_map(|folder| Some(folder.join("go")).filter(|go| go.is_file()))
}

/// `go` as it runs nowhere else: for this processor, without the network, and without what a user's
/// settings would add.
fn command(go: &Path, folder: &Path) -> Command {
    let mut command = Command::new(go);
    command.current_dir(folder);
    for (name, value) in [
        ("CGO_ENABLED", "0"),
        ("GO111MODULE", "on"),
        ("GOARCH", GOARCH),
        ("GOENV", "off"),
        ("GOOS", "linux"),
        ("GOPROXY", "off"),
        ("GOTOOLCHAIN", "local"),
        ("GOWORK", "off"),
    ] {
        command.env(name, OsStr::new(value));
    }
    for name in ["GOAMD64", "GOARM64", "GOEXPERIMENT", "GOFLAGS"] {
        command.env_remove(name);
    }
    command
}

fn module() -> Option<&'static str> {
    let (_, contents) = MODULE.iter().find(|(name, _)| *name == "go.mod")?;
    std::str::from_utf8(contents).ok()?.lines().find_map(|line| line.strip_prefix("module ")).map(str::trim)
}

fn write(file: &Path, contents: &[u8]) -> Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(std::fs::write(file, contents)?)
}

#[cfg(test)]
mod tests {
    use super::{FILES, GOARCH, MODULE, module};
    use std::path::Path;

    /// Whether no program for Linux on this processor is built of the file, without sanitizers.
    fn is_for_others(name: &str) -> bool {
        let other = if GOARCH == "amd64" { "_arm64." } else { "_amd64." };
        ["other.go", "other.s"].into_iter().any(|end| name.ends_with(end))
            || ["foot_search.go", "msan.go", "nocode.go"].contains(&name)
            || [other, "_riscv64."].into_iter().any(|processor| name.contains(processor))
            || GOARCH == "amd64" && name == "read_indirect.go"
    }

    #[test]
    fn every_file_of_the_embedded_packages_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("go");
        let mut files = 0;
        for package in ["", "internal/patch/", "internal/report/", "internal/site/"] {
            for file in std::fs::read_dir(root.join(package)).expect("the package's folder") {
                let name = file.expect("a file").file_name().into_string().expect("UTF-8");
                let is_source = [".go", ".s", ".syso"].into_iter().any(|end| name.ends_with(end));
                if !is_source || name.ends_with("_test.go") || is_for_others(&name) {
                    continue;
                }
                files += 1;
                let path = format!("{package}{name}");
                assert!(MODULE.iter().chain(FILES).any(|(embedded, _)| *embedded == path), "{path} is not embedded");
            }
        }
        assert_eq!(files + 1, MODULE.len() + FILES.len(), "and go.mod");
        assert!(module().is_some_and(|path| path.ends_with("/exeunt")));
    }
}
