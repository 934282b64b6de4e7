//! The kinds of stacks and ends that can be filmed.

use clap::ValueEnum;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kind {
    /// A thread whose start routine returns
    Thread,
}

impl Kind {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Thread => "thread",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Thread => "A thread returns",
        }
    }

    pub fn about(self) -> &'static str {
        match self {
            Self::Thread => {
                "pthread_create has started a thread. Its start routine, the entry function, registers an exit handler \
                 with exeunt::at_exit and returns. exeunt redirects the return by the word in the foot."
            }
        }
    }

    pub fn redirect(self) -> &'static str {
        "slot redirect"
    }
}
