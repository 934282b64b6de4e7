//! Starts the program that is filmed.

use super::processor::NOP;
use super::program::Program;
use super::stack::Goroutine;
use crate::film::actor::{Facts, Site};
use crate::film::result::Result;
use crate::film::tracee::Tracee;
use nix::sys::ptrace;
use object::{Object, ObjectSymbol};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Starts it. It has stopped before its first instruction when this returns. The emulator is a
/// command of QEMU's user mode.
pub fn start(program: &Program, emulator: Option<&str>) -> Result<(Tracee, Facts, Goroutine)> {
    let bytes = std::fs::read(&program.file)?;
    let symbols = Symbols(object::File::parse(&*bytes)?);
    let ours = |name: &str| symbols.address(&format!("{}.{name}", program.module));
    // The address that a goroutine's entry function returns to: the call behind a `nop`.
    let returns_to = symbols.address("runtime.goexit")? + NOP;
    let facts = Facts {
        begin: symbols.address("main.entry")?,
        handler: symbols.address("main.onExit")?,
        trampolines: vec![("runtime.goexit".to_owned(), returns_to, false)],
        result: None,
        sites: vec![Site { trampoline: "runtime.goexit".to_owned(), address: returns_to }],
    };
    let goroutine = Goroutine {
        version: program.version.clone(),
        gogo: symbols.range("gogo").ok(),
        set_words: ours("setSpareWords")?,
        chunks: ours("chunks")?,
        secret: ours("common")?,
        lock: symbols.address("runtime.allpLock")?,
        g: 0,
        stack: 0..0,
    };
    let socket = program.folder.path().join("socket");
    let mut words = emulator.unwrap_or_default().split_whitespace();
    let mut command = match words.next() {
        Some(first) => {
            let mut command = Command::new(first);
            command.args(words).arg("-g").arg(&socket).arg(&program.file);
            command
        }
        None => Command::new(&program.file),
    };
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.env("GODEBUG", "adaptivestackstart=1,asyncpreemptoff=1").env("GOGC", "off").env("GOMAXPROCS", "1");
    if emulator.is_some() {
        let child = command.spawn().map_err(|error| format!("the emulator cannot be started: {error}"))?;
        let tracee = Tracee::of_emulated(child, &socket, &facts);
        // The emulator makes it, and leaves it there; another attempt needs the name.
        let _ = std::fs::remove_file(&socket);
        return Ok((tracee?, facts, goroutine));
    }
    // SAFETY: the function makes one system call, which a child may do between fork and exec.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let child = command.spawn().map_err(|error| {
        format!(
            "nothing can be filmed here: this system does not let a program in {} be started and traced ({error}); \
             TMPDIR can name a folder whose programs may run; in a container allow ptrace (--cap-add=SYS_PTRACE, or \
             another seccomp profile), elsewhere see /proc/sys/kernel/yama/ptrace_scope",
            std::env::temp_dir().display()
        )
    })?;
    Ok((Tracee::of(child)?, facts, goroutine))
}

struct Symbols<'a>(object::File<'a>);

impl Symbols<'_> {
    fn address(&self, name: &str) -> Result<u64> {
        Ok(self.range(name)?.start)
    }

    /// Of a function in assembly, the function itself: its wrapper for the other calling convention
    /// has the name without a suffix.
    fn range(&self, name: &str) -> Result<std::ops::Range<u64>> {
        let named = |wanted: &str| self.0.symbols().find(|symbol| symbol.name() == Ok(wanted));
        let symbol = named(&format!("{name}.abi0")).or_else(|| named(name));
        let symbol = symbol.ok_or_else(|| format!("the filmed program has no {name}"))?;
        Ok(symbol.address()..symbol.address() + symbol.size())
    }
}
