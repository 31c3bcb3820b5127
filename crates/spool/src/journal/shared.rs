//! What readers ask of mail that has no rows yet, beside the writer.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::{ReadWriteFlags, preadv2};

use super::format::{Record, record};
use super::young::Young;
use crate::arrival::{Arrival, BODY_CRC, HEADER_LEN};
use crate::message::BodyBytes;
use crate::{MessageId, checksum};

/// Writer and readers share it; nobody holds it while a file is read or written.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedYoung(Arc<Mutex<Young>>);

impl SharedYoung {
    pub(super) fn new(young: Young) -> Self {
        Self(Arc::new(Mutex::new(young)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Young> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body; `None`: the message has rows, or is done, or what stands there is not what was
    /// written. Blocks for a read.
    pub(crate) fn body(&self, message: MessageId) -> Option<BodyBytes> {
        self.read(message, DiskWait::Allowed, |_, body| body.to_vec()).map(BodyBytes::new)
    }

    /// The body, if reading it waits for no disk; `None` also where the system cannot tell.
    pub(crate) fn body_at_hand(&self, message: MessageId) -> Option<BodyBytes> {
        self.read(message, DiskWait::Never, |_, body| body.to_vec()).map(BodyBytes::new)
    }

    /// Its header section, cut at `max` octets, likewise.
    pub(crate) fn header_block(&self, message: MessageId, max: u64) -> Option<Vec<u8>> {
        self.read(message, DiskWait::Allowed, |arrival, body| {
            let length = arrival.message[HEADER_LEN].as_i64().unwrap_or_default();
            let length = usize::try_from(length.unsigned_abs().min(max)).unwrap_or(usize::MAX);
            body.get(..length).unwrap_or(body).to_vec()
        })
    }

    fn read(
        &self,
        message: MessageId,
        wait: DiskWait,
        take: impl FnOnce(&Arrival<'_>, &[u8]) -> Vec<u8>,
    ) -> Option<Vec<u8>> {
        // Not locked while the segment is read.
        let (place, length, mail) = {
            let young = self.lock();
            let place = young.place_of(message)?;
            let waiting = young.get(place)?;
            (place, waiting.length, waiting.mail.clone()?)
        };
        let mut octets = vec![0; length];
        match wait {
            DiskWait::Allowed => mail.segment.read_exact_at(&mut octets, place.offset()).ok()?,
            DiskWait::Never => read_cached(&mail.segment, &mut octets, place.offset())?,
        }
        // Meanwhile the segment may be in use again, for other mail.
        let Some(Record::Accepted(arrival)) = record(&octets) else { return None };
        let body = arrival.body.filter(|_| arrival.id == message)?;
        let is_whole = arrival.message[BODY_CRC].as_i64() == Ok(checksum::add(0, body).into());
        is_whole.then(|| take(&arrival, body))
    }
}

/// May a read wait for the disk?
#[derive(Clone, Copy, Debug)]
enum DiskWait {
    Allowed,
    Never,
}

/// Fills `octets` from the page cache, or says that not all of them are there (preadv2(2),
/// RWF_NOWAIT; a file system that does not know it says so, too).
fn read_cached(file: &File, octets: &mut [u8], offset: u64) -> Option<()> {
    let wanted = octets.len();
    let read = preadv2(file, &mut [IoSliceMut::new(octets)], offset, ReadWriteFlags::NOWAIT);
    (read.ok()? == wanted).then_some(())
}
