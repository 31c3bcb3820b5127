//! The write-ahead log of SQLite by its frames: "Database File Format", 4.1 and 4.2
//! (sqlite.org/fileformat2.html).
//!
//! A frame is a page of the database with a head that says which, and a checksum over all frames up
//! to it. So SQLite believes a log up to its first frame that does not fit, and nothing behind
//! that.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::schema::PAGE_BYTES;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The last bit says how numbers of checksums are read.
const MAGIC: u32 = 0x377f_0682;
const FORMAT: u32 = 3_007_000;
/// Our choice: of so many frames and their successors one has to be whole.
const PAIRS: usize = 32;
/// Octets of a page: powers of two in this range, says SQLite's format.
const PAGE_SIZES: std::ops::RangeInclusive<usize> = 512..=65_536;

/// Of a log of ours with so many frames.
pub(crate) fn log_octets(frames: u64) -> u64 {
    let frame = u64::try_from(FRAME_HEADER).unwrap_or_default() + PAGE_BYTES;
    u64::try_from(HEADER).unwrap_or_default() + frames.saturating_mul(frame)
}

/// In which order the octets of the numbers lie that a checksum is made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ByteOrder {
    LowFirst,
    HighFirst,
}

/// A checksum of all that came before.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Sum(u32, u32);

impl Sum {
    fn with(self, octets: &[u8], order: ByteOrder) -> Self {
        let number = |octets: [u8; 4]| match order {
            ByteOrder::LowFirst => u32::from_le_bytes(octets),
            ByteOrder::HighFirst => u32::from_be_bytes(octets),
        };
        let (words, _) = octets.as_chunks::<4>();
        words.as_chunks::<2>().0.iter().fold(self, |Self(one, two), [first, second]| {
            let one = one.wrapping_add(number(*first)).wrapping_add(two);
            Self(one, two.wrapping_add(number(*second)).wrapping_add(one))
        })
    }

    fn octets(self) -> [u8; 8] {
        two(self.0, self.1)
    }
}

fn two(one: u32, other: u32) -> [u8; 8] {
    (u64::from(one) << 32 | u64::from(other)).to_be_bytes()
}

/// The number that begins at this place.
fn number(octets: &[u8], at: usize) -> u32 {
    let octets = octets.get(at..).and_then(|octets| octets.first_chunk());
    u32::from_be_bytes(octets.copied().unwrap_or_default())
}

/// What the head of a frame says, behind which is its page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct LogHead {
    /// Of the page, from 1.
    pub(super) page: u32,
    /// In the last frame of a transaction the number of pages of the database, else 0.
    pub(super) commit: u32,
    /// Those of the log's header, or what an earlier use has left here.
    pub(super) salts: [u8; 8],
    sum: Sum,
}

impl LogHead {
    pub(super) fn of(frame: &[u8]) -> Self {
        let salts = frame.get(8..16).and_then(|octets| octets.try_into().ok());
        Self {
            page: number(frame, 0),
            commit: number(frame, 4),
            salts: salts.unwrap_or_default(),
            sum: Sum(number(frame, 16), number(frame, 20)),
        }
    }

    /// The checksum that is written there.
    pub(super) fn sum(&self) -> Sum {
        self.sum
    }

    fn use_number(&self) -> u64 {
        u64::from(number(&self.salts, 0))
    }
}

/// The header of a log, as it is or as its frames say that it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct FrameHeader {
    octets: [u8; HEADER],
    order: ByteOrder,
    page_size: usize,
}

impl FrameHeader {
    /// `None`: it is not what was written.
    fn read(octets: [u8; HEADER]) -> Option<Self> {
        let order = match number(&octets, 0) ^ MAGIC {
            0 => ByteOrder::LowFirst,
            1 => ByteOrder::HighFirst,
            2.. => return None,
        };
        let page_size = usize::try_from(number(&octets, 8)).ok()?;
        let sum = Sum(number(&octets, 24), number(&octets, 28));
        let is_whole = Sum::default().with(octets.get(..24).unwrap_or_default(), order) == sum
            && number(&octets, 4) == FORMAT
            && page_size.is_power_of_two()
            && PAGE_SIZES.contains(&page_size);
        is_whole.then_some(Self { octets, order, page_size })
    }

