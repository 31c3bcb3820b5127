//! `staunch doctor --data --repair`: a new queue.db out of what can be read of a damaged one, which
//! is kept.
//!
//! Rows that SQLite reaches are taken as they are, also damaged ones: the next start names and
//! holds those. Rows on pages that it does not reach are taken if their checksum holds. Of one that
//! may have been deleted before, the recipient is held: mail must not go twice because of a repair.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, ToSql, params, params_from_iter};

use crate::backup::{CopyError, failed, remove_if_there};
use crate::carve::{Carved, Certainty, Pages, Value};
use crate::checksum::{self, message_crc, recipient_crc};
use crate::damage::MESSAGE_DAMAGED;
use crate::database_lock::DatabaseLock;
use crate::examine::{Cure, examine_beside};
use crate::journal::outside::Others;
use crate::layout::{Layout, Lock, set_aside, sync_dir, with_suffix};
use crate::log::broken::{self, MendedLog, Unknown};
use crate::message::RecipientState;
use crate::rows::state_code;
use crate::schema::{Checkpoint, PAGE_BYTES, POLICIES, QUEUE, Schema, checkpoint, connect};
use crate::{MessageId, OpenError, Options, Spool, marks};

/// What a repair did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Repaired {
    /// Where the damaged queue.db is now, if there is a new one.
    pub queue_kept: Option<PathBuf>,
    /// Where the damaged log of queue.db is now, if it was made whole.
    pub log_kept: Option<PathBuf>,
    /// Rows that SQLite could not reach, and that are in the new one.
    pub rows_found: u64,
    /// Recipients among them that are held, since they may have been sent to before.
    pub held: u64,
    /// Where the damaged policies.db is now, if there was one. Policies are fetched again.
    pub policies_kept: Option<PathBuf>,
    /// Bodies that were found in `bodies/lost`.
    pub bodies: u64,
}

/// Mends what can be mended in `data_dir`; no daemon may run.
///
/// # Errors
///
/// [`CopyError`], which names the file; then queue.db is as it was.
pub fn repair(data_dir: &Path) -> Result<Repaired, CopyError> {
    if !data_dir.join(QUEUE.file).exists() {
        return Err(CopyError::NoQueue { path: data_dir.join(QUEUE.file) });
    }
    let layout = Layout::create(data_dir)?;
    let lock = Lock::take(&layout)?;
    let database_lock = DatabaseLock::take(&layout, QUEUE.file)?;
    let mend_log = |schema: &Schema| broken::mend(&data_dir.join(schema.file), Unknown::LeaveOut);
    let (log, policies_log) = (mend_log(&QUEUE)?, mend_log(&POLICIES)?);
    let examined = examine_beside(data_dir, Others::Nobody)?;
    let findings = examined.findings;
    let mut repaired = Repaired { bodies: bodies_back(&layout)?, ..Repaired::default() };
    // Some pages of it say what they said before.
    let is_partly_old = |log: &Option<MendedLog>| log.as_ref().is_some_and(|log| log.left_out > 0);
    let is_queue_old = is_partly_old(&log);
    repaired.log_kept = log.map(|log| log.kept);
    let is_damaged = |file: &str, cure: Option<Cure>| {
        findings.iter().any(|one| one.file == file && cure.is_none_or(|cure| one.cure == cure))
    };
    if is_queue_old
        || is_damaged(QUEUE.file, Some(Cure::Repair))
        || !matches!(QUEUE.peek(data_dir), Ok(Some(_)))
    {
        rebuild(data_dir, &mut repaired)?;
    }
    if is_partly_old(&policies_log) || is_damaged(POLICIES.file, None) {
        let kept = set_aside(data_dir, POLICIES.file).map_err(failed(data_dir))?;
        repaired.policies_kept = Some(kept);
    }
    drop((lock, database_lock));
    if examined.in_journal > 0 {
        // What a killed daemon left in the journal: as a start does it.
        drop(Spool::open(data_dir, Options::default())?);
    }
    Ok(repaired)
}

