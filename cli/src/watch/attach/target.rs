//! The process: what keeps it from being watched, what it has loaded, and its memory.

use super::stub;
use crate::trace_rights::{self, field};
use crate::watch::refusal;
use libc::pid_t;
use object::Object;
use std::ffi::CStr;
use std::fs::{File, read_link, read_to_string};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// One line of `/proc/PID/maps`.
struct Mapping {
    start: u64,
    end: u64,
    executable: bool,
    writable: bool,
    offset: u64,
    /// Device and inode.
    file: (String, u64),
    name: String,
}

fn mappings(process: &str) -> io::Result<Vec<Mapping>> {
    let parse = |line: &str| {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let rights = fields.next()?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        Some(Mapping {
            start: number(start)?,
            end: number(end)?,
            executable: rights.contains('x'),
            writable: rights.contains('w'),
            offset: number(fields.next()?)?,
            file: (fields.next()?.to_owned(), fields.next()?.parse().ok()?),
            name: fields.next().unwrap_or_default().trim().to_owned(),
        })
    };
    Ok(read_to_string(format!("/proc/{process}/maps"))?.lines().filter_map(parse).collect())
}

fn has_table(mappings: &[Mapping]) -> bool {
    mappings.iter().any(|mapping| mapping.name.starts_with(&format!("/memfd:{}", stub::TABLE_NAME)))
}

/// A process that this command may change.
pub struct Target {
    pub process: pid_t,
    memory: File,
    /// `restorer` of the process's C library: `mov $15, %rax; syscall`.
    pub restorer: u64,
    pub mmap: u64,
    pub mprotect: u64,
    pub functions: [u64; stub::FUNCTIONS.len()],
}

/// What tells apart processes with one number, and the programs that one executes in turn.
#[derive(Clone, Copy)]
pub struct Identity {
    /// When it began, in the kernel's ticks since the machine's start.
    pub began: u64,
    /// Where the main thread's stack begins, which differs for each program. None if the main thread
    /// has ended, and others run on.
    pub stack: Option<u64>,
}

impl Identity {
    pub fn is_same_program(self, other: Self) -> bool {
        let same_stack = self.stack.zip(other.stack).is_none_or(|(stack, other)| stack == other);
        self.began == other.began && same_stack
    }
}

/// The process's identity; None if it is over.
pub fn identity(process: pid_t) -> Option<Identity> {
    let stat = read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    // The main thread's, which may end by `pthread_exit`.
    let ended = has_ended(fields.next()?);
    if ended && living(process).is_empty() {
        return None;
    }
    let mut number = |skipped| fields.nth(skipped)?.parse().ok();
    Some(Identity { began: number(18)?, stack: if ended { None } else { number(5) } })
}

fn has_ended(state: &str) -> bool {
    state.starts_with(['Z', 'X'])
}

/// The names of the threads that have not ended.
fn living(process: pid_t) -> Vec<String> {
    let name = |thread| {
        let status = read_to_string(format!("/proc/{process}/task/{thread}/status")).ok()?;
        let lives = field(&status, "State").is_some_and(|state| !has_ended(state));
        lives.then(|| field(&status, "Name").unwrap_or_default().to_owned())
    };
    threads(process).into_iter().filter_map(name).collect()
}

/// Whether all threads of the process have ended but that of this command. It keeps libc from
/// ending the process.
pub fn is_over_but_for_us(process: pid_t) -> bool {
    let living = living(process);
    !living.is_empty() && living.iter().all(|name| name == stub::LIBRARY_NAME)
}

