//! `raw` compiled alone, as for Go.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn compile(level: &str) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("raw-{level}"));
    std::fs::create_dir_all(&out).unwrap();
    let source = out.join("alone.rs");
    let raw = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raw/mod.rs");
    let code = format!(
        r#"#![no_std]
        #[path = {raw:?}]
        #[allow(dead_code)]
        mod raw;
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn alone(site: usize, expected: usize, new: usize) -> i32 {{
            unsafe {{ raw::retarget_code(site, expected, new, 0, raw::Fallback::ProcMem) }}
        }}"#
    );
    std::fs::write(&source, code).unwrap();
    let object = out.join("alone.o");
    // The compiler that cargo uses, for the processor that this test was compiled for.
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-type=lib", "--emit=obj", "-Cpanic=abort"])
        .arg(format!("--target={}-unknown-linux-gnu", std::env::consts::ARCH))
        .arg(format!("-Copt-level={level}"))
        .arg("-o")
        .arg(&object)
        .arg(&source)
        .status()
        .unwrap();
    assert!(status.success());
    object
}

/// Little-endian numbers at an offset of an ELF file.
fn number(file: &[u8], at: usize, len: usize) -> usize {
    file[at..at + len].iter().rev().fold(0, |value, &byte| value << 8 | byte as usize)
}

/// The sections' headers of a 64-bit ELF file, 64 bytes each.
fn sections(file: &[u8]) -> Vec<&[u8]> {
    let (start, count) = (number(file, 40, 8), number(file, 60, 2));
    file[start..].chunks(64).take(count).collect()
}

#[test]
fn it_names_no_symbol_from_outside_and_has_no_data() {
    const SYMBOLS: usize = 2;
    const WRITABLE: usize = 1;
    for level in ["s", "2", "3"] {
        let file = std::fs::read(compile(level)).unwrap();
        assert_eq!(&file[..5], b"\x7fELF\x02");
        let mut tables = 0;
        for section in sections(&file) {
            let (flags, at, len) = (number(section, 8, 8), number(section, 24, 8), number(section, 32, 8));
            assert!(flags & WRITABLE == 0 || len == 0, "level {level}: a writable section of {len} bytes");
            if number(section, 4, 4) == SYMBOLS {
                tables += 1;
                // 24 bytes each; the first is always empty. Section index 0 means "undefined".
                let undefined =
                    file[at..at + len].chunks(24).skip(1).filter(|symbol| number(symbol, 6, 2) == 0).count();
                assert_eq!(undefined, 0, "level {level}");
            }
        }
        assert_eq!(tables, 1);
    }
}
