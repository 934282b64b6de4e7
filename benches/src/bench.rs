//! Runs every benchmark once and prints the table: `cargo bench -p exeunt-benches`.

fn main() {
    exeunt_benches::run();
}
