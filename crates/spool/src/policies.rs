//! Policy state that survives: domains, hosts that completed STARTTLS, and the clock's mark.
//!
//! In a file of its own, so that a damaged or restored queue does not take the policies along. A row
//! that cannot be read is reported as [`Found::Corrupt`] and never stops anything.

use std::sync::{Arc, mpsc};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use smtp::HostName;

use crate::StoreError;
use crate::readers::Readers;
use crate::rows::{Columns, count, optional_time, time};
use crate::writer::{Urgency, Writer};

/// What is known about the policy of one domain. The meaning is the policy keeper's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyRow {
    /// The policy domain.
    pub domain: HostName,
    /// The last successful fetch; decides which of two rows is newer.
    pub fetched_at: Option<Timestamp>,
    /// When the policy lapses.
    pub expires_at: Option<Timestamp>,
    /// The id it was fetched for.
    pub id: Option<Box<str>>,
    /// Its mode, for listings.
    pub mode: Option<Box<str>>,
    /// The policy file as fetched.
    pub body: Option<Vec<u8>>,
    /// Its last use for mail.
    pub last_used_at: Option<Timestamp>,
    /// The id whose fetch failed.
    pub failed_id: Option<Box<str>>,
    /// When it failed last.
    pub failed_at: Option<Timestamp>,
    /// How often in a row.
    pub failed_count: u32,
    /// Failed fetches before the first success.
    pub first_fetch_failures: u32,
    /// Since when the TXT query fails.
    pub dns_failing_since: Option<Timestamp>,
    /// The last conclusive "no record".
    pub none_seen_at: Option<Timestamp>,
    /// Recent fetches, for the hourly limit; the keeper's own form.
    pub recent_fetches: Box<str>,
    /// The alarm that was raised.
    pub alarm: Option<Box<str>>,
}

impl PolicyRow {
    /// Nothing is known about `domain`.
    pub fn new(domain: HostName) -> Self {
        Self {
            domain,
            fetched_at: None,
            expires_at: None,
            id: None,
            mode: None,
            body: None,
            last_used_at: None,
            failed_id: None,
            failed_at: None,
            failed_count: 0,
            first_fetch_failures: 0,
            dns_failing_since: None,
            none_seen_at: None,
            recent_fetches: "".into(),
            alarm: None,
        }
    }
}

/// What is remembered about a mail host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostRow {
    /// The MX name.
    pub host: HostName,
    /// When it last completed STARTTLS with us.
    pub starttls_seen_at: Timestamp,
    /// What else the connector remembers; its own form.
    pub note: Box<str>,
}

/// The answer to a look-up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Found<T> {
    /// It is stored.
    Row(T),
    /// It is not.
    Absent,
    /// Something is stored and cannot be read. To be taken for a first contact, with an alarm.
    Corrupt,
}

/// A page of a listing.
#[derive(Clone, Debug, Default)]
pub struct PolicyPage {
    /// By name.
    pub rows: Vec<PolicyRow>,
    /// Rows that are damaged and were left out.
    pub damaged: u64,
    /// The last name looked at; `None`: this was the last page.
    pub next: Option<Box<str>>,
}

/// The policy database.
#[derive(Clone, Debug)]
pub struct Policies {
    writer: Arc<Writer>,
    readers: Arc<Readers>,
}

macro_rules! columns {
    () => {
        "domain, fetched_at, expires_at, policy_id, mode, body, last_used_at, failed_id, failed_at,
         failed_count, first_fetch_failures, dns_failing_since, none_seen_at, recent_fetches, alarm"
    };
}

impl Policies {
    pub(crate) fn new(writer: Writer, readers: Readers) -> Self {
        Self { writer: Arc::new(writer), readers: Arc::new(readers) }
    }

    pub(crate) fn close(&self) {
        self.writer.close();
    }

    /// What is stored about `domain`. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database cannot be read at all.
    pub fn get(&self, domain: &HostName) -> Result<Found<PolicyRow>, StoreError> {
        self.find(|db| {
            db.prepare_cached(concat!("SELECT ", columns!(), " FROM policies WHERE domain = ?1"))?
                .query_row([domain.as_str()], |row| Ok(read_policy(row)))
                .optional()
        })
    }

    /// Stores a row unless what is stored was fetched later. `done` learns whether it was stored.
    pub fn put<D>(&self, row: PolicyRow, done: D)
    where
        D: FnOnce(Result<bool, StoreError>) + Send + 'static,
    {
        self.writer.submit(Urgency::Ordinary, move |db| put(db, &row), done);
    }

    /// Forgets a domain; `done` learns whether something was stored.
    pub fn delete<D>(&self, domain: HostName, done: D)
    where
        D: FnOnce(Result<bool, StoreError>) + Send + 'static,
    {
        let delete = move |db: &Connection| {
            let mut delete = db.prepare_cached("DELETE FROM policies WHERE domain = ?1")?;
            Ok(delete.execute([domain.as_str()])? > 0)
        };
        self.writer.submit(Urgency::Ordinary, delete, done);
    }

