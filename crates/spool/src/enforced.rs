//! Which domains have a stored `enforce` policy: kept in queue.db, beside the mail that hangs on
//! it.
//!
//! If policies.db is lost, replaced by an older one, or a row of it is damaged, this list says
//! whose mail has to wait for a new policy, and that nobody else's has to. When what is written is
//! for the rules (`policy::sts::cache`).

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use smtp::HostName;

use crate::policies::{Policies, host_name};
use crate::rows::{Columns, time};
use crate::writer::Urgency;
use crate::{FoundPolicy, StoreError};

/// What the list says about one domain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Enforced {
    /// When the policy was fetched.
    pub fetched_at: Timestamp,
    /// When the policy lapses, by its `max_age`.
    pub expires_at: Timestamp,
}

/// What of the list can be read.
#[derive(Clone, Debug, Default)]
pub struct EnforcedList {
    /// By name; `None`: there is an entry, and when it ends cannot be read.
    pub rows: Vec<(HostName, Option<Enforced>)>,
    /// There are damaged pages, or names that cannot be read: more domains may be on the list.
    pub is_damaged: bool,
}

/// Does the checksum of the row hold?
macro_rules! is_whole {
    () => {
        "crc IS NULL OR crc = row_crc(domain, fetched_at, expires_at)"
    };
}

impl Policies {
    /// What the list says about `domain`. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read at all.
    pub fn enforced(&self, domain: &HostName) -> Result<FoundPolicy<Enforced>, StoreError> {
        self.find_in_queue(|db| {
            let select = concat!(
                "SELECT ",
                is_whole!(),
                ", fetched_at, expires_at FROM enforced WHERE domain = ?1"
            );
            db.prepare_cached(select)?
                .query_row([domain.as_str()], |row| Ok(read(&mut Columns::new(row))))
                .optional()
        })
    }

    /// The list, as far as it can be read. Blocks for a pass over it: 0.1 s for 100,000.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read at all.
    pub fn list_enforced(&self) -> Result<EnforcedList, StoreError> {
        self.read_queue(|db| {
            let select = concat!(
                "SELECT domain, ",
                is_whole!(),
                ", fetched_at, expires_at FROM enforced ORDER BY domain"
            );
            let mut select = db.prepare_cached(select)?;
            let mut rows = select.query([])?;
            let mut list = EnforcedList::default();
            loop {
                match rows.next() {
                    Ok(Some(row)) => {
                        let mut columns = Columns::new(row);
                        let Ok(domain) = columns.next_text(host_name) else {
                            list.is_damaged = true;
                            continue;
                        };
                        let entry = read(&mut columns).ok();
                        // Its name may have been another one.
                        list.is_damaged |= entry.is_none();
                        list.rows.push((domain, entry));
                    }
                    Ok(None) => return Ok(list),
                    Err(_) => {
                        list.is_damaged = true;
                        return Ok(list);
                    }
                }
            }
        })
    }

    /// Puts `domain` on the list, or changes what it says. `done` must not block.
    pub fn put_enforced<D>(&self, domain: HostName, entry: Enforced, done: D)
    where
        D: FnOnce(Result<(), StoreError>) + Send + 'static,
    {
        let apply = move |db: &Connection| {
            db.prepare_cached(
                "INSERT OR REPLACE INTO enforced (domain, fetched_at, expires_at, crc)
                 VALUES (?1, ?2, ?3, row_crc(?1, ?2, ?3))",
            )?
            .execute(params![
                domain.as_str(),
                entry.fetched_at.as_millisecond(),
                entry.expires_at.as_millisecond()
            ])?;
            Ok(())
        };
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

fn read(columns: &mut Columns<'_, '_>) -> Result<Enforced, StoreError> {
    let is_whole: bool = columns.next()?;
    if !is_whole {
        return Err(StoreError::Corrupt { what: "list of policies" });
    }
    Ok(Enforced { fetched_at: time(columns.next()?)?, expires_at: time(columns.next()?)? })
}
