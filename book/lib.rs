//! Nothing but the examples of the guide and of the READMEs, for `cargo test`.

macro_rules! examples {
    ($($name:ident: $page:literal),* $(,)?) => {$(
        #[cfg(doctest)]
        #[doc = include_str!($page)]
        mod $name {}
    )*};
}

examples! {
    readme: "../README.md",
    patch: "../patch/README.md",
    book: "README.md",
    context: "context.md",
    faces: "faces.md",
    fibers: "fibers.md",
    go_tls: "go-tls.md",
    inheritance: "inheritance.md",
    redirects: "redirects.md",
    slots: "slots.md",
    tags: "tags.md",
    thread_local_bug: "thread_local_bug.md",
}
