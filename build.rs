//! Refuses targets that exeunt does not support, assembles `asm/` for the target's processor, and
//! sets `cfg(code_redirect)` where exeunt can patch the code of exit trampolines, and
//! `cfg(asm_labels)` where inline assembly can jump.

/// What cargo says of the target.
fn target(what: &str) -> String {
    std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default()
}

fn main() {
    let (arch, system, libc) = (target("ARCH"), target("OS"), target("ENV"));
    let processor = matches!(&*arch, "x86_64" | "aarch64") && target("POINTER_WIDTH") == "64";
    let system_known = matches!((&*system, &*libc), ("linux", "gnu" | "musl") | ("macos", _));
    if !processor || !system_known || target("ENDIAN") != "little" {
        let name = std::env::var("TARGET").unwrap_or_default();
        eprintln!(
            "exeunt does not support {name}: it needs Linux with glibc or musl, or macOS, on x86_64 or \
             aarch64 with 64-bit pointers"
        );
        std::process::exit(1);
    }
    let source = format!("asm/{arch}.S");
    println!("cargo::rerun-if-changed=asm");
    // `cfg(code_redirect)`. Apple Silicon executes no page of signed code that was changed.
    println!("cargo::rustc-check-cfg=cfg(code_redirect)");
    if std::env::var_os("CARGO_FEATURE_CODE").is_some() && (system == "linux" || system == "macos" && arch == "x86_64")
    {
        println!("cargo::rustc-cfg=code_redirect");
    }
    // Inline assembly can jump to Rust code from Rust 1.87 on.
    println!("cargo::rustc-check-cfg=cfg(asm_labels)");
    if minor_version().is_none_or(|minor| minor >= 87) {
        println!("cargo::rustc-cfg=asm_labels");
    }
    cc::Build::new().file(source).include("asm").compile("exeunt_asm");
}

/// The compiler's minor version: 85 for `rustc 1.85.1 (...)`.
fn minor_version() -> Option<u32> {
    let output = std::process::Command::new(std::env::var_os("RUSTC")?).arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    version.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}
