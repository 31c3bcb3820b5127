//! What the queue task is told, and what it hands out.

use std::collections::BTreeSet;

use jiff::Timestamp;
use smtp::HostName;
use spool::{LaneKey, MessageId, StoreError};

use super::lane::LaneJob;
use super::lanes::{Company, Group, LaneClass, Ticket};
use crate::connect::pool::Bottleneck;
use crate::delivery::outcome::{FailureRun, LaneEffect};
use crate::delivery::route::Routing;
use crate::message::{Rest, Submitter, Target, Work};
use crate::telemetry::Problem;

/// What the text of an address takes on the heap, about. RFC 5321 §4.5.3.1.3 allows four times as
/// much, and nobody uses it.
const ADDRESS_OCTETS: usize = 64;

/// What the queue task is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// Mail was committed, with a part for each of these lanes.
    Arrived(Vec<(LaneKey, LaneArrival)>),
    /// The store was read for a lane.
    Fetched {
        /// The lane that asked to be read.
        lane: LaneKey,
        /// What is due, and when something else will be.
        found: Result<FoundWork, StoreError>,
    },
    /// An attempt is over and settled.
    Finished(Ticket, FinishedAttempt),
    /// An attempt could not have a connection.
    NoRoom(Ticket, Box<NoRoom>),
    /// The attempt has a session with a host of this registrable domain, or with none.
    Session(Ticket, Option<Group>),
    /// The operator wants a lane tried now.
    RetryNow(LaneKey),
    /// Nothing waits longer than until then: a clock that was ahead has set such times.
    CutWaits {
        /// The latest time that anything may wait for.
        latest: Timestamp,
    },
    /// The operator took mail of these lanes out of the store.
    Removed(Vec<LaneKey>),
    /// Something became due in these lanes.
    Due(Vec<LaneKey>),
    /// The configuration is another one.
    Reconfigured(Routes),
    /// The operator stopped something, or let it go on.
    Switched,
    /// Mail in these lanes may have another next hop today.
    Follow(Vec<LaneKey>),
    /// Mail was moved to its next hops of now, or could not be.
    Followed(Followed),
}

/// What an attempt left behind.
#[derive(Debug)]
pub(crate) struct FinishedAttempt {
    pub(crate) lane: LaneKey,
    pub(crate) message: MessageId,
    /// What the lane learnt.
    pub(crate) effect: LaneEffect,
    /// When the soonest of the recipients that are left is due.
    pub(crate) due: Option<Timestamp>,
    /// Nothing starts before this: the trouble is ours.
    pub(crate) pause: Option<Timestamp>,
    /// Where does the mail that is left wait?
    pub(crate) place: Routing,
    /// The host that took mail.
    pub(crate) took: Option<HostName>,
    /// Why the lane waits, if it does.
    pub(crate) cause: Option<Box<Problem>>,
    /// The host that lets nobody in, if that is why.
    pub(crate) down: Option<Bottleneck>,
}

/// Has mail other next hops now?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Routes {
    /// None: nothing has to be looked for.
    Same,
    /// Some may: lanes are compared with the configuration.
    Changed,
}

/// What mail that was just committed is for a lane.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one, and none is kept")]
pub(crate) enum LaneArrival {
    /// Due now: to be tried.
    Work(Work),
    /// In the store, for a later time.
    Later(Timestamp),
}

/// What is due in a lane.
#[derive(Debug)]
pub(crate) struct FoundWork {
    /// Ready to be tried.
    pub(crate) work: Vec<Work>,
    /// When something is due that is not in it and not in memory.
    pub(crate) next_due: Option<Timestamp>,
    /// Was there mail that has another next hop today? It is left for who moves it.
    pub(crate) place: Routing,
}

impl FoundWork {
    /// A message whose recipients lie on two pages goes in two transactions.
    pub(super) fn add(&mut self, work: Work) {
        match self.work.iter_mut().find(|found| found.message == work.message) {
            Some(found) => found.rest = Rest::Waiting,
            None => self.work.push(work),
        }
    }
}

/// Mail that waits for a connection of ours, and for nothing else.
#[derive(Debug)]
pub(crate) struct NoRoom {
    pub(crate) lane: LaneKey,
    /// The connections that are all in use, of which it needs one.
    pub(crate) bottleneck: Bottleneck,
    /// As it was before.
    pub(crate) work: Work,
}

/// What became of lanes that stood still until their mail was moved.
#[derive(Debug)]
pub(crate) struct Followed {
    /// These lanes may go on.
    pub(super) from: Vec<LaneKey>,
    /// There is something new in these.
    pub(super) to: BTreeSet<LaneKey>,
    /// Was all of it moved?
    pub(super) end: MoveEnd,
}

/// How a move ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum MoveEnd {
    /// All are where they belong.
    Done,
    /// The store refused, or a bug of ours; some stayed.
    Failed,
}

impl LaneJob for Work {
    fn message(&self) -> MessageId {
        self.message
    }

    fn turn(&self) -> Timestamp {
        self.turn
    }

    fn octets(&self) -> u64 {
        let own = size_of::<Self>() + self.targets.capacity() * size_of::<Target>();
        let texts = self.targets.len() * ADDRESS_OCTETS;
        u64::try_from(own + texts).unwrap_or(u64::MAX)
    }

    fn submitter(&self) -> Submitter {
        self.submitter
    }
}

/// A piece of work under way, with what its lane knows.
#[derive(Debug)]
pub(crate) struct DueWork {
    pub(crate) lane: LaneKey,
    /// The number of the attempt, under which its end is told.
    pub(crate) ticket: Ticket,
    /// What is known of the next hop.
    pub(crate) class: LaneClass,
    /// The lane's failures so far, if this is a probe.
    pub(crate) trouble: Option<FailureRun>,
    /// Does anything else of the lane run?
    pub(crate) company: Company,
    /// The message and its recipients that are due here.
    pub(crate) work: Work,
}
