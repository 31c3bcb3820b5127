//! Content as it comes: by DATA up to its dot, by BDAT so many octets at a time.

use super::{Framing, Part, Phase, Question, ServerStep, ServerTransaction, Session};
use crate::data::{Chunk, ChunkReceiver, DataReceiver, Fault};
use crate::response::Response;
use crate::status::Status;

/// Our choice: content may go on for twice the size that is taken and so much more, refused or not.
/// What is clean is refused for its size long before, dots and line ends included; whoever goes on
/// does not wait for an answer.
const CONTENT_BEYOND_OCTETS: u64 = 1024 * 1024;
const ENDLESS: Response = Response::fixed(
    421,
    Status::transient(3, 4),
    "The message is far too large and does not end, closing the connection",
);

impl Session {
    pub(super) fn begin(&mut self, framing: Framing) {
        let (newlines, size_max) = (self.settings.newlines, self.settings.offer.size_max());
        (self.content_octets, self.is_spoiled) = (0, false);
        match framing {
            Framing::Dots => {
                let receiver = DataReceiver::new(newlines, size_max).ended_by(self.line_end());
                self.phase = Phase::Data(receiver);
            }
            Framing::Octets(octets, part) => {
                self.transaction =
                    ServerTransaction::Chunks(ChunkReceiver::new(newlines, size_max));
                self.phase = Phase::Chunk(octets, part);
            }
        }
    }

    pub(super) fn next_data<'i>(&mut self, input: &mut &'i [u8]) -> Option<ServerStep<'i>> {
        let Phase::Data(receiver) = &mut self.phase else { return None };
        let there = input.len();
        let chunk = receiver.next(input);
        let fault = receiver.fault();
        if self.is_endless(there - input.len()) {
            return None;
        }
        match chunk {
            Chunk::NeedInput => self.spoiled(fault).or(Some(ServerStep::Input)),
            Chunk::Content(content) => Some(ServerStep::Content(content)),
            Chunk::End => {
                self.phase = Phase::Commands;
                Some(self.content_ended(fault))
            }
        }
    }

    /// Inside a BDAT of which `left` octets are still to come.
    pub(super) fn next_chunk<'i>(
        &mut self,
        left: u64,
        part: Part,
        input: &mut &'i [u8],
    ) -> Option<ServerStep<'i>> {
        let ServerTransaction::Chunks(receiver) = &mut self.transaction else {
            self.phase = Phase::Commands;
            return None;
        };
        if left == 0 {
            return self.chunk_ended(part);
        }
        let mut piece = front(input, left);
        if piece.is_empty() {
            let fault = receiver.fault();
            return self.spoiled(fault).or(Some(ServerStep::Input));
        }
        let there = piece.len();
        let content = receiver.next(&mut piece);
        let fault = receiver.fault();
        let used = there - piece.len();
        *input = input.get(used..).unwrap_or_default();
        self.phase = Phase::Chunk(left.saturating_sub(octets(used)), part);
        if self.is_endless(used) {
            return None;
        }
        content.map(ServerStep::Content).or_else(|| self.spoiled(fault))
    }

    /// Tells the caller of a fault, once.
    fn spoiled<'i>(&mut self, fault: Option<Fault>) -> Option<ServerStep<'i>> {
        let is_news = fault.is_some() && !std::mem::replace(&mut self.is_spoiled, true);
        is_news.then_some(ServerStep::Spoiled)
    }

    /// Counts `more` octets of content, and ends the session if nobody means to end it.
    fn is_endless(&mut self, more: usize) -> bool {
        self.content_octets = self.content_octets.saturating_add(octets(more));
        let taken = self.settings.offer.size_max().saturating_mul(2);
        let is_endless = self.content_octets > taken.saturating_add(CONTENT_BEYOND_OCTETS);
        if is_endless {
            self.transaction = ServerTransaction::None;
            self.refusals.push(ENDLESS);
            self.close(&ENDLESS);
        }
        is_endless
    }

    /// Reads the octets of a BDAT that is refused, and answers then.
    pub(super) fn drain_chunk(&mut self, octets: u64, answer: Response) {
        self.content_octets = 0;
        self.phase = Phase::Draining(octets, answer);
    }

    fn chunk_ended<'i>(&mut self, part: Part) -> Option<ServerStep<'i>> {
        let ServerTransaction::Chunks(receiver) = &mut self.transaction else { return None };
        if part == Part::Last
            && let Some(content) = receiver.finish()
        {
            return Some(ServerStep::Content(content));
        }
        let fault = receiver.fault();
        self.phase = Phase::Commands;
        match (part, fault) {
            (Part::More, None) => {
                self.say(&Response::fixed(250, Status::success(0, 0), "Ok, more is awaited"));
                None
            }
            // RFC 3030 §2: a refused part ends the message, whatever is still to come of it.
            (Part::More, Some(_)) | (Part::Last, _) => Some(self.content_ended(fault)),
        }
    }

    fn content_ended<'i>(&mut self, fault: Option<Fault>) -> ServerStep<'i> {
        match fault {
            None => {
                self.question = Some(Question::End);
                ServerStep::End
            }
            Some(fault) => {
                self.transaction = ServerTransaction::None;
                self.refuse_command(&fault.response());
                ServerStep::Refused(fault)
            }
        }
    }

    /// Inside a refused BDAT of which `left` octets are still to come.
    pub(super) fn drain<'i>(&mut self, left: u64, input: &mut &'i [u8]) -> Option<ServerStep<'i>> {
        let used = front(input, left).len();
        *input = input.get(used..).unwrap_or_default();
        if self.is_endless(used) {
            return None;
        }
        let Phase::Draining(left, answer) = &mut self.phase else { return None };
        *left = left.saturating_sub(octets(used));
        if *left > 0 {
            return Some(ServerStep::Input);
        }
        let answer = answer.clone();
        self.phase = Phase::Commands;
        self.refuse_command(&answer);
        None
    }
}

/// The part of `input` that belongs to the next `left` octets.
fn front<'i>(input: &&'i [u8], left: u64) -> &'i [u8] {
    usize::try_from(left).ok().and_then(|left| input.get(..left)).unwrap_or(input)
}

fn octets(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
