//! The tables, their format's number, and how a database file is opened.
//!
//! The legal states of a message, and what a crash leaves of each step, are in `docs/spool.md`.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Resource, getrlimit};

use crate::layout::{open_or_create, with_suffix};
use crate::log::frames;
use crate::{OpenError, checksum};

/// How one database file is recognised, made and upgraded.
#[derive(Debug)]
pub(crate) struct Schema {
    /// Its name in the data directory.
    pub(crate) file: &'static str,
    /// Marks the file as ours (`PRAGMA application_id`).
    application_id: i64,
    /// The newest format known here (`PRAGMA user_version`).
    version: i64,
    /// Makes an empty file into that format.
    create: &'static str,
    /// Each makes a file of the format before into the next one, from format 1 on.
    steps: &'static [&'static str],
}

pub(crate) const QUEUE: Schema = Schema {
    file: "queue.db",
    application_id: 0x5374_6e71, // "Stnq"
    version: 4,
    create: include_str!("queue.sql"),
    steps: &[
        include_str!("queue-1-to-2.sql"),
        include_str!("queue-2-to-3.sql"),
        include_str!("queue-3-to-4.sql"),
    ],
};

pub(crate) const POLICIES: Schema = Schema {
    file: "policies.db",
    application_id: 0x5374_6e70, // "Stnp"
    version: 3,
    create: include_str!("policies.sql"),
    steps: &[include_str!("policies-1-to-2.sql"), include_str!("policies-2-to-3.sql")],
};

/// Octets of a page. Measured: 16384 is slower at every depth of queue.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// The most pages that SQLite allows in a file.
const PAGES_MAX: i64 = 0xffff_fffe;
/// Our choice: longer than a foreign writer should take, shorter than any peer's patience.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Our choice: how long the log waits for those who read it. Our own readers are quicker, and
/// others are not waited for.
const READERS_TIMEOUT: Duration = Duration::from_millis(20);
/// KiB of pages the writer keeps: the roots and right edges of a few trees.
const WRITER_CACHE_KIB: i64 = 8 * 1024;
/// KiB of pages a reader keeps.
const READER_CACHE_KIB: i64 = 512;
/// Statements a connection keeps prepared: all there are.
const STATEMENTS: usize = 64;

impl Schema {
    /// Opens the file, makes it if it is not there, and finishes what a crash interrupted.
    ///
    /// Nothing is written before the file is known to be ours and not newer than this release.
    pub(crate) fn open(&self, root: &Path) -> Result<Connection, OpenError> {
        self.open_at(&root.join(self.file))
    }

    /// The same under another name.
    pub(crate) fn open_at(&self, path: &Path) -> Result<Connection, OpenError> {
        // SQLite would make it, but readable by everybody; its -wal and -shm follow its mode.
        open_or_create(path).map_err(|source| OpenError::Io { path: path.into(), source })?;
        let failed = |source| OpenError::Database { path: path.into(), source };
        let db = connect(path).map_err(failed)?;
        let found = self.check(&db, path)?;
        configure(&db, WRITER_CACHE_KIB).map_err(failed)?;
        // Below the process's limit. Otherwise the log could not be copied when both reach it, and
        // not even a settlement could be written.
        if let Some(octets) = getrlimit(Resource::Fsize).current {
            let pages = i64::try_from(octets / PAGE_BYTES).unwrap_or(i64::MAX).min(PAGES_MAX);
            db.pragma_update(None, "max_page_count", pages).map_err(failed)?;
        }
        if found == 0 {
            db.execute_batch(&format!(
                "BEGIN IMMEDIATE;\n{}\nPRAGMA application_id = {};\nPRAGMA user_version = {};\nCOMMIT;",
                self.create, self.application_id, self.version
            ))
            .map_err(failed)?;
        } else {
            self.migrate(&db, found).map_err(failed)?;
        }
        self.check_shape(&db, path)?;
        // After a failed sync the kernel may call pages clean that are not on the disk. Copying
        // what the log holds and syncing the copy makes them durable whatever happened before.
        let log = checkpoint(&db, Checkpoint::Truncate).map_err(failed)?;
        if log.busy || log.copied < log.pages {
            // Somebody reads: what cannot be copied yet is written once more where it is, and what
            // a killed writer has left behind it goes: a later look at the log could not tell it
            // from transactions that were committed.
            let wal = with_suffix(path, "-wal");
            let octets = frames::log_octets(log.pages.unsigned_abs());
            rewrite(&wal, octets).map_err(|source| OpenError::Io { path: wal, source })?;
        }
        Ok(db)
    }

