//! What a killed daemon leaves beside the tables, read without its code: the write-ahead log
//! ("Database File Format", 4) and the journal (`crates/spool/src/journal/format.rs`).

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use world::damage::PAGE;

const HEADER: usize = 32;
const FRAME: usize = 24 + PAGE;
/// Batches begin at multiples of it.
const BATCH: usize = 4096;

/// A frame of the log.
#[derive(Debug)]
pub(super) struct Frame {
    /// Which page is in it.
    pub(super) page: usize,
    /// A transaction ends with it.
    pub(super) is_end: bool,
    pub(super) octets: Range<usize>,
}

/// The frames up to the last that ends a transaction, and the database with them.
pub(super) fn log(dir: &Path) -> (Vec<Frame>, Vec<u8>) {
    let mut image = fs::read(dir.join("queue.db")).expect("queue.db");
    let log = fs::read(dir.join("queue.db-wal")).unwrap_or_default();
    let mut frames: Vec<Frame> = Vec::new();
    let mut at = HEADER;
    // Frames of an earlier use have other salts.
    while at + FRAME <= log.len() && log[at + 8..at + 16] == log[16..24] {
        let is_end = log[at + 4..at + 8] != [0; 4];
        frames.push(Frame { page: number(&log, at), is_end, octets: at..at + FRAME });
        at += FRAME;
    }
    while frames.pop_if(|frame| !frame.is_end).is_some() {}
    for frame in &frames {
        let end = frame.page * PAGE;
        image.resize(image.len().max(end), 0);
        image[end - PAGE..end].copy_from_slice(&log[frame.octets.start + 24..frame.octets.end]);
    }
    (frames, image)
}

fn number(octets: &[u8], at: usize) -> usize {
    let octets = octets[at..at + 4].try_into().expect("four octets");
    usize::try_from(u32::from_be_bytes(octets)).expect("small")
}

fn small(octets: &[u8], at: usize) -> usize {
    let octets = octets[at..at + 4].try_into().expect("four octets");
    usize::try_from(u32::from_le_bytes(octets)).expect("small")
}

/// A batch of a segment.
#[derive(Debug)]
pub(super) struct Batch {
    /// Relative to the data directory.
    pub(super) file: PathBuf,
    pub(super) head: Range<usize>,
    pub(super) records: Vec<Range<usize>>,
}

/// All batches, in their order, with the octets of their files.
pub(super) fn journal(dir: &Path) -> Vec<(Vec<u8>, Vec<Batch>)> {
    let entries = fs::read_dir(dir.join("journal")).expect("a journal");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut files: Vec<PathBuf> = names
        .map(|name| Path::new("journal").join(name))
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let octets = fs::read(dir.join(&file)).expect("a segment");
            let batches = batches(&file, &octets);
            (octets, batches)
        })
        .collect()
}

fn batches(file: &Path, octets: &[u8]) -> Vec<Batch> {
    let (mut all, mut at) = (Vec::new(), 0);
    while octets.get(at..at + 4) == Some(b"StJ1") {
        let (count, length) = (small(octets, at + 4), small(octets, at + 8));
        let mut place = at + 48 + 4 * count;
        let head = at..place;
        let records = (0..count)
            .map(|number| {
                let begin = place;
                place += small(octets, at + 48 + 4 * number);
                begin..place
            })
            .collect();
        all.push(Batch { file: file.into(), head, records });
        at += length.next_multiple_of(BATCH);
    }
    all
}
