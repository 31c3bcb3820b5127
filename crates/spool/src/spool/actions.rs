//! What operators, and a changed configuration, do to recipients in the queue: batch by batch, each
//! in one transaction.

use std::sync::{Arc, mpsc};

use jiff::Timestamp;
use rusqlite::Connection;

use super::{Spool, remove_files};
use crate::acting::{self, Acted, ActionTarget, BulkAction};
use crate::due;
use crate::hold_reasons;
use crate::listing::{ListCursor, Selection};
use crate::message::RecipientNo;
use crate::relane::{self, Move};
use crate::writer::Urgency;
use crate::{LaneKey, MessageId, StoreError};

/// Recipients an operator's action changes in one transaction: commits of mail wait 10 ms for it.
const ACTION_BATCH: usize = 1000;

impl Spool {
    /// Deletes a batch without notice to anybody; call again with `next` until that is `None`.
    /// Blocks for a commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the batches before are done.
    pub fn delete(&self, what: &Selection, after: Option<ListCursor>) -> Result<Acted, StoreError> {
        self.act(BulkAction::Delete, what, after)
    }

    /// Makes a batch of queued recipients due at `now`, or when their sender allows; call again
    /// with `next`. Blocks for a commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the batches before are done.
    pub fn retry(
        &self,
        what: &Selection,
        now: Timestamp,
        after: Option<ListCursor>,
    ) -> Result<Acted, StoreError> {
        self.act(BulkAction::Retry(now), what, after)
    }

    /// Makes due at `now` whatever waits for a time after `latest`, recipients and next hops: no
    /// wait but one that a sender asked for is that long, so a clock that was ahead wrote it.
    /// Returns how many rows that were. Blocks for a commit for each 10,000.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; what was changed before stays so.
    pub fn cut_waits(&self, now: Timestamp, latest: Timestamp) -> Result<usize, StoreError> {
        let mut total = 0;
        loop {
            let changed = self.write(move |db| due::cut_waits(db, now, latest))?;
            total += changed;
            if changed < due::CUT_MAX {
                return Ok(total);
            }
        }
    }

    /// Makes due at `now`, or when their sender allows, who of `lanes` waits for what their lane
    /// failed by the last time; some 1,000 of each lane at most. Returns how many there were.
    /// Blocks for a commit, which others wait for: some 64 lanes at once are enough.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then nothing has changed.
    pub fn make_due(&self, lanes: Vec<LaneKey>, now: Timestamp) -> Result<usize, StoreError> {
        self.write(move |db| lanes.iter().map(|lane| due::make_due(db, lane, now)).sum())
    }

    /// Lets recipients wait in other lanes. Who was tried before is due at `now`. Returns how many
    /// there were. Blocks for a commit, which others wait for: some 1,000 at once are enough.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then nothing has changed.
    pub fn move_to_lanes(&self, moves: Vec<Move>, now: Timestamp) -> Result<u64, StoreError> {
        self.write(move |db| relane::apply(db, &moves, now))
    }

    /// Holds these recipients back, some 1,000 at once. Blocks for a commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then nothing has changed.
    pub fn hold_these(&self, who: Vec<(MessageId, RecipientNo)>) -> Result<Acted, StoreError> {
        let targets = who.into_iter().map(|(id, no)| (id, Some(no))).collect();
        self.act_on(BulkAction::Hold, targets, None)
    }

    /// Undoes [`Spool::hold_these`]: they are queued again, and due when they were. Blocks for a
    /// commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then nothing has changed.
    pub fn give_back(&self, who: Vec<(MessageId, RecipientNo)>) -> Result<Acted, StoreError> {
        let targets = who.into_iter().map(|(id, no)| (id, Some(no))).collect();
        self.act_on(BulkAction::GiveBack, targets, None)
    }

    /// Deletes these recipients without notice to anybody, some 1,000 at once. Blocks for a commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then nothing has changed.
    pub fn delete_these(&self, who: Vec<(MessageId, RecipientNo)>) -> Result<Acted, StoreError> {
        let targets = who.into_iter().map(|(id, no)| (id, Some(no))).collect();
        self.act_on(BulkAction::Delete, targets, None)
    }

    /// Queues a batch of held recipients again, due at `now`, or when their sender allows; call
    /// again with `next`. Blocks for a commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the batches before are done.
    pub fn release(
        &self,
        what: &Selection,
        now: Timestamp,
        after: Option<ListCursor>,
    ) -> Result<Acted, StoreError> {
        self.act(BulkAction::Release(now), what, after)
    }

    fn act(
        &self,
        action: BulkAction,
        what: &Selection,
        after: Option<ListCursor>,
    ) -> Result<Acted, StoreError> {
        let filter = match what {
            Selection::Matching(filter) => filter,
            Selection::Messages(ids) => {
                let mut total = Acted::default();
                for ids in ids.chunks(ACTION_BATCH) {
                    let targets = ids.iter().map(|&id| (id, None)).collect();
                    let acted = self.act_on(action, targets, None)?;
                    total.recipients += acted.recipients;
                    total.rows.extend(acted.rows);
                    total.lanes.extend(acted.lanes);
                }
                total.lanes.sort_unstable();
                total.lanes.dedup();
                return Ok(total);
            }
        };
        let page = self.list(filter, after, ACTION_BATCH)?;
        let targets = page.rows.iter().map(|row| (row.message, Some(row.no))).collect();
        let acted = self.act_on(action, targets, None)?;
        Ok(Acted { next: page.next, ..acted })
    }

    /// Does it, and notes `why` for those that are held then.
    pub(crate) fn act_on(
        &self,
        action: BulkAction,
        targets: Vec<ActionTarget>,
        why: Option<String>,
    ) -> Result<Acted, StoreError> {
        if targets.is_empty() {
            return Ok(Acted::default());
        }
        let bodies_dir = Arc::clone(&self.inner.bodies_dir);
        let (acted, files) = self.write(move |db| {
            let (acted, files) = acting::act(db, &bodies_dir.layout, action, &targets)?;
            if let Some(why) = &why {
                let mut messages: Vec<_> = targets.iter().map(|(id, _)| *id).collect();
                messages.dedup();
                messages.iter().try_for_each(|id| hold_reasons::note(db, *id, why))?;
            }
            Ok((acted, files))
        })?;
        remove_files(self.inner.housekeeper.jobs().as_ref(), files);
        Ok(acted)
    }

    /// Does something to the queue's tables and waits until it is committed.
    pub(crate) fn write<T: Send + 'static>(
        &self,
        apply: impl FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, result) = mpsc::sync_channel(1);
        self.inner.queue.submit(Urgency::Ordinary, apply, move |result| {
            // The asker waits below.
            let _ = answer.send(result);
        });
        result.recv().map_err(|_| StoreError::Closed)?
    }
}
