//! Compiles the C++ frames that exceptions pass, and the builds of the plugin.

use std::path::Path;

/// The builds of the plugin: the bytes in their frames, and how these are addressed.
const BUILDS: [(&str, &str); 4] = [
    ("-DSIZE=40", "-fomit-frame-pointer"),
    ("-DSIZE=72", "-fomit-frame-pointer"),
    ("-DSIZE=40", "-fno-omit-frame-pointer"),
    ("-DSIZE=3000", "-fomit-frame-pointer"),
];

fn main() {
    println!("cargo::rerun-if-changed=exceptions.cpp");
    println!("cargo::rerun-if-changed=plugin.c");
    cc::Build::new().cpp(true).file("exceptions.cpp").compile("soak_exceptions");
    let directory = std::env::var("OUT_DIR").expect("cargo sets it");
    let compiler = cc::Build::new().get_compiler();
    for (number, (size, frame)) in BUILDS.iter().enumerate() {
        let mut command = compiler.to_command();
        command.args(["-O2", "-shared", "-fPIC", size, frame, "plugin.c", "-o"]);
        command.arg(Path::new(&directory).join(format!("plugin-{number}.so")));
        assert!(command.status().expect("a C compiler").success(), "{command:?}");
    }
}