    /// Notes a use for mail. Each costs a sync: call it once a day and domain, not once a message.
    pub fn touch<D>(&self, domain: HostName, at: Timestamp, done: D)
    where
        D: FnOnce(Result<(), StoreError>) + Send + 'static,
    {
        let touch = move |db: &Connection| {
            db.prepare_cached(
                "UPDATE policies SET last_used_at = ?2
                 WHERE domain = ?1 AND (last_used_at IS NULL OR last_used_at < ?2)",
            )?
            .execute(params![domain.as_str(), at.as_millisecond()])?;
            Ok(())
        };
        self.writer.submit(Urgency::Ordinary, touch, done);
    }

    /// Up to `limit` rows whose names come after `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database cannot be read at all.
    pub fn list(&self, after: Option<&str>, limit: usize) -> Result<PolicyPage, StoreError> {
        self.readers.read(|db| list(db, after.unwrap_or_default(), limit))
    }

    /// What is remembered about `host`. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database cannot be read at all.
    pub fn host(&self, host: &HostName) -> Result<Found<HostRow>, StoreError> {
        self.find(|db| {
            db.prepare_cached("SELECT host, starttls_seen_at, note FROM hosts WHERE host = ?1")?
                .query_row([host.as_str()], |row| Ok(read_host(row)))
                .optional()
        })
    }

    /// Remembers a host. Each call costs a sync: once a day and host is enough.
    pub fn put_host<D>(&self, row: HostRow, done: D)
    where
        D: FnOnce(Result<(), StoreError>) + Send + 'static,
    {
        let put = move |db: &Connection| {
            db.prepare_cached(
                "INSERT INTO hosts (host, starttls_seen_at, note) VALUES (?1, ?2, ?3)
                 ON CONFLICT (host) DO UPDATE SET
                     starttls_seen_at = max(starttls_seen_at, excluded.starttls_seen_at),
                     note = excluded.note",
            )?
            .execute(params![
                row.host.as_str(),
                row.starttls_seen_at.as_millisecond(),
                &*row.note
            ])?;
            Ok(())
        };
        self.writer.submit(Urgency::Ordinary, put, done);
    }

    /// Forgets hosts last seen before `before`; `done` learns how many.
    pub fn forget_hosts<D>(&self, before: Timestamp, done: D)
    where
        D: FnOnce(Result<u64, StoreError>) + Send + 'static,
    {
        let forget = move |db: &Connection| {
            let mut delete = db.prepare_cached("DELETE FROM hosts WHERE starttls_seen_at < ?1")?;
            let count = delete.execute([before.as_millisecond()])?;
            Ok(u64::try_from(count).unwrap_or(u64::MAX))
        };
        self.writer.submit(Urgency::Ordinary, forget, done);
    }

    /// The highest wall-clock time that was ever noted.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database cannot be read at all.
    pub fn clock_mark(&self) -> Result<Found<Timestamp>, StoreError> {
        self.find(|db| {
            db.prepare_cached("SELECT value FROM marks WHERE name = 'clock'")?
                .query_row([], |row| Ok(Columns::new(row).next().and_then(time)))
                .optional()
        })
    }

    /// Notes the wall clock. The mark moves to `at` even if that is earlier: whoever notes it has
    /// decided which clock to believe.
    pub fn set_clock_mark<D>(&self, at: Timestamp, done: D)
    where
        D: FnOnce(Result<(), StoreError>) + Send + 'static,
    {
        let set = move |db: &Connection| {
            db.prepare_cached("INSERT OR REPLACE INTO marks (name, value) VALUES ('clock', ?1)")?
                .execute([at.as_millisecond()])?;
            Ok(())
        };
        self.writer.submit(Urgency::Ordinary, set, done);
    }

    /// The marks whose names begin so, with their times. Those that are damaged are left out.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database cannot be read at all.
    pub fn marks(&self, prefix: &str) -> Result<Vec<(String, Timestamp)>, StoreError> {
        self.readers.read(|db| {
            let mut select = db.prepare_cached(
                "SELECT name, value FROM marks WHERE substr(name, 1, length(?1)) = ?1",
            )?;
            let mut rows = select.query([prefix])?;
            let mut marks = Vec::new();
            while let Some(row) = rows.next()? {
                let mut columns = Columns::new(row);
                let (name, value) = (columns.next()?, columns.next().and_then(time));
                marks.extend(value.ok().map(|at| (name, at)));
            }
            Ok(marks)
        })
    }

