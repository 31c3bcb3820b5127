//! Whatever is done to the store, in whatever order, with crashes in between: it holds exactly what
//! a plain map would hold.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at what it did not expect"
)]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::{at, bytes, files, hold, lane, open, problem, sealed, settle, settlement};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use smtp::params::Priority;
use spool::{
    Attempt, Change, Filter, LaneState, LaneTrouble, LaneUpdate, MessageId, NewMessage,
    RecipientDeferral, RecipientNo, RecipientState, Selection, Settled, Spool,
};

#[derive(Clone, Debug)]
enum Step {
    /// Body size, the lane of each recipient, and what MAIL asked for.
    Commit(usize, Vec<u8>, Birth),
    /// Which message; what becomes of each recipient in turn; what its lane learns.
    Settle(Index, Vec<Fate>, Option<(u8, Option<u32>)>),
    Delete(Index),
    Hold(Index),
    ReleaseAll,
    RetryLane(u8),
    Reopen,
    Crash,
}

/// How a message comes into the queue.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Birth {
    priority: i8,
    /// Not to be tried before this second.
    not_before: Option<i64>,
    state: RecipientState,
}

/// Of an ordinary message.
const ORDINARY: Birth = Birth { priority: 0, not_before: None, state: RecipientState::Queued };

fn birth() -> impl Strategy<Value = Birth> {
    let state = prop_oneof![4 => Just(RecipientState::Queued), 1 => Just(RecipientState::Held)];
    let not_before = prop_oneof![3 => Just(None), 1 => (1_i64..1000).prop_map(Some)];
    (-9_i8..=9, not_before, state).prop_map(|(priority, not_before, state)| Birth {
        priority,
        not_before,
        state,
    })
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Delivered,
    /// With a DSN.
    Failed,
    Deferred(i64),
    Untried,
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        3 => Just(Fate::Delivered),
        1 => Just(Fate::Failed),
        2 => (1_i64..1000).prop_map(Fate::Deferred),
        1 => Just(Fate::Untried),
    ];
    let learnt = proptest::option::of((0_u8..4, proptest::option::of(1_u32..9)));
    prop_oneof![
        6 => (0_usize..300, vec(0_u8..6, 1..5), birth())
            .prop_map(|(size, lanes, birth)| Step::Commit(size, lanes, birth)),
        6 => (any::<Index>(), vec(fate, 4), learnt).prop_map(|(m, f, l)| Step::Settle(m, f, l)),
        1 => any::<Index>().prop_map(Step::Delete),
        1 => any::<Index>().prop_map(Step::Hold),
        1 => Just(Step::ReleaseAll),
        1 => (0_u8..6).prop_map(Step::RetryLane),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

#[derive(Clone, Debug, PartialEq)]
struct Recipient {
    lane: u8,
    state: RecipientState,
    due: i64,
    attempts: u32,
}

#[derive(Debug)]
struct Message {
    body: Vec<u8>,
    birth: Birth,
    recipients: BTreeMap<u16, Recipient>,
}

struct Run {
    root: tempfile::TempDir,
    dir: PathBuf,
    generation: u32,
    spool: Spool,
    messages: BTreeMap<MessageId, Message>,
    troubles: BTreeMap<u8, u32>,
}

impl Run {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("0");
        let spool = open(&dir);
        let (messages, troubles) = (BTreeMap::new(), BTreeMap::new());
        Self { root, dir, generation: 0, spool, messages, troubles }
    }

    fn pick(&self, index: &Index) -> Option<MessageId> {
        let ids: Vec<_> = self.messages.keys().copied().collect();
        (!ids.is_empty()).then(|| *index.get(&ids))
    }

    fn add(&mut self, id: MessageId, body: Vec<u8>, lanes: &[u8], birth: Birth) {
        let due = birth.not_before.unwrap_or(0);
        let recipient = |&lane| Recipient { lane, state: birth.state, due, attempts: 0 };
        let recipients = (0..).zip(lanes.iter().map(recipient)).collect();
        self.messages.insert(id, Message { body, birth, recipients });
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Commit(size, lanes, birth) => {
                let body = vec![b'x'; *size];
                let recipients: Vec<_> = lanes.iter().map(|l| ("a@to.example", lane(l))).collect();
                let mut envelope = common::envelope(*size, &recipients);
                envelope.options.priority = Priority::new(birth.priority).unwrap();
                envelope.options.not_before = birth.not_before.map(at);
                for recipient in &mut envelope.recipients {
                    recipient.state = birth.state;
                }
                let id = common::commit_as(&self.spool, &body, envelope);
                self.add(id, body, lanes, *birth);
            }
            Step::Settle(index, fates, learnt) => self.settle(index, fates, *learnt),
            Step::Delete(index) => {
                let Some(id) = self.pick(index) else { return };
                let acted = self.spool.delete(&Selection::Messages(vec![id]), None).unwrap();
                let gone = self.messages.remove(&id).unwrap();
                assert_eq!(acted.recipients, gone.recipients.len() as u64);
            }
            Step::Hold(index) => {
                let Some(id) = self.pick(index) else { return };
                hold(&self.spool, id);
                for recipient in self.messages.get_mut(&id).unwrap().recipients.values_mut() {
                    recipient.state = RecipientState::Held;
                }
            }
            Step::ReleaseAll => {
                let all = Selection::Matching(Filter::default());
                self.spool.release(&all, at(5), None).unwrap();
                self.each(|r| r.state == RecipientState::Held, 5);
            }
            Step::RetryLane(number) => {
                let filter = Filter { lane: Some(lane(number)), ..Filter::default() };
                self.spool.retry(&Selection::Matching(filter), at(7), None).unwrap();
                self.each(|r| r.state == RecipientState::Queued && r.lane == *number, 7);
            }
            Step::Reopen => {
                self.spool.close();
                self.spool = open(&self.dir);
            }
            Step::Crash => {
                self.generation += 1;
                let copy = self.root.path().join(self.generation.to_string());
                common::snapshot(&self.dir, &copy);
                self.spool = open(&copy);
                self.dir = copy;
            }
        }
    }

    fn each(&mut self, meant: impl Fn(&Recipient) -> bool, due: i64) {
        for Message { birth, recipients, .. } in self.messages.values_mut() {
            for recipient in recipients.values_mut().filter(|recipient| meant(recipient)) {
                recipient.state = RecipientState::Queued;
                recipient.due = birth.not_before.map_or(due, |release| release.max(due));
            }
        }
    }

    fn settle(&mut self, index: &Index, fates: &[Fate], learnt: Option<(u8, Option<u32>)>) {
        let Some(id) = self.pick(index) else { return };
        let mut new = settlement(&self.spool, id);
        let mut dsns = 0;
        let message = self.messages.get_mut(&id).unwrap();
        for (no, fate) in (0..).zip(fates) {
            let change = match fate {
                Fate::Untried => continue,
                Fate::Delivered => Change::Delivered,
                Fate::Failed => Change::Failed,
                Fate::Deferred(due) => Change::Deferred(RecipientDeferral {
                    due_at: at(*due),
                    problem: (due % 2 == 0).then(|| problem(*due)),
                    attempt: if due % 3 == 0 { Attempt::NotCounted } else { Attempt::Counted },
                }),
            };
            new.changes.push((RecipientNo(no), change));
            if let (Fate::Deferred(due), Some(known)) = (fate, message.recipients.get_mut(&no)) {
                known.due = *due;
                known.attempts += u32::from(due % 3 != 0);
            } else if message.recipients.remove(&no).is_some() && matches!(fate, Fate::Failed) {
                dsns += 1;
            }
        }
        let done = message.recipients.is_empty();
        for number in 0..dsns {
            let body = vec![b'n'; 60 + 90 * number];
            let envelope = common::envelope(body.len(), &[("s@from.example", lane(9))]);
            let sealed = sealed(&self.spool, &body);
            self.add(sealed.id(), body, &[9], ORDINARY);
            new.dsns.push(NewMessage { body: sealed, envelope });
        }
        if let Some((number, failures)) = learnt {
            new.lane = Some(self.learn(number, failures));
        }
        let settled = settle(&self.spool, new).unwrap();
        assert_eq!(settled, if done { Settled::Gone } else { Settled::Waiting });
        if done {
            self.messages.remove(&id);
        }
    }

    fn learn(&mut self, number: u8, failures: Option<u32>) -> LaneUpdate {
        let state = match failures {
            None => {
                self.troubles.remove(&number);
                LaneState::Healthy
            }
            Some(failures) => {
                self.troubles.insert(number, failures);
                LaneState::Failing(LaneTrouble {
                    failures,
                    next_probe_at: at(50),
                    first_failed_at: at(1),
                    problem: problem(40),
                })
            }
        };
        LaneUpdate { key: lane(number), state }
    }

    fn check(&self) {
        self.check_messages();
        self.check_lanes();
        let large = self.messages.iter().filter(|(_, m)| m.body.len() > common::INLINE_MAX);
        let named: Vec<_> = large.map(|(id, _)| id.to_string()).collect();
        // Files are removed behind our back, and may be there a little longer; never shorter.
        let found = files(&self.dir);
        assert!(named.iter().all(|name| found.contains(name)), "{named:?} in {found:?}");
    }

    fn check_messages(&self) {
        let mut listed = BTreeMap::<_, BTreeMap<_, _>>::new();
        let mut after = None;
        loop {
            let page = self.spool.list(&Filter::default(), after, 3).unwrap();
            assert_eq!(page.damaged, []);
            for row in page.rows {
                let number = row.lane.as_str().as_bytes()[4] - b'0';
                let recipient = Recipient {
                    lane: number,
                    state: row.state,
                    due: row.next_attempt_at.duration_since(at(0)).as_secs(),
                    attempts: row.attempts,
                };
                listed.entry(row.message).or_default().insert(row.no.0, recipient);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let wanted: BTreeMap<_, _> =
            self.messages.iter().map(|(id, message)| (*id, message.recipients.clone())).collect();
        assert_eq!(listed, wanted);
        for (id, message) in &self.messages {
            assert!(bytes(&self.spool, *id) == message.body, "body of {id}");
        }
        assert_eq!(self.spool.count().unwrap().messages, self.messages.len() as u64);
    }

    fn check_lanes(&self) {
        let summary: BTreeMap<_, _> =
            self.spool.lanes().unwrap().into_iter().map(|lane| (lane.key.clone(), lane)).collect();
        for number in 0..10 {
            let all = self.messages.iter().flat_map(|(id, m)| {
                m.recipients.iter().map(move |(no, recipient)| (*id, *no, recipient))
            });
            let mut waiting: Vec<_> = all
                .filter(|(_, _, r)| r.lane == number && r.state == RecipientState::Queued)
                .map(|(id, no, recipient)| (recipient.due, id, no, recipient.attempts))
                .collect();
            waiting.sort_unstable();
            let read = self.read_lane(number);
            assert!(read.iter().map(|r| r.0).is_sorted(), "by turn: {read:?}");
            let short: Vec<_> = waiting.iter().map(|(_, id, no, n)| (*id, *no, *n)).collect();
            let mut read: Vec<_> = read.into_iter().map(|(_, id, no, n)| (id, no, n)).collect();
            let mut sorted = short;
            sorted.sort_unstable();
            read.sort_unstable();
            assert_eq!(read, sorted, "lane {number}");
            let known = summary.get(&lane(number));
            assert_eq!(known.map_or(0, |lane| lane.queued), waiting.len() as u64);
            let first = waiting.first().map(|(due, ..)| at(*due));
            assert_eq!(known.and_then(|lane| lane.earliest_due), first);
            let failures = known.and_then(|lane| match &lane.state {
                LaneState::Healthy => None,
                LaneState::Failing(trouble) => Some(trouble.failures),
            });
            assert_eq!(failures, self.troubles.get(&number).copied(), "lane {number}");
        }
    }

    /// Turn, message, recipient, attempts, in the order of the pages.
    fn read_lane(&self, number: u8) -> Vec<(i64, MessageId, u16, u32)> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = self.spool.next(&lane(number), at(9_999), after, 2).unwrap();
            assert_eq!(page.damaged, []);
            for due in page.due {
                let Message { birth, recipients, .. } = &self.messages[&due.message];
                assert_eq!(due.options.priority.get(), birth.priority);
                // A step of priority is worth ten minutes.
                let turn = |no: u16| recipients[&no].due - i64::from(birth.priority) * 600;
                let each = due.recipients.iter();
                found.extend(each.map(|r| (turn(r.no.0), due.message, r.no.0, r.attempts)));
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        found
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_holds_what_a_map_would_hold(steps in vec(step(), 1..40)) {
        let mut run = Run::new();
        for step in &steps {
            run.apply(step);
            run.check();
        }
    }
}
