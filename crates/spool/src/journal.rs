//! Mail on its way through is written once: into a journal that is synced before the 250, and into
//! the tables only if it stays.
//!
//! Most mail leaves within a second. A row for it would be written, and its pages copied, for
//! nothing. So the writer appends what was accepted, and who is done, to a file, with one sync for
//! all that wait; what is left when nothing else is to be done, waits for long, or is asked for,
//! gets its rows in a larger transaction (`Journal::insert`), and a mark says up to where the
//! tables have what the journal says. A start reads the journal from there. Whatever cannot be
//! written here goes into the tables at once: a journal is never a reason to refuse mail.
//!
//! Files: `journal/NNNNNNNNNN.log`, segments of 32 MiB. One that is not needed any more is used
//! again under a later number: its blocks need no change of the file system's own records.
//! `docs/spool.md` has the states; the octets are in [`format`].

pub(crate) mod format;
pub(crate) mod outside;
pub(crate) mod scan;
mod segments;
pub(crate) mod shared;
pub(crate) mod young;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _};

use self::format::{Builder, Done, JournalPosition, Record, record};
use self::scan::{Applied, Hole, scan, segment_name, segments};
use self::segments::{SEGMENT, SEGMENTS_MANY, SEGMENTS_MAX};
use self::shared::SharedYoung;
use self::young::{Waiting, YoungMail};
use crate::arrival::Arrival;
use crate::commit::{self, Rows};
use crate::database_lock::is_at;
use crate::draft::Sealed;
use crate::message::{LaneKey, RecipientNo, Settled, StoredEnvelope};
use crate::schema::{Checkpoint, checkpoint};
use crate::{MessageId, StoreError, marks};

/// Our choice: some 40 MB of memory for the envelopes; and beyond how many the oldest get their
/// rows.
const RECIPIENTS_MAX: usize = 50_000;
const RECIPIENTS_MANY: usize = RECIPIENTS_MAX / 4 * 3;
/// Messages that get their rows in one transaction, and octets: some 20 ms, in which no other mail
/// is taken.
const SLICE: usize = 256;
const SLICE_OCTETS: usize = 4 * 1024 * 1024;
/// Places beyond the low one that the mark lists; with more, those before them are to get their
/// rows soon.
const BEYOND_MANY: usize = 256;
/// Who reads the tables from outside makes this file, and all mail gets its rows.
const WANTED: &str = "wanted";
/// The mark in queue.db up to where the tables have what the journal says.
pub(crate) const MARK: &str = "journal";

/// Why a batch does not stand in the journal.
#[derive(Debug)]
pub(crate) enum Unwritten {
    /// It does not, and may go into the tables.
    Refused,
    /// It was written and its sync failed: whether it stands there is not known.
    Unsynced,
}

/// What may stand in the journal instead of being done to the tables.
#[derive(Debug)]
pub(crate) enum Recordable {
    /// A new message whose body is no file.
    Accepted(Arc<(Sealed, Arc<StoredEnvelope>)>),
    /// Recipients are done, of whom nobody has to be told.
    Done {
        done: Done,
        /// The lane they leave is healthy.
        healthy: Option<LaneKey>,
    },
}

impl Recordable {
    fn record(&self) -> Record<'_> {
        match self {
            Self::Accepted(new) => Record::Accepted(Box::new(Arrival::new(&new.0, &new.1))),
            Self::Done { done, .. } => Record::Done(done.clone()),
        }
    }
}

/// The writer's side of the journal: segments on disk, and what of them has no rows yet.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    rows: Arc<Rows>,
    /// By their numbers; the last one is written.
    segments: BTreeMap<u32, Arc<File>>,
    /// The next batch, in the last segment.
    end: usize,
    /// The number for the next new segment.
    next_segment: u32,
    /// Where the batch before begins; the next one carries it.
    previous: JournalPosition,
    applied: Applied,
    young: SharedYoung,
    building: Builder,
    buffer: Vec<u8>,
    takes: Takes,
    /// Was something written since [`Journal::tidy`]?
    is_used: bool,
    /// Accepted in a batch that was refused after it was written: the tables have it.
    disowned: Vec<JournalPosition>,
    /// What could not be read back, and is to be told.
    holes: Vec<Hole>,
    /// Segments with such, which are kept.
    damaged: BTreeSet<u32>,
}

