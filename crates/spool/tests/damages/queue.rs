//! The queue that is damaged: mail of all kinds, and what each message needs of the files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use smtp::HostName;
use smtp::params::{ByMode, Notify, OriginalRecipient, Priority, Return};
use spool::{
    Attempt, Change, Deadline, Enforced, LaneKey, LaneState, LaneTrouble, LaneUpdate, MessageId,
    Move, PolicyRow, RecipientDeferral, RecipientNo, RecipientOptions, Spool,
};
use tempfile::TempDir;
use world::pages::Map;

use crate::common::{
    INLINE_MAX, at, body_file, commit_as, envelope, hold, lane, open, problem, settle, settlement,
    wait,
};

const MESSAGES: usize = 200;

/// A recipient as it was accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) address: String,
    pub(crate) lane: String,
}

/// What is known of a message, and what it needs.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) body: Vec<u8>,
    pub(crate) recipients: BTreeMap<u16, Wanted>,
    pub(crate) pages: BTreeSet<usize>,
    pub(crate) file: Option<PathBuf>,
    pub(crate) seq: i64,
    pub(crate) lanes: BTreeSet<i64>,
}

/// The directory as it was before.
pub(crate) struct Master {
    dir: TempDir,
    pub(crate) messages: BTreeMap<MessageId, Message>,
    schema: BTreeSet<usize>,
}

impl Master {
    pub(crate) fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        let mut messages: BTreeMap<MessageId, Message> =
            (0..MESSAGES).map(|number| add(&spool, number)).collect();
        for (number, id) in messages.keys().copied().enumerate().collect::<Vec<_>>() {
            happen(&spool, number, id);
        }
        policies(&spool);
        spool.close();
        drop(spool);
        let map = Map::of(&fs::read(dir.path().join("queue.db")).unwrap());
        // Ids and rows are in the order of the commits.
        for (seq, (id, message)) in map.table("messages").keys().zip(&mut messages) {
            message.seq = *seq;
            need(message, &map);
            if message.body.len() > INLINE_MAX {
                let path = body_file(dir.path(), *id);
                message.file = Some(path.strip_prefix(dir.path()).unwrap().into());
            }
        }
        Self { dir, messages, schema: map.schema }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn schema_pages(&self) -> impl Iterator<Item = usize> {
        self.schema.iter().copied()
    }

    pub(crate) fn body_files(&self) -> Vec<PathBuf> {
        self.messages.values().filter_map(|message| message.file.clone()).collect()
    }
}

/// Notes which pages the rows of a message are on, and on the way to.
fn need(message: &mut Message, map: &Map) {
    let mut add = |table: &str, key: i64| {
        if let Some(row) = map.table(table).get(&key) {
            message.pages.extend(&row.pages);
            return Some(row);
        }
        None
    };
    add("messages", message.seq);
    add("bodies", message.seq);
    let mut lanes = BTreeSet::new();
    for no in message.recipients.keys() {
        let row = add("recipients", message.seq << 16 | i64::from(*no)).unwrap();
        lanes.insert(row.fields[1].number());
    }
    for lane in &lanes {
        add("lanes", *lane);
    }
    message.lanes = lanes;
    message.pages.extend(&map.schema);
}

fn add(spool: &Spool, number: usize) -> (MessageId, Message) {
    let size = [20, INLINE_MAX - 1, INLINE_MAX + 10, 9_000][number % 4];
    let body: Vec<u8> =
        (0..size).map(|place| u8::try_from((place * 7 + number) % 251).unwrap()).collect();
    let count = if number.is_multiple_of(5) { 3 } else { 1 };
    let recipients: BTreeMap<u16, Wanted> = (0..count)
        .map(|no| {
            let lane = lane((number + usize::from(no)) % 17).as_str().to_owned();
            (no, Wanted { address: format!("user{number}-{no}@{lane}"), lane })
        })
        .collect();
    let to: Vec<(&str, LaneKey)> = recipients
        .values()
        .map(|wanted| (wanted.address.as_str(), LaneKey::new(&wanted.lane)))
        .collect();
    let mut envelope = envelope(body.len(), &to);
    let options = &mut envelope.options;
    match number % 7 {
        1 => options.ret = Some(Return::Headers),
        2 => options.require_tls = true,
        3 => options.priority = Priority::new(4).unwrap(),
        4 => {
            options.deliver_by =
                Some(Deadline { at: at(5_000), mode: ByMode::Notify, trace: false })
        }
        5 => options.not_before = Some(at(40)),
        6 => options.user = Some("ann".into()),
        _ => {}
    }
    if number.is_multiple_of(3) {
        envelope.recipients[0].options = RecipientOptions {
            notify: Some(Notify::On { success: true, failure: true, delay: false }),
            originals: OriginalRecipient::parse("rfc822;first@elsewhere.example").into(),
        };
    }
    let id = commit_as(spool, &body, envelope);
    // Rows come in the order of the commits.
    spool.count().unwrap();
    let pages = BTreeSet::new();
    (id, Message { body, recipients, pages, file: None, seq: 0, lanes: BTreeSet::new() })
}

/// What happens to mail that waits.
fn happen(spool: &Spool, number: usize, id: MessageId) {
    match number % 6 {
        0 => {
            let mut deferred = settlement(spool, id);
            deferred.changes.push((
                RecipientNo(0),
                Change::Deferred(RecipientDeferral {
                    due_at: at(300),
                    attempt: Attempt::Counted,
                    problem: Some(problem(3)),
                }),
            ));
            let state = LaneState::Failing(LaneTrouble {
                failures: 2,
                next_probe_at: at(300),
                first_failed_at: at(2),
                problem: problem(3),
            });
            deferred.lane = Some(LaneUpdate { key: lane(number % 17), state });
            settle(spool, deferred).unwrap();
        }
        1 => drop(hold(spool, id)),
        _ => {}
    }
}

fn policies(spool: &Spool) {
    spool.set_mark("switched_off.sending", Some("1")).unwrap();
    spool.set_mark("clock", Some("1800000000")).unwrap();
    for number in 0..40 {
        let domain = HostName::parse(&format!("enforcing{number}.example")).unwrap();
        let times = Enforced { fetched_at: at(0), expires_at: at(86_400) };
        wait(|done| spool.policies().put_enforced(domain.clone(), times, done)).unwrap();
        let row = PolicyRow {
            fetched_at: Some(at(0)),
            expires_at: Some(at(86_400)),
            mode: Some("enforce".into()),
            body: Some(b"version: STSv1\nmode: enforce\nmx: *.example\nmax_age: 86400\n".to_vec()),
            ..PolicyRow::new(domain)
        };
        wait(|done| spool.policies().put(row, done)).unwrap();
    }
    // A lane that was emptied.
    let moves = Vec::<Move>::new();
    spool.move_to_lanes(moves, Timestamp::UNIX_EPOCH).unwrap();
}