/// Bodies that were moved away although a message names them.
fn bodies_back(layout: &Layout) -> Result<u64, CopyError> {
    let lost = layout.lost();
    let Ok(entries) = fs::read_dir(&lost) else { return Ok(0) };
    let Ok(Some(db)) = QUEUE.peek(layout.root()) else { return Ok(0) };
    let mut count = 0;
    for entry in entries {
        let entry = entry.map_err(failed(&lost))?;
        let id = entry.file_name().to_str().and_then(|name| name.parse::<MessageId>().ok());
        let Some(id) = id else { continue };
        let body = layout.body(id);
        let named = "SELECT 1 FROM messages NOT INDEXED WHERE id = ?1 AND place = 1";
        let is_named =
            db.prepare_cached(named).and_then(|mut select| select.exists([id.to_bytes()]));
        if is_named.unwrap_or(false) && !body.exists() {
            fs::rename(entry.path(), &body).map_err(failed(&body))?;
            count += 1;
        }
    }
    Ok(count)
}

fn rebuild(root: &Path, repaired: &mut Repaired) -> Result<(), CopyError> {
    let (old, new) = (root.join(QUEUE.file), root.join("queue.db.repaired"));
    // Of a repair that was interrupted.
    remove_database(&new)?;
    if let Err(error) = make_anew(&old, &new, repaired) {
        // On a full disk its space is wanted.
        remove_database(&new)?;
        return Err(error);
    }
    repaired.queue_kept = Some(replace(root, &old, &new)?);
    Ok(())
}

fn remove_database(path: &Path) -> Result<(), CopyError> {
    ["", "-wal", "-shm"].into_iter().try_for_each(|end| remove_if_there(&with_suffix(path, end)))
}

/// Fills `new` with what is in `old`.
fn make_anew(old: &Path, new: &Path, repaired: &mut Repaired) -> Result<(), CopyError> {
    let damaged = open_damaged(old)?;
    let target = QUEUE.open_at(new)?;
    let database = |source| OpenError::Database { path: new.into(), source };
    fill(damaged.as_ref(), &target).map_err(database)?;
    let file = File::open(old).map_err(failed(old))?;
    let page_size = usize::try_from(PAGE_BYTES).unwrap_or(4096);
    let mut pages = Pages::open(file, page_size, &SEARCHED).map_err(failed(old))?;
    if damaged.is_none() {
        // Nor is it known what its log says.
        pages.doubt_all();
    }
    add_found(&pages, &target, repaired).map_err(database)?;
    // Only the file itself takes the name.
    let log = checkpoint(&target, Checkpoint::Truncate).map_err(database)?;
    if log.busy { Err(CopyError::Read { path: new.into() }) } else { Ok(()) }
}

/// With all that its log has; `None`: it is no database any more.
///
/// # Errors
///
/// [`CopyError::Read`] when somebody reads it: what is in the log only, such as that mail was
/// delivered, would be missed.
fn open_damaged(path: &Path) -> Result<Option<Connection>, CopyError> {
    let readable = connect(path)
        .and_then(|db| db.query_row("PRAGMA schema_version", [], |_| Ok(())).map(|()| db));
    let Ok(db) = readable else { return Ok(None) };
    match checkpoint(&db, Checkpoint::Truncate) {
        Ok(log) if log.busy || log.copied < log.pages => Err(CopyError::Read { path: path.into() }),
        Ok(_) => Ok(Some(db)),
        Err(_) => Ok(None),
    }
}

/// The new file takes the name in one step; the old one has another name before that.
fn replace(root: &Path, old: &Path, new: &Path) -> Result<PathBuf, CopyError> {
    let name = |number: u32| root.join(format!("{}.damaged-{number}", QUEUE.file));
    let kept = (1..).map(name).find(|path| !path.exists());
    let kept = kept.ok_or_else(|| CopyError::NotEmpty { path: root.into() })?;
    fs::hard_link(old, &kept).map_err(failed(&kept))?;
    let log = with_suffix(old, "-wal");
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        let kept = with_suffix(&kept, "-wal");
        fs::hard_link(&log, &kept).map_err(failed(&kept))?;
    }
    sync_dir(root).map_err(failed(root))?;
    for path in
        [old, new].into_iter().flat_map(|path| ["-wal", "-shm"].map(|end| with_suffix(path, end)))
    {
        remove_if_there(&path)?;
    }
    fs::rename(new, old).map_err(failed(new))?;
    sync_dir(root).map_err(failed(root))?;
    Ok(kept)
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(octets) => ValueRef::Text(octets),
            Self::Blob(octets) => ValueRef::Blob(octets),
        }))
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            // None of ours is a floating point number.
            ValueRef::Null | ValueRef::Real(_) => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Text(octets) => Self::Text(octets.to_vec()),
            ValueRef::Blob(octets) => Self::Blob(octets.to_vec()),
        }
    }
}

