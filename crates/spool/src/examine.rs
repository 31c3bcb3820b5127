//! `staunch doctor --data`: everything in a data directory is read once, and what is damaged is
//! named.

use std::fmt;
use std::fs;
use std::path::Path;

use rusqlite::Connection;

use crate::backup::{CopyError, failed};
use crate::body;
use crate::checksum;
use crate::damage::{self, CheckCursor, Damage, Look, Mismatch};
use crate::journal::outside::{Others, has_daemon, wait_for_rows};
use crate::layout::Layout;
use crate::log::broken;
use crate::schema::{POLICIES, QUEUE, Schema};
use crate::{MessageId, OpenError, StoreError};

/// Something in a data directory that is not what was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DamageFinding {
    /// The file in the data directory.
    pub file: String,
    /// Where in it, and what is wrong.
    pub what: String,
    /// What can be done.
    pub cure: Cure,
}

/// What can be done about a [`DamageFinding`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cure {
    /// [`crate::repair`] makes it whole, or keeps what can be kept.
    Repair,
    /// It is lost, unless a backup has it.
    Backup,
}

impl fmt::Display for Cure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repair => "stop the daemon and run `staunch doctor --data --repair`",
            Self::Backup => "put it back from a backup, or `staunch queue delete` the message",
        })
    }
}

/// How much was read, and what is wrong with it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Examined {
    /// Messages in queue.db; 0 if they cannot be counted.
    pub messages: u64,
    /// Recipients in queue.db; 0 if they cannot be counted.
    pub recipients: u64,
    /// Messages that only the journal has: the next start takes them over. None of the others.
    pub in_journal: u64,
    /// What is not what was written.
    pub findings: Vec<DamageFinding>,
}

/// Lines of SQLite about one file.
const LINES_MAX: usize = 100;

/// Reads all of `data_dir`; a daemon may work in it meanwhile. Changes nothing.
///
/// # Errors
///
/// [`CopyError`] when there is no queue, or it cannot be opened at all.
pub fn examine(data_dir: &Path) -> Result<Examined, CopyError> {
    examine_beside(data_dir, Others::Daemon)
}

/// The same, with a word on who may be at work there.
pub(crate) fn examine_beside(data_dir: &Path, others: Others) -> Result<Examined, CopyError> {
    let no_queue = || CopyError::NoQueue { path: data_dir.join(QUEUE.file) };
    let mut examined = Examined::default();
    logs(data_dir, others, &mut examined.findings)?;
    match QUEUE.peek(data_dir) {
        Ok(None) => return Err(no_queue()),
        Ok(Some(db)) => {
            journal(&db, &Layout::at(data_dir), others, &mut examined)?;
            queue(&db, &Layout::at(data_dir), &mut examined);
        }
        Err(error) => examined.findings.push(unreadable(&QUEUE, error, Cure::Backup)?),
    }
    match POLICIES.peek(data_dir) {
        Ok(None) => {}
        Ok(Some(db)) => integrity(&db, &POLICIES, &mut examined.findings),
        Err(error) => examined.findings.push(unreadable(&POLICIES, error, Cure::Repair)?),
    }
    Ok(examined)
}

/// A daemon writes its logs all the time; what it left, if it was killed, stays as it is.
fn logs(
    data_dir: &Path,
    others: Others,
    findings: &mut Vec<DamageFinding>,
) -> Result<(), CopyError> {
    if others == Others::Daemon && has_daemon(&Layout::at(data_dir)) {
        return Ok(());
    }
    for schema in [&QUEUE, &POLICIES] {
        let path = data_dir.join(schema.file);
        let Some(broken) = broken::look(&path).map_err(failed(&path))? else { continue };
        let what = match broken.left_out {
            0 => "is damaged; the next start makes it whole, and tells of what was damaged in it"
                .into(),
            pages => format!("is damaged; of {pages} pages in it nobody can tell which they are"),
        };
        let file = format!("{}-wal", schema.file);
        findings.push(DamageFinding { file, what, cure: Cure::Repair });
    }
    Ok(())
}

/// A file that is none of ours is a finding; that it may not be read is an error.
fn unreadable(schema: &Schema, error: OpenError, cure: Cure) -> Result<DamageFinding, CopyError> {
    if !error.is_damage() {
        return Err(error.into());
    }
    Ok(DamageFinding { file: schema.file.into(), what: error.to_string(), cure })
}

fn integrity(db: &Connection, schema: &Schema, findings: &mut Vec<DamageFinding>) {
    let mut found = |what: String| {
        findings.push(DamageFinding { file: schema.file.into(), what, cure: Cure::Repair });
    };
    let lines = db.prepare("PRAGMA integrity_check").and_then(|mut check| {
        let lines = check.query_map([], |row| row.get::<_, String>(0))?;
        lines.take(LINES_MAX).collect::<Result<Vec<_>, _>>()
    });
    match lines {
        Ok(lines) => lines.into_iter().filter(|line| line != "ok").for_each(found),
        Err(error) => found(error.to_string()),
    }
}