/// The numbers of a process's threads.
pub fn threads(process: pid_t) -> Vec<pid_t> {
    let entries = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

impl Target {
    /// The process, if nothing keeps it from being watched. Nothing is changed.
    pub fn of(process: pid_t) -> Result<Self, String> {
        let none = || format!("there is no process {process}: `ps -e` lists the processes");
        let folder = format!("/proc/{process}");
        let status = read_to_string(format!("{folder}/status")).map_err(|_| none())?;
        if process == std::process::id().cast_signed() {
            return Err("that is exeunt itself".into());
        }
        if field(&status, "Tgid") != Some(&process.to_string()) {
            let of = field(&status, "Tgid").unwrap_or_default();
            return Err(format!("{process} is a thread of process {of}: name that"));
        }
        match field(&status, "State").and_then(|state| state.chars().next()) {
            Some('Z' | 'X') if !living(process).is_empty() => {
                return Err(format!(
                    "the main thread of process {process} has ended by itself (pthread_exit), and Linux shows a \
                     process's memory by its main thread: start it with `exeunt watch -- PROGRAM`"
                ));
            }
            Some('Z' | 'X') => return Err(format!("process {process} has ended; its parent has not waited for it")),
            Some('T') => {
                return Err(format!("process {process} is stopped by a signal: `kill -CONT {process}` first"));
            }
            _ => (),
        }
        if field(&status, "TracerPid").is_some_and(|tracer| tracer != "0") {
            return Err(format!("process {process} cannot be attached to: {}", trace_rights::forbidden(&status)));
        }
        let forbidden = |error: &io::Error| match error.kind() {
            ErrorKind::PermissionDenied => {
                format!("process {process} cannot be attached to: {}", trace_rights::forbidden(&status))
            }
            _ => format!("process {process} cannot be read: {error}"),
        };
        // The kernel asks for the same right as for ptrace.
        let memory = File::options().read(true).write(true).open(format!("{folder}/mem"));
        let memory = memory.map_err(|error| forbidden(&error))?;
        for (name, what) in [("pid", "process"), ("mnt", "mount"), ("user", "user")] {
            let (its, own) = (read_link(format!("{folder}/ns/{name}")), read_link(format!("/proc/self/ns/{name}")));
            if its.as_ref().map_err(&forbidden)? != own.as_ref().map_err(&forbidden)? {
                return Err(format!(
                    "process {process} is in another {what} namespace (a container's): run exeunt in there, with \
                     `nsenter -t {process} -a` or the container's own command"
                ));
            }
        }
        for thread in threads(process) {
            let status = read_to_string(format!("{folder}/task/{thread}/status")).unwrap_or_default();
            if field(&status, "Seccomp").is_some_and(|mode| mode != "0") {
                return Err(format!(
                    "thread {thread} of process {process} has a seccomp filter, which may kill it for the calls that \
                     exeunt makes: start it with `exeunt watch -- PROGRAM`"
                ));
            }
            if field(&status, "x86_Thread_features").is_some_and(|features| features.contains("shstk")) {
                return Err(format!(
                    "thread {thread} of process {process} has a shadow stack, which forbids the frame that exeunt \
                     would put on its stack: start it with `exeunt watch -- PROGRAM`"
                ));
            }
        }
        let program = File::open(format!("{folder}/exe")).map_err(|error| forbidden(&error))?;
        refusal::elf(program).map_err(|reason| format!("the program of process {process} {reason}"))?;
        let its = mappings(&process.to_string()).map_err(|error| forbidden(&error))?;
        if has_table(&its) {
            return Err(format!(
                "process {process} is watched already (or is a child of such a one): end that `exeunt watch` first"
            ));
        }
        let own = mappings("self").map_err(|error| format!("/proc/self/maps: {error}"))?;
        let there = |name: &CStr| in_target(process, name, &own, &its);
        let mut functions = [0; stub::FUNCTIONS.len()];
        for (function, name) in functions.iter_mut().zip(stub::FUNCTIONS) {
            *function = there(name)?;
        }
        Ok(Self {
            process,
            memory,
            restorer: restorer(process, &own, &its)?,
            mmap: there(c"mmap")?,
            mprotect: there(c"mprotect")?,
            functions,
        })
    }

    pub fn read(&self, bytes: &mut [u8], address: u64) -> io::Result<()> {
        self.memory.read_exact_at(bytes, address)
    }

    pub fn write(&self, bytes: &[u8], address: u64) -> io::Result<()> {
        self.memory.write_all_at(bytes, address)
    }

    /// Whether a table of rows is mapped there.
    pub fn is_watched(&self) -> bool {
        mappings(&self.process.to_string()).is_ok_and(|mappings| has_table(&mappings))
    }

    /// The stack's memory around an address: where it begins, and its end. An empty range if there is
    /// none, or if it need not be all of the stack's: other data may lie below a fiber's stack, and
    /// below one that the program has allocated. `thread`: where libc's description of the thread is,
    /// if that is known.
    pub fn stack(&self, address: u64, thread: Option<u64>) -> Range<u64> {
        let mappings = mappings(&self.process.to_string()).unwrap_or_default();
        let holds = |mapping: &Mapping| mapping.writable && (mapping.start..mapping.end).contains(&address);
        match mappings.iter().position(holds) {
            // The main thread's stack grows; the kernel keeps room below it.
            Some(at) if mappings[at].name == "[stack]" => {
                let below = at.checked_sub(1).map_or(0, |before| mappings[before].end);
                below.max(address.saturating_sub(1 << 20))..mappings[at].end
            }
            // libc's description lies at the end of a stack that libc has made, and a guard below it.
            Some(at)
                if thread.is_none_or(|thread| (address..mappings[at].end).contains(&thread))
                    && at.checked_sub(1).is_some_and(|below| {
                        mappings[below].end == mappings[at].start && !mappings[below].writable
                    }) =>
            {
                mappings[at].start..mappings[at].end
            }
            _ => address..address,
        }
    }

    /// Where the library's function is, if the library is loaded already: since an earlier attach.
    pub fn loaded(&self, library: &[u8]) -> Result<u64, String> {
        let mappings = mappings(&self.process.to_string()).unwrap_or_default();
        let name = format!("/memfd:{} ", stub::LIBRARY_NAME);
        let mut loaded = mappings.iter().filter(|mapping| mapping.name.starts_with(&name)).peekable();
        if loaded.peek().is_none() {
            return Ok(0);
        }
        let at = symbol(library).ok_or("the library that exeunt has embedded is damaged")?;
        for mapping in loaded.filter(|mapping| mapping.executable) {
            let mut code = vec![0; (mapping.end - mapping.start) as usize];
            let from = mapping.offset as usize;
            let expected = library.get(from..library.len().min(from + code.len())).unwrap_or_default();
            if (mapping.offset..mapping.offset + code.len() as u64).contains(&at)
                && self.read(&mut code, mapping.start).is_ok()
                && code.starts_with(expected)
            {
                return Ok(mapping.start + (at - mapping.offset));
            }
        }
        Err(format!(
            "process {} has the library of another build of exeunt loaded, since an earlier `exeunt watch`: use that \
             build",
            self.process
        ))
    }
}

/// Where the library's function lies in its file.
fn symbol(library: &[u8]) -> Option<u64> {
    use object::{ObjectSegment, ObjectSymbol};
    let file = object::File::parse(library).ok()?;
    let symbol = file.dynamic_symbols().find(|symbol| symbol.name() == Ok(stub::SYMBOL))?;
    let address = symbol.address();
    let segment =
        file.segments().find(|segment| (segment.address()..segment.address() + segment.size()).contains(&address))?;
    Some(address - segment.address() + segment.file_range().0)
}

/// The address in the process of a function of libc's.
fn in_target(process: pid_t, name: &CStr, own: &[Mapping], its: &[Mapping]) -> Result<u64, String> {
    // SAFETY: the name ends with a zero.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }.addr() as u64;
    translated(process, address, own, its)
}

fn translated(process: pid_t, address: u64, own: &[Mapping], its: &[Mapping]) -> Result<u64, String> {
    let here = own.iter().find(|mapping| (mapping.start..mapping.end).contains(&address));
    let here = here.ok_or("this exeunt's own C library was not found")?;
    let at = address - here.start + here.offset;
    let same = |mapping: &&Mapping| mapping.file == here.file || same_build(process, here, mapping);
    let there = its.iter().filter(|mapping| {
        mapping.executable && (mapping.offset..mapping.offset + (mapping.end - mapping.start)).contains(&at)
    });
    let there = there.filter(|mapping| mapping.name.starts_with('/')).find(same).ok_or_else(|| {
        let name = here.name.rsplit('/').next().unwrap_or_default();
        let other = its.iter().find(|mapping| mapping.name.contains(&format!("/{name}")));
        match other {
            Some(other) if other.name.ends_with(" (deleted)") => {
                format!("process {process} runs with a {name} that was replaced since (an update): start it anew")
            }
            Some(other) => format!(
                "process {process} runs with another build of {name} than exeunt ({}): start exeunt with that one",
                other.name
            ),
            None if name.starts_with("libdl") || name.starts_with("libpthread") => format!(
                "process {process} has not loaded {name}, which exeunt needs with glibc before 2.34: start it with \
                 `exeunt watch -- PROGRAM`"
            ),
            None => format!(
                "process {process} has not loaded {name} (a static program, or another C library): start it with \
                 `exeunt watch -- PROGRAM` to see why"
            ),
        }
    })?;
    Ok(there.start + (at - there.offset))
}

/// Whether both are the same build of one file.
fn same_build(process: pid_t, own: &Mapping, its: &Mapping) -> bool {
    let name = |mapping: &Mapping| mapping.name.rsplit('/').next().map(str::to_owned);
    let id = |path: &str| {
        let file = object::ReadCache::new(File::open(path).ok()?);
        let object = object::File::parse(&file).ok()?;
        object.build_id().ok()?.map(<[u8]>::to_vec)
    };
    let place = format!("/proc/{process}/map_files/{:x}-{:x}", its.start, its.end);
    name(own) == name(its) && id(&own.name).is_some_and(|own| id(&place).is_some_and(|its| own == its))
}

/// The end of the kernel's signal frames, in libc: it has no name that could be looked up.
fn restorer(process: pid_t, own: &[Mapping], its: &[Mapping]) -> Result<u64, String> {
    const CODE: [u8; 9] = [0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 5];
    // SAFETY: the name ends with a zero.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"mmap".as_ptr()) }.addr() as u64;
    let libc = own.iter().find(|mapping| (mapping.start..mapping.end).contains(&address));
    let libc = libc.ok_or("this exeunt's own C library was not found")?;
    // SAFETY: code of this process's libc, which stays mapped.
    let code = unsafe { std::slice::from_raw_parts(libc.start as *const u8, (libc.end - libc.start) as usize) };
    let at = code.windows(CODE.len()).position(|part| part == CODE);
    let at = at.ok_or("the end of signal frames was not found in this C library")? as u64;
    translated(process, libc.start + at, own, its)
}