/// The tables with the orders in which they are walked, each from both ends: a damaged page hides
/// what is behind it.
const TABLES: [(&str, &str); 6] = [
    ("lanes", "id"),
    ("messages", "seq"),
    ("bodies", "seq"),
    ("recipients", "id"),
    ("enforced", "domain"),
    ("marks", "name"),
];

/// What SQLite can reach. Where marks are missing, one says so.
fn fill(damaged: Option<&Connection>, target: &Connection) -> rusqlite::Result<()> {
    let Some(damaged) = damaged else { return marks::note_loss(target) };
    for (table, key) in TABLES {
        let end = fill_table(damaged, target, (table, key))?;
        if table == "marks" && end == End::Damaged {
            marks::note_loss(target)?;
        }
    }
    Ok(())
}

fn fill_table(
    damaged: &Connection,
    target: &Connection,
    (table, key): (&str, &str),
) -> rusqlite::Result<End> {
    for order in ["ASC", "DESC"] {
        let transaction = target.unchecked_transaction()?;
        let end = walk(damaged, table, key, order, |row| insert(target, table, row).map(drop))?;
        transaction.commit()?;
        if end == End::Reached {
            return Ok(end);
        }
    }
    Ok(End::Damaged)
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Reached,
    Damaged,
}

/// Calls `take` with the rows up to the first that cannot be read.
fn walk(
    db: &Connection,
    table: &str,
    key: &str,
    order: &str,
    mut take: impl FnMut(Vec<Value>) -> rusqlite::Result<()>,
) -> rusqlite::Result<End> {
    let select = format!("SELECT * FROM {table} NOT INDEXED ORDER BY {key} {order}");
    let Ok(mut select) = db.prepare(&select) else { return Ok(End::Damaged) };
    let columns = select.column_count();
    let Ok(mut rows) = select.query([]) else { return Ok(End::Damaged) };
    loop {
        match rows.next() {
            Ok(Some(row)) => {
                let values = (0..columns).map(|column| row.get_ref(column).map(Value::from));
                take(values.collect::<rusqlite::Result<_>>()?)?;
            }
            Ok(None) => return Ok(End::Reached),
            Err(_) => return Ok(End::Damaged),
        }
    }
}

/// Says whether it was added: a row that is there stays, and one whose values are of the wrong
/// types cannot be.
fn insert(target: &Connection, table: &str, row: Vec<Value>) -> rusqlite::Result<bool> {
    let places = vec!["?"; row.len()].join(", ");
    // Files of before format 4 have fewer columns, always the first ones.
    let columns = columns(target, table, row.len())?;
    let insert = format!("INSERT OR IGNORE INTO {table} ({columns}) VALUES ({places})");
    match target.prepare_cached(&insert)?.execute(params_from_iter(row)) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            Ok(false)
        }
        added => Ok(added? > 0),
    }
}

fn columns(db: &Connection, table: &str, count: usize) -> rusqlite::Result<String> {
    let mut select = db.prepare_cached("SELECT name FROM pragma_table_info(?1) ORDER BY cid")?;
    let names = select.query_map([table], |row| row.get::<_, String>(0))?;
    Ok(names.take(count).collect::<Result<Vec<_>, _>>()?.join(", "))
}

/// Columns of a row of format 4, by which it is told whose it may be.
const RECIPIENT_COLUMNS: usize = 18;
const MESSAGE_COLUMNS: usize = 24;
const LANE_COLUMNS: usize = 11;
const BODY_COLUMNS: usize = 2;

/// Tables on whose damaged pages rows are looked for. Of bodies only such rows as the table has:
/// who writes a body writes octets of that page, and what looks like a body there has to have the
/// checksum that is in the row of its message.
const SEARCHED: [(&str, usize); 4] = [
    ("recipients", RECIPIENT_COLUMNS),
    ("messages", MESSAGE_COLUMNS),
    ("lanes", LANE_COLUMNS),
    ("bodies", BODY_COLUMNS),
];

/// Rows that SQLite does not reach, and whose checksum holds.
fn add_found(pages: &Pages, target: &Connection, repaired: &mut Repaired) -> rusqlite::Result<()> {
    target.execute_batch(
        "CREATE TEMP TABLE found_recipients AS SELECT * FROM recipients WHERE 0;
         CREATE TEMP TABLE found_messages AS SELECT * FROM messages WHERE 0;
         CREATE TEMP TABLE found_lanes AS SELECT * FROM lanes WHERE 0;",
    )?;
    let transaction = target.unchecked_transaction()?;
    // In this order: what has no recipient is not looked for.
    for add in [add_recipient, add_message, add_body] {
        let mut result = Ok(());
        pages.each_row(|row| {
            if result.is_ok() {
                result = add(target, row, repaired);
            }
        });
        result?;
    }
    transaction.commit()
}

