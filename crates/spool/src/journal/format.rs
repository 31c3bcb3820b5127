//! What stands in a segment of the journal, octet by octet. Numbers are little-endian, checksums
//! CRC-32C.
//!
//! ```text
//! batch   at a multiple of 4096, so that none begins in a page of the system, or in what a disk
//!         writes at once, that an earlier one ends in
//!   0  4  "StJ1"
//!   4  4  records
//!   8  4  octets of the batch, without what fills its last page
//!  12  4  checksum of the 32 octets from 16 on, of 4 to 12, and of the lengths
//!  16  8  its own position: the number of the segment × 2^32 + where in it
//!  24  8  that of the batch before; 0: there was none
//!  32  8  below it nothing was needed any more when this was written
//!  40  8  zeros
//!  48     for each record its length, 4 octets
//!         the records
//! record
//!   0  1  kind: 1 accepted, 2 done
//!   1  3  zeros
//!   4  4  octets of its head
//!   8  4  checksum of the head and of the 8 octets before
//!  12     head; the rest is the body, whose checksum is in the head
//! ```

use rusqlite::types::ValueRef;

use crate::arrival::{Arrival, ArrivedRecipient, MESSAGE_VALUES, RECIPIENT_VALUES};
use crate::message::RecipientNo;
use crate::{MessageId, checksum};

/// Batches begin at multiples of it. What was acknowledged is not written again with the next
/// batch: half of what small batches would cost, and it could be torn.
const PAGE: usize = 4096;
/// Where they are looked for: the first builds began them at multiples of this.
pub(crate) const SECTOR: usize = 512;
/// Octets before the lengths.
const FIXED: usize = 48;
/// Octets before a record's head.
const RECORD_FIXED: usize = 12;
const MAGIC: [u8; 4] = *b"StJ1";
/// More than the writer commits at once.
const RECORDS_MAX: usize = 1 << 16;

/// A place in the journal. Later ones are greater.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct JournalPosition(pub(crate) u64);

impl JournalPosition {
    pub(crate) fn new(segment: u32, offset: usize) -> Self {
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        Self(u64::from(segment) << 32 | u64::from(offset))
    }

    /// So many octets further in the same segment.
    pub(crate) fn after(self, octets: usize) -> Self {
        Self(self.0.saturating_add(u64::try_from(octets).unwrap_or(u64::MAX)))
    }

    pub(crate) fn segment(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or_default()
    }

    pub(crate) fn offset(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

/// Somebody's mail, or what became of it.
#[derive(Debug)]
pub(crate) enum Record<'a> {
    Accepted(Box<Arrival<'a>>),
    Done(Done),
}

/// Recipients that a message does not wait for any more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Done {
    pub(crate) message: MessageId,
    pub(crate) recipients: Vec<RecipientNo>,
}

/// What is known of a batch before its records are read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Batch {
    pub(crate) at: JournalPosition,
    pub(crate) previous: JournalPosition,
    pub(crate) low: JournalPosition,
    /// Octets of it, with what fills the last sector. The next one begins there, or behind what
    /// fills its page.
    pub(crate) octets: usize,
    /// Where each record is in the segment, and its length.
    pub(crate) records: Vec<(usize, usize)>,
}

/// A batch that is being made.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    records: Vec<u8>,
    lengths: Vec<u32>,
}

impl Builder {
    /// Adds a record to the batch that is being built.
    pub(crate) fn add(&mut self, record: &Record<'_>) {
        let begin = self.records.len();
        self.records.extend_from_slice(&[0; RECORD_FIXED]);
        let (kind, body) = match record {
            Record::Accepted(arrival) => {
                put_arrival(&mut self.records, arrival);
                (1, arrival.body.unwrap_or_default())
            }
            Record::Done(done) => {
                self.records.extend_from_slice(&done.message.to_bytes());
                done.recipients.iter().for_each(|no| self.records.extend(no.0.to_le_bytes()));
                (2, &[][..])
            }
        };
        let head = self.records.len() - begin - RECORD_FIXED;
        if let Some(record) = self.records.get_mut(begin..) {
            let mut fixed = [kind, 0, 0, 0, 0, 0, 0, 0];
            put(&mut fixed, 4, &length(head).to_le_bytes());
            let crc = checksum::add(0, record.get(RECORD_FIXED..).unwrap_or_default());
            let crc = checksum::add(crc, &fixed);
            put(record, 0, &fixed);
            put(record, 8, &crc.to_le_bytes());
        }
        self.records.extend_from_slice(body);
        self.lengths.push(length(self.records.len() - begin));
    }

