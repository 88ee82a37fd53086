//! Where the daemon's log goes: the journal where there is one, else stderr, or a bounded file for an on-demand daemon.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::occurrence::{Ended, Occurrence, What};

/// A log file begins anew when it has grown to this.
const LOG_BYTES_MAX: u64 = 8 << 20;

/// The target of what is for the journal alone: an entry of its own, with fields, for each occurrence.
const JOURNAL: &str = "pinfold::daemon::journal";

/// The target of lines that such an entry says as well: they are for a log that has lines only.
pub(super) const LINES: &str = "pinfold::daemon::lines";

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
    if let (true, Ok(plain), Ok(fields)) = (to_journal, tracing_journald::layer(), tracing_journald::layer()) {
        let plain = plain.with_filter(filter_fn(|event| event.target() != JOURNAL && event.target() != LINES));
        let fields = fields.with_field_prefix(None).with_filter(filter_fn(|event| event.target() == JOURNAL));
        registry.with(plain).with(fields).init();
        return Ok(());
    }
    let lines = filter_fn(|event| event.target() != JOURNAL);
    match file {
        Some(path) => {
            let writer = BoundedFile::open(path).map_err(|source| LogError { path: path.to_owned(), source })?;
            registry
                .with(tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer).with_filter(lines))
                .init();
        }
        None => {
            let colours = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            registry
                .with(tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(io::stderr).with_filter(lines))
                .init();
        }
    }
    Ok(())
}

/// Tells the journal, with the fields that `journalctl PINFOLD_SESSION=…` asks for.
pub(super) fn to_journal(occurrence: &Occurrence) {
    let Occurrence { uid, session, key, host, server, leaf, what, .. } = occurrence;
    let ended = match what {
        What::Ended(Ended { outcome, lifetime_seconds, .. }) => Some((outcome, lifetime_seconds)),
        _ => None,
    };
    let outcome = ended.map(|(outcome, _)| outcome);
    macro_rules! entry {
        ($level:ident) => {
            tracing::$level!(
                target: JOURNAL,
                message_id = what.message_id(),
                pinfold_event = what.word(),
                pinfold_uid = uid,
                pinfold_session = session.as_ref().map(|id| id.as_str()),
                pinfold_session_key = key,
                pinfold_host = host.as_ref().map(|name| name.as_str()),
                pinfold_server = server.as_str(),
                pinfold_leaf = leaf,
                pinfold_cause = outcome.map(|outcome| outcome.cause.word()),
                pinfold_processes = outcome.and_then(|outcome| outcome.processes),
                pinfold_peak_bytes = outcome.and_then(|outcome| outcome.peak_bytes).map(|bytes| bytes.0),
                pinfold_lifetime_seconds = ended.map(|(_, seconds)| seconds),
                "{occurrence}"
            )
        };
    }
    match what {
        What::Launched { .. } | What::MovedIn { .. } | What::Adopted { .. } | What::Ended(_) => entry!(info),
        // Nothing has changed but where its memory is.
        What::Trimmed { .. } | What::Parked { .. } | What::Thawed { .. } => entry!(debug),
        What::Refused { .. }
        | What::Storm { .. }
        | What::MemoryKill { .. }
        | What::PidsLimit { .. }
        | What::NotExecuted { .. }
        | What::Escaped { .. } => entry!(warn),
    }
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