fn add_recipient(
    target: &Connection,
    row: Carved,
    repaired: &mut Repaired,
) -> rusqlite::Result<()> {
    let found = row.found;
    match row.values.len() {
        RECIPIENT_COLUMNS if !is_there(target, "recipients", "id", row.rowid)? => {}
        LANE_COLUMNS if !is_there(target, "lanes", "id", row.rowid)? => {
            let holds = "SELECT crc = row_crc(id, key) FROM found_lanes";
            if holds_in(target, "lanes", holds, &row)? && insert(target, "lanes", whole(row))? {
                repaired.rows_found += 1;
            }
            return Ok(());
        }
        _ => return Ok(()),
    }
    let rowid = row.rowid;
    let holds = concat!("SELECT r.crc = ", recipient_crc!(), " FROM found_recipients r");
    if !holds_in(target, "recipients", holds, &row)? || !insert(target, "recipients", whole(row))? {
        return Ok(());
    }
    repaired.rows_found += 1;
    if found == Certainty::Lying {
        repaired.held += 1;
        let mut hold = target.prepare_cached(
            "UPDATE recipients SET state = ?2, last_at = 0, last_status = '4.3.0', last_reason = ?3, last_mx = NULL,
                 last_text = 'found on a damaged page of queue.db; it may have been sent: release or delete it'
             WHERE id = ?1",
        )?;
        hold.execute(params![rowid, state_code(RecipientState::Held), MESSAGE_DAMAGED])?;
    }
    Ok(())
}

fn add_message(target: &Connection, row: Carved, repaired: &mut Repaired) -> rusqlite::Result<()> {
    if row.values.len() != MESSAGE_COLUMNS || is_there(target, "messages", "seq", row.rowid)? {
        return Ok(());
    }
    let waits = "SELECT 1 FROM recipients WHERE id BETWEEN ?1 << 16 AND (?1 << 16) + 65535";
    let (shift, known) = (row.rowid, row.rowid >= 0 && row.rowid < i64::MAX >> 16);
    if !known || !target.prepare_cached(waits)?.exists([shift])? {
        return Ok(());
    }
    let holds = concat!("SELECT m.crc = ", message_crc!(), " FROM found_messages m");
    if holds_in(target, "messages", holds, &row)? && insert(target, "messages", whole(row))? {
        repaired.rows_found += 1;
    }
    Ok(())
}

fn add_body(target: &Connection, row: Carved, repaired: &mut Repaired) -> rusqlite::Result<()> {
    let [Value::Null, Value::Blob(body)] = row.values.as_slice() else { return Ok(()) };
    if is_there(target, "bodies", "seq", row.rowid)? {
        return Ok(());
    }
    let crc: Option<Option<i64>> = target
        .prepare_cached("SELECT body_crc FROM messages WHERE seq = ?1 AND place = 0")?
        .query_row([row.rowid], |found| found.get(0))
        .optional()?;
    let holds = crc.flatten() == Some(i64::from(checksum::add(0, body)));
    if holds && insert(target, "bodies", whole(row))? {
        repaired.rows_found += 1;
    }
    Ok(())
}

/// In the file the number of the row stands for the first column.
fn whole(row: Carved) -> Vec<Value> {
    let mut values = row.values;
    if let Some(key) = values.first_mut() {
        *key = Value::Integer(row.rowid);
    }
    values
}

fn is_there(db: &Connection, table: &str, key: &str, row: i64) -> rusqlite::Result<bool> {
    db.prepare_cached(&format!("SELECT 1 FROM {table} WHERE {key} = ?1"))?.exists([row])
}

/// Does the checksum in the row hold? Asked of a table of the same columns that has no rules for
/// their types.
fn holds_in(db: &Connection, table: &str, holds: &str, row: &Carved) -> rusqlite::Result<bool> {
    let places = vec!["?"; row.values.len()].join(", ");
    db.prepare_cached(&format!("INSERT INTO found_{table} VALUES ({places})"))?
        .execute(params_from_iter(whole(row.clone())))?;
    let holds: Option<bool> = db.prepare_cached(holds)?.query_row([], |row| row.get(0))?;
    db.prepare_cached(&format!("DELETE FROM found_{table}"))?.execute([])?;
    Ok(holds.unwrap_or(false))
}
