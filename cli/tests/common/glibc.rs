//! Which glibc this is.

/// The minor number of glibc's version.
pub fn glibc_minor() -> u32 {
    // SAFETY: a constant of libc's.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) }.to_str().expect("a number");
    version.split('.').nth(1).and_then(|minor| minor.parse().ok()).expect("a number")
}