/// What only the journal has, once the daemon has given its mail rows.
fn journal(
    db: &Connection,
    layout: &Layout,
    others: Others,
    examined: &mut Examined,
) -> Result<(), CopyError> {
    let left = match wait_for_rows(layout, db, others) {
        // What is in the tables is looked at, and tells of that.
        Err(CopyError::Journal { .. }) => return Ok(()),
        left => left?,
    };
    examined.in_journal = u64::try_from(left.messages).unwrap_or(u64::MAX);
    examined.findings.extend(left.damaged.into_iter().map(|what| DamageFinding {
        file: "journal".into(),
        what,
        cure: Cure::Backup,
    }));
    Ok(())
}

fn queue(db: &Connection, layout: &Layout, examined: &mut Examined) {
    integrity(db, &QUEUE, &mut examined.findings);
    let count = |table| {
        let count = db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0));
        count.unwrap_or(0_i64).unsigned_abs()
    };
    (examined.messages, examined.recipients) = (count("messages"), count("recipients"));
    // Before format 4 there is nothing to compare.
    let format = db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    if checksum::add_to(db).is_err() || !format.is_ok_and(|format| format >= 4) {
        return;
    }
    if let Err(error) = QUEUE.check_shape(db, &layout.file(QUEUE.file)) {
        // All statements would fail.
        return examined.findings.push(in_queue(error.to_string(), Cure::Repair));
    }
    for look in [recipients, lanes, lonely] {
        if let Err(error) = look(db, &mut examined.findings) {
            examined.findings.push(in_queue(error.to_string(), Cure::Repair));
        }
    }
    if let Err(error) = bodies(db, layout, &mut examined.findings) {
        examined.findings.push(in_queue(error.to_string(), Cure::Repair));
    }
}

fn in_queue(what: String, cure: Cure) -> DamageFinding {
    DamageFinding { file: QUEUE.file.into(), what, cure }
}

fn recipients(db: &Connection, findings: &mut Vec<DamageFinding>) -> Result<(), StoreError> {
    let mut after = Some(CheckCursor::START);
    while let Some(from) = after {
        let checked = damage::check(db, from, (Look::All, Mismatch::Name))?;
        after = checked.next;
        findings.extend(checked.damaged.into_iter().map(|one| {
            let Damage { table, row, what } = one.damage;
            let what =
                format!("table {table}, row {row}: {what} is damaged; recipient <{}>", one.address);
            in_queue(what, Cure::Backup)
        }));
    }
    Ok(())
}

fn lanes(db: &Connection, findings: &mut Vec<DamageFinding>) -> Result<(), StoreError> {
    let damaged = "SELECT id FROM lanes WHERE crc IS NOT NULL AND crc <> row_crc(id, key)";
    each(db, damaged, |row: i64| {
        // The next start gives it another name, and moves its mail.
        findings.push(in_queue(
            format!("table lanes, row {row}: its next hop is damaged"),
            Cure::Repair,
        ));
    })
}

/// Bodies without the message that they belong to.
fn lonely(db: &Connection, findings: &mut Vec<DamageFinding>) -> Result<(), StoreError> {
    let select =
        "SELECT seq FROM bodies b WHERE NOT EXISTS (SELECT 1 FROM messages WHERE seq = b.seq)";
    each(db, select, |row: i64| {
        let what = format!("table bodies, row {row}: its message is missing");
        findings.push(in_queue(what, Cure::Repair));
    })
}

fn bodies(
    db: &Connection,
    layout: &Layout,
    findings: &mut Vec<DamageFinding>,
) -> Result<(), StoreError> {
    let mut ids = Vec::new();
    each(db, "SELECT id FROM messages NOT INDEXED", |id| ids.push(MessageId::from_bytes(id)))?;
    for id in ids {
        let checked = body::open(db, layout, id).and_then(body::Unchecked::check);
        match checked {
            // Delivered meanwhile.
            Ok(_) | Err(StoreError::Missing { .. }) => {}
            Err(error) => findings.push(body_finding(layout, id, &error)),
        }
    }
    Ok(())
}

fn body_finding(layout: &Layout, id: MessageId, error: &StoreError) -> DamageFinding {
    let path = layout.body(id);
    let is_lost = layout.lost().join(id.to_string()).exists();
    let relative = path.strip_prefix(layout.root()).unwrap_or(&path);
    let file = match fs::symlink_metadata(&path) {
        Ok(_) => relative.display().to_string(),
        Err(_) if is_lost => relative.display().to_string(),
        Err(_) => QUEUE.file.to_owned(),
    };
    let cure = if is_lost { Cure::Repair } else { Cure::Backup };
    DamageFinding { file, what: format!("message {id}: {error}"), cure }
}

fn each<T: rusqlite::types::FromSql>(
    db: &Connection,
    select: &str,
    mut take: impl FnMut(T),
) -> Result<(), StoreError> {
    let mut select = db.prepare(select)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        // What cannot be read is found elsewhere.
        if let Ok(value) = row.get(0) {
            take(value);
        }
    }
    Ok(())
}
