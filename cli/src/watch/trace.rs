//! The trace for Perfetto and chrome://tracing: the Trace Event Format's JSON objects.
//!
//! A track is a stack and not a thread's number, which the kernel uses again. A stack's slice lasts
//! from its birth to its end. A flow leads from the creator's slice to it.

use super::options::Options;
use super::process::command_line;
use super::stacks::Stack;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};

pub fn write(file: File, options: &Options, stacks: &[Stack]) -> io::Result<()> {
    let mut to = BufWriter::new(file);
    write!(to, "{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
    let mut first = true;
    let mut event = |value: Value| {
        let comma = if std::mem::take(&mut first) { "" } else { "," };
        write!(to, "{comma}\n{value}")
    };
    let processes: BTreeSet<u32> = stacks.iter().map(|stack| stack.process).collect();
    for process in processes {
        let name = command_line(&options.command);
        event(json!({"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}}))?;
    }
    for stack in stacks {
        let (pid, tid) = (stack.process, stack.id);
        let name = if stack.name.is_empty() { &stack.entry } else { &stack.name };
        let label = format!("{name} {}", stack.tid);
        event(json!({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": label}}))?;
        event(json!({"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": tid}}))?;
        let (start, life) = (microseconds(stack.start_ns), microseconds(stack.life_ns));
        event(json!({
            "ph": "X", "cat": "stack", "name": stack.entry, "pid": pid, "tid": tid, "ts": start, "dur": life,
            "args": stack,
        }))?;
        if let Some(creator) = stack.started_by.as_ref().and_then(|by| by.id) {
            let flow = |phase: &str, track: u32| {
                json!({
                    "ph": phase, "cat": "birth", "name": "birth", "id": stack.id, "pid": pid, "tid": track, "ts": start,
                    "bp": "e",
                })
            };
            event(flow("s", creator))?;
            event(flow("f", tid))?;
        }
    }
    writeln!(to, "\n]}}")?;
    to.flush()
}

fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}