/// Does a journal take new mail?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Takes {
    Mail,
    /// There is no room, or its files were in the way; until the next look.
    NothingForAWhile,
    /// The tables refuse what is in it; until they do not.
    NothingTablesRefuse,
}

/// What becomes of a record that the system does not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Unreadable {
    /// The next time it may.
    Fails,
    /// A start cannot wait for that.
    IsHole,
}

/// What a transaction puts into the tables: to be told to the journal once it is committed.
#[derive(Debug, Default)]
pub(crate) struct Inserted {
    places: Vec<JournalPosition>,
    applied: Applied,
    holes: Vec<Hole>,
}

impl Journal {
    /// Reads what a former process left.
    pub(crate) fn open(dir: &Path, db: &Connection, rows: Arc<Rows>) -> Result<Self, StoreError> {
        let failed = |error| StoreError::io("reading the journal", error);
        let applied = applied(db)?;
        let found = scan(dir, &applied).map_err(failed)?;
        let mut open = BTreeMap::new();
        for (number, path) in segments(dir).map_err(failed)? {
            let file = File::options().read(true).write(true).open(path).map_err(failed)?;
            open.insert(number, Arc::new(file));
        }
        let next_segment = found.last_segment.max(applied.low.segment()).saturating_add(1);
        let journal = Self {
            dir: dir.into(),
            rows,
            segments: open,
            // What comes is not written behind what may be torn.
            end: SEGMENT,
            next_segment,
            previous: JournalPosition::default(),
            applied,
            young: SharedYoung::new(found.young),
            building: Builder::default(),
            buffer: Vec::new(),
            takes: Takes::Mail,
            is_used: false,
            disowned: Vec::new(),
            damaged: found.holes.iter().map(|hole| hole.at().segment()).collect(),
            holes: found.holes,
        };
        Ok(journal)
    }

    /// Gives all that a former process left its rows; its segments go as soon as nothing in them is
    /// needed, since that may be the space for the rest. What is damaged, or cannot be read, is
    /// kept beside them.
    pub(crate) fn take_over(&mut self, db: &Connection) -> Result<(), StoreError> {
        while self.young.lock().len() > 0 {
            self.take_over_slice(db)?;
            checkpoint(db, Checkpoint::Truncate)?;
            let low = self.applied.low.segment();
            let done: Vec<u32> = self.segments.range(..low).map(|(number, _)| *number).collect();
            done.into_iter().for_each(|number| self.remove_segment(number));
        }
        match self.take_over_slice(db) {
            Err(error) if error.is_failed_sync() => return Err(error),
            // With nothing left to take over the mark is no reason not to start.
            Ok(()) | Err(_) => {}
        }
        self.remove_all();
        Ok(())
    }

    fn take_over_slice(&mut self, db: &Connection) -> Result<(), StoreError> {
        let transaction = db.unchecked_transaction()?;
        let places = self.slice(self.end());
        let inserted = self.insert_with(&transaction, places, Unreadable::IsHole)?;
        transaction.commit()?;
        self.inserted(inserted);
        Ok(())
    }

    /// What was found damaged since the last time, by file and place.
    pub(crate) fn take_holes(&mut self) -> Vec<String> {
        let tell = |hole: Hole| {
            let kept = format!("{}.damaged", segment_name(hole.at().segment()));
            let is_kept = self.dir.join(&kept).exists();
            let kept = if is_kept { format!(", kept as {kept}") } else { String::new() };
            format!("{}{kept}", hole_at(hole))
        };
        std::mem::take(&mut self.holes).into_iter().map(tell).collect()
    }

    /// Mail that has no rows.
    pub(crate) fn young(&self) -> &SharedYoung {
        &self.young
    }

    /// A second has passed: up to where mail has been here for long.
    pub(crate) fn tick(&self) -> Option<JournalPosition> {
        self.young.lock().tick()
    }

    /// Does somebody read the tables from outside?
    pub(crate) fn is_wanted(&self) -> bool {
        self.young.lock().len() > 0 && fs::remove_file(self.dir.join(WANTED)).is_ok()
    }

    /// Does it take new mail?
    pub(crate) fn takes(&self) -> bool {
        self.takes == Takes::Mail
            && self.young.lock().recipients() < RECIPIENTS_MAX
            && self.used() < SEGMENTS_MAX
    }