    /// Sets a mark, or removes it. Blocks for a commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then it is as before.
    pub fn set_mark(&self, name: &str, at: Option<Timestamp>) -> Result<(), StoreError> {
        let name = name.to_owned();
        let set = move |db: &Connection| {
            match at {
                Some(at) => db
                    .prepare_cached("INSERT OR REPLACE INTO marks (name, value) VALUES (?1, ?2)")?
                    .execute(params![name, at.as_millisecond()])?,
                None => db.prepare_cached("DELETE FROM marks WHERE name = ?1")?.execute([&name])?,
            };
            Ok(())
        };
        let (answer, result) = mpsc::sync_channel(1);
        self.writer.submit(Urgency::Ordinary, set, move |result| {
            // The asker waits below.
            let _ = answer.send(result);
        });
        result.recv().map_err(|_| StoreError::Closed)?
    }

    fn find<T>(
        &self,
        look_up: impl FnOnce(&Connection) -> rusqlite::Result<Option<Result<T, StoreError>>>,
    ) -> Result<Found<T>, StoreError> {
        self.readers.read(|db| match look_up(db) {
            Ok(None) => Ok(Found::Absent),
            Ok(Some(Ok(row))) => Ok(Found::Row(row)),
            Ok(Some(Err(StoreError::Corrupt { .. }))) => Ok(Found::Corrupt),
            Ok(Some(Err(other))) => Err(other),
            Err(error) if is_damage(&error) => Ok(Found::Corrupt),
            Err(error) => Err(error.into()),
        })
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}

fn put(db: &Connection, row: &PolicyRow) -> Result<bool, StoreError> {
    let millis = |time: Option<Timestamp>| time.map(Timestamp::as_millisecond);
    let mut insert = db.prepare_cached(concat!(
        "INSERT INTO policies (",
        columns!(),
        ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
         ON CONFLICT (domain) DO UPDATE SET fetched_at = excluded.fetched_at,
             expires_at = excluded.expires_at, policy_id = excluded.policy_id,
             mode = excluded.mode, body = excluded.body, last_used_at = excluded.last_used_at,
             failed_id = excluded.failed_id, failed_at = excluded.failed_at,
             failed_count = excluded.failed_count,
             first_fetch_failures = excluded.first_fetch_failures,
             dns_failing_since = excluded.dns_failing_since,
             none_seen_at = excluded.none_seen_at, recent_fetches = excluded.recent_fetches,
             alarm = excluded.alarm
         WHERE policies.fetched_at IS NULL OR excluded.fetched_at >= policies.fetched_at"
    ))?;
    let stored = insert.execute(params![
        row.domain.as_str(),
        millis(row.fetched_at),
        millis(row.expires_at),
        row.id,
        row.mode,
        row.body,
        millis(row.last_used_at),
        row.failed_id,
        millis(row.failed_at),
        row.failed_count,
        row.first_fetch_failures,
        millis(row.dns_failing_since),
        millis(row.none_seen_at),
        &*row.recent_fetches,
        row.alarm,
    ])?;
    Ok(stored > 0)
}

fn list(db: &Connection, after: &str, limit: usize) -> Result<PolicyPage, StoreError> {
    let mut page = PolicyPage::default();
    let mut select = db.prepare_cached(concat!(
        "SELECT ",
        columns!(),
        " FROM policies WHERE domain > ?1 ORDER BY domain LIMIT ?2"
    ))?;
    let mut rows = select.query(params![after, crate::rows::number(limit)])?;
    let mut seen = 0;
    while let Some(row) = rows.next()? {
        seen += 1;
        page.next = Some(Columns::new(row).next()?);
        match read_policy(row) {
            Ok(row) => page.rows.push(row),
            Err(StoreError::Corrupt { .. }) => page.damaged += 1,
            Err(other) => return Err(other),
        }
    }
    if seen < limit {
        page.next = None;
    }
    Ok(page)
}

fn host_name(text: &str) -> Result<HostName, StoreError> {
    HostName::parse(text).map_err(|_| StoreError::Corrupt { what: "name" })
}

fn read_policy(row: &Row<'_>) -> Result<PolicyRow, StoreError> {
    let mut columns = Columns::new(row);
    Ok(PolicyRow {
        domain: columns.next_text(host_name)?,
        fetched_at: optional_time(columns.next()?)?,
        expires_at: optional_time(columns.next()?)?,
        id: columns.next()?,
        mode: columns.next()?,
        body: columns.next()?,
        last_used_at: optional_time(columns.next()?)?,
        failed_id: columns.next()?,
        failed_at: optional_time(columns.next()?)?,
        failed_count: count(columns.next()?)?,
        first_fetch_failures: count(columns.next()?)?,
        dns_failing_since: optional_time(columns.next()?)?,
        none_seen_at: optional_time(columns.next()?)?,
        recent_fetches: columns.next()?,
        alarm: columns.next()?,
    })
}

fn read_host(row: &Row<'_>) -> Result<HostRow, StoreError> {
    let mut columns = Columns::new(row);
    Ok(HostRow {
        host: columns.next_text(host_name)?,
        starttls_seen_at: time(columns.next()?)?,
        note: columns.next()?,
    })
}
