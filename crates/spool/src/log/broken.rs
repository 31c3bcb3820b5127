//! A damaged write-ahead log. SQLite reads it up to the damage and says nothing: all that was
//! committed behind that is lost, acknowledged mail and records of deliveries.
//!
//! So the log is made whole before SQLite opens it: damage of a frame becomes damage of a page,
//! which is found, named and contained like any other. An interrupted write is no damage. The two
//! are told apart by what is behind: each transaction is synced before the next one is begun, see
//! [`Extent::of`].

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};

use super::frames::{FrameHeader, Frames, LogHead, Sum};
use crate::OpenError;
use crate::layout::{create_file, open_no_link, open_or_create, sync_dir, with_suffix};

/// Behind the name of a log that was damaged, with a number.
const KEPT: &str = ".damaged-";
/// A frame begins with it.
const PAGE_NUMBER_BITS: usize = 32;

/// A write-ahead log that was damaged, and was made whole.
#[derive(Debug)]
pub(crate) struct MendedLog {
    /// What it was; nothing deletes it.
    pub(crate) kept: PathBuf,
    /// Pages that are no part of it any more, since it cannot be told which they are.
    pub(crate) left_out: usize,
}

/// What is done with a log in which it cannot be told which pages some frames are. Without these
/// frames the database has old versions of their pages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unknown {
    /// The log stays as it is, and the start is refused.
    Refuse,
    /// For a repair, which makes a new database of what is there.
    LeaveOut,
}

/// Makes the log of the database at `path` whole. No process may have the database open.
///
/// # Errors
///
/// [`OpenError`], which names the log; then it is as it was.
pub(crate) fn mend(path: &Path, unknown: Unknown) -> Result<Option<MendedLog>, OpenError> {
    let log = with_suffix(path, "-wal");
    let failed = |source| OpenError::Io { path: log.clone(), source };
    let alone = Alone::with(path).map_err(failed)?;
    let Some(broken) = look(path).map_err(failed)? else { return Ok(None) };
    if broken.left_out > 0 && unknown == Unknown::Refuse {
        return Err(OpenError::Log { path: log, pages: broken.left_out });
    }
    if alone.is_none() {
        return Err(OpenError::LogInUse { path: log });
    }
    let kept = broken.replace(&log).map_err(|source| {
        let text =
            format!("it is damaged, and to make it whole takes its size in free space: {source}");
        failed(io::Error::new(source.kind(), text))
    })?;
    drop(alone);
    Ok(Some(MendedLog { kept, left_out: broken.left_out }))
}

