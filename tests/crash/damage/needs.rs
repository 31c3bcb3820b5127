//! What each message needs of the files of a data directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use world::damage::{Damage, PAGE};
use world::pages::{Field, Map, Row};
use world::replay::Random;

use super::left::{self, Batch, Frame};

/// What the base-32 digits of message ids are.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// What a message needs.
#[derive(Debug)]
pub(super) struct Need {
    /// Pages of queue.db, from 1.
    pages: BTreeSet<usize>,
    /// A larger body.
    file: Option<PathBuf>,
    /// Octets of a segment of the journal; then there are no pages yet.
    journal: Option<(PathBuf, [Range<usize>; 2])>,
    /// What the log calls it; the journal says it in octets that only its own code reads.
    pub(super) queue_id: Option<String>,
}

/// What all need.
#[derive(Debug)]
pub(super) struct Needs {
    /// By the number in the load.
    pub(super) by_id: BTreeMap<u64, Need>,
    /// queue.db, and what a killed daemon leaves beside it.
    pub(super) of_the_queue: Vec<PathBuf>,
    /// Pages of queue.db that are not for bodies, which have most.
    lean: Vec<usize>,
    /// Of the log.
    frames: Vec<Frame>,
    /// Of the journal: nobody can tell damage of it from an interrupted write.
    last_batch: Option<(PathBuf, Range<usize>)>,
    /// Where the last batch of each segment ends.
    ends: BTreeMap<PathBuf, usize>,
}

impl Needs {
    /// Of a directory that a daemon left by a stop, or by a kill.
    pub(super) fn of(dir: &Path) -> Self {
        let (frames, image) = left::log(dir);
        let map = Map::of(&image);
        let mut by_id = BTreeMap::new();
        for (key, row) in map.table("recipients") {
            by_id.insert(number_of(&row.fields[6].text()), of_rows(dir, &map, *key, row));
        }
        let bodies = map.table("bodies").values().flat_map(|row| row.pages.iter().copied());
        let bodies: BTreeSet<usize> = bodies.collect();
        let mut needs = Self {
            by_id,
            of_the_queue: vec!["queue.db".into()],
            lean: (1..=image.len() / PAGE).filter(|page| !bodies.contains(page)).collect(),
            frames,
            last_batch: None,
            ends: BTreeMap::new(),
        };
        if !needs.frames.is_empty() {
            needs.of_the_queue.push("queue.db-wal".into());
        }
        for (octets, batches) in left::journal(dir) {
            batches.iter().for_each(|batch| needs.add_batch(&octets, batch));
        }
        needs.of_the_queue.extend(needs.ends.keys().cloned());
        needs
    }

    fn add_batch(&mut self, octets: &[u8], batch: &Batch) {
        for record in &batch.records {
            let text = &octets[record.clone()];
            // A recipient's address ends the part that tells of it; the body has none of ours.
            let Some(at) = text.windows(4).position(|window| window == b"user") else { continue };
            let id = number_of(&String::from_utf8_lossy(&text[at..(at + 24).min(text.len())]));
            let journal = Some((batch.file.clone(), [batch.head.clone(), record.clone()]));
            let need = Need { pages: BTreeSet::new(), file: None, journal, queue_id: None };
            self.by_id.entry(id).or_insert(need);
        }
        let end = batch.records.last().map_or(batch.head.end, |record| record.end);
        self.last_batch = Some((batch.file.clone(), batch.head.start..end));
        self.ends.insert(batch.file.clone(), end);
    }

    /// A damage to the directory that this is about.
    pub(super) fn choose(&self, random: &mut Random, dir: &Path) -> Damage {
        let files = self.files();
        let file: PathBuf = match random.below(12) {
            0..8 => self.of_the_queue[random.below(self.of_the_queue.len())].clone(),
            8 | 9 => files[random.below(files.len())].clone(),
            10 => "policies.db".into(),
            _ => ["reserve", "policies.reserve", "lock", "salts.key"][random.below(4)].into(),
        };
        let length = fs::metadata(dir.join(&file)).expect("a file").len();
        let length = self.used(&file, usize::try_from(length).expect("small"));
        match random.below(12) {
            // Without its queue there is nothing to deliver.
            0 if file != Path::new("queue.db") => Damage::Gone { file },
            0 | 1 => Damage::Cut { file, length: random.below(length) },
            2..5 => {
                let page = self.page(random, &file, length);
                Damage::Zeros { file, page }
            }
            _ => {
                let at = self.page(random, &file, length) * PAGE + random.below(PAGE);
                let bit = u8::try_from(random.below(8)).expect("small");
                Damage::Bit { file, at: at.min(length - 1), bit }
            }
        }
    }

