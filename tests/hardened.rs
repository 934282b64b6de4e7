//! Programs for processors that check where jumps lead and which addresses are returned to: the
//! landing pads, and the notes that declare them.
#![cfg(target_os = "linux")]

#[path = "c/harness.rs"]
mod harness;

use harness::not_run;
use std::path::Path;
use std::process::Command;

#[cfg(target_arch = "aarch64")]
#[test]
fn every_way_into_the_assembly_leads_to_a_landing_pad() {
    let script = concat!("-Wl,-T,", env!("CARGO_MANIFEST_DIR"), "/tests/c/guarded.ld");
    let outcome = harness::Build::linked("guarded.c", &["-O2", script]).build().run(&[]);
    if outcome.output.starts_with("this processor guards no pages") {
        return not_run("code on guarded pages", "the processor has no BTI");
    }
    let lines = [
        "handler of a thread that returns",
        "handler of a thread that exits",
        "handler of a thread that is cancelled",
        "handler of what is entered",
        "handler of a fiber",
        "the tag is 77",
        "handler of main",
    ];
    outcome.expect(0, &lines);
}

/// The output of `readelf -n` for the assembly, compiled as the build script does it.
#[test]
fn the_assembly_says_that_it_has_landing_pads_and_suits_a_shadow_stack() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let object = directory.join(format!("assembly-{}.o", std::process::id()));
    let aarch64 = cfg!(target_arch = "aarch64");
    let (prefix, source) = if aarch64 { ("aarch64-linux-gnu-", "aarch64.S") } else { ("", "x86_64.S") };
    let prefix = if harness::is_emulated() { prefix } else { "" };
    if !harness::has(&format!("{prefix}gcc")) || !harness::has(&format!("{prefix}readelf")) {
        return not_run("the assembly's notes", "gcc or readelf is not installed");
    }
    let mut compiler = Command::new(format!("{prefix}gcc"));
    compiler.arg("-c").arg("-I").arg(root.join("asm")).arg(root.join("asm").join(source)).arg("-o").arg(&object);
    let compiled = harness::run(compiler);
    assert!(compiled.status.success(), "{compiled}");
    let mut reader = Command::new(format!("{prefix}readelf"));
    reader.arg("-n").arg(&object).env("LC_ALL", "C");
    let notes = harness::run(reader);
    // A file that remains does no harm.
    let _ = std::fs::remove_file(&object);
    let expected = if aarch64 { "AArch64 feature: BTI, PAC" } else { "x86 feature: IBT, SHSTK" };
    assert!(notes.output.contains(expected), "{notes}");
}
