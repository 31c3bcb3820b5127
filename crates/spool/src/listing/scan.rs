//! A page of a list is filled by a walk through all recipients.

use rusqlite::{Connection, params};

use super::{Filter, ListCursor, ListPage, SCAN_MAX, may_match, read_if};
use crate::rows::{self, Columns};
use crate::walk::{Table, TableWalk};
use crate::{StoreError, damage};

/// Fills `page` with those behind the first key, up to the last.
pub(super) fn scan(
    db: &Connection,
    (filter, lane): (&Filter, Option<i64>),
    [before, last]: [i64; 2],
    limit: usize,
    page: &mut ListPage,
) -> Result<(), StoreError> {
    let mut walk = TableWalk::behind(db, Table::Recipients, before);
    let scanned = scan_slice(&mut walk, (filter, lane), last, limit, page);
    // Also of what an error ended.
    page.next = match walk.reached()? {
        reached if reached > before => Some(ListCursor(reached)),
        _ => None,
    };
    match scanned? {
        More::No => page.next = None,
        More::Yes => drop(walk.next()?),
    }
    Ok(())
}

/// Are there rows behind a slice?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum More {
    Yes,
    No,
}

fn scan_slice(
    walk: &mut TableWalk<'_>,
    (filter, lane): (&Filter, Option<i64>),
    last: i64,
    limit: usize,
    page: &mut ListPage,
) -> Result<More, StoreError> {
    let db = walk.db();
    let mut select = db.prepare_cached(select_rows!("LIMIT ?3"))?;
    let first = walk.reached()?.saturating_add(1);
    let mut found = select.query(params![first, last, rows::number(SCAN_MAX)])?;
    let mut seen = 0;
    while page.rows.len() < limit {
        let Some(row) = found.next()? else {
            return Ok(if seen < SCAN_MAX { More::No } else { More::Yes });
        };
        seen += 1;
        let mut columns = Columns::new(row);
        let key = columns.next()?;
        walk.step(key);
        match read_if(&mut columns, key, filter, lane) {
            Ok(row) => page.rows.extend(row),
            Err(StoreError::Corrupt { what }) => {
                let named = match damage::find(db, key)? {
                    // What only a listing shows.
                    None => damage::name(db, key, what)?,
                    found => found,
                };
                page.damaged.extend(named.filter(|one| may_match(one, filter)));
            }
            Err(other) => return Err(other),
        }
    }
    Ok(More::Yes)
}
