//! What the tests share: short ways to say common things.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use jiff::Timestamp;
use smtp::{Mailbox, RemoteText, ReversePath};
use spool::{
    Acted, BodyFacts, Change, CheckCursor, DamagedRecipient, Filter, LaneKey, MessageId,
    MessageOptions, NewRecipient, OpenError, Options, RecipientNo, RecipientOptions,
    RecipientState, Sealed, Settled, Settlement, Spool, StoreError, StoredBody, StoredEnvelope,
    StoredProblem,
};

/// Bodies above this are files, so that tests see both kinds with little data.
pub(crate) const INLINE_MAX: usize = 100;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(crate) fn options() -> Options {
    Options { inline_body_max: INLINE_MAX, reserve_bytes: 64 * 1024, ..Options::default() }
}

/// A child process of another test has our locks, too, until it runs its own program.
pub(crate) fn open(dir: &Path) -> Spool {
    for _ in 0..LOCKED_MAX {
        match Spool::open(dir, options()) {
            Err(OpenError::Locked { .. }) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
    Spool::open(dir, options()).unwrap()
}

/// Tries to open a store that is locked.
const LOCKED_MAX: u32 = 100_000;

pub(crate) fn lane(number: impl std::fmt::Display) -> LaneKey {
    LaneKey::new(&format!("lane{number}.example"))
}

pub(crate) fn facts(size: usize) -> BodyFacts {
    BodyFacts {
        size: size as u64,
        header_len: (size as u64).min(10),
        has_8bit: true,
        longest_line: 12,
        ends_with_newline: true,
        received_count: 3,
    }
}

/// An envelope for these (recipient, lane).
pub(crate) fn envelope(size: usize, recipients: &[(&str, LaneKey)]) -> StoredEnvelope {
    let recipient = |(mailbox, lane): &(&str, LaneKey)| NewRecipient {
        mailbox: Mailbox::parse_utf8(mailbox).unwrap(),
        lane: lane.clone(),
        options: RecipientOptions::default(),
        state: RecipientState::Queued,
    };
    StoredEnvelope {
        sender: ReversePath::parse("sender@from.example").unwrap(),
        recipients: recipients.iter().map(recipient).collect(),
        arrived_at: at(0),
        expires_at: at(432_000),
        client: "192.0.2.1".into(),
        facts: facts(size),
        options: MessageOptions::default(),
    }
}

pub(crate) fn sealed(spool: &Spool, body: &[u8]) -> Sealed {
    let mut draft = spool.draft(spool.new_id(at(0)));
    draft.write(body).unwrap();
    draft.seal().unwrap()
}

/// Waits for a callback.
pub(crate) fn wait<T: Send + 'static>(
    begin: impl FnOnce(Box<dyn FnOnce(Result<T, StoreError>) + Send>),
) -> Result<T, StoreError> {
    let (answer, result) = mpsc::channel();
    begin(Box::new(move |outcome| answer.send(outcome).unwrap()));
    result.recv().unwrap()
}

pub(crate) fn try_commit(
    spool: &Spool,
    body: &[u8],
    recipients: &[(&str, LaneKey)],
) -> Result<MessageId, StoreError> {
    let sealed = sealed(spool, body);
    wait(|done| spool.commit(sealed, envelope(body.len(), recipients), done))
}

pub(crate) fn commit(spool: &Spool, body: &[u8], recipients: &[(&str, LaneKey)]) -> MessageId {
    try_commit(spool, body, recipients).unwrap()
}

/// Commits `body` in this envelope.
pub(crate) fn commit_as(spool: &Spool, body: &[u8], envelope: StoredEnvelope) -> MessageId {
    let sealed = sealed(spool, body);
    wait(|done| spool.commit(sealed, envelope, done)).unwrap()
}

/// Holds what is queued of a message.
pub(crate) fn hold(spool: &Spool, message: MessageId) -> Acted {
    let places = spool.places(message, None).unwrap();
    spool.hold_these(places.iter().map(|place| (place.message, place.no)).collect()).unwrap()
}

/// Holds what of the queue is meant.
pub(crate) fn hold_matching(spool: &Spool, filter: &Filter) -> Acted {
    let rows = spool.list(filter, None, 1_000).unwrap().rows;
    spool.hold_these(rows.iter().map(|row| (row.message, row.no)).collect()).unwrap()
}

pub(crate) fn settlement(spool: &Spool, message: MessageId) -> Settlement {
    Settlement {
        permit: spool.settle_permit().unwrap(),
        message,
        changes: Vec::new(),
        dsns: Vec::new(),
        lane: None,
    }
}

pub(crate) fn settle(spool: &Spool, settlement: Settlement) -> Result<Settled, StoreError> {
    wait(|done| spool.settle(settlement, done))
}

pub(crate) fn bytes(spool: &Spool, id: MessageId) -> Vec<u8> {
    match spool.body(id).unwrap() {
        StoredBody::Memory(bytes) => bytes.to_vec(),
        StoredBody::File { mut file, size } => {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, size);
            bytes
        }
    }
}

pub(crate) fn problem(second: i64) -> StoredProblem {
    StoredProblem {
        at: at(second),
        status: "4.4.1".into(),
        reason: "connect_failed".into(),
        mx: Some(smtp::Domain::parse("mx.example").unwrap()),
        text: RemoteText::new("connection refused"),
    }
}

/// Who cannot be used, of the whole queue.
pub(crate) fn check_all(spool: &Spool) -> Vec<DamagedRecipient> {
    let (mut damaged, mut after) = (Vec::new(), Some(CheckCursor::START));
    while let Some(from) = after {
        let checked = spool.check(from).unwrap();
        damaged.extend(checked.damaged);
        after = checked.next;
    }
    damaged
}

/// Where the large body of a message is.
pub(crate) fn body_file(dir: &Path, id: MessageId) -> PathBuf {
    let shelves = std::fs::read_dir(dir.join("bodies")).unwrap();
    let mut paths = shelves.map(|shelf| shelf.unwrap().path().join(id.to_string()));
    paths.find(|path| path.exists()).unwrap()
}

/// The files of bodies and drafts, without what is kept in `bodies/lost`.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for top in ["bodies", "tmp"] {
        collect(&dir.join(top), &mut found);
    }
    found.sort();
    found
}

fn collect(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() == "lost" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), found);
        } else {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
}

/// What a kill -9 leaves: the files as they are, copied while the store is open and idle.
pub(crate) fn snapshot(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            snapshot(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The messages that are queued.
pub(crate) fn queued(spool: &Spool) -> BTreeSet<MessageId> {
    let page = spool.list(&Filter::default(), None, 10_000).unwrap();
    assert_eq!((page.damaged.len(), page.next), (0, None));
    page.rows.iter().map(|row| row.message).collect()
}

/// The only recipient of a message is delivered.
pub(crate) fn deliver(spool: &Spool, message: MessageId) {
    let mut done = settlement(spool, message);
    done.changes.push((RecipientNo(0), Change::Delivered));
    assert_eq!(settle(spool, done).unwrap(), Settled::Gone);
}