    /// Octets of the batch in whole pages.
    pub(crate) fn octets(&self) -> usize {
        self.length().next_multiple_of(PAGE)
    }

    fn length(&self) -> usize {
        FIXED + 4 * self.lengths.len() + self.records.len()
    }

    /// The batch for this place; says where in it each record is, and its length.
    pub(crate) fn write(
        &self,
        (at, previous, low): (JournalPosition, JournalPosition, JournalPosition),
        out: &mut Vec<u8>,
    ) -> Vec<(usize, usize)> {
        out.clear();
        out.resize(FIXED, 0);
        self.lengths.iter().for_each(|length| out.extend(length.to_le_bytes()));
        put(out, 0, &MAGIC);
        put(out, 4, &length(self.lengths.len()).to_le_bytes());
        put(out, 8, &length(self.length()).to_le_bytes());
        for (place, position) in [(16, at), (24, previous), (32, low)] {
            put(out, place, &position.0.to_le_bytes());
        }
        let crc = header_crc(out);
        put(out, 12, &crc.to_le_bytes());
        let mut place = out.len();
        out.extend_from_slice(&self.records);
        out.resize(self.octets(), 0);
        let places = self.lengths.iter().map(|&length| {
            let (begin, octets) = (place, length as usize);
            place += octets;
            (begin, octets)
        });
        places.collect()
    }

    /// Empties it, and gives large memory back.
    pub(crate) fn clear(&mut self) {
        self.records.clear();
        self.records.shrink_to(1024 * 1024);
        self.lengths.clear();
    }
}

fn header_crc(header_and_lengths: &[u8]) -> u32 {
    [16..FIXED, 4..12, FIXED..header_and_lengths.len()]
        .into_iter()
        .fold(0, |crc, part| checksum::add(crc, header_and_lengths.get(part).unwrap_or_default()))
}

/// What begins here in the segment with this number; `None`: no batch that was written for this
/// place.
pub(crate) fn batch(segment: &[u8], number: u32, begin: usize) -> Option<Batch> {
    let octets = segment.get(begin..)?;
    if octets.get(..4)? != MAGIC {
        return None;
    }
    let count = get(octets, 4)? as usize;
    let length = get(octets, 8)? as usize;
    let at = position(octets, 16)?;
    if at != JournalPosition::new(number, begin) || count > RECORDS_MAX || length > octets.len() {
        return None;
    }
    let header = octets.get(..FIXED + 4 * count)?;
    if header_crc(header) != get(octets, 12)? {
        return None;
    }
    let mut place = begin + header.len();
    let mut records = Vec::with_capacity(count);
    for no in 0..count {
        let length = get(header, FIXED + 4 * no)? as usize;
        records.push((place, length));
        place += length;
    }
    if place != begin + length {
        return None;
    }
    let (previous, low) = (position(octets, 24)?, position(octets, 32)?);
    // No batch of ours says anything else.
    if previous >= at && at != JournalPosition::default() || low > at {
        return None;
    }
    Some(Batch { at, previous, low, octets: length.next_multiple_of(SECTOR), records })
}