    /// A further connection to the open file, for reading or checkpoints.
    pub(crate) fn reader(&self, root: &Path) -> rusqlite::Result<Connection> {
        let db = connect(&root.join(self.file))?;
        configure(&db, READER_CACHE_KIB)?;
        Ok(db)
    }

    /// A connection that only reads the file as it is, in whatever format; `None`: there is none,
    /// or it is empty.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when the file is not ours, newer than this release, or cannot be opened.
    pub(crate) fn peek(&self, root: &Path) -> Result<Option<Connection>, OpenError> {
        let path = root.join(self.file);
        match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(OpenError::Io { path, source }),
            Ok(file) if file.len() == 0 => return Ok(None),
            Ok(_) => {}
        }
        let failed = |source| OpenError::Database { path: path.clone(), source };
        // Not opened read-only: what a crash left in a journal has to be undone before anything can
        // be read.
        let db = connect(&path).map_err(failed)?;
        db.execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF;").map_err(failed)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
        self.check(&db, &path)?;
        Ok(Some(db))
    }

    /// The file's format; 0 for an empty file.
    fn check(&self, db: &Connection, path: &Path) -> Result<i64, OpenError> {
        let read = |query: &str| {
            db.query_row(query, [], |row| row.get::<_, i64>(0))
                .map_err(|source| OpenError::Database { path: path.into(), source })
        };
        let (owner, found) = (read("PRAGMA application_id")?, read("PRAGMA user_version")?);
        // A crash between the file's first page and our tables leaves a database with nothing in
        // it.
        let is_blank = || {
            let tables = read("SELECT count(*) FROM sqlite_schema")?;
            Ok(owner == 0 && found == 0 && tables == 0)
        };
        if owner == 0 && is_blank()? {
            return Ok(found);
        }
        self.judge(owner, found, path)
    }

    /// The same for a file that is not opened, by the first 100 octets of it (SQLite, "Database
    /// File Format", 1.3).
    pub(crate) fn check_header(&self, header: &[u8; 100], path: &Path) -> Result<(), OpenError> {
        let number = |at: usize| {
            let octets = header.get(at..at + 4).and_then(|octets| octets.try_into().ok());
            i64::from(u32::from_be_bytes(octets.unwrap_or_default()))
        };
        let is_database = header.starts_with(b"SQLite format 3\0");
        let owner = if is_database { number(68) } else { 0 };
        self.judge(owner, number(60), path).map(drop)
    }

    /// Are all tables and indexes there, as they are made here? A changed octet in the schema would
    /// else be an error of each statement.
    ///
    /// # Errors
    ///
    /// [`OpenError::Shape`], or what SQLite says.
    pub(crate) fn check_shape(&self, db: &Connection, path: &Path) -> Result<(), OpenError> {
        let failed = |source| OpenError::Database { path: path.into(), source };
        let wanted = Connection::open_in_memory().and_then(|db| {
            db.execute_batch(self.create)?;
            shape(&db)
        });
        let found = shape(db).map_err(failed)?;
        let is_missing = |part: &&String| !found.contains(*part);
        match wanted.map_err(failed)?.iter().find(is_missing) {
            Some(part) => Err(OpenError::Shape { path: path.into(), part: part.clone() }),
            None => Ok(()),
        }
    }

    fn judge(&self, owner: i64, found: i64, path: &Path) -> Result<i64, OpenError> {
        if owner != self.application_id {
            return Err(OpenError::Foreign { path: path.into(), found: owner });
        }
        if found > self.version {
            return Err(OpenError::Newer { path: path.into(), found, known: self.version });
        }
        Ok(found)
    }

    /// From format `found` to ours, in one transaction: a crash leaves the old format or the new
    /// one.
    fn migrate(&self, db: &Connection, found: i64) -> rusqlite::Result<()> {
        let done = usize::try_from(found - 1).unwrap_or_default();
        let steps = self.steps.get(done..).unwrap_or_default();
        if steps.is_empty() {
            return Ok(());
        }
        let transaction = db.unchecked_transaction()?;
        for step in steps {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "user_version", self.version)?;
        transaction.commit()
    }
}

