//! Runs the program: signals go to it, and its status comes back.

use std::ffi::{OsString, c_int, c_void};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI32, AtomicUsize};
use std::time::Duration;

/// Signals that are passed on. A stop by the terminal reaches both processes as it is.
const PASSED_ON: [c_int; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
];

/// The program's process, or 0.
static PROGRAM: AtomicI32 = AtomicI32::new(0);

/// Signals whose handling by this process differs from what it has inherited: Rust's runtime ignores
/// SIGPIPE, and `wait4` fails with ECHILD if SIGCHLD is ignored.
const CHANGED: [c_int; 2] = [libc::SIGPIPE, libc::SIGCHLD];

/// What this process has inherited for them: SIG_DFL or SIG_IGN.
static INHERITED: [AtomicUsize; 2] = [const { AtomicUsize::new(libc::SIG_DFL) }; 2];

#[used]
#[unsafe(link_section = ".init_array")]
static REMEMBER: extern "C" fn() = remember;

/// libc calls this before Rust's runtime changes anything.
extern "C" fn remember() {
    for (signal, inherited) in CHANGED.into_iter().zip(&INHERITED) {
        // SAFETY: all zeros are a valid place for the call to fill, and nothing is changed.
        let action = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action);
            action
        };
        inherited.store(action.sa_sigaction, Relaxed);
    }
}

/// What a process that ran already does when the watch is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Now {
    RunsOn,
    Over,
    /// It has executed another program.
    Replaced,
}

/// How the watch is over.
pub enum Outcome {
    /// The program has ended.
    Status(ExitStatus),
    /// A process that ran already was watched for this time.
    Attached { process: i32, time: Duration, now: Now },
}

impl Outcome {
    pub fn code(&self) -> Option<i32> {
        if let Self::Status(status) = self { status.code() } else { None }
    }

    pub fn signal(&self) -> Option<i32> {
        if let Self::Status(status) = self { status.signal() } else { None }
    }
}

/// The end, and the CPU times of the process in microseconds, user and system.
pub struct End {
    pub outcome: Outcome,
    pub user: u64,
    pub system: u64,
}

/// Starts the program.
pub fn start(mut command: Command) -> io::Result<()> {
    // A reader that closes its end of the rows' pipe must not end this process before the program.
    // SAFETY: neither action runs code of this program.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
    // SAFETY: all zeros are a valid set, and the calls fill sets of this frame.
    let (passed_on, before) = unsafe {
        let (mut passed_on, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
        for signal in PASSED_ON {
            libc::sigaddset(&mut passed_on, signal);
        }
        // A signal that comes before there is a process to pass it to waits.
        libc::pthread_sigmask(libc::SIG_BLOCK, &passed_on, &mut before);
        (passed_on, before)
    };
    // std has set SIGPIPE to the default action when it calls the closure.
    // SAFETY: the closure runs between fork and exec, where both functions may be called.
    unsafe {
        command.pre_exec(move || {
            for (signal, inherited) in CHANGED.into_iter().zip(&INHERITED) {
                libc::signal(signal, inherited.load(Relaxed));
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
            Ok(())
        });
    }
    let started = command.spawn();
    if let Ok(child) = &started {
        PROGRAM.store(child.id() as i32, Relaxed);
        for signal in PASSED_ON {
            handle(signal);
        }
    }
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &passed_on, std::ptr::null_mut()) };
    started.map(drop)
}

fn handle(signal: c_int) {
    // SAFETY: `action` is complete, and the handler calls only what a handler may call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = pass_on as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}

extern "C" fn pass_on(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // What a terminal sends (`si_code` above 0: by the kernel), the program has got itself.
    // SAFETY: the kernel passes a valid description; `kill` may be called in a handler.
    unsafe {
        if (*info).si_code <= 0 {
            libc::kill(PROGRAM.load(Relaxed), signal);
        }
    }
}

/// Waits for the program's end. `meanwhile` is called now and then until then, if there is one.
pub fn wait(meanwhile: Option<&mut dyn FnMut()>) -> io::Result<End> {
    let mut meanwhile = meanwhile;
    loop {
        let (mut status, flags) = (0, if meanwhile.is_some() { libc::WNOHANG } else { 0 });
        // SAFETY: all zeros are a valid `rusage`; both places are of this frame.
        let (found, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (libc::wait4(PROGRAM.load(Relaxed), &mut status, flags, &mut usage), usage)
        };
        match found {
            0 => {
                if let Some(meanwhile) = &mut meanwhile {
                    meanwhile();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            1.. => {
                let microseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
                let (user, system) = (microseconds(usage.ru_utime), microseconds(usage.ru_stime));
                return Ok(End { outcome: Outcome::Status(ExitStatus::from_raw(status)), user, system });
            }
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Ends this process as the program has ended: with its status, or by its signal.
pub fn end_as(outcome: &Outcome) -> ExitCode {
    if let Some(signal) = outcome.signal() {
        // SAFETY: none of these calls has conditions that could fail here. The core file would be
        // this process's, and the program has written its own.
        unsafe {
            libc::prctl(libc::PR_SET_DUMPABLE, 0);
            libc::signal(signal, libc::SIG_DFL);
            let mut only: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut only, signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &only, std::ptr::null_mut());
            libc::raise(signal);
        }
        return ExitCode::from(128u8.wrapping_add(signal as u8));
    }
    ExitCode::from(outcome.code().unwrap_or(0) as u8)
}

/// The outcome in words.
pub fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Attached { process, time, now } => {
            let now = match now {
                Now::RunsOn => "runs on",
                Now::Over => "has ended",
                Now::Replaced => "has executed another program",
            };
            format!("process {process}, watched for {:.2} s: it {now}", time.as_secs_f64())
        }
        Outcome::Status(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}{}", name(signal)),
            (None, None) => status.to_string(),
        },
    }
}

/// The signal's name in brackets, if it has one.
fn name(signal: c_int) -> String {
    const NAMES: [(c_int, &str); 24] = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGSTKFLT, "SIGSTKFLT"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGPROF, "SIGPROF"),
        (libc::SIGPOLL, "SIGPOLL"),
        (libc::SIGPWR, "SIGPWR"),
        (libc::SIGSYS, "SIGSYS"),
        (libc::SIGCONT, "SIGCONT"),
    ];
    let found = NAMES.iter().find(|(number, _)| *number == signal);
    found.map_or(String::new(), |(_, name)| format!(" ({name})"))
}

/// The command in words.
pub fn command_line(words: &[OsString]) -> String {
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
