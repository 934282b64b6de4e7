//! Which cases a test program without Rust's harness runs: it understands the arguments of that
//! harness that select tests.

/// What the arguments select.
pub struct Selection {
    /// Print the names of the cases, and run none.
    pub list: bool,
    wanted: Vec<String>,
    skipped: Vec<String>,
}

impl Selection {
    /// That of this process's arguments, which Cargo passes on: parts of names.
    pub fn of_arguments() -> Self {
        /// Options that are followed by a value, which is no part of a name.
        const WITH_VALUES: [&str; 3] = ["--test-threads", "--format", "--color"];
        let mut selection = Self { list: false, wanted: Vec::new(), skipped: Vec::new() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match &*argument {
                "--list" => selection.list = true,
                "--skip" => selection.skipped.extend(arguments.next()),
                option if WITH_VALUES.contains(&option) => drop(arguments.next()),
                option if option.starts_with('-') => {}
                _ => selection.wanted.push(argument),
            }
        }
        selection
    }

    /// Whether the case of this name is to run.
    pub fn includes(&self, name: &str) -> bool {
        let is_part = |part: &String| name.contains(&**part);
        (self.wanted.is_empty() || self.wanted.iter().any(is_part)) && !self.skipped.iter().any(is_part)
    }
}
