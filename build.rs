//! Assembles the trampolines of the target's architecture.

fn main() {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's architecture");
    let source = format!("asm/{arch}.S");
    println!("cargo::rerun-if-changed=asm");
    assert!(std::path::Path::new(&source).exists(), "exeunt has no assembly for {arch}: it runs on x86_64 and aarch64");
    cc::Build::new().file(source).include("asm").compile("exeunt_asm");
}
