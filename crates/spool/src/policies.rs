//! Policy state that survives: domains, and hosts that completed STARTTLS.
//!
//! In a file of its own, so that a damaged or restored queue does not take the policies along. A
//! row that cannot be read is reported as [`FoundPolicy::Corrupt`] and never stops anything. What
//! must not get lost with the file is in queue.db: `enforced.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Params, Row, params};
use smtp::HostName;

use crate::StoreError;
use crate::readers::Readers;
use crate::rows::{Columns, count, number, optional_time, time};
use crate::writer::{Needs, Order, Urgency, Writer};

/// What is known about the policy of one domain. The meaning is the policy keeper's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyRow {
    /// The policy domain, the key of the row.
    pub domain: HostName,
    /// The last successful fetch.
    pub fetched_at: Option<Timestamp>,
    /// When the policy lapses.
    pub expires_at: Option<Timestamp>,
    /// The id it was fetched for.
    pub id: Option<Box<str>>,
    /// Its mode, for listings.
    pub mode: Option<Box<str>>,
    /// The policy file as fetched.
    pub body: Option<Vec<u8>>,
    /// Its first use for mail.
    pub first_used_at: Option<Timestamp>,
    /// Its last use for mail.
    pub last_used_at: Option<Timestamp>,
    /// Since when there was a policy without a break.
    pub known_since: Option<Timestamp>,
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
            first_used_at: None,
            last_used_at: None,
            known_since: None,
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
    /// The host by the name in MX records, the key of the row.
    pub host: HostName,
    /// When it last completed STARTTLS with us.
    pub starttls_seen_at: Timestamp,
    /// What else the connector remembers; its own form.
    pub note: Box<str>,
}

/// The answer to a look-up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FoundPolicy<T> {
    /// The row that is stored.
    Row(T),
    /// No row is stored for it.
    Absent,
    /// Something is stored and cannot be read.
    Corrupt,
}

/// A page of a listing.
#[derive(Clone, Debug, Default)]
pub struct PolicyPage {
    /// In the order of their domains.
    pub rows: Vec<PolicyRow>,
    /// Rows that are damaged and were left out.
    pub damaged: u64,
    /// The last name looked at; `None`: this was the last page.
    pub next: Option<Box<str>>,
}

/// The keys of one page of rows.
#[derive(Debug)]
struct Names {
    names: Vec<Box<str>>,
    /// Names that cannot be read.
    damaged: u64,
    /// There may be more.
    is_full: bool,
}

/// The policy database, and the list in queue.db that belongs to it.
#[derive(Clone, Debug)]
pub struct Policies {
    writer: Arc<Writer>,
    readers: Arc<Readers>,
    queue: (Arc<Writer>, Arc<Readers>),
}

macro_rules! columns {
    () => {
        "domain, fetched_at, expires_at, policy_id, mode, body, last_used_at, failed_id, failed_at,
         failed_count, first_fetch_failures, dns_failing_since, none_seen_at, recent_fetches, alarm,
         first_used_at, known_since"
    };
}

impl Policies {
    pub(crate) fn new(
        writer: Arc<Writer>,
        readers: Arc<Readers>,
        queue: (Arc<Writer>, Arc<Readers>),
    ) -> Self {
        Self { writer, readers, queue }
    }

    pub(crate) fn close(&self) {
        self.writer.close();
    }

    /// What is stored about `domain`. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database cannot be read at all.
    pub fn get(&self, domain: &HostName) -> Result<FoundPolicy<PolicyRow>, StoreError> {
        self.get_named(domain.as_str())
    }

    fn get_named(&self, domain: &str) -> Result<FoundPolicy<PolicyRow>, StoreError> {
        find(
            &self.readers,
            |db| {
                db.prepare_cached(concat!(
                    "SELECT ",
                    columns!(),
                    " FROM policies WHERE domain = ?1"
                ))?
                .query_row([domain], |row| Ok(read_policy(row)))
                .optional()
            },
            is_unreadable,
        )
    }

    /// Stores a row in the place of the one that is there. `done` must not block.
    pub fn put<D>(&self, row: PolicyRow, done: D)
    where
        D: FnOnce(Result<(), StoreError>) + Send + 'static,
    {
        self.writer.submit(Urgency::Reserved, move |db| put(db, &row), done);
    }

