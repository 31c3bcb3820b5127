//! What is asked of the queue: short reads, beside the writer.

use jiff::Timestamp;
use rusqlite::Connection;

use super::Spool;
use crate::ages::{self, AgeSlice};
use crate::body::{self, StoredBody};
use crate::damage::Mismatch;
use crate::due::{self, Due, DueCursor, DuePage, Want, Which as Wanted};
use crate::journal::format::JournalPosition;
use crate::listing::{self, Counts, Filter, ListCursor, ListPage, MessageDetail, RecipientPlace};
use crate::message::{BodyBytes, LaneKey, LaneSummary, LaneTrouble, StoredEnvelope};
use crate::overdue::{self, Overdue, OverdueCursor, OverduePage};
use crate::waiting_lanes::{Index, WaitingLanes};
use crate::writer::Needs;
use crate::{IdPrefix, MessageId, StoreError, around, damage, waiting_lanes};

impl Spool {
    /// The lanes in which mail waits that is not held, and those that failed. Blocks for one pass
    /// over the lanes and one over an index: 50 ms for 50,000, 0.5 s for a million rows without
    /// use.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn lanes(&self) -> Result<Vec<LaneSummary>, StoreError> {
        self.bring_in(Needs::Everything)?;
        Ok(self.inner.readers.read(|db| waiting_lanes::lanes(db, Index::Trusted))?.lanes)
    }

    /// The lanes that failed, without a look at who waits in them. Blocks for a pass over their
    /// table.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn troubles(&self) -> Result<Vec<(LaneKey, LaneTrouble)>, StoreError> {
        self.inner.readers.read(waiting_lanes::troubles)
    }

    /// As [`Spool::lanes`], after lanes were named whose own name is damaged, or whose row is gone
    /// although mail waits there; with the number of those. Their mail is in no lane of its next
    /// hop. Blocks for a commit, if there are such lanes.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read or written.
    pub fn lanes_with_names(&self) -> Result<(Vec<LaneSummary>, usize), StoreError> {
        self.bring_in(Needs::Everything)?;
        let compared = || self.inner.readers.read(|db| waiting_lanes::lanes(db, Index::Compared));
        let found = match compared() {
            // After what can be mended was mended.
            Err(error) if error.is_damage() => {
                self.wait_for_mending()?;
                compared()
            }
            found => found,
        };
        let WaitingLanes { lanes, nameless } = match found {
            // As far as they can be found.
            Err(error) if error.is_damage() => {
                self.inner.readers.read(|db| Ok(around::lanes(db)))?
            }
            found => found?,
        };
        if nameless.is_empty() {
            return Ok((lanes, 0));
        }
        let count = nameless.len();
        self.write(move |db| damage::name_lanes(db, &nameless))?;
        Ok((self.lanes()?, count))
    }

    /// Up to `limit` recipients of a lane that are due at `now`, by [`crate::turn`]. Blocks for a
    /// read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn next(
        &self,
        lane: &LaneKey,
        now: Timestamp,
        after: Option<DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        self.page(&Want { lane, which: Wanted::Due, until: now, after, limit })
    }

    /// When the next queued recipient of a lane is due that is not due at `after` yet. Blocks for a
    /// read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn next_due(
        &self,
        lane: &LaneKey,
        after: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        // Before the tables are read, as in `page`.
        let young = self.inner.young.lock().next_due(lane, after);
        let stored = self.inner.readers.read(|db| due::next_due(db, lane, after))?;
        Ok(young.into_iter().chain(stored).min())
    }

    /// Up to `limit` queued recipients of a lane that are too old at `at`, whether due or not.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn expired(
        &self,
        lane: &LaneKey,
        at: Timestamp,
        after: Option<DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        self.page(&Want { lane, which: Wanted::Expired, until: at, after, limit })
    }

    /// Up to `limit` queued recipients of a lane that have waited since `since` or longer, and
    /// whose sender does not know that and is to be told.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn unwarned(
        &self,
        lane: &LaneKey,
        since: Timestamp,
        after: Option<DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        self.page(&Want { lane, which: Wanted::Unwarned, until: since, after, limit })
    }

    /// When the next deadline after `after` is that nothing was done about yet.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn next_deadline(&self, after: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.inner.readers.read(|db| overdue::next_deadline(db, after))
    }

    /// A page of the messages and lanes of recipients whose deadline was at `at` or before, held
    /// ones too.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn overdue(
        &self,
        at: Timestamp,
        after: Option<OverdueCursor>,
        limit: usize,
    ) -> Result<OverduePage, StoreError> {
        self.inner.readers.read(|db| overdue::overdue(db, at, after, limit))
    }

    /// The recipients that [`Spool::overdue`] means, held ones too: one message at most.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn overdue_of(&self, which: &Overdue, at: Timestamp) -> Result<DuePage, StoreError> {
        let page = self.inner.readers.read(|db| overdue::overdue_of(db, which, at))?;
        Ok(self.inner.unrecorded.left_out(page))
    }

    /// The body of a message. Blocks for a read of all of it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Missing`] if it is not in the queue; [`StoreError::Corrupt`] if its body is
    /// gone or is not what was written.
    pub fn body(&self, id: MessageId) -> Result<StoredBody, StoreError> {
        if let Some(bytes) = self.inner.young.body(id) {
            return Ok(StoredBody::Memory(bytes));
        }
        self.bring_in(Needs::Message(id))?;
        let layout = &self.inner.bodies_dir.layout;
        self.inner.readers.read(|db| body::open(db, layout, id))?.check()
    }

    /// A small body that can be had without waiting for the disk, whole; `None` says nothing, and
    /// [`Spool::body`] has the answer. For threads that must not block: a message that came a
    /// moment ago is in the page cache, and asking another thread costs more than the read.
    pub fn body_at_hand(&self, id: MessageId) -> Option<BodyBytes> {
        self.inner.young.body_at_hand(id)
    }

    /// The header section of a message, cut at `max` octets; the empty line is not part of it.
    ///
    /// # Errors
    ///
    /// As [`Spool::body`].
    pub fn header_block(&self, id: MessageId, max: u64) -> Result<Vec<u8>, StoreError> {
        if let Some(bytes) = self.inner.young.header_block(id, max) {
            return Ok(bytes);
        }
        self.bring_in(Needs::Message(id))?;
        self.inner.readers.read(|db| {
            let limit = body::header_len(db, id)?.min(max);
            body::front(db, &self.inner.bodies_dir.layout, id, limit)
        })
    }

    /// What the queue holds. Blocks for a pass over an index.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn count(&self) -> Result<Counts, StoreError> {
        self.bring_in_for_a_look(Needs::Everything)?;
        self.inner.readers.read(listing::counts)
    }

    /// Counts the next recipients by lane and age: at the first of `bounds`, the latest first, that
    /// their message did not arrive before, or else behind the last. Blocks for a read of some 20
    /// ms; call again with `next`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn ages(
        &self,
        bounds: &[Timestamp],
        after: Option<ListCursor>,
    ) -> Result<AgeSlice, StoreError> {
        self.bring_in_for_a_look(Needs::Everything)?;
        self.inner.readers.read(|db| ages::slice(db, bounds, after))
    }

    /// A page of at most `limit` recipients that match.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn list(
        &self,
        filter: &Filter,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<ListPage, StoreError> {
        self.bring_in_for_a_look(Needs::Everything)?;
        self.inner.readers.read(|db| listing::list(db, filter, after, limit))
    }

    /// Up to `limit` messages in the queue whose ids begin so.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn ids(&self, prefix: IdPrefix, limit: usize) -> Result<Vec<MessageId>, StoreError> {
        self.bring_in_for_a_look(Needs::Everything)?;
        self.inner.readers.read(|db| listing::ids(db, prefix, limit))
    }

    /// Where the queue ends now: what comes later is behind it in every listing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn end(&self) -> Result<ListCursor, StoreError> {
        self.bring_in(Needs::Everything)?;
        let end = self.inner.readers.read(listing::end)?;
        self.inner.rows.note_newest(end.message_row());
        Ok(end)
    }

    /// One message with the recipients it waits for; `None` if it is not in the queue.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn show(&self, id: MessageId) -> Result<Option<MessageDetail>, StoreError> {
        self.bring_in_for_a_look(Needs::Message(id))?;
        self.inner.readers.read(|db| listing::show(db, id))
    }

    /// Where the recipients of a message are, in that lane or in all; none if it is not in the
    /// queue. Blocks for a short read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn places(
        &self,
        id: MessageId,
        lane: Option<&LaneKey>,
    ) -> Result<Vec<RecipientPlace>, StoreError> {
        self.bring_in(Needs::Message(id))?;
        self.inner.readers.read(|db| listing::places(db, id, lane))
    }

    /// Once more, after what can be mended was mended.
    pub(crate) fn read_mended<T>(
        &self,
        read: impl Fn(&Connection, Mismatch) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.inner.readers.read(|db| read(db, Mismatch::Mend)) {
            Err(error) if error.is_damage() => {
                self.wait_for_mending()?;
                self.inner.readers.read(|db| read(db, Mismatch::Name))
            }
            done => done,
        }
    }

    /// The writer deals with damage behind the first of two batches.
    fn wait_for_mending(&self) -> Result<(), StoreError> {
        for _ in 0..2 {
            self.write(|_| Ok(()))?;
        }
        Ok(())
    }

    fn page(&self, want: &Want<'_>) -> Result<DuePage, StoreError> {
        // Before the tables are read, or what gets its rows meanwhile would be missed.
        let young = match want.which {
            Wanted::Due => {
                let after = want.after.map(DueCursor::young).unwrap_or_default();
                self.inner.young.lock().due_in((want.lane, want.until), after, want.limit)
            }
            Wanted::Expired => {
                self.bring_in_if(want, |envelope| envelope.expires_at <= want.until)?
            }
            Wanted::Unwarned => {
                self.bring_in_if(want, |envelope| envelope.begins_at() <= want.until)?
            }
        };
        let page = self.read_mended(|db, mismatch| due::page(db, want, &young, mismatch))?;
        Ok(self.inner.unrecorded.left_out(page))
    }

    /// Mail is rarely so old before it has rows.
    fn bring_in_if(
        &self,
        want: &Want<'_>,
        is_meant: impl Fn(&StoredEnvelope) -> bool,
    ) -> Result<Vec<(JournalPosition, Due)>, StoreError> {
        let is_any = self.inner.young.lock().any_in(want.lane, is_meant);
        if is_any {
            self.bring_in(Needs::Everything)?;
        }
        Ok(Vec::new())
    }
}
