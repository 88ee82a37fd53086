//! Hands on the history: what ended, kept in a database that outlives daemons and boots, bounded in size and in age.
//!
//! SQLite with a write-ahead log (sqlite.org/wal.html): whoever is killed while writing loses nothing that was written
//! before, and whoever reads does not wait for who writes. A crash of the machine may cost the last moments and no more
//! (`synchronous=NORMAL`).

use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OpenFlags, params, params_from_iter};
use rustix::fs::OFlags;

use crate::config::Bounds;
use crate::limits::Bytes;
use crate::occurrence::{Ended, Occurrence, What};
use crate::wire::{Answer, By, ENDS_MAX, Group, Question};

/// The most groups.
const GROUPS_MAX: u32 = 1000;

/// How long an answer may take. Whoever asks waits a little longer.
pub const ANSWER_MAX: Duration = Duration::from_secs(8);

/// After how many steps of SQLite's machine the time is looked at: some milliseconds.
const STEPS: i32 = 100_000;

/// How long somebody else's writing is waited for.
const BUSY_MAX: Duration = Duration::from_secs(2);

/// More pages than the ends need that are written at a time.
const WRITE_PAGES: u64 = 64;

/// What the log beside the database may grow to, in pages, before it is written back.
const LOG_PAGES: u32 = 256;

/// The version of the tables, as `PRAGMA user_version` keeps it.
const VERSION: u32 = 1;

const TABLES: &str = "
    CREATE TABLE ended (
        id INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        started_at INTEGER NOT NULL,
        uid INTEGER NOT NULL,
        session TEXT NOT NULL,
        leaf TEXT NOT NULL,
        server TEXT NOT NULL,
        host TEXT,
        cause TEXT NOT NULL,
        killed INTEGER NOT NULL,
        lifetime REAL NOT NULL,
        peak INTEGER,
        given_back INTEGER,
        occurrence TEXT NOT NULL,
        UNIQUE (started_at, leaf, session, uid)
    ) STRICT;
    CREATE INDEX ended_at ON ended (at);
";

/// What went wrong with the database.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} the history {}", path.display())]
pub struct HistoryError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: Source,
}

#[derive(Debug, thiserror::Error)]
enum Source {
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("it is no file; move it away")]
    NoFile,
    #[error("it belongs to user {0}; move it away")]
    Foreign(u32),
    #[error("others may write into its directory; take that from them (chmod go-w)")]
    Open,
    #[error("another file has come in its place")]
    Replaced,
    #[error("that takes too long; ask for less, as with --since 1d")]
    Slow,
    #[error("it was written by a later version of pinfold ({0}); use that, or move the file away")]
    Version(u32),
}

/// The database.
#[derive(Debug)]
pub struct History {
    connection: Connection,
    path: PathBuf,
}

impl History {
    /// Opens it for writing, and makes it and its directory where they are missing: for nobody else to read.
    pub fn open(path: &Path, bounds: Bounds) -> Result<Self, HistoryError> {
        Self::open_with(path, bounds).map_err(|source| failed("open", path, source))
    }

