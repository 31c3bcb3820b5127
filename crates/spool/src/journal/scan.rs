//! What a journal holds, as its files tell it: for the start after a crash, and for who looks at a
//! directory from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::format::{Batch, JournalPosition, Record, SECTOR, batch, record};
use super::young::{Waiting, Young};

/// Files that are no segments are left alone.
pub(crate) fn segments(dir: &Path) -> io::Result<BTreeMap<u32, PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".log")?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    Ok(found)
}

/// The name of a segment.
pub(crate) fn segment_name(number: u32) -> String {
    format!("{number:010}.log")
}

/// Up to where the tables have what the journal says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Applied {
    /// They have all that stands before this place.
    pub(crate) low: JournalPosition,
    /// Places of single records behind `low` that the tables have, too.
    pub(crate) beyond: BTreeSet<JournalPosition>,
}

impl Applied {
    /// As the tables keep it.
    pub(crate) fn to_text(&self) -> String {
        let all = std::iter::once(&self.low).chain(&self.beyond);
        all.map(|place| place.0.to_string()).collect::<Vec<_>>().join(" ")
    }

    /// `None`: it was not written so.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let places: Result<Vec<u64>, _> = text.split(' ').map(str::parse).collect();
        let mut places = places.ok()?.into_iter().map(JournalPosition);
        Some(Self { low: places.next()?, beyond: places.collect() })
    }

    fn has(&self, place: JournalPosition) -> bool {
        place < self.low || self.beyond.contains(&place)
    }
}

/// A part of the journal that is not what was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hole {
    /// One record; those behind it can be read.
    Record(JournalPosition),
    /// Batches from here on.
    Batches(JournalPosition),
}

impl Hole {
    pub(crate) fn at(self) -> JournalPosition {
        match self {
            Self::Record(at) | Self::Batches(at) => at,
        }
    }
}

/// What a scan of all segments found.
#[derive(Debug, Default)]
pub(crate) struct FoundRecord {
    /// What the tables do not have.
    pub(crate) young: Young,
    /// What is damaged: what stood there was acknowledged.
    pub(crate) holes: Vec<Hole>,
    /// Behind the last batch.
    pub(crate) end: JournalPosition,
    /// The highest number of a segment.
    pub(crate) last_segment: u32,
}

/// Reads all segments. A batch that is not whole was acknowledged if a later one was written, since
/// each is synced before the next; else its sync did not end, and what is whole in it counts all
/// the same.
pub(crate) fn scan(dir: &Path, applied: &Applied) -> io::Result<FoundRecord> {
    let found = FoundRecord { end: applied.low, ..FoundRecord::default() };
    let mut reading = Reading { applied, found, low: applied.low, last: None, unsure: Vec::new() };
    for (number, path) in segments(dir)? {
        reading.found.last_segment = number;
        if number < applied.low.segment() {
            continue;
        }
        match fs::read(&path) {
            Ok(octets) => reading.segment(number, &octets),
            // The daemon uses it again, so nothing in it is needed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(reading.end())
}

struct Reading<'a> {
    applied: &'a Applied,
    found: FoundRecord,
    low: JournalPosition,
    /// Where the last batch begins that was found whole.
    last: Option<JournalPosition>,
    /// Records of the last batch that are not whole.
    unsure: Vec<Hole>,
}

impl<'a> Reading<'a> {
    fn segment(&mut self, number: u32, octets: &[u8]) {
        let mut place = 0;
        while place < octets.len() {
            match batch(octets, number, place) {
                Some(batch) => {
                    place += batch.octets;
                    self.batch(octets, &batch);
                }
                // Of an earlier use of the file, or never written, or not whole.
                None => place += SECTOR,
            }
        }
    }

    fn batch(&mut self, octets: &[u8], batch: &Batch) {
        let next = batch.at.after(batch.octets);
        self.found.end = self.found.end.max(next);
        self.low = self.low.max(batch.low);
        if batch.at < self.applied.low {
            return;
        }
        // What came before it was synced before it was written.
        self.found.holes.append(&mut self.unsure);
        // One that was refused, and done to the tables, is nobody's predecessor.
        let misses =
            batch.previous >= self.last.unwrap_or(self.low) && Some(batch.previous) != self.last;
        if misses {
            self.found.holes.push(Hole::Batches(self.last.unwrap_or(self.low)));
        }
        self.last = Some(batch.at);
        for &(begin, length) in &batch.records {
            let place = JournalPosition::new(batch.at.segment(), begin);
            match octets.get(begin..begin + length).and_then(record) {
                Some(found) => self.record((batch.at, place), length, found),
                None => self.unsure.push(Hole::Record(place)),
            }
        }
    }

    fn record(
        &mut self,
        (batch, place): (JournalPosition, JournalPosition),
        length: usize,
        record: Record<'_>,
    ) {
        match record {
            Record::Accepted(_) if self.applied.has(place) => {}
            Record::Accepted(arrival) => {
                let waiting = Waiting::new(arrival.id, arrival.recipients.len(), (batch, length));
                self.found.young.add(place, waiting);
            }
            Record::Done(done) => {
                self.found.young.done(&done);
            }
        }
    }

    fn end(mut self) -> FoundRecord {
        // Nothing below was needed any more when a later batch was written.
        self.found.young.forget_below(self.low);
        let low = self.low;
        self.found.holes.retain(|hole| hole.at() >= low || matches!(hole, Hole::Batches(_)));
        self.found
    }
}
