//! The kinds of stacks and ends that can be filmed.

use clap::ValueEnum;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kind {
    /// A thread whose start routine returns
    Thread,
    /// The main thread, when main returns
    Main,
    /// A makecontext fiber whose function returns
    Fiber,
    /// A function that exeunt::enter calls
    Enter,
    /// A thread that ends by pthread_exit
    #[value(name = "pthread_exit")]
    PthreadExit,
    /// A thread whose start routine returns, with code redirect
    Code,
    /// A goroutine whose entry function returns (needs Go)
    Goroutine,
}

impl Kind {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Main => "main",
            Self::Fiber => "fiber",
            Self::Enter => "enter",
            Self::PthreadExit => "pthread_exit",
            Self::Code => "code",
            Self::Goroutine => "goroutine",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Thread => "A thread returns",
            Self::Main => "main returns",
            Self::Fiber => "A fiber returns",
            Self::Enter => "A function returns into exeunt::enter",
            Self::PthreadExit => "A thread ends by pthread_exit",
            Self::Code => "A thread returns, with code redirect",
            Self::Goroutine => "A goroutine returns",
        }
    }

    pub fn about(self) -> &'static str {
        match self {
            Self::Thread => {
                "pthread_create has started a thread. Its start routine, the entry function, registers an exit handler \
                 with exeunt::at_exit and returns. exeunt redirects the return by the word in the foot."
            }
            Self::Main => {
                "A function on the main thread registers an exit handler. The entry function of this stack is main, \
                 which the C library has called. Its foot is many frames further out. The handler runs when main has \
                 returned."
            }
            Self::Fiber => {
                "makecontext has made a fiber, and swapcontext switches to it. No call has written the foot of this \
                 stack: makecontext has stored it there, as if the exit trampoline had called. The exit trampoline's \
                 frame has no spare word, so unwinders find the original return address by an expression."
            }
            Self::Enter => {
                "Some fibers never return to a known exit trampoline. exeunt::enter calls a function from a frame that \
                 exeunt knows, and that function's return is redirected like that of an entry function."
            }
            Self::PthreadExit => {
                "A thread registers an exit handler and calls pthread_exit. Its entry function does not return. glibc \
                 unwinds the stack and jumps to the landing, which it has kept in the exit trampoline's frame. exeunt \
                 has redirected the landing as well as the foot."
            }
            Self::Code => {
                "A thread registers an exit handler and returns. The foot stays as it is. exeunt has changed a call that \
                 the exit trampoline makes once the entry function has returned: it leads to a hook. This is done once \
                 for all threads of the process."
            }
            Self::Goroutine => {
                "A go statement has started a goroutine. Its entry function registers an exit handler with exeunt.AtExit \
                 and returns. The foot of a goroutine leads into runtime.goexit. The Go module leaves it as it is, and \
                 changes the call that runtime.goexit makes. The filmed program runs with GOMAXPROCS=1, without \
                 garbage collection and asynchronous preemption, and its other threads are kept from preempting this \
                 goroutine, so that nothing interrupts it. It starts with a stack that is large enough and does not move."
            }
        }
    }

    pub fn redirect(self) -> &'static str {
        if matches!(self, Self::Code | Self::Goroutine) { "code redirect" } else { "slot redirect" }
    }
}