    fn open_with(path: &Path, bounds: Bounds) -> Result<Self, Source> {
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        // SQLite gives its log the mode of the database. Of a pipe that stands here nothing is waited for, and nothing that
        // somebody else put here is written to.
        let mut options = std::fs::File::options();
        let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
        options.create(true).append(true).mode(0o600).custom_flags(flags.bits().cast_signed());
        let metadata = options.open(path)?.metadata()?;
        expect_file(&metadata)?;
        if metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(Source::Foreign(metadata.uid()));
        }
        // SQLite opens the path a second time, and what is beside it: where nobody else can change the directory, all of that
        // is the same file's.
        expect_own_directory(path, &metadata)?;
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        expect_own_directory(path, &metadata)?;
        connection.busy_timeout(BUSY_MAX)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", 1 << 20)?;
        // A file that somebody else made is not to run anything (sqlite.org/security.html).
        connection.pragma_update(None, "trusted_schema", "OFF")?;
        let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match version {
            0 => connection.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"))?,
            VERSION => {}
            later => return Err(Source::Version(later)),
        }
        let page: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = (bounds.bytes.0 / u64::from(page.max(1))).max(16);
        let history = Self { connection, path: path.to_owned() };
        history.shrink(pages)?;
        history.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
        Ok(history)
    }

    /// Makes room where the file is larger than it may be by now: SQLite bounds only its growth.
    fn shrink(&self, pages: u64) -> rusqlite::Result<()> {
        let there = self.number("page_count")?;
        if there <= pages {
            return Ok(());
        }
        // Beside the ends stand their index and what was free, so that a little less than the share is kept.
        self.connection.execute(
            "DELETE FROM ended WHERE id NOT IN (SELECT id FROM ended ORDER BY at DESC \
             LIMIT (SELECT count(*) * ?1 / ?2 FROM ended))",
            [pages * 8 / 10, there].map(|number| i64::try_from(number).unwrap_or(i64::MAX)),
        )?;
        self.connection.execute_batch("VACUUM")?;
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    fn number(&self, pragma: &str) -> rusqlite::Result<u64> {
        self.connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
    }

    /// Writes ends down, all or none. One that is there already is not written a second time: a daemon that was killed
    /// between writing and letting go of the record tells it again. Where there is no room the oldest give way.
    pub fn write(&mut self, ends: &[&Occurrence], bounds: Bounds) -> Result<(), HistoryError> {
        let mut written = self.insert(ends);
        for _ in 0..3 {
            // A disk that is full says the same as a database that is: of that the oldest ends are no cause.
            if !written.as_ref().is_err_and(is_full) || !self.is_at_bound() {
                break;
            }
            written = self.forget_oldest().and_then(|()| self.insert(ends));
        }
        let oldest = SystemTime::now().checked_sub(Duration::from_secs(u64::from(bounds.days) * 86_400));
        let oldest = microseconds(oldest.unwrap_or(UNIX_EPOCH));
        written
            .and_then(|()| self.connection.execute("DELETE FROM ended WHERE at < ?1", [oldest]).map(drop))
            .map_err(|error| failed("write to", &self.path, error.into()))
    }

    fn insert(&mut self, ends: &[&Occurrence]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare(
                "INSERT OR IGNORE INTO ended (at, started_at, uid, session, leaf, server, host, cause, killed, lifetime, \
                 peak, given_back, occurrence) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?;
            for occurrence in ends {
                let What::Ended(Ended { outcome, started_at, lifetime_seconds, .. }) = &occurrence.what else {
                    continue;
                };
                let amount = |bytes: Option<Bytes>| bytes.map(|Bytes(bytes)| i64::try_from(bytes).unwrap_or(i64::MAX));
                insert.execute(params![
                    microseconds(occurrence.at.time()),
                    microseconds(started_at.time()),
                    occurrence.uid,
                    occurrence.session.as_ref().map_or("", |id| id.as_str()),
                    occurrence.leaf.as_deref().unwrap_or_default(),
                    occurrence.server.as_str(),
                    occurrence.host.as_ref().map(|host| host.as_str()),
                    outcome.cause.word(),
                    outcome.killed,
                    lifetime_seconds,
                    amount(outcome.peak_bytes),
                    amount(outcome.memory_bytes),
                    serde_json::to_string(occurrence).expect("our views are JSON"),
                ])?;
            }
        }
        transaction.commit()
    }

    /// Whether it is the bound that leaves no room for what was just tried, and is undone.
    fn is_at_bound(&self) -> bool {
        let (there, most) = (self.number("page_count"), self.number("max_page_count"));
        there.is_ok_and(|there| most.is_ok_and(|most| there + WRITE_PAGES >= most))
    }

    /// A tenth of what is there, and at least one.
    fn forget_oldest(&self) -> rusqlite::Result<()> {
        // Room is made with none: the log takes what is deleted, and the pages are free after it.
        self.connection.execute(
            "DELETE FROM ended WHERE id IN (SELECT id FROM ended ORDER BY at LIMIT (SELECT count(*) / 10 + 1 FROM ended))",
            [],
        )?;
        Ok(())
    }

    /// Asks the database at this path, on a connection of its own. Where there is none, nothing has ended.
    pub fn ask(path: &Path, question: &Question, uid: u32) -> Result<Answer, HistoryError> {
        Self::read(path)?.map_or_else(|| Ok(Answer::default()), |history| history.answer(question, uid))
    }

    /// Opens it for reading only. `None` where there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, HistoryError> {
        let fail = |source| failed("read", path, source);
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error.into())),
            Ok(metadata) => expect_file(&metadata).map_err(fail)?,
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || -> Result<Option<Connection>, Source> {
            let mut connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(BUSY_MAX)?;
            connection.pragma_update(None, "trusted_schema", "OFF")?;
            let until = Instant::now() + ANSWER_MAX;
            connection.progress_handler(STEPS, Some(move || Instant::now() > until))?;
            match connection.pragma_query_value(None, "user_version", |row| row.get(0))? {
                // Whoever makes it has not come so far yet.
                0 => Ok(None),
                VERSION => Ok(Some(connection)),
                later => Err(Source::Version(later)),
            }
        };
        let opened = open().map_err(fail)?;
        Ok(opened.map(|connection| Self { connection, path: path.to_owned() }))
    }

    /// Answers a question, with what this user may see; root sees all.
    pub fn answer(&self, question: &Question, uid: u32) -> Result<Answer, HistoryError> {
        let answered = match question.by {
            None => self.ends(question, uid),
            Some(by) => self.groups(question, uid, by),
        };
        answered.map_err(|error| {
            let slow = error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted);
            failed("read", &self.path, if slow { Source::Slow } else { error.into() })
        })
    }

    fn ends(&self, question: &Question, uid: u32) -> rusqlite::Result<Answer> {
        let limit = question.limit.unwrap_or(ENDS_MAX).min(ENDS_MAX);
        let (which, mut values) = which(question, uid);
        values.push((i64::from(limit) + 1).into());
        let text = format!("SELECT occurrence FROM ended WHERE {which} ORDER BY at DESC, id DESC LIMIT ?");
        let mut select = self.connection.prepare(&text)?;
        let rows = select.query_map(params_from_iter(values), |row| row.get::<_, String>(0))?;
        let mut ends = Vec::new();
        let mut count = 0;
        for text in rows {
            count += 1;
            // What a later version wrote and this one does not understand is passed over.
            ends.extend(serde_json::from_str::<Occurrence>(&text?).ok());
        }
        ends.truncate(limit as usize);
        ends.reverse();
        Ok(Answer { ends, groups: Vec::new(), more: count > limit })
    }

    fn groups(&self, question: &Question, uid: u32, by: By) -> rusqlite::Result<Answer> {
        let column = match by {
            By::Server => "server",
            By::Host => "host",
            By::Cause => "cause",
        };
        let (which, values) = which(question, uid);
        let text = format!(
            "SELECT {column}, count(*), sum(killed), sum(cause = 'memory'), max(peak), sum(given_back), avg(lifetime), \
             max(lifetime) FROM ended WHERE {which} GROUP BY {column} ORDER BY count(*) DESC, {column} LIMIT {}",
            GROUPS_MAX + 1
        );
        let mut select = self.connection.prepare(&text)?;
        let amount = |bytes: Option<i64>| bytes.map(|bytes| Bytes(bytes.cast_unsigned()));
        let rows = select.query_map(params_from_iter(values), |row| {
            Ok(Group {
                name: row.get(0)?,
                ends: row.get::<_, i64>(1)?.cast_unsigned(),
                killed: row.get::<_, i64>(2)?.cast_unsigned(),
                memory: row.get::<_, i64>(3)?.cast_unsigned(),
                peak_bytes: amount(row.get(4)?),
                memory_bytes: amount(row.get(5)?),
                mean_lifetime_seconds: row.get(6)?,
                max_lifetime_seconds: row.get(7)?,
            })
        })?;
        let mut groups = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let more = groups.len() > GROUPS_MAX as usize;
        groups.truncate(GROUPS_MAX as usize);
        Ok(Answer { ends: Vec::new(), groups, more })
    }
}