    /// Forgets a domain; `done` learns whether something was stored.
    pub fn delete<D>(&self, domain: HostName, done: D)
    where
        D: FnOnce(Result<bool, StoreError>) + Send + 'static,
    {
        self.delete_all(vec![domain], |deleted| done(deleted.map(|count| count > 0)));
    }

    /// Forgets some 500 domains at once; `done` learns how many were stored.
    pub fn delete_all<D>(&self, domains: Vec<HostName>, done: D)
    where
        D: FnOnce(Result<usize, StoreError>) + Send + 'static,
    {
        let delete = move |db: &Connection| {
            let mut delete = db.prepare_cached("DELETE FROM policies WHERE domain = ?1")?;
            let mut count = 0;
            for domain in &domains {
                count += delete.execute([domain.as_str()])?;
            }
            Ok(count)
        };
        self.writer.submit(Urgency::Ordinary, delete, done);
    }

    /// The same, but for domains that have a policy meanwhile.
    pub fn delete_without_policy<D>(&self, domains: Vec<HostName>, done: D)
    where
        D: FnOnce(Result<(), StoreError>) + Send + 'static,
    {
        let delete = move |db: &Connection| {
            let mut delete = db.prepare_cached(
                "DELETE FROM policies WHERE domain = ?1 AND body IS NULL AND fetched_at IS NULL",
            )?;
            domains.iter().try_for_each(|domain| delete.execute([domain.as_str()]).map(drop))?;
            Ok(())
        };
        self.writer.submit(Urgency::Ordinary, delete, done);
    }

    /// Up to `limit` rows whose names come after `after`. A damaged row or page hides no other
    /// rows.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database cannot be read at all.
    pub fn list(&self, after: Option<&str>, limit: usize) -> Result<PolicyPage, StoreError> {
        let Names { names, damaged, is_full } = self.names(after.unwrap_or_default(), limit)?;
        let next = names.last().filter(|_| is_full).cloned();
        let mut page = PolicyPage { next, damaged, ..PolicyPage::default() };
        for name in &names {
            match self.get_named(name) {
                Ok(FoundPolicy::Row(row)) => page.rows.push(row),
                // It was deleted since.
                Ok(FoundPolicy::Absent) => {}
                Ok(FoundPolicy::Corrupt) => page.damaged += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(page)
    }

    /// Names are read from their index, so that a damaged page with rows does not matter; where
    /// that is damaged, from the rows as well, as far as these can be read.
    fn names(&self, after: &str, limit: usize) -> Result<Names, StoreError> {
        let (mut found, mut seen, mut damaged) = (BTreeSet::new(), 0, 0);
        let is_behind = |name: &str| name > after;
        let in_order = "policies INDEXED BY sqlite_autoindex_policies_1 WHERE domain > ?1
                        ORDER BY domain LIMIT ?2";
        let end = self.walk_names(in_order, params![after, number(limit)], |name| {
            seen += 1;
            damaged += u64::from(name.is_none());
            found.extend(name.filter(|name| is_behind(name)));
        })?;
        if end.is_ok() {
            return Ok(Names {
                names: found.into_iter().collect(),
                damaged,
                is_full: seen >= limit,
            });
        }
        let add = |found: &mut BTreeSet<Box<str>>, name: Option<Box<str>>| {
            found.extend(name.filter(|name| is_behind(name)));
            if found.len() > limit {
                found.pop_last();
            }
        };
        // Not sorted by the database, which would have to read them all first. From both ends, each
        // up to what is damaged.
        let (from_first, from_last) = (
            "policies NOT INDEXED WHERE domain > ?1 ORDER BY rowid",
            "policies NOT INDEXED WHERE domain > ?1 ORDER BY rowid DESC",
        );
        damaged = 0;
        let end = self.walk_names(from_first, params![after], |name| {
            damaged += u64::from(name.is_none());
            add(&mut found, name);
        })?;
        if end.is_err() {
            damaged += 1;
            // Where this one ends is told of already.
            let _end = self.walk_names(from_last, params![after], |name| add(&mut found, name))?;
        }
        let is_full = found.len() >= limit;
        Ok(Names { names: found.into_iter().collect(), damaged, is_full })
    }

    /// Gives the names one by one, `None` for what is none; the inner result says whether it came
    /// to their end.
    fn walk_names(
        &self,
        from: &str,
        parameters: impl Params,
        mut each: impl FnMut(Option<Box<str>>),
    ) -> Result<rusqlite::Result<()>, StoreError> {
        self.readers.read(|db| {
            let mut select = db.prepare_cached(&format!("SELECT domain FROM {from}"))?;
            let mut rows = select.query(parameters)?;
            loop {
                match rows.next() {
                    Ok(Some(row)) => each(Columns::new(row).next().ok()),
                    Ok(None) => return Ok(Ok(())),
                    Err(error) => return Ok(Err(error)),
                }
            }
        })
    }

    /// What is remembered about `host`. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database cannot be read at all.
    pub fn host(&self, host: &HostName) -> Result<FoundPolicy<HostRow>, StoreError> {
        find(
            &self.readers,
            |db| {
                db.prepare_cached("SELECT host, starttls_seen_at, note FROM hosts WHERE host = ?1")?
                    .query_row([host.as_str()], |row| Ok(read_host(row)))
                    .optional()
            },
            is_unreadable,
        )
    }

    /// Remembers a host, on a full disk too: without that, its mail could go in clear text. Each
    /// call costs a sync: once a day and host is enough.
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
        self.writer.submit(Urgency::Reserved, put, done);
    }

    /// Forgets a host; `done` learns whether something was stored.
    pub fn forget_host<D>(&self, host: HostName, done: D)
    where
        D: FnOnce(Result<bool, StoreError>) + Send + 'static,
    {
        let forget = move |db: &Connection| {
            let mut delete = db.prepare_cached("DELETE FROM hosts WHERE host = ?1")?;
            Ok(delete.execute([host.as_str()])? > 0)
        };
        self.writer.submit(Urgency::Reserved, forget, done);
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

    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.readers.read(read)
    }

    pub(crate) fn write<T, A, D>(&self, urgency: Urgency, apply: A, done: D)
    where
        T: Send + 'static,
        A: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
        D: FnOnce(Result<T, StoreError>) + Send + 'static,
    {
        self.writer.submit(urgency, apply, done);
    }

    pub(crate) fn find_in_queue<T>(
        &self,
        look_up: impl FnOnce(&Connection) -> rusqlite::Result<Option<Result<T, StoreError>>>,
    ) -> Result<FoundPolicy<T>, StoreError> {
        find(&self.queue.1, look_up, |error| {
            error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
        })
    }

    pub(crate) fn read_queue<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.queue.1.read(read)
    }

