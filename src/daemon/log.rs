//! Where the daemon's log goes: the journal where there is one, else stderr, or a bounded file for an on-demand daemon.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// A log file begins anew when it has grown to this.
const LOG_BYTES_MAX: u64 = 8 << 20;

/// The log file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the log {}", path.display())]
pub struct LogError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Starts logging at `info`, or as `PINFOLD_LOG` says (`debug`, `pinfold::daemon=trace`).
pub fn start_log(file: Option<&Path>) -> Result<(), LogError> {
    let filter = EnvFilter::try_from_env("PINFOLD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    // systemd.exec(5): set where stderr is connected to the journal.
    let to_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    if let (true, Ok(journal)) = (to_journal, tracing_journald::layer()) {
        registry.with(journal).init();
        return Ok(());
    }
    match file {
        Some(path) => {
            let writer = BoundedFile::open(path).map_err(|source| LogError { path: path.to_owned(), source })?;
            registry.with(tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer)).init();
        }
        None => {
            let colours = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            registry.with(tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(io::stderr)).init();
        }
    }
    Ok(())
}

/// A file that is emptied before it grows too large.
struct BoundedFile(Mutex<File>);

impl BoundedFile {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(Mutex::new(File::options().create(true).append(true).mode(0o600).open(path)?)))
    }
}

impl<'a> MakeWriter<'a> for BoundedFile {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One line on its way to the file.
struct Line<'a>(MutexGuard<'a, File>);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.metadata()?.len() > LOG_BYTES_MAX {
            self.0.set_len(0)?;
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