/// The logs in `dir` that were made whole, as they were before.
pub(crate) fn kept(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
        if name.contains(&format!("-wal{KEPT}")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// What is damaged in the log of a database; `None`: nothing, or no more than an interrupted write
/// leaves.
pub(crate) fn look(path: &Path) -> io::Result<Option<Broken>> {
    let file = match open_no_link(&with_suffix(path, "-wal")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let Some(frames) = Frames::open(file)? else { return Ok(None) };
    let Some(extent) = Extent::of(&frames)? else { return Ok(None) };
    let mut broken = Broken { frames, extent, left_out: 0 };
    broken.left_out = broken.write(&mut io::sink())?;
    Ok(Some(broken))
}

/// Frame after frame: does each go on from the one before?
#[derive(Debug)]
struct FrameChain<'a> {
    header: &'a FrameHeader,
    /// The sum of what came before as it is written there, and as it is: one of them is damaged
    /// where they differ.
    before: [Sum; 2],
}

/// What a frame is in its log.
#[derive(Debug)]
struct Link {
    head: LogHead,
    /// No earlier use of the log has left it.
    is_own: bool,
    /// Its checksum is that of what is in it; the salts are in none.
    fits: bool,
}

impl Link {
    /// It is what was written.
    fn is_whole(&self) -> bool {
        self.is_own && self.fits
    }
}

impl<'a> FrameChain<'a> {
    fn new(header: &'a FrameHeader) -> Self {
        Self { header, before: [header.sum(); 2] }
    }

    fn sums(&self, frame: &[u8]) -> [Sum; 2] {
        let [written, own] = self.before;
        let sum = self.header.sum_of(written, frame);
        [sum, if own == written { sum } else { self.header.sum_of(own, frame) }]
    }

    fn look(&self, frame: &[u8]) -> (Link, [Sum; 2]) {
        let (head, sums) = (LogHead::of(frame), self.sums(frame));
        let is_own = head.salts == self.header.salts();
        let fits = sums.contains(&head.sum());
        let [sum, _] = sums;
        let link = Link { head, is_own, fits };
        let before = if link.is_whole() { [head.sum(); 2] } else { [head.sum(), sum] };
        (link, before)
    }

    fn go_on(&mut self, frame: &[u8]) -> Link {
        let (link, before) = self.look(frame);
        self.before = before;
        link
    }

    /// Which pages a frame that is not whole may be, if one bit of its page's number is wrong. More
    /// than one of them may fit, and damage of the page itself may look like that: these checksums
    /// are no more than sums.
    fn pages_with_one_bit(&self, frame: &[u8]) -> Vec<u32> {
        let mut changed = frame.to_vec();
        let flip = |frame: &mut Vec<u8>, bit: usize| {
            frame.iter_mut().skip(bit / 8).take(1).for_each(|octet| *octet ^= 1 << (bit % 8));
        };
        let mut found = Vec::new();
        for bit in 0..PAGE_NUMBER_BITS {
            flip(&mut changed, bit);
            let link = self.look(&changed).0;
            flip(&mut changed, bit);
            found.extend(link.is_whole().then_some(link.head.page));
        }
        found
    }
}

/// How far a damaged log goes.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// Its last frame that ends a transaction.
    end: usize,
    /// No page has a higher number.
    pages: u32,
}

impl Extent {
    /// `None`: it is whole, up to where a write was interrupted. Damage is what has a transaction
    /// that ends behind it, and behind that another one that is intact, which was begun when the
    /// first had been synced.
    fn of(frames: &Frames) -> io::Result<Option<Self>> {
        let mut chain = FrameChain::new(frames.header());
        let (mut is_damaged, mut is_known_to_end) = (frames.is_rebuilt(), false);
        // Of the transaction that is read.
        let mut is_intact = true;
        let (mut extent, mut pages) = (None, 0);
        let (mut frame, mut at) = (Vec::new(), 0);
        while frames.read(at, &mut frame)? {
            let link = chain.go_on(&frame);
            let (head, is_whole) = (link.head, link.is_whole());
            is_damaged |= !is_whole;
            is_intact &= is_whole;
            if is_whole && head.commit > 0 {
                pages = head.commit.max(pages);
                // One that is not intact may be the last one, and not have been written to its end.
                if is_known_to_end && is_intact {
                    extent = Some(Self { end: at, pages });
                }
                is_known_to_end |= is_damaged;
                is_intact = true;
            }
            at += 1;
        }
        Ok(extent)
    }
}

/// A damaged log, read once: how far it can be used.
#[derive(Debug)]
pub(crate) struct Broken {
    frames: Frames,
    extent: Extent,
    pub(crate) left_out: usize,
}

impl Broken {
    /// Writes it with checksums that fit what is in it. Returns how many pages are left out.
    fn write(&self, to: &mut impl Write) -> io::Result<usize> {
        let header = self.frames.header();
        to.write_all(header.octets())?;
        let (mut chain, mut sum) = (FrameChain::new(header), header.sum());
        let (mut frame, mut left_out) = (Vec::new(), 0);
        for at in 0..=self.extent.end {
            if !self.frames.read(at, &mut frame)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let place = self.place(&chain, &frame);
            chain.go_on(&frame);
            let Some(place) = place else {
                left_out += 1;
                continue;
            };
            sum = header.seal(&mut frame, sum, place);
            to.write_all(&frame)?;
        }
        Ok(left_out)
    }

    /// Which page is in a frame, and the length of the database if a transaction ends with it.
    fn place(&self, chain: &FrameChain<'_>, frame: &[u8]) -> Option<(u32, u32)> {
        let (Link { head, is_own, fits, .. }, _) = chain.look(frame);
        if fits {
            return Some((head.page, head.commit));
        }
        if !is_own {
            // It may be what an earlier use of the log has left, with another page.
            return None;
        }
        let mut pages = chain.pages_with_one_bit(frame);
        pages.push(head.page);
        pages.retain(|page| (1..=self.extent.pages).contains(page));
        // A transaction whose end is not believed ends with the next one.
        if let [page] = pages.as_slice() { Some((*page, 0)) } else { None }
    }

    /// The new log takes the name in one step; the old one has another name before that.
    fn replace(&self, log: &Path) -> io::Result<PathBuf> {
        let new = with_suffix(log, ".mended");
        // Of a start that was interrupted.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let written = create_file(&new).and_then(|file| {
            let mut buffer = BufWriter::new(file);
            self.write(&mut buffer)?;
            buffer.into_inner()?.sync_all()
        });
        if written.is_err() {
            // On a full disk its space is wanted.
            let _ = fs::remove_file(&new);
        }
        written?;
        let names = (1_u32..).map(|number| with_suffix(log, &format!("{KEPT}{number}")));
        let kept = names.into_iter().find(|path| !path.exists());
        let kept = kept.ok_or(io::ErrorKind::AlreadyExists)?;
        let named = fs::hard_link(log, &kept).and_then(|()| fs::rename(&new, log));
        if named.is_err() {
            let _ = fs::remove_file(&new);
        }
        named?;
        sync_dir(log.parent().unwrap_or(log))?;
        Ok(kept)
    }
}

/// No other process has the database open: in this journal mode each holds a lock on its file from
/// before it opens the log. The lock is released on drop.
#[derive(Debug)]
struct Alone {
    _database: File,
}

impl Alone {
    /// `None`: another process has it open. Not for a process that has it open itself: closing the
    /// file would release its locks.
    fn with(path: &Path) -> io::Result<Option<Self>> {
        let database = open_or_create(path)?;
        match fcntl_lock(&database, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _database: database })),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}