    pub(crate) fn write_queue<T, A, D>(&self, urgency: Urgency, apply: A, done: D)
    where
        T: Send + 'static,
        A: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
        D: FnOnce(Result<T, StoreError>) + Send + 'static,
    {
        // Nothing in it is about mail.
        self.queue.0.submit(Order::needing(urgency, Needs::Nothing), apply, done);
    }
}

/// What `is_damage` says of is damage of what was looked for, and no trouble of the store.
fn find<T>(
    readers: &Readers,
    look_up: impl FnOnce(&Connection) -> rusqlite::Result<Option<Result<T, StoreError>>>,
    is_damage: fn(&rusqlite::Error) -> bool,
) -> Result<FoundPolicy<T>, StoreError> {
    let found = readers.read(|db| match look_up(db)? {
        None => Ok(FoundPolicy::Absent),
        Some(Ok(row)) => Ok(FoundPolicy::Row(row)),
        Some(Err(StoreError::Corrupt { .. })) => Ok(FoundPolicy::Corrupt),
        Some(Err(other)) => Err(other),
    });
    match found {
        Err(StoreError::Database { source }) if is_damage(&source) => Ok(FoundPolicy::Corrupt),
        found => found,
    }
}

/// In policies.db any damage is that of the row: what was there is known from queue.db, and
/// everybody else is a first contact. A header that is overwritten, and sectors that cannot be
/// read, must not stop mail.
fn is_unreadable(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SystemIoFailure)
    )
}

fn put(db: &Connection, row: &PolicyRow) -> Result<(), StoreError> {
    let millis = |time: Option<Timestamp>| time.map(Timestamp::as_millisecond);
    let mut replace = db.prepare_cached(concat!(
        "INSERT OR REPLACE INTO policies (",
        columns!(),
        ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)"
    ))?;
    replace.execute(params![
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
        millis(row.first_used_at),
        millis(row.known_since),
    ])?;
    Ok(())
}

pub(crate) fn host_name(text: &str) -> Result<HostName, StoreError> {
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
        first_used_at: optional_time(columns.next()?)?,
        known_since: optional_time(columns.next()?)?,
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
