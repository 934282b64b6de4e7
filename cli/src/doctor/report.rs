//! The doctor's report: one value, printed as text for people or as JSON for programs.
//!
//! `cli/doctor.md` describes the JSON. A test compares the two.

use super::child::Outcome;
use super::outermost::{self, OutermostFrames};
use crate::machine::{
    Kernel, Libc, Membarrier, PageProtection, PointerAuthentication, ShadowStack, kernel, libc, membarrier,
    page_protection, pointer_authentication, shadow_stack,
};
use crate::memory_map::{MemoryMap, symbol};
use crate::paint::{BAD, FAINT, GOOD, MARK, THEIRS, TITLE, padded, paint};
use anstream::println;
use exeunt::{CodeSite, Kind};
use serde::Serialize;

/// The whole report.
#[derive(Serialize)]
pub struct Report {
    version: u32,
    exeunt: &'static str,
    architecture: &'static str,
    kernel: Kernel,
    libc: Libc,
    shadow_stack: ShadowStack,
    pointer_authentication: PointerAuthentication,
    page_protection: PageProtection,
    membarrier: Membarrier,
    exit_trampolines: Vec<ExitTrampoline>,
    exit_trampolines_problem: Option<String>,
    outermost_frames: Vec<OutermostFrames>,
    self_tests: Vec<Outcome>,
    pub passed: bool,
}

/// An exit trampoline that is recognised.
#[derive(Serialize)]
struct ExitTrampoline {
    kind: &'static str,
    name: String,
    address: String,
    file: Option<String>,
    offset: Option<String>,
    symbol: Option<String>,
    /// Why slot redirect is not possible here.
    slot_problem: Option<String>,
    /// Why code redirect is not possible here.
    code_problem: Option<String>,
    /// The instructions that code redirect changes.
    code_sites: Vec<Site>,
}

/// An instruction of an exit trampoline that code redirect changes.
#[derive(Clone, Serialize)]
struct Site {
    address: String,
    before: String,
    after: String,
}

/// Why slot and code redirect are not possible for the exit trampoline `name`, and its sites among
/// `sites`.
fn redirects(name: &str, sites: &[CodeSite], shadow_stack: bool) -> (Option<String>, Option<String>, Vec<Site>) {
    let slot = shadow_stack.then(|| exeunt::Error::ShadowStack.to_string());
    // Threads that were unwound continue in another part of the same exit trampoline.
    let whole = name.strip_suffix(", unwound").unwrap_or(name);
    let own = || sites.iter().filter(|site| site.trampoline == whole);
    let problem = own().find_map(|site| site.problem.as_ref()).map(ToString::to_string);
    let described = own().filter(|site| site.problem.is_none()).map(|site| Site {
        address: format!("{:#x}", site.address),
        before: site.before.clone(),
        after: site.after.clone(),
    });
    (slot, problem, described.collect())
}

