//! One change to one file of a data directory, as a disk or a hand makes it.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Octets of a page, of a file as of the database.
pub const PAGE: usize = 4096;

/// What is done to which file; paths are relative to the data directory.
#[derive(Debug)]
pub enum Damage {
    /// One bit is the other one.
    Bit {
        /// The file.
        file: PathBuf,
        /// In which octet.
        at: usize,
        /// Which bit of it, from the lowest, 0.
        bit: u8,
    },
    /// A page has zeros.
    Zeros {
        /// The file.
        file: PathBuf,
        /// Which page, from 0.
        page: usize,
    },
    /// The end is missing.
    Cut {
        /// The file.
        file: PathBuf,
        /// What is left of it, in octets.
        length: usize,
    },
    /// The file is missing.
    Gone {
        /// The file.
        file: PathBuf,
    },
}

impl Damage {
    /// The file.
    pub fn file(&self) -> &Path {
        match self {
            Self::Bit { file, .. }
            | Self::Zeros { file, .. }
            | Self::Cut { file, .. }
            | Self::Gone { file } => file,
        }
    }

    /// The octets that are not what they were.
    pub fn octets(&self) -> Range<usize> {
        match self {
            Self::Bit { at, .. } => *at..at + 1,
            Self::Zeros { page, .. } => page * PAGE..(page + 1) * PAGE,
            Self::Cut { length, .. } => *length..usize::MAX,
            Self::Gone { .. } => 0..usize::MAX,
        }
    }

    /// Of a page of zeros, or the end of a file, not even the id of a message may be left.
    pub fn takes_names(&self) -> bool {
        !matches!(self, Self::Bit { .. })
    }

    /// Does it to the file in `dir`.
    pub fn apply(&self, dir: &Path) {
        let path = dir.join(self.file());
        let mut octets = fs::read(&path).expect("a file");
        match self {
            Self::Bit { at, bit, .. } => octets[*at] ^= 1 << bit,
            Self::Zeros { page, .. } => {
                octets.iter_mut().skip(page * PAGE).take(PAGE).for_each(|octet| *octet = 0);
            }
            Self::Cut { length, .. } => octets.truncate(*length),
            Self::Gone { .. } => return fs::remove_file(path).expect("it is there"),
        }
        fs::write(path, octets).expect("written");
    }
}
