//! One change to one file.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use world::replay::Random;

use super::needs::Needs;

/// Octets of a page, of a file as of the database.
pub(super) const PAGE: usize = 4096;

/// What is done to which file.
#[derive(Debug)]
pub(super) enum Damage {
    Bit { file: PathBuf, at: usize, bit: u8 },
    Zeros { file: PathBuf, page: usize },
    Cut { file: PathBuf, length: usize },
    Gone { file: PathBuf },
}

impl Damage {
    pub(super) fn choose(random: &mut Random, dir: &Path, needs: &Needs) -> Self {
        let files = needs.files();
        let file: PathBuf = match random.below(12) {
            0..8 => needs.of_the_queue[random.below(needs.of_the_queue.len())].clone(),
            8 | 9 => files[random.below(files.len())].clone(),
            10 => "policies.db".into(),
            _ => ["reserve", "policies.reserve", "lock", "salts.key"][random.below(4)].into(),
        };
        let length = fs::metadata(dir.join(&file)).expect("a file").len();
        let length = needs.used(&file, usize::try_from(length).expect("small"));
        match random.below(12) {
            // Without its queue there is nothing to deliver.
            0 if file != Path::new("queue.db") => Self::Gone { file },
            0 | 1 => Self::Cut { file, length: random.below(length) },
            2..5 => {
                let page = needs.page(random, &file, length);
                Self::Zeros { file, page }
            }
            _ => {
                let at = needs.page(random, &file, length) * PAGE + random.below(PAGE);
                let bit = u8::try_from(random.below(8)).expect("small");
                Self::Bit { file, at: at.min(length - 1), bit }
            }
        }
    }

    pub(super) fn file(&self) -> &Path {
        match self {
            Self::Bit { file, .. }
            | Self::Zeros { file, .. }
            | Self::Cut { file, .. }
            | Self::Gone { file } => file,
        }
    }

    /// The octets that are not what they were.
    pub(super) fn octets(&self) -> Range<usize> {
        match self {
            Self::Bit { at, .. } => *at..at + 1,
            Self::Zeros { page, .. } => page * PAGE..(page + 1) * PAGE,
            Self::Cut { length, .. } => *length..usize::MAX,
            Self::Gone { .. } => 0..usize::MAX,
        }
    }

    /// Of a page of zeros, or the end of a file, not even the id may be left.
    pub(super) fn takes_names(&self) -> bool {
        !matches!(self, Self::Bit { .. })
    }

    pub(super) fn apply(&self, dir: &Path) {
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