/// The condition of a question, with the values for its question marks.
fn which(question: &Question, uid: u32) -> (String, Vec<rusqlite::types::Value>) {
    let (mut which, mut values) = (vec!["1"], Vec::new());
    if uid != 0 {
        which.push("uid = ?");
        values.push(i64::from(uid).into());
    }
    if let Some(since) = question.since {
        which.push("at >= ?");
        values.push(microseconds(since.time()).into());
    }
    if let Some(session) = &question.session {
        which.push("session = ?");
        values.push(session.as_str().to_owned().into());
    }
    (which.join(" AND "), values)
}

/// Since 1970.
fn microseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn expect_file(metadata: &std::fs::Metadata) -> Result<(), Source> {
    if metadata.is_file() { Ok(()) } else { Err(Source::NoFile) }
}

/// Whether the path still means this file, and nobody else can make it, or the files of SQLite beside it, mean another.
fn expect_own_directory(path: &Path, opened: &std::fs::Metadata) -> Result<(), Source> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (around, own) = (std::fs::metadata(directory)?, nix::unistd::geteuid().as_raw());
    if around.uid() != own && around.uid() != 0 {
        return Err(Source::Foreign(around.uid()));
    }
    let group = if own == 0 && around.gid() != 0 { 0o020 } else { 0 };
    if around.mode() & (0o002 | group) != 0 {
        return Err(Source::Open);
    }
    let there = std::fs::symlink_metadata(path)?;
    if (there.dev(), there.ino()) == (opened.dev(), opened.ino()) { Ok(()) } else { Err(Source::Replaced) }
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

fn failed(doing: &'static str, path: &Path, source: Source) -> HistoryError {
    HistoryError { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