/// Cuts a file to so many octets, writes these over themselves and syncs them. Closing it ends no
/// lock: SQLite has none on its log.
fn rewrite(path: &Path, octets: u64) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() > octets {
        file.set_len(octets)?;
    }
    let (mut buffer, mut at) = (vec![0; 1024 * 1024], 0);
    loop {
        let count = file.read_at(&mut buffer, at)?;
        if count == 0 {
            return file.sync_all();
        }
        file.write_all_at(buffer.get(..count).unwrap_or_default(), at)?;
        at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

/// Columns and indexes, in words.
fn shape(db: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let mut select = db.prepare(
        "SELECT 'column ' || t.name || '.' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' || c.pk
         FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table'
         UNION ALL
         SELECT 'index ' || t.name || '.' || i.name || ' ' || coalesce(c.name, '') || ' ' || c.seqno
         FROM sqlite_schema t JOIN pragma_index_list(t.name) i JOIN pragma_index_info(i.name) c WHERE t.type = 'table'",
    )?;
    select.query_map([], |row| row.get(0))?.collect()
}

pub(crate) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // One connection is never used by two threads at once, so SQLite's own locks are not needed.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    Ok(db)
}

/// Measured choices: see `docs/spool.md`.
fn configure(db: &Connection, cache_kib: i64) -> rusqlite::Result<()> {
    db.execute_batch(&format!(
        "PRAGMA page_size = {PAGE_BYTES};
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA temp_store = MEMORY;
         PRAGMA mmap_size = 0;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA trusted_schema = OFF;
         PRAGMA cache_size = -{cache_kib};"
    ))?;
    // The last close would copy a log whose sync may have failed into the tables.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Or every new value in a range makes its statement be planned again: 9 % of the writer's time.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    checksum::add_to(db)
}

/// How hard a checkpoint tries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Checkpoint {
    /// Copies nothing; counts only.
    Count,
    /// Copies what it can without making anybody wait.
    Passive,
    /// Waits a moment until the log can be written from its start again.
    Restart,
    /// As `Restart`, and gives the log's space back.
    Truncate,
}

/// The log's length in pages, and how many of them are copied into the tables already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogState {
    /// Somebody was in the way.
    pub(crate) busy: bool,
    pub(crate) pages: i64,
    pub(crate) copied: i64,
}

pub(crate) fn checkpoint(db: &Connection, how: Checkpoint) -> rusqlite::Result<LogState> {
    match how {
        Checkpoint::Count => run(db, "PRAGMA wal_checkpoint(NOOP)"),
        Checkpoint::Passive => run(db, "PRAGMA wal_checkpoint(PASSIVE)"),
        Checkpoint::Restart => briefly(db, "PRAGMA wal_checkpoint(RESTART)"),
        Checkpoint::Truncate => briefly(db, "PRAGMA wal_checkpoint(TRUNCATE)"),
    }
}

/// While it waits for readers, nobody writes.
fn briefly(db: &Connection, pragma: &str) -> rusqlite::Result<LogState> {
    db.busy_timeout(READERS_TIMEOUT)?;
    let log = run(db, pragma);
    db.busy_timeout(BUSY_TIMEOUT)?;
    log
}

fn run(db: &Connection, pragma: &str) -> rusqlite::Result<LogState> {
    db.prepare_cached(pragma)?.query_row([], |row| {
        Ok(LogState { busy: row.get(0)?, pages: row.get(1)?, copied: row.get(2)? })
    })
}