    /// How many octets of a file are more than space for others.
    fn used(&self, file: &Path, length: usize) -> usize {
        if file == Path::new("queue.db-wal") {
            return self.frames.last().map_or(length, |frame| frame.octets.end);
        }
        self.ends.get(file).copied().unwrap_or(length)
    }

    /// A page of a file, from 0.
    fn page(&self, random: &mut Random, file: &Path, length: usize) -> usize {
        if file == Path::new("queue.db") && random.coin() {
            let lean: Vec<_> = self.lean.iter().filter(|page| **page * PAGE <= length).collect();
            return lean[random.below(lean.len())] - 1;
        }
        random.below(length.div_ceil(PAGE))
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.by_id.values().filter_map(|need| need.file.clone()).collect()
    }

    /// Pages of queue.db that are not what they were.
    pub(super) fn pages_hit(&self, damage: &Damage) -> BTreeSet<usize> {
        let octets = damage.octets();
        if damage.file() == Path::new("queue.db") {
            let last = self.lean.last().map_or(0, |last| *last * PAGE);
            return (octets.start / PAGE..octets.end.min(last).div_ceil(PAGE))
                .map(|page| page + 1)
                .collect();
        }
        if damage.file() != Path::new("queue.db-wal") {
            return BTreeSet::new();
        }
        // Without another transaction between it and the last one nobody can tell that it ended,
        // and both are left out.
        let ends = self.frames.iter().enumerate().filter(|(_, frame)| frame.is_end);
        let known = ends.rev().nth(2).map_or(0, |(place, _)| place + 1);
        let cuts = matches!(damage, Damage::Cut { .. } | Damage::Gone { .. });
        let is_hit = |frame: &&Frame| overlap(&frame.octets, &octets);
        let first = self.frames.iter().position(|frame| is_hit(&frame));
        let all_behind = first.filter(|first| cuts || *first >= known);
        let behind = self.frames.iter().skip(all_behind.unwrap_or(self.frames.len()));
        self.frames.iter().filter(is_hit).chain(behind).map(|frame| frame.page).collect()
    }

    /// Is it one that nobody can tell from an interrupted write?
    pub(super) fn may_be_interrupted(&self, damage: &Damage) -> bool {
        let last = self.last_batch.as_ref();
        damage.file() == Path::new("queue.db-wal")
            || last.is_some_and(|(file, place)| {
                damage.file() == file && overlap(place, &damage.octets())
            })
    }
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

impl Need {
    /// Is what it needs not what it was? `pages` are those of queue.db.
    pub(super) fn is_hit(&self, damage: &Damage, pages: &BTreeSet<usize>) -> bool {
        let octets = damage.octets();
        let in_journal = self.journal.as_ref().is_some_and(|(file, places)| {
            damage.file() == file && places.iter().any(|place| overlap(place, &octets))
        });
        in_journal
            || self.file.as_deref() == Some(damage.file())
            || self.pages.iter().any(|page| pages.contains(page))
    }
}

fn of_rows(dir: &Path, map: &Map, key: i64, row: &Row) -> Need {
    let seq = key >> 16;
    let message = &map.table("messages")[&seq];
    let body = map.table("bodies").get(&seq);
    let lane = &map.table("lanes")[&row.fields[1].number()];
    let rows = [Some(row), Some(message), body, Some(lane)];
    let pages = rows.into_iter().flatten().flat_map(|row| row.pages.iter().copied());
    let pages = pages.chain(map.schema.iter().copied()).collect();
    let queue_id = queue_id(message);
    let file = body.is_none().then(|| path_of(dir, &queue_id));
    Need { pages, file, journal: None, queue_id: Some(queue_id) }
}

/// The number of the message in an address of its recipient.
fn number_of(address: &str) -> u64 {
    let (user, _) = address.split_once('@').expect("an address");
    user.trim_start_matches("user").parse().expect("a number")
}

fn queue_id(message: &Row) -> String {
    let Field::Octets(octets) = &message.fields[1] else { panic!("an id") };
    let mut number = u128::from_be_bytes(octets.as_slice().try_into().expect("16 octets"));
    let mut text = Vec::new();
    for _ in 0..26 {
        text.push(DIGITS[usize::try_from(number & 31).expect("small")]);
        number >>= 5;
    }
    text.reverse();
    String::from_utf8(text).expect("digits")
}

/// Relative to the data directory.
fn path_of(dir: &Path, queue_id: &str) -> PathBuf {
    let shelves = fs::read_dir(dir.join("bodies")).expect("bodies");
    let mut paths = shelves.map(|shelf| shelf.expect("a shelf").path().join(queue_id));
    let path = paths.find(|path| path.exists()).expect("a body");
    path.strip_prefix(dir).expect("below it").into()
}
