//! Which registrable domains took mail lately: their mail does not wait behind that of strangers.
//!
//! What is lost here costs a place in line for one message, nothing else.

use jiff::Timestamp;
use rusqlite::{Connection, params};
use smtp::HostName;

use crate::StoreError;
use crate::policies::{Policies, host_name};
use crate::rows::{Columns, number, time};
use crate::writer::Urgency;

/// A registrable domain whose hosts took mail, or to which mail was taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proven {
    /// The registrable domain, the key of its row.
    pub domain: HostName,
    /// When, to the day: it is written once a day at most.
    pub at: Timestamp,
}

impl Policies {
    /// Up to `limit` of those that took mail after `since`, the latest first. Rows that cannot be
    /// read are left out. Blocks for a read: some 0.1 s for 100,000.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store cannot be read.
    pub fn proven(&self, since: Timestamp, limit: usize) -> Result<Vec<Proven>, StoreError> {
        self.read(|db| {
            let mut select = db.prepare_cached(
                "SELECT domain, took_mail_at FROM proven WHERE took_mail_at > ?1
                 ORDER BY took_mail_at DESC LIMIT ?2",
            )?;
            let mut rows = select.query([since.as_millisecond(), number(limit)])?;
            let mut proven = Vec::new();
            while let Some(row) = rows.next()? {
                let mut columns = Columns::new(row);
                let domain = columns.next_text(host_name);
                if let (Ok(domain), Ok(at)) = (domain, columns.next().and_then(time)) {
                    proven.push(Proven { domain, at });
                }
            }
            Ok(proven)
        })
    }

    /// Writes these down, each with its day.
    pub fn put_proven<D>(&self, proven: Vec<Proven>, done: D)
    where
        D: FnOnce(Result<(), StoreError>) + Send + 'static,
    {
        let put = move |db: &Connection| {
            let mut insert = db.prepare_cached(
                "INSERT INTO proven (domain, took_mail_at) VALUES (?1, ?2)
                 ON CONFLICT (domain) DO UPDATE SET took_mail_at = excluded.took_mail_at",
            )?;
            for Proven { domain, at } in &proven {
                insert.execute(params![domain.as_str(), at.as_millisecond()])?;
            }
            Ok(())
        };
        self.write(Urgency::Ordinary, put, done);
    }

    /// Forgets those that took mail before `before`, and what a clock that was ahead has written
    /// for after `until`.
    pub fn forget_proven<D>(&self, before: Timestamp, until: Timestamp, done: D)
    where
        D: FnOnce(Result<usize, StoreError>) + Send + 'static,
    {
        let forget = move |db: &Connection| {
            let mut delete = db.prepare_cached(
                "DELETE FROM proven WHERE took_mail_at < ?1 OR took_mail_at > ?2",
            )?;
            Ok(delete.execute([before.as_millisecond(), until.as_millisecond()])?)
        };
        self.write(Urgency::Ordinary, forget, done);
    }
}
