//! Names of functions, from the symbol tables of files and of their debug files.

use object::{Object, ObjectSymbol, ReadCache, SymbolKind};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Names of functions by file.
#[derive(Default)]
pub struct Names {
    files: HashMap<String, Vec<Function>>,
}

struct Function {
    start: u64,
    /// 0: not known.
    size: u64,
    name: String,
}

impl Names {
    /// The function at an address of the file's own; without one, the file and the address.
    pub fn of(&mut self, path: &str, address: u64) -> String {
        let functions = self.files.entry(path.to_owned()).or_insert_with(|| functions(path));
        let above = functions.partition_point(|function| function.start <= address);
        let covers = |function: &&Function| function.size == 0 || address - function.start < function.size;
        match above.checked_sub(1).and_then(|index| functions.get(index)).filter(covers) {
            Some(function) => demangled(&function.name),
            None => {
                let file = Path::new(path).file_name().map_or(path.into(), |name| name.to_string_lossy());
                format!("{file}+{address:#x}")
            }
        }
    }
}

fn functions(path: &str) -> Vec<Function> {
    let mut found = Vec::new();
    let mut debug_file = None;
    if let Ok(file) = File::open(path) {
        debug_file = read(file, &mut found);
    }
    if let Some(file) = debug_file.and_then(|path| File::open(path).ok()) {
        read(file, &mut found);
    }
    found.sort_by(|a, b| a.start.cmp(&b.start).then(a.size.cmp(&b.size)));
    found
}

/// Adds the file's functions. Returns the path of its debug file.
fn read(file: File, found: &mut Vec<Function>) -> Option<PathBuf> {
    let cache = ReadCache::new(file);
    let object = object::File::parse(&cache).ok()?;
    let symbols = object.symbols().chain(object.dynamic_symbols());
    let functions = symbols.filter(|symbol| symbol.kind() == SymbolKind::Text && !symbol.is_undefined());
    found.extend(functions.filter_map(|symbol| {
        let name = symbol.name().ok()?.to_owned();
        Some(Function { start: symbol.address(), size: symbol.size(), name })
    }));
    let (first, rest) = object.build_id().ok()??.split_first()?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("/usr/lib/debug/.build-id/{first:02x}/{rest}.debug").into())
}

/// A name as its language has it, without the version of a library's symbol.
fn demangled(name: &str) -> String {
    let name = name.split('@').next().unwrap_or(name);
    // Other names can look like a C++ type: `f` would be `float`.
    if !name.starts_with("_Z") && !name.starts_with("_R") {
        return name.to_owned();
    }
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return format!("{rust:#}");
    }
    let options = cpp_demangle::DemangleOptions::new().no_params();
    let cpp = cpp_demangle::Symbol::new(name).ok().and_then(|symbol| symbol.demangle(&options).ok());
    cpp.unwrap_or_else(|| name.to_owned())
}