impl Report {
    pub fn make(self_tests: Vec<Outcome>) -> Self {
        // The outermost_frames first: that of the main thread is recognised when it is looked at.
        let outermost_frames = outermost::all();
        let (exit_trampolines, problem) = match exeunt::survey() {
            Ok(survey) => (survey.trampolines, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let map = MemoryMap::read();
        let sites = exeunt::code_sites().unwrap_or_default();
        let shadow_stack = shadow_stack();
        let described = |found: exeunt::ExitTrampoline| {
            let address = found.return_address;
            let name = if found.unwound { format!("{}, unwound", found.name) } else { found.name };
            let (slot_problem, code_problem, code_sites) = redirects(&name, &sites, shadow_stack.active);
            let (file, offset) = map.in_file(address).unzip();
            ExitTrampoline {
                kind: kind_name(found.kind),
                name,
                address: format!("{address:#x}"),
                file: file.map(str::to_owned),
                offset: offset.map(|offset| format!("{offset:#x}")),
                symbol: symbol(address),
                slot_problem,
                code_problem,
                code_sites,
            }
        };
        let described_all = exit_trampolines.into_iter().map(described).collect();
        Self {
            version: 1,
            exeunt: env!("CARGO_PKG_VERSION"),
            architecture: std::env::consts::ARCH,
            kernel: kernel(),
            libc: libc(),
            shadow_stack,
            pointer_authentication: pointer_authentication(),
            page_protection: page_protection(),
            membarrier: membarrier(),
            exit_trampolines: described_all,
            exit_trampolines_problem: problem,
            outermost_frames,
            passed: self_tests.iter().all(|outcome| outcome.passed),
            self_tests,
        }
    }

    pub fn print_json(&self) {
        match serde_json::to_string_pretty(self) {
            Ok(text) => println!("{text}"),
            Err(error) => anstream::eprintln!("{error}"),
        }
    }

    pub fn print_text(&self) {
        println!("{} {} on this machine\n", paint(TITLE, "exeunt"), self.exeunt);
        let fact = |name: &str, text: &str| println!("  {name:24}{text}");
        fact("architecture", self.architecture);
        fact("kernel", &format!("{} {}", self.kernel.system, self.kernel.release));
        let file = self.libc.file.as_deref().unwrap_or("in no file");
        fact("libc", &format!("{} {}, {file}", self.libc.name, self.libc.version));
        fact_with_verdict("shadow stack", !self.shadow_stack.active, &self.shadow_stack.found);
        fact("pointer authentication", &self.pointer_authentication.found);
        fact_with_verdict("page protection", self.page_protection.works, &self.page_protection.found);
        fact("membarrier", &self.membarrier.found);
        self.print_exit_trampolines();
        self.print_outermost_frames();
        self.print_self_tests();
    }

    fn print_exit_trampolines(&self) {
        println!("\n{}", paint(TITLE, "exit trampolines recognised"));
        for found in &self.exit_trampolines {
            let place = match (&found.file, &found.offset) {
                (Some(file), Some(offset)) => format!("{file}+{offset}"),
                _ => "in no file".to_owned(),
            };
            let symbol = found.symbol.as_ref().map_or("no symbol".to_owned(), |symbol| format!("symbol {symbol}"));
            println!(
                "  {:8}{} {} {}",
                found.kind,
                padded(THEIRS, &found.name, 24),
                found.address,
                paint(FAINT, format!("{place}, {symbol}"))
            );
            match &found.slot_problem {
                None => println!("          slot    {}", paint(GOOD, "possible")),
                Some(problem) => println!("          slot    {}", paint(BAD, problem)),
            }
            match &found.code_problem {
                None => println!("          code    {}", paint(GOOD, "possible")),
                Some(problem) => println!("          code    {}", paint(BAD, problem)),
            }
            for site in &found.code_sites {
                println!("          {}", paint(FAINT, format!("        {} becomes", site.before)));
                println!("          {}", paint(FAINT, format!("        {}", site.after)));
            }
        }
        if let Some(problem) = &self.exit_trampolines_problem {
            indented(problem);
        }
    }

    fn print_outermost_frames(&self) {
        println!("\n{}", paint(TITLE, "unwind tables, from the entry function to the outermost frame"));
        for stack in &self.outermost_frames {
            let frames = stack.frames.iter().map(|frame| {
                let name = crate::paint::shortened(&frame.name, 40);
                if frame.table { name } else { format!("{name} {}", paint(FAINT, "(no table: unwinding ends here)")) }
            });
            println!("  {:8}{}", stack.kind, frames.collect::<Vec<_>>().join(" → "));
            if let Some(problem) = &stack.problem {
                indented(problem);
            }
        }
    }

    fn print_self_tests(&self) {
        println!("\n{}", paint(TITLE, "self-tests, each in its own process"));
        for outcome in &self.self_tests {
            let mark = if outcome.passed { paint(GOOD, "passed") } else { paint(BAD, "FAILED") };
            println!("  {mark}  {} {}", padded(MARK, outcome.name, 23), outcome.about);
            if !outcome.passed {
                println!("          expected:");
                outcome.expected.iter().for_each(|line| println!("            {line}"));
                println!("          found:");
                outcome.found.iter().for_each(|line| println!("            {line}"));
            }
        }
        let (failed, all) = (self.self_tests.iter().filter(|outcome| !outcome.passed).count(), self.self_tests.len());
        if failed == 0 {
            println!("\n{}", paint(GOOD, format!("All {all} self-tests passed.")));
        } else {
            println!("\n{}", paint(BAD, format!("{failed} of {all} self-tests failed.")));
        }
    }
}

/// Prints a fact, in the style of a failure unless it is `good` for exeunt.
fn fact_with_verdict(name: &str, good: bool, text: &str) {
    let style = if good { anstyle::Style::new() } else { BAD };
    println!("  {name:24}{}", paint(style, text));
}

fn indented(problem: &str) {
    problem.lines().for_each(|line| println!("          {}", paint(BAD, line)));
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Thread => "thread",
        Kind::Main => "main",
        Kind::Fiber => "fiber",
        Kind::Signal => "signal",
        _ => "unknown",
    }
}
