//! Where a test kills or delays the daemon: every step that it takes on something that outlives it calls [`step`].
//!
//! In a debug build `PINFOLD_CRASH_AT=N` makes the N-th step the last, and `PINFOLD_CRASH_AT=NAME` the first of that name:
//! the process is killed there with SIGKILL, as the kernel or an operator would, and no code of it runs any more.
//! `PINFOLD_SLOW_AT=NAME` lets a second pass after each step of that name, on its thread alone: what the others do meanwhile
//! shows. In a release build there is nothing of this.

/// A step is about to be taken, or was just taken; whoever asked for it is killed here.
#[cfg(debug_assertions)]
pub fn step(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static SLOW: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("PINFOLD_SLOW_AT").ok());
    static LAST: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("PINFOLD_CRASH_AT").ok());
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    if SLOW.as_deref() == Some(name) {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    let Some(last) = &*LAST else { return };
    let taken = TAKEN.fetch_add(1, Ordering::Relaxed) + 1;
    if last.parse() == Ok(taken) || last == name {
        // One write, for whoever reads what the killed one said last.
        let told = format!("crash at step {taken}: {name}\n");
        let _ = rustix::io::write(std::io::stderr(), told.as_bytes());
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Nothing: what is shipped cannot be told to crash.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn step(_name: &str) {}
