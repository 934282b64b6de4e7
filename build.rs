//! Assembles the trampolines of the target's architecture, and says whether exit trampolines' code can be patched there.

fn main() {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's architecture");
    let source = format!("asm/{arch}.S");
    println!("cargo::rerun-if-changed=asm");
    assert!(std::path::Path::new(&source).exists(), "exeunt has no assembly for {arch}: it runs on x86_64 and aarch64");
    // `cfg(code_redirect)`. Apple Silicon runs no page of signed code that was changed.
    let system = std::env::var("CARGO_CFG_TARGET_OS").expect("cargo sets the target's system");
    println!("cargo::rustc-check-cfg=cfg(code_redirect)");
    if std::env::var_os("CARGO_FEATURE_CODE").is_some() && (system == "linux" || system == "macos" && arch == "x86_64")
    {
        println!("cargo::rustc-cfg=code_redirect");
    }
    if system == "linux" && std::env::var_os("CARGO_FEATURE_CAPI").is_some() {
        // The shared library's code begins on a page of the file. LLD, by which rustc links on x86_64, lets segments share a page of the
        // file otherwise, and then libunwind up to 1.6 (in `strace -k`, and in programs) finds no unwind tables of the library: it
        // looks for the segment whose offset is that of the mapping, which is a multiple of a page. GNU ld knows the option too.
        println!("cargo::rustc-link-arg=-Wl,-z,separate-code");
    }
    cc::Build::new().file(source).include("asm").compile("exeunt_asm");
}
