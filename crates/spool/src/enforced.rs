//! Which domains have a stored `enforce` policy: kept in queue.db, beside the mail that hangs on it.
//!
//! If policies.db is lost, replaced by an older one, or a row of it is damaged, this list says whose mail has
//! to wait for a new policy, and that nobody else's has to. When what is written is for the rules
//! (`policy::sts::keep`).

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use smtp::HostName;

use crate::policies::{Policies, host_name};
use crate::rows::{Columns, number, time};
use crate::writer::Urgency;
use crate::{Found, StoreError};

/// What the list says about one domain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Enforced {
    /// When the policy was fetched.
    pub fetched_at: Timestamp,
    /// When it lapses.
    pub expires_at: Timestamp,
}

/// A page of the list.
#[derive(Clone, Debug, Default)]
pub struct EnforcedPage {
    /// By name.
    pub rows: Vec<(HostName, Enforced)>,
    /// Where to go on; `None`: that was all.
    pub next: Option<String>,
}

impl Policies {
    /// What the list says about `domain`. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read at all.
    pub fn enforced(&self, domain: &HostName) -> Result<Found<Enforced>, StoreError> {
        self.find_in_queue(|db| {
            db.prepare_cached("SELECT fetched_at, expires_at FROM enforced WHERE domain = ?1")?
                .query_row([domain.as_str()], |row| Ok(read(&mut Columns::new(row))))
                .optional()
        })
    }

    /// Up to `limit` entries whose names come after `after`. A damaged one is left out: its look-up says so.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn list_enforced(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<EnforcedPage, StoreError> {
        self.read_queue(|db| {
            let mut select = db.prepare_cached(
                "SELECT domain, fetched_at, expires_at FROM enforced
                 WHERE domain > ?1 ORDER BY domain LIMIT ?2",
            )?;
            let mut rows = select.query(params![after.unwrap_or_default(), number(limit)])?;
            let (mut page, mut seen) = (EnforcedPage::default(), 0);
            while let Some(row) = rows.next()? {
                seen += 1;
                page.next = Some(Columns::new(row).next()?);
                page.rows.extend(read_named(row).ok());
            }
            if seen < limit {
                page.next = None;
            }
            Ok(page)
        })
    }

    /// Puts `domain` on the list, or changes what it says. `done` must not block.
    pub fn put_enforced<D>(&self, domain: HostName, entry: Enforced, done: D)
    where
        D: FnOnce(Result<(), StoreError>) + Send + 'static,
    {
        let apply = move |db: &Connection| put(db, domain.as_str(), entry);
        self.write_queue(Urgency::Reserved, apply, done);
    }

    /// Takes `domain` off the list. `done` must not block.
    pub fn remove_enforced<D>(&self, domain: HostName, done: D)
    where
        D: FnOnce(Result<(), StoreError>) + Send + 'static,
    {
        self.remove_all_enforced(vec![domain], done);
    }

    /// The same for some 500 at once.
    pub fn remove_all_enforced<D>(&self, domains: Vec<HostName>, done: D)
    where
        D: FnOnce(Result<(), StoreError>) + Send + 'static,
    {
        let apply = move |db: &Connection| {
            let mut delete = db.prepare_cached("DELETE FROM enforced WHERE domain = ?1")?;
            domains.iter().try_for_each(|name| delete.execute([name.as_str()]).map(drop))?;
            Ok(())
        };
        self.write_queue(Urgency::Reserved, apply, done);
    }
}

fn put(db: &Connection, domain: &str, entry: Enforced) -> Result<(), StoreError> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO enforced (domain, fetched_at, expires_at) VALUES (?1, ?2, ?3)",
    )?
    .execute(params![
        domain,
        entry.fetched_at.as_millisecond(),
        entry.expires_at.as_millisecond()
    ])?;
    Ok(())
}

fn read(columns: &mut Columns<'_, '_>) -> Result<Enforced, StoreError> {
    Ok(Enforced { fetched_at: time(columns.next()?)?, expires_at: time(columns.next()?)? })
}

fn read_named(row: &Row<'_>) -> Result<(HostName, Enforced), StoreError> {
    let mut columns = Columns::new(row);
    Ok((columns.next_text(host_name)?, read(&mut columns)?))
}
