//! Runs every benchmark once and prints the table: `cargo bench -p exeunt-benches --bench peers`.

fn main() {
    exeunt_benches::run();
}
