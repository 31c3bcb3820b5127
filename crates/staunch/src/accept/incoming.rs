//! A message between DATA and its commit.
//!
//! It holds memory only as far as its lease allows; beyond that it is on disk. What goes wrong on
//! the way is kept until the content has ended, since only then there is somebody to tell.

use smtp::RemoteText;
use smtp::limits::RECEIVED_FIELDS_MAX;
use spool::{BodyFacts, Draft, INLINE_BODY_MAX, StoreError};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::fixups::Fixups;
use super::refusal::ClientRefusal;
use crate::accept::facts::AcceptFact;
use crate::budget::Lease;
use crate::message::Facts;

/// A message that has come as a whole.
#[derive(Debug)]
pub(super) struct FinishedContent {
    pub(super) draft: Draft,
    pub(super) facts: BodyFacts,
    /// The text of its field Message-ID.
    pub(super) message_id: Option<RemoteText>,
}

/// The message so far.
#[derive(Debug)]
pub(super) struct IncomingContent {
    facts: Facts,
    /// Until the message has ended.
    fixups: Option<Fixups>,
    draft: Result<Draft, ClientRefusal>,
}

impl IncomingContent {
    pub(super) fn new(draft: Draft, fixups: Fixups) -> Self {
        Self { facts: Facts::new(), fixups: Some(fixups), draft: Ok(draft) }
    }

    /// Octets held in memory.
    pub(super) fn memory(&self) -> usize {
        self.draft.as_ref().map_or(0, Draft::memory)
    }

    /// Octets with one more piece.
    pub(super) fn size_with(&self, piece: &[u8]) -> u64 {
        self.draft.as_ref().map_or(0, |draft| draft.size().saturating_add(octets(piece.len())))
    }

    /// It is not taken, whatever comes.
    pub(super) fn refuse(&mut self, refusal: ClientRefusal) {
        self.draft = Err(refusal);
        self.facts = Facts::new();
    }

    /// Will a piece of `more` octets go to the disk? What the lease may have for it, it has then.
    pub(super) fn needs_disk(&self, more: usize, buffer: usize, lease: &mut Lease) -> bool {
        let Ok(draft) = &self.draft else { return false };
        is_on_disk(draft)
            || grows_too_large(draft, more)
            || !lease.cover_message(buffer, memory_after(draft, more))
    }

    /// The next piece of the client's message; `buffer` octets are held besides, under the same
    /// lease.
    pub(super) fn write(&mut self, piece: &[u8], buffer: usize, lease: &mut Lease) {
        if let Some(mut fixups) = self.fixups.take() {
            fixups.push(piece, |part| self.append(part, buffer, lease));
            self.fixups = Some(fixups);
        }
    }

    /// Appends what is ours, or has been looked at.
    pub(super) fn append(&mut self, piece: &[u8], buffer: usize, lease: &mut Lease) {
        let Ok(draft) = &mut self.draft else { return };
        self.facts.update(piece);
        if let Err(refusal) = append(draft, piece, buffer, lease) {
            self.refuse(refusal);
        }
    }

    /// The client's message has ended, perhaps within its header.
    pub(super) fn end(&mut self, buffer: usize, lease: &mut Lease) {
        if let Some(fixups) = self.fixups.take() {
            fixups.finish(|part| self.append(part, buffer, lease));
        }
    }

    /// The finished message, if it can be taken.
    pub(super) fn finish(self) -> Result<FinishedContent, ClientRefusal> {
        let draft = self.draft?;
        let (facts, message_id) = self.facts.finish_with_id();
        // One of the fields is ours.
        if facts.received_count > RECEIVED_FIELDS_MAX + 1 {
            return Err(ClientRefusal::MailLoop);
        }
        Ok(FinishedContent { draft, facts, message_id })
    }
}

fn append(
    draft: &mut Draft,
    piece: &[u8],
    buffer: usize,
    lease: &mut Lease,
) -> Result<(), ClientRefusal> {
    if !lease.cover_message(buffer, memory_after(draft, piece.len())) {
        on_disk(|| draft.spill())?;
        if !lease.cover_message(buffer, 0) {
            return Err(ClientRefusal::NoMemory);
        }
    }
    if is_on_disk(draft) || grows_too_large(draft, piece.len()) {
        on_disk(|| draft.write(piece))
    } else {
        draft.write(piece).map_err(not_written)
    }
}

fn is_on_disk(draft: &Draft) -> bool {
    draft.size() > 0 && draft.memory() == 0
}

fn grows_too_large(draft: &Draft, more: usize) -> bool {
    draft.size().saturating_add(octets(more)) > octets(INLINE_BODY_MAX)
}

