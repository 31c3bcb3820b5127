//! A stored body, read again.

use std::fs::File;
use std::io::{self, Read, Seek as _};

use rusqlite::{Connection, OptionalExtension, params};

use crate::due::BodyRef;
use crate::layout::Layout;
use crate::message::BodyBytes;
use crate::rows::{self, Columns, count, number};
use crate::{MessageId, StoreError, checksum};

/// Of a file at once.
const READ_OCTETS: usize = 256 * 1024;

/// A body as it is kept: dot-stuffing undone, nothing converted.
#[derive(Debug)]
pub enum StoredBody {
    /// A small one, wholly in memory.
    Memory(BodyBytes),
    /// A large one; the file stays readable even when the message leaves the queue meanwhile.
    File {
        /// Open for reading, at its start.
        file: File,
        /// Octets of the file, all of them the body.
        size: u64,
    },
}

/// What the database says about a body.
struct StoredAs {
    /// `None`: in a file.
    bytes: Option<Vec<u8>>,
    size: u64,
    /// `None`: a release before format 4 has written it.
    crc: Option<u32>,
}

/// The body, or its first `limit` octets if it is a row. Of a body in a file no row is looked for:
/// damage there is not its own.
fn stored(db: &Connection, id: MessageId, limit: u64) -> Result<StoredAs, StoreError> {
    let mut select =
        db.prepare_cached("SELECT seq, place, size, body_crc FROM messages WHERE id = ?1")?;
    let found =
        select.query_row([id.to_bytes()], |row| Ok(read(&mut Columns::new(row)))).optional()?;
    let (seq, place, size, crc) = found.unwrap_or(Err(StoreError::Missing { message: id }))?;
    let bytes = match place {
        BodyRef::File => None,
        BodyRef::Inline => Some(row(db, seq, limit)?),
    };
    Ok(StoredAs { bytes, size, crc })
}

fn read(columns: &mut Columns<'_, '_>) -> Result<(i64, BodyRef, u64, Option<u32>), StoreError> {
    let (seq, place) = (columns.next()?, rows::body_ref(columns.next()?)?);
    let size = count(columns.next()?)?;
    let crc: Option<i64> = columns.next()?;
    Ok((seq, place, size, crc.map(count).transpose()?))
}

fn row(db: &Connection, seq: i64, limit: u64) -> Result<Vec<u8>, StoreError> {
    let mut select = db.prepare_cached("SELECT substr(body, 1, ?2) FROM bodies WHERE seq = ?1")?;
    let found: Option<Option<Vec<u8>>> =
        select.query_row(params![seq, number(limit)], |row| row.get(0)).optional()?;
    // Of an empty body, SQLite makes null.
    found.map(Option::unwrap_or_default).ok_or(StoreError::Corrupt { what: "body" })
}

/// A body whose octets are not checked yet: a file is read outside of the transaction that says
/// where it is.
pub(crate) struct Unchecked {
    body: StoredBody,
    crc: Option<u32>,
}

pub(crate) fn open(
    db: &Connection,
    layout: &Layout,
    id: MessageId,
) -> Result<Unchecked, StoreError> {
    let StoredAs { bytes, size, crc } = stored(db, id, u64::MAX)?;
    let body = match bytes {
        None => StoredBody::File { file: open_file(layout, id, size)?, size },
        Some(bytes) if number(bytes.len()) == number(size) => {
            StoredBody::Memory(BodyBytes::new(bytes))
        }
        Some(_) => return Err(StoreError::Corrupt { what: "body" }),
    };
    Ok(Unchecked { body, crc })
}

impl Unchecked {
    /// Compares the body with its checksum. Blocks for a read of the whole file.
    pub(crate) fn check(mut self) -> Result<StoredBody, StoreError> {
        let Some(crc) = self.crc else { return Ok(self.body) };
        let found = match &mut self.body {
            StoredBody::Memory(bytes) => checksum::add(0, bytes),
            StoredBody::File { file, .. } => {
                let failed = |error| StoreError::io("reading a body", error);
                let (mut buffer, mut crc) = (vec![0; READ_OCTETS], 0);
                loop {
                    match file.read(&mut buffer).map_err(failed)? {
                        0 => break,
                        octets => {
                            crc = checksum::add(crc, buffer.get(..octets).unwrap_or_default())
                        }
                    }
                }
                file.rewind().map_err(failed)?;
                crc
            }
        };
        if found == crc { Ok(self.body) } else { Err(StoreError::Corrupt { what: "body" }) }
    }
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
