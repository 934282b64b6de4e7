//! A debugger's stub, as QEMU's user mode has one: stops, single steps, breakpoints and registers by
//! GDB's remote protocol ("Remote Serial Protocol" in GDB's manual).
//!
//! A packet is `$text#sum`, and each side answers a packet with `+`. The stub stops the thread that
//! has come to a breakpoint, and lets the others run.

use super::result::Result;
use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

/// How often, and after how long each time, the recorder tries to reach the stub.
const TRIES: u32 = 500;
const PAUSE: Duration = Duration::from_millis(20);

/// A thread that says nothing for so long never will: the longest part at full speed takes seconds.
const SILENCE: Duration = Duration::from_secs(100);

/// SIGTRAP: a step is done, or a breakpoint was reached.
pub const TRAP: u8 = 5;

/// What a packet reports.
#[derive(Debug)]
pub enum Stop {
    /// This thread has got this signal (GDB's number).
    Signal { thread: u32, signal: u8 },
    /// The process has ended with this status.
    Exit(i32),
}

/// A connection to a stub.
pub struct Stub {
    stream: RefCell<BufReader<UnixStream>>,
    /// The thread that `g` gives the registers of: the one that has stopped last.
    chosen: Cell<u32>,
    /// What goes before the next packet: the answer to the last one of the stub, which waits for it.
    answer: Cell<&'static str>,
}

impl Stub {
    /// Connects to the stub that `child` makes at `socket`.
    pub fn connect(socket: &Path, child: &mut Child) -> Result<Self> {
        for _ in 0..TRIES {
            if let Ok(stream) = UnixStream::connect(socket) {
                stream.set_read_timeout(Some(SILENCE))?;
                let stream = RefCell::new(BufReader::new(stream));
                return Ok(Self { stream, chosen: Cell::new(0), answer: Cell::new("") });
            }
            if let Some(status) = child.try_wait()? {
                return Err(format!("the emulator has ended: {status}").into());
            }
            std::thread::sleep(PAUSE);
        }
        Err(format!("the emulator makes no stub at {}", socket.display()).into())
    }

    /// The thread that is stopped now.
    pub fn stopped(&self) -> Result<Stop> {
        self.resume("?")
    }

    /// Lets the process run; `signal` is delivered to the thread that has got it.
    pub fn go_on(&self, signal: Option<(u32, u8)>) -> Result<Stop> {
        match signal {
            Some((thread, signal)) => self.resume(&format!("vCont;C{signal:02x}:{thread:x};c")),
            None => self.resume("vCont;c"),
        }
    }

    /// Lets one thread execute one instruction.
    pub fn step(&self, thread: u32, signal: Option<u8>) -> Result<Stop> {
        match signal {
            Some(signal) => self.resume(&format!("vCont;S{signal:02x}:{thread:x}")),
            None => self.resume(&format!("vCont;s:{thread:x}")),
        }
    }

    fn resume(&self, request: &str) -> Result<Stop> {
        let reply = self.ask(request)?;
        let stop = match reply.split_at_checked(3) {
            Some((signal, rest)) if signal.starts_with('T') => {
                let thread = rest.split(';').find_map(|field| field.strip_prefix("thread:"));
                let thread = thread.and_then(|thread| u32::from_str_radix(thread, 16).ok());
                thread.zip(u8::from_str_radix(&signal[1..], 16).ok())
            }
            Some((status, _)) if status.starts_with('W') => {
                self.stream.borrow_mut().get_mut().write_all(self.answer.take().as_bytes())?;
                return Ok(Stop::Exit(i32::from_str_radix(&status[1..], 16)?));
            }
            _ => None,
        };
        let (thread, signal) = stop.ok_or_else(|| format!("the stub reports {reply:?}"))?;
        self.chosen.set(thread);
        Ok(Stop::Signal { thread, signal })
    }

    /// The registers of a stopped thread, in the order of the stub.
    pub fn registers(&self, thread: u32) -> Result<Vec<u8>> {
        if self.chosen.replace(thread) != thread {
            self.expect_ok(&format!("Hg{thread:x}"))?;
        }
        bytes(&self.ask("g")?)
    }

    pub fn memory(&self, at: u64, count: usize) -> Result<Vec<u8>> {
        bytes(&self.ask(&format!("m{at:x},{count:x}"))?)
    }

    /// Sets a breakpoint at an instruction of `size` bytes.
    pub fn set_breakpoint(&self, at: u64, size: usize) -> Result<()> {
        self.expect_ok(&format!("Z0,{at:x},{size:x}"))
    }

    pub fn clear_breakpoint(&self, at: u64, size: usize) -> Result<()> {
        self.expect_ok(&format!("z0,{at:x},{size:x}"))
    }

    fn expect_ok(&self, request: &str) -> Result<()> {
        match self.ask(request)?.as_str() {
            "OK" => Ok(()),
            reply => Err(format!("the stub answers {request:?} with {reply:?}").into()),
        }
    }

    /// Sends a packet, and returns the text of the next one.
    fn ask(&self, request: &str) -> Result<String> {
        let mut stream = self.stream.borrow_mut();
        let answer = self.answer.replace("+");
        let sum = request.bytes().fold(0_u8, u8::wrapping_add);
        stream.get_mut().write_all(format!("{answer}${request}#{sum:02x}").as_bytes())?;
        let mut packet = Vec::new();
        stream.read_until(b'#', &mut packet)?;
        stream.read_exact(&mut [0; 2])?;
        let text = String::from_utf8(packet)?;
        let (_, text) = text.split_once('$').ok_or("the stub sends no packet")?;
        Ok(text.trim_end_matches('#').to_owned())
    }
}

/// Bytes as hexadecimal digits.
fn bytes(digits: &str) -> Result<Vec<u8>> {
    let pairs = (0..digits.len() / 2).map(|number| digits.get(2 * number..2 * number + 2).unwrap_or_default());
    let bytes: std::result::Result<_, _> = pairs.map(|pair| u8::from_str_radix(pair, 16)).collect();
    bytes.map_err(|_| format!("the stub answers with {digits:?}, and not with bytes").into())
}
