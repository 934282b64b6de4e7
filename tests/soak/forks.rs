//! Children of `fork`, in which the stack that forked keeps its values, and others are armed.

use crate::{life, threads};

/// A child that takes longer hangs, and a signal ends it.
const PATIENCE: u32 = 60;

pub fn lives(random: &mut fastrand::Rng) {
    let mut mine = random.fork();
    threads::run("forks", 1 << 18, random.bool(), move || {
        let life = life::begin();
        // SAFETY: the child calls functions that the library allows there, and allocates, which
        // glibc's `fork` allows.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "{}", std::io::Error::last_os_error());
        if child == 0 {
            // SAFETY: limits this process, in which nothing else runs.
            unsafe { libc::alarm(PATIENCE) };
            threads::act(life, &mut mine);
            let mut theirs = mine.fork();
            threads::run("a child of forks", 1 << 18, mine.bool(), || {
                let life = life::begin();
                threads::act(life, &mut theirs);
            });
            life::check(life);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) };
        }
        threads::act(life, &mut mine);
        let mut status = 0;
        loop {
            // SAFETY: waits for the child, and writes how it ended.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            if waited == child {
                break;
            }
            assert_eq!(std::io::Error::last_os_error().kind(), std::io::ErrorKind::Interrupted);
        }
        assert_eq!(status, 0, "how a child of fork ended");
        life::check(life);
    });
}