    /// If it is so full that mail has to get its rows also while other work waits: up to where.
    pub(crate) fn overflow(&self) -> Option<JournalPosition> {
        let segments = self.used().checked_sub(SEGMENTS_MANY + 1);
        let first = self.applied.low.segment();
        let of_segments = segments.and_then(|more| u32::try_from(more).ok()).map(|more| {
            let kept = first.saturating_add(more).saturating_add(1);
            JournalPosition(JournalPosition::new(kept, 0).0.saturating_sub(1))
        });
        let young = self.young.lock();
        let recipients = young.recipients().checked_sub(RECIPIENTS_MANY + 1);
        // At least so many messages, if each had one.
        let of_messages = recipients.and_then(|more| young.nth_or_last(more));
        let is_long = self.applied.beyond.len() > BEYOND_MANY;
        let of_mark = self.applied.beyond.last().copied().filter(|_| is_long);
        of_segments.max(of_messages).max(of_mark)
    }

    /// The beginning of a batch; all before it is not needed any more.
    fn low(&self) -> JournalPosition {
        self.young.lock().first_batch().unwrap_or_else(|| self.end())
    }

    /// Behind the last batch.
    pub(crate) fn end(&self) -> JournalPosition {
        match self.segments.last_key_value() {
            Some((number, _)) if self.end < SEGMENT => JournalPosition::new(*number, self.end),
            Some(_) | None => JournalPosition::new(self.next_segment, 0),
        }
    }

    /// Writes and syncs these as one batch.
    pub(crate) fn append(&mut self, news: &[&Recordable]) -> Result<Vec<Settled>, Unwritten> {
        self.building.clear();
        news.iter().for_each(|new| self.building.add(&new.record()));
        if self.building.octets() > SEGMENT {
            return Err(Unwritten::Refused);
        }
        if self.end + self.building.octets() > SEGMENT {
            self.begin_segment()?;
        }
        let Some((&number, file)) = self.segments.last_key_value() else {
            return Err(Unwritten::Refused);
        };
        let at = JournalPosition::new(number, self.end);
        let places = self.building.write((at, self.previous, self.low()), &mut self.buffer);
        let written = file.write_all_at(&self.buffer, at.offset());
        if written.is_ok() {
            file.sync_data().map_err(|_| Unwritten::Unsynced)?;
        }
        // Else nobody would find it.
        let is_there = || is_at(file, &self.dir.join(segment_name(number))).unwrap_or(false);
        if written.is_err() || !is_there() {
            self.disown(at, news, &places);
            return Err(Unwritten::Refused);
        }
        self.end += self.buffer.len();
        self.is_used = true;
        self.previous = at;
        self.buffer.shrink_to(1024 * 1024);
        let segment = Arc::clone(file);
        let mut young = self.young.lock();
        let note = |(new, (begin, length)): (&&Recordable, (usize, usize))| match new {
            Recordable::Accepted(new) => {
                let (envelope, segment) = (Arc::clone(&new.1), Arc::clone(&segment));
                let waiting = Waiting::new(new.0.id(), envelope.recipients.len(), (at, length));
                young.add(at.after(begin), waiting.with(YoungMail { envelope, segment }));
                Settled::Waiting
            }
            Recordable::Done { done, .. } => young.done(done).unwrap_or(Settled::Missing),
        };
        Ok(news.iter().zip(places).map(note).collect())
    }

    /// A start may find it all the same: the mark has to say that the tables have it.
    fn disown(&mut self, at: JournalPosition, news: &[&Recordable], places: &[(usize, usize)]) {
        let accepted = news.iter().zip(places).filter(|(new, _)| match new {
            Recordable::Accepted(_) => true,
            Recordable::Done { .. } => false,
        });
        self.disowned.extend(accepted.map(|(_, (begin, _))| at.after(*begin)));
        // No other batch may ever stand there.
        self.end = SEGMENT;
        self.rest();
    }

    /// Is this message here? Then who is done of it can be a record.
    pub(crate) fn has(&self, message: MessageId) -> bool {
        self.young.lock().place_of(message).is_some()
    }

    /// Takes nothing more until [`Journal::tidy`] finds that it can.
    fn rest(&mut self) {
        self.takes = Takes::NothingForAWhile;
    }

    /// Places of messages that get their rows next, up to this one: as many as one transaction
    /// should have.
    pub(crate) fn slice(&self, until: JournalPosition) -> Vec<JournalPosition> {
        let mut octets: usize = 0;
        let young = self.young.lock();
        let fits = young.iter().take(SLICE).take_while(|(place, waiting)| {
            let is_first = octets == 0;
            octets = octets.saturating_add(waiting.length);
            *place <= until && (is_first || octets <= SLICE_OCTETS)
        });
        fits.map(|(place, _)| place).collect()
    }