    /// That of frames with these salts.
    fn with_salts(salts: [u8; 8], order: ByteOrder) -> Self {
        let magic = MAGIC | u32::from(order == ByteOrder::HighFirst);
        let page_size = u32::try_from(PAGE_BYTES).unwrap_or(4096);
        let front = [two(magic, FORMAT), two(page_size, 0), salts].concat();
        let sum = Sum::default().with(&front, order);
        let mut octets = [0; HEADER];
        octets.iter_mut().zip(front.iter().chain(&sum.octets())).for_each(|(to, from)| *to = *from);
        Self { octets, order, page_size: usize::try_from(page_size).unwrap_or(4096) }
    }

    pub(super) fn octets(&self) -> &[u8; HEADER] {
        &self.octets
    }

    pub(super) fn salts(&self) -> [u8; 8] {
        self.octets.get(16..24).and_then(|octets| octets.try_into().ok()).unwrap_or_default()
    }

    /// What the first frame's checksum goes on from.
    pub(super) fn sum(&self) -> Sum {
        Sum(number(&self.octets, 24), number(&self.octets, 28))
    }

    /// The checksum that belongs into a frame behind one with `before`.
    pub(super) fn sum_of(&self, before: Sum, frame: &[u8]) -> Sum {
        let (head, page) = frame.split_at_checked(FRAME_HEADER).unwrap_or_default();
        before.with(head.get(..8).unwrap_or_default(), self.order).with(page, self.order)
    }

    /// Makes a frame one of this log, with a page of this number.
    pub(super) fn seal(&self, frame: &mut [u8], before: Sum, (page, commit): (u32, u32)) -> Sum {
        let mut put = |at: usize, octets: [u8; 8]| {
            frame.iter_mut().skip(at).zip(octets).for_each(|(to, from)| *to = from);
        };
        put(0, two(page, commit));
        put(8, self.salts());
        let sum = self.sum_of(before, frame);
        frame.iter_mut().skip(16).zip(sum.octets()).for_each(|(to, from)| *to = from);
        sum
    }
}

/// A log, read frame by frame.
#[derive(Debug)]
pub(super) struct Frames {
    file: File,
    header: FrameHeader,
    /// The header in the file is not what was written.
    is_rebuilt: bool,
}

impl Frames {
    /// `None`: nothing of it can be told, or nothing is in it.
    pub(super) fn open(file: File) -> io::Result<Option<Self>> {
        let mut octets = [0; HEADER];
        match file.read_exact_at(&mut octets, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        if let Some(header) = FrameHeader::read(octets) {
            return Ok(Some(Self { file, header, is_rebuilt: false }));
        }
        Self::by_frames(file)
    }

    /// With the header that fits two frames next to each other, one of the first: damage may be in
    /// some of them, too.
    fn by_frames(file: File) -> io::Result<Option<Self>> {
        let mut frames = Self {
            file,
            header: FrameHeader::with_salts([0; 8], ByteOrder::LowFirst),
            is_rebuilt: true,
        };
        let (mut one, mut next) = (Vec::new(), Vec::new());
        let mut before: Vec<LogHead> = Vec::new();
        for at in 0..PAIRS {
            if !frames.read(at, &mut one)? || !frames.read(at + 1, &mut next)? {
                return Ok(None);
            }
            let (head, follower) = (LogHead::of(&one), LogHead::of(&next));
            let fits = |header: &FrameHeader| header.sum_of(head.sum(), &next) == follower.sum();
            let headers = [ByteOrder::LowFirst, ByteOrder::HighFirst]
                .map(|order| FrameHeader::with_salts(head.salts, order));
            // Zeros have zeros for a checksum.
            let is_frame = head.salts == follower.salts && follower.page > 0;
            if let Some(header) = headers.into_iter().find(|header| is_frame && fits(header)) {
                frames.header = header;
                // The first number of the salts grows by one with each use: then this is what an
                // earlier one has left.
                let is_older =
                    before.iter().any(|newer| newer.use_number() == head.use_number() + 1);
                return Ok((!is_older).then_some(frames));
            }
            before.push(head);
        }
        Ok(None)
    }

    pub(super) fn header(&self) -> &FrameHeader {
        &self.header
    }

    pub(super) fn is_rebuilt(&self) -> bool {
        self.is_rebuilt
    }

    /// Reads a frame, from 0; `false`: there is none.
    pub(super) fn read(&self, at: usize, frame: &mut Vec<u8>) -> io::Result<bool> {
        frame.resize(FRAME_HEADER + self.header.page_size, 0);
        let place = at.saturating_mul(frame.len()).saturating_add(HEADER);
        match self.file.read_exact_at(frame, u64::try_from(place).unwrap_or(u64::MAX)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            read => read.map(|()| true),
        }
    }
}
