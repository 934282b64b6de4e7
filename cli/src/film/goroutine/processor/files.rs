//! How files of the Go module get into this program.

/// Files of the module, by their names there. `cli/go` is a link to the module.
macro_rules! embedded {
    ($($name:literal)*) => {
        &[$(($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/go/", $name)))),*]
    };
}
pub(in crate::film::goroutine) use embedded;