/// A record, if it is what was written but for the body.
pub(crate) fn record(octets: &[u8]) -> Option<Record<'_>> {
    let head_length = get(octets, 4)? as usize;
    let (head, body) = octets.get(RECORD_FIXED..)?.split_at_checked(head_length)?;
    if checksum::add(checksum::add(0, head), octets.get(..8)?) != get(octets, 8)? {
        return None;
    }
    match octets.first()? {
        1 => Some(Record::Accepted(Box::new(get_arrival(head, body)?))),
        2 => {
            let (id, numbers) = head.split_first_chunk::<16>()?;
            let (numbers, []) = numbers.as_chunks::<2>() else { return None };
            let recipients = numbers.iter().map(|no| RecipientNo(u16::from_le_bytes(*no)));
            let message = MessageId::from_bytes(*id);
            Some(Record::Done(Done { message, recipients: recipients.collect() }))
        }
        _ => None,
    }
}

fn put_arrival(out: &mut Vec<u8>, arrival: &Arrival<'_>) {
    out.extend_from_slice(&arrival.id.to_bytes());
    arrival.message.iter().for_each(|value| put_value(out, *value));
    out.extend(length(arrival.recipients.len()).to_le_bytes());
    for recipient in &arrival.recipients {
        put_octets(out, recipient.lane.as_bytes());
        recipient.values.iter().for_each(|value| put_value(out, *value));
    }
}

fn get_arrival<'a>(head: &'a [u8], body: &'a [u8]) -> Option<Arrival<'a>> {
    let (id, head) = head.split_first_chunk::<16>()?;
    let mut head = head;
    let message = get_values::<MESSAGE_VALUES>(&mut head)?;
    let count = u32::from_le_bytes(*take(&mut head)?);
    let mut recipients = Vec::new();
    for _ in 0..count {
        let lane = std::str::from_utf8(take_octets(&mut head)?).ok()?;
        let values = get_values::<RECIPIENT_VALUES>(&mut head)?;
        recipients.push(ArrivedRecipient { lane, values });
    }
    let id = MessageId::from_bytes(*id);
    head.is_empty().then_some(Arrival { id, message, recipients, body: Some(body) })
}

fn get_values<'a, const COUNT: usize>(from: &mut &'a [u8]) -> Option<[ValueRef<'a>; COUNT]> {
    let mut values = [ValueRef::Null; COUNT];
    for value in &mut values {
        *value = get_value(from)?;
    }
    Some(values)
}

/// Kind and value. No row has real numbers.
fn put_value(out: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Null | ValueRef::Real(_) => out.push(0),
        ValueRef::Integer(number) => {
            out.push(1);
            out.extend(number.to_le_bytes());
        }
        ValueRef::Text(octets) => {
            out.push(2);
            put_octets(out, octets);
        }
        ValueRef::Blob(octets) => {
            out.push(3);
            put_octets(out, octets);
        }
    }
}

fn get_value<'a>(from: &mut &'a [u8]) -> Option<ValueRef<'a>> {
    let [kind] = *take(from)?;
    Some(match kind {
        0 => ValueRef::Null,
        1 => ValueRef::Integer(i64::from_le_bytes(*take(from)?)),
        2 => ValueRef::Text(take_octets(from)?),
        3 => ValueRef::Blob(take_octets(from)?),
        _ => return None,
    })
}

fn put_octets(out: &mut Vec<u8>, octets: &[u8]) {
    out.extend(length(octets.len()).to_le_bytes());
    out.extend_from_slice(octets);
}

fn take_octets<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(*take(from)?) as usize;
    let (octets, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(octets)
}

fn take<'a, const COUNT: usize>(from: &mut &'a [u8]) -> Option<&'a [u8; COUNT]> {
    let (octets, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(octets)
}

/// Nothing here is as long as 4 GiB: batches, bodies and rows have limits far below.
fn length(octets: usize) -> u32 {
    u32::try_from(octets).unwrap_or(u32::MAX)
}

fn put(out: &mut [u8], place: usize, octets: &[u8]) {
    if let Some(there) = out.get_mut(place..place + octets.len()) {
        there.copy_from_slice(octets);
    }
}

fn get(octets: &[u8], place: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*octets.get(place..)?.first_chunk()?))
}

fn position(octets: &[u8], place: usize) -> Option<JournalPosition> {
    Some(JournalPosition(u64::from_le_bytes(*octets.get(place..)?.first_chunk()?)))
}
