//! Each page of the guide names its chapter of the book «How an exit is hijacked».

use std::path::Path;

#[test]
fn each_page_links_a_chapter_that_exists() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = 0;
    for file in std::fs::read_dir(guide).expect("the guide is there") {
        let file = file.expect("its files can be listed").path();
        if file.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("a page can be read");
        let links: Vec<&str> = text.match_indices("](../learn/").map(|(at, _)| &text[at + 2..]).collect();
        assert!(!links.is_empty(), "{} names no chapter", file.display());
        for link in links {
            let path = link.split([')', '#']).next().expect("split gives one at least");
            assert!(guide.join(path).is_file(), "{}: {path} does not exist", file.display());
        }
        pages += 1;
    }
    assert!(pages >= 10, "only {pages} pages were found");
}