    /// Gives these their rows, in a transaction, with the mark that says so.
    pub(crate) fn insert(
        &self,
        db: &Connection,
        places: Vec<JournalPosition>,
    ) -> Result<Inserted, StoreError> {
        self.insert_with(db, places, Unreadable::Fails)
    }

    fn insert_with(
        &self,
        db: &Connection,
        places: Vec<JournalPosition>,
        unreadable: Unreadable,
    ) -> Result<Inserted, StoreError> {
        let mut holes = Vec::new();
        for &place in &places {
            let found = self.young.lock().get(place).map(|one| (one.length, one.done().clone()));
            let Some((length, done)) = found else { continue };
            let octets = match (self.read(place, length), unreadable) {
                (Ok(octets), Unreadable::Fails | Unreadable::IsHole) => octets,
                (Err(_), Unreadable::IsHole) => Vec::new(),
                (Err(error), Unreadable::Fails) => {
                    return Err(StoreError::io("reading the journal", error));
                }
            };
            let Some(Record::Accepted(arrival)) = record(&octets) else {
                holes.push(Hole::Record(place));
                continue;
            };
            // After a crash the mark may be older than the rows, if it was damaged.
            if commit::find(db, arrival.id)?.is_none() {
                arrival.insert(db, &self.rows, |no: RecipientNo| done.contains(&no))?;
            }
        }
        let mut beyond = self.applied.beyond.clone();
        beyond.extend(places.iter().chain(&self.disowned));
        let left = {
            let young = self.young.lock();
            let mut left = young.iter().filter(|(place, _)| !beyond.contains(place));
            left.next().map(|(_, waiting)| waiting.batch)
        };
        let low = left.unwrap_or_else(|| self.end());
        let applied = Applied { low, beyond: beyond.split_off(&low) };
        marks::set(db, MARK, Some(&applied.to_text()))?;
        Ok(Inserted { places, applied, holes })
    }

    /// Could the tables take what they were given? While they cannot, nothing new is written here
    /// that they would have to take.
    pub(crate) fn note_tables(&mut self, taken: &Result<(), StoreError>) {
        if taken.is_err() {
            self.takes = Takes::NothingTablesRefuse;
        } else if self.takes == Takes::NothingTablesRefuse {
            self.takes = Takes::Mail;
        }
    }

    /// Does the mark say less than it could?
    pub(crate) fn has_news(&self) -> bool {
        !self.disowned.is_empty() || self.low() != self.applied.low
    }

    /// Does the mark have to be written before anything else?
    pub(crate) fn is_unsaid(&self) -> bool {
        !self.disowned.is_empty()
    }

    /// That transaction is committed.
    pub(crate) fn inserted(&mut self, inserted: Inserted) {
        let mut young = self.young.lock();
        inserted.places.into_iter().for_each(|place| young.remove(place));
        drop(young);
        self.applied = inserted.applied;
        self.disowned.clear();
        self.damaged.extend(inserted.holes.iter().map(|hole| hole.at().segment()));
        self.holes.extend(inserted.holes);
    }

    fn read(&self, place: JournalPosition, length: usize) -> io::Result<Vec<u8>> {
        let mut octets = vec![0; length];
        let file = self.segments.get(&place.segment()).ok_or(io::ErrorKind::NotFound)?;
        file.read_exact_at(&mut octets, place.offset())?;
        Ok(octets)
    }
}

/// Up to where the tables have what the journal says, as they say themselves. Without the mark, the
/// journal's own word counts.
pub(crate) fn applied(db: &Connection) -> Result<Applied, StoreError> {
    let text: Option<String> = db
        .prepare_cached("SELECT value FROM marks WHERE name = ?1 AND crc = row_crc(name, value)")?
        .query_row([MARK], |row| row.get(0))
        .optional()?;
    Ok(text.and_then(|text| Applied::from_text(&text)).unwrap_or_default())
}

/// For people: file, what is lost there, and from which octet on.
fn hole_at(hole: Hole) -> String {
    let at = hole.at();
    let what = match hole {
        Hole::Record(_) => "one record",
        Hole::Batches(_) => "records",
    };
    format!("journal/{}: {what} from octet {} on", segment_name(at.segment()), at.offset())
}
