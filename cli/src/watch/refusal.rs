//! Finds the program's file and says what keeps it from being watched, before it starts.

use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{ElfFile, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ReadCache, ReadRef};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why the program is not started, and the exit status, as `env` and `time` have it.
pub struct Refusal {
    pub reason: String,
    pub status: u8,
}

/// The status of the command's own failures.
pub const FAILED: u8 = 125;

/// What is started.
pub struct Program {
    pub file: PathBuf,
    /// Its name for itself, and the arguments before the caller's.
    pub words: Vec<OsString>,
}

/// The program that `name` stands for, if it can be watched.
pub fn program(name: &OsStr) -> Result<Program, Refusal> {
    let file = find(name)
        .ok_or_else(|| Refusal { reason: format!("{} was not found", Path::new(name).display()), status: 127 })?;
    let through_env = watchable(&file, 0)
        .map_err(|reason| Refusal { reason: format!("{}: {reason}", file.display()), status: 126 })?;
    Ok(match through_env {
        None => Program { file, words: vec![name.to_owned()] },
        // What `env` would execute.
        Some((word, interpreter)) => Program { file: interpreter, words: vec![word, file.into()] },
    })
}

/// As the shell finds it.
fn find(name: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Path::new(name).exists().then(|| name.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| {
        let executable = |meta: &std::fs::Metadata| meta.is_file() && meta.mode() & 0o111 != 0;
        file.metadata().is_ok_and(|meta| executable(&meta))
    })
}

/// For a script of `#!/usr/bin/env PROGRAM`, PROGRAM and its file.
fn watchable(path: &Path, depth: u32) -> Result<Option<(OsString, PathBuf)>, String> {
    let mut file = File::open(path).map_err(|error| format!("cannot be read ({error})"))?;
    let metadata = file.metadata().map_err(|error| format!("cannot be read ({error})"))?;
    if !metadata.is_file() || metadata.mode() & 0o111 == 0 {
        return Err("is no program that can be executed".into());
    }
    let mut head = [0; 256];
    let mut length = 0;
    while let Ok(read @ 1..) = file.read(&mut head[length..]) {
        length += read;
    }
    if let Some(line) = head[..length].strip_prefix(b"#!") {
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
        let mut words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let interpreter = OsStr::from_bytes(words.next().unwrap_or_default());
        if depth >= 4 {
            return Err("is a script whose interpreter is a script, and so on".into());
        }
        let mut through_env = None;
        let mut next = PathBuf::from(interpreter);
        if next.ends_with("env") {
            let word = words.next().filter(|word| !word.starts_with(b"-") && !word.contains(&b'='));
            let word = OsStr::from_bytes(word.ok_or("is a script of `env` with options: name its program yourself")?);
            next = find(word).ok_or("is a script whose interpreter was not found")?;
            through_env = Some((word.to_owned(), next.clone()));
        }
        let deeper = watchable(&next, depth + 1);
        if deeper.map_err(|reason| format!("is a script of {}, which {reason}", next.display()))?.is_some() {
            return Err("is a script whose interpreter is a script of `env`: name its program yourself".into());
        }
        return Ok(through_env);
    }
    raises_rights(path, &metadata)?;
    if !head[..length].starts_with(&object::elf::ELFMAG) {
        return Err("is neither an ELF program nor a script".into());
    }
    elf(file)?;
    Ok(None)
}

/// The dynamic linker of a program that gets more rights ignores LD_PRELOAD.
fn raises_rights(path: &Path, metadata: &std::fs::Metadata) -> Result<(), String> {
    // SAFETY: both have no conditions.
    let (user, group) = unsafe { (libc::getuid(), libc::getgid()) };
    let mode = metadata.mode();
    if mode & 0o4000 != 0 && metadata.uid() != user || mode & 0o2010 == 0o2010 && metadata.gid() != group {
        return Err("is set-uid or set-gid, and such a program loads no library of its user's".into());
    }
    let has_capabilities = CString::new(path.as_os_str().as_bytes()).is_ok_and(|path| {
        // SAFETY: both texts end with a zero, and no byte is written: only the size is asked for.
        unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
    });
    if has_capabilities && user != 0 {
        return Err("has file capabilities, and such a program loads no library of its user's".into());
    }
    Ok(())
}

/// Why a program cannot be watched, if its file shows that.
pub fn elf(file: File) -> Result<(), String> {
    let cache = ReadCache::new(file);
    let machine = if cfg!(target_arch = "x86_64") { object::elf::EM_X86_64 } else { object::elf::EM_AARCH64 };
    let foreign = || format!("is a program for another processor; this exeunt is for {}", std::env::consts::ARCH);
    let class = cache.read_bytes_at(4, 1).map_err(|()| "cannot be read")?;
    if class != [object::elf::ELFCLASS64] {
        return Err(foreign());
    }
    let damaged = |error: object::Error| format!("is a damaged ELF file ({error})");
    let program = ElfFile::<FileHeader64<Endianness>, _>::parse(&cache).map_err(damaged)?;
    let endian = program.endian();
    if program.elf_header().e_machine(endian) != machine {
        return Err(foreign());
    }
    if program.sections().any(|section| matches!(section.name(), Ok(".go.buildinfo" | ".note.go.buildid"))) {
        return Err("is a Go program, whose goroutines are no threads: use the Go module of exeunt in it".into());
    }
    let interpreter = program.elf_program_headers().iter().find(|header| header.p_type(endian) == PT_INTERP);
    let Some(interpreter) = interpreter else {
        return Err("is a static program, which loads no libraries".into());
    };
    let linker = interpreter.data(endian, &cache).unwrap_or_default();
    if linker.windows(7).any(|part| part == b"ld-musl") {
        return Err("is a program of musl's; the library that watches is for glibc".into());
    }
    Ok(())
}

/// A line on standard error. `eprintln!` would panic if that is closed.
pub fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "exeunt watch: {line}");
}