/// What the draft will hold in memory with `more` octets; its buffer doubles when it grows.
fn memory_after(draft: &Draft, more: usize) -> usize {
    if is_on_disk(draft) || grows_too_large(draft, more) {
        return draft.memory();
    }
    let needed = usize::try_from(draft.size()).unwrap_or(usize::MAX).saturating_add(more);
    let now = draft.memory();
    if needed <= now { now } else { needed.max(now.saturating_mul(2)) }
}

/// Writing to a file may wait for the disk: other sessions must not wait with it.
fn on_disk(work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), ClientRefusal> {
    let threads = Handle::try_current().map(|handle| handle.runtime_flavor());
    let result = match threads {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        Ok(_) | Err(_) => work(),
    };
    result.map_err(not_written)
}

/// The client is not told what our disk said; the operator is.
fn not_written(error: StoreError) -> ClientRefusal {
    AcceptFact::NotWritten { error: &error }.tell();
    ClientRefusal::NotWritten
}

fn octets(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use smtp::Domain;
    use spool::{Options, Spool};

    use super::super::fixups::Repair;
    use super::super::stream::{GREEDIEST, READ_OCTETS};
    use super::*;
    use crate::budget::{Borrower, Budget, HEADER_OCTETS, Held, MemoryShares, RECIPIENTS_OCTETS};
    use crate::place::ClientPlace;

    const CLEAR: Held = Held { now: READ_OCTETS, least: READ_OCTETS };

    /// What became of a message in a session that holds `held` and has recipients, and the most
    /// memory that it held itself.
    fn receive(
        pieces: &[&[u8]],
        limit: u64,
        held: Held,
    ) -> (Result<BodyFacts, ClientRefusal>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), Options::default()).unwrap();
        let budget =
            Budget::new(MemoryShares { arriving: limit, kept_back: 0, accepted: 0, dsns: 0 });
        let mut lease =
            budget.message(Borrower::Place(ClientPlace::Local(1)), held.guarantee()).unwrap();
        let draft = spool.draft(spool.new_id(Timestamp::UNIX_EPOCH));
        let hostname = Domain::parse("relay.example").unwrap();
        let fixups = Fixups::new(Repair::Nothing, draft.id(), &hostname, Timestamp::UNIX_EPOCH);
        let mut incoming = IncomingContent::new(draft, fixups);
        let mut most = 0;
        for piece in pieces {
            incoming.write(piece, held.now + RECIPIENTS_OCTETS, &mut lease);
            most = most.max(incoming.memory());
        }
        let finished = incoming.finish().map(|FinishedContent { draft, facts, .. }| {
            assert_eq!(draft.size(), facts.size);
            facts
        });
        (finished, most)
    }

    #[test]
    fn more_than_a_hundred_received_fields_of_others_are_a_loop() {
        for (others, want) in [(100, true), (101, false)] {
            let fields = "Received: from a by b\r\n".repeat(others + 1);
            let (finished, _) = receive(&[fields.as_bytes(), b"\r\nbody\r\n"], 1 << 20, CLEAR);
            assert_eq!(finished.is_ok(), want, "{others}");
            assert!(want || finished == Err(ClientRefusal::MailLoop));
        }
    }

    #[test]
    fn without_free_memory_all_of_a_message_goes_to_disk_its_header_too() {
        let line = [b'x'; 1022].iter().chain(b"\r\n").copied().collect::<Vec<u8>>();
        let body: Vec<&[u8]> = std::iter::once(&b"A: b\r\n\r\n"[..])
            .chain(std::iter::repeat_n(line.as_slice(), 50))
            .collect();
        let field = [b"X: ", line.get(3..).unwrap()].concat();
        let header: Vec<&[u8]> = std::iter::repeat_n(field.as_slice(), 50).collect();
        for held in [CLEAR, GREEDIEST] {
            let (finished, most) = receive(&body, 1 << 20, held);
            assert_eq!(finished.map(|facts| facts.size), Ok(8 + 50 * 1024));
            assert!(most > HEADER_OCTETS, "there is room");

            let (finished, most) = receive(&body, held.guarantee(), held);
            assert_eq!(finished.map(|facts| facts.size), Ok(8 + 50 * 1024), "{held:?}");
            assert!(most <= HEADER_OCTETS, "{most}");

            let (finished, most) = receive(&header, held.guarantee(), held);
            assert_eq!(finished.map(|facts| facts.header_len), Ok(50 * 1024), "{held:?}");
            assert!(most <= HEADER_OCTETS, "{most}");
        }
    }

    #[test]
    fn a_large_body_is_not_held_in_memory() {
        let piece = vec![b'x'; 60 * 1024];
        let (finished, most) = receive(&[b"A: b\r\n\r\n", &piece, &piece, &piece], 1 << 20, CLEAR);
        assert_eq!(finished.map(|facts| facts.size), Ok(8 + 180 * 1024));
        assert!(most <= 2 * INLINE_BODY_MAX, "{most}");
    }
}
