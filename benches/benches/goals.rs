//! Each goal beside its peer, or two builds beside each other:
//! `cargo bench -p exeunt-benches --bench goals`, and `benches/compare`.

fn main() {
    exeunt_benches::goals::run();
}
