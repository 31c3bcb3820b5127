//! A stored body, read again.

use std::fs::File;
use std::io::{self, Read};

use rusqlite::{Connection, OptionalExtension, params};

use crate::due::BodyRef;
use crate::layout::Layout;
use crate::message::BodyBytes;
use crate::rows::{self, Columns, count, number};
use crate::{MessageId, StoreError};

/// A body as it is kept: dot-stuffing undone, nothing converted.
#[derive(Debug)]
pub enum Body {
    /// A small one, wholly in memory.
    Memory(BodyBytes),
    /// A large one; the file stays readable even when the message leaves the queue meanwhile.
    File {
        /// Open for reading, at its start.
        file: File,
        /// Octets.
        size: u64,
    },
}

/// What the database says about a body.
struct Stored {
    /// `None`: in a file.
    bytes: Option<Vec<u8>>,
    size: u64,
}

/// The body, or its first `limit` octets if it is a row.
fn stored(db: &Connection, id: MessageId, limit: u64) -> Result<Stored, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT m.place, m.size, b.seq IS NOT NULL, substr(b.body, 1, ?2)
         FROM messages m LEFT JOIN bodies b ON b.seq = m.seq WHERE m.id = ?1",
    )?;
    let found = select
        .query_row(params![id.to_bytes(), number(limit)], |row| {
            let mut columns = Columns::new(row);
            Ok(read(&mut columns))
        })
        .optional()?;
    found.unwrap_or(Err(StoreError::Missing { message: id }))
}

fn read(columns: &mut Columns<'_, '_>) -> Result<Stored, StoreError> {
    let place = rows::body_ref(columns.next()?)?;
    let size = count(columns.next()?)?;
    let has_row: bool = columns.next()?;
    // Of an empty body, SQLite makes null.
    let bytes = columns.next::<Option<Vec<u8>>>()?.unwrap_or_default();
    match (place, has_row) {
        (BodyRef::Inline, true) => Ok(Stored { bytes: Some(bytes), size }),
        (BodyRef::File, false) => Ok(Stored { bytes: None, size }),
        (BodyRef::Inline, false) | (BodyRef::File, true) => {
            Err(StoreError::Corrupt { what: "body" })
        }
    }
}

pub(crate) fn open(db: &Connection, layout: &Layout, id: MessageId) -> Result<Body, StoreError> {
    let stored = stored(db, id, u64::MAX)?;
    let Some(bytes) = stored.bytes else {
        let file = open_file(layout, id, stored.size)?;
        return Ok(Body::File { file, size: stored.size });
    };
    if number(bytes.len()) != number(stored.size) {
        return Err(StoreError::Corrupt { what: "body" });
    }
    Ok(Body::Memory(BodyBytes::new(bytes)))
}

/// The first `limit` octets of a body.
pub(crate) fn front(
    db: &Connection,
    layout: &Layout,
    id: MessageId,
    limit: u64,
) -> Result<Vec<u8>, StoreError> {
    let stored = stored(db, id, limit)?;
    if let Some(bytes) = stored.bytes {
        return Ok(bytes);
    }
    let mut bytes = Vec::new();
    open_file(layout, id, stored.size)?
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| StoreError::io("reading a body", e))?;
    Ok(bytes)
}

/// Octets of the header section.
pub(crate) fn header_len(db: &Connection, id: MessageId) -> Result<u64, StoreError> {
    let found = db
        .prepare_cached("SELECT header_len FROM messages WHERE id = ?1")?
        .query_row([id.to_bytes()], |row| row.get::<_, i64>(0))
        .optional()?;
    found.map_or(Err(StoreError::Missing { message: id }), count)
}

fn open_file(layout: &Layout, id: MessageId, size: u64) -> Result<File, StoreError> {
    let failed = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            return StoreError::Corrupt { what: "body" };
        }
        StoreError::io("opening a body", error)
    };
    let file = File::open(layout.body(id)).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() != size {
        return Err(StoreError::Corrupt { what: "body" });
    }
    Ok(file)
}
