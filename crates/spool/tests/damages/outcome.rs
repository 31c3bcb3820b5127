//! What a store that was opened on a damaged directory gives out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rusqlite::types::Value;
use smtp::Mailbox;
use spool::{
    DamagedRecipient, DueCursor, Filter, LaneKey, MessageId, OpenError, RecipientState, Spool,
};

use world::damage::Damage as FileDamage;

use crate::Damage;
use crate::common::{at, check_all, options};
use crate::queue::{Master, Message, Wanted};

/// A recipient that will be tried.
#[derive(Debug)]
struct Tried {
    wanted: Wanted,
    body: Option<Vec<u8>>,
}

/// What would be sent, and what is named.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    tried: BTreeMap<(MessageId, u16), Tried>,
    held: BTreeSet<(MessageId, u16)>,
    /// Keys of recipients.
    damaged: BTreeSet<i64>,
    /// Their addresses: of a row whose key changed that is what tells whose it was.
    addresses: BTreeSet<String>,
    /// Of somebody there is a place, and no more.
    has_nameless: bool,
    twice: Vec<(MessageId, u16)>,
}

impl Outcome {
    pub(crate) fn of(dir: &Path) -> Result<Self, OpenError> {
        let spool = Spool::open(dir, options())?;
        let mut outcome = Self::default();
        outcome.read_lanes(&spool);
        let damaged = check_all(&spool);
        outcome.note(&damaged);
        // Mail may be in a lane that was read before that.
        if !spool.take_mended().is_empty() {
            outcome.tried.clear();
            outcome.read_lanes(&spool);
        }
        let held = Filter { state: Some(RecipientState::Held), ..Filter::default() };
        let mut after = None;
        loop {
            let page = spool.list(&held, after, 50).unwrap();
            outcome.held.extend(page.rows.iter().map(|row| (row.message, row.no.0)));
            outcome.note(&page.damaged);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        spool.close();
        Ok(outcome)
    }

    fn note(&mut self, damaged: &[DamagedRecipient]) {
        self.damaged.extend(damaged.iter().map(|one| one.key));
        self.addresses.extend(damaged.iter().map(|one| one.address.clone()));
        let is_nameless = |one: &DamagedRecipient| {
            one.message.is_none() && Mailbox::parse_utf8(&one.address).is_err()
        };
        self.has_nameless |= damaged.iter().any(is_nameless);
    }

    fn read_lanes(&mut self, spool: &Spool) {
        let (lanes, _) = spool.lanes_with_names().unwrap();
        for lane in lanes {
            self.read_lane(spool, &lane.key);
        }
    }

    fn read_lane(&mut self, spool: &Spool, lane: &LaneKey) {
        let mut after: Option<DueCursor> = None;
        loop {
            let page = spool.next(lane, at(100_000_000), after, 40).unwrap();
            self.note(&page.damaged);
            for due in page.due {
                for recipient in due.recipients {
                    let body = spool.body(due.message).ok().map(read);
                    let wanted = Wanted {
                        address: recipient.mailbox.to_string(),
                        lane: lane.as_str().to_owned(),
                    };
                    let key = (due.message, recipient.no.0);
                    if self.tried.insert(key, Tried { wanted, body }).is_some() {
                        self.twice.push(key);
                    }
                }
            }
            after = page.next;
            if after.is_none() {
                return;
            }
        }
    }

    /// Nothing goes wrong, and what is whole goes.
    pub(crate) fn assert_right(&self, master: &Master, damage: &Damage, name: &str) {
        assert!(self.twice.is_empty(), "{name}: twice: {:?}", self.twice);
        for ((id, no), tried) in &self.tried {
            let message = master.messages.get(id);
            let message = message.unwrap_or_else(|| panic!("{name}: {id} was never accepted"));
            let wanted = &message.recipients[no];
            assert_eq!(
                tried.wanted.address, wanted.address,
                "{name}: it would go to somebody else"
            );
            // One without a name of its own is moved before anything of it is tried. And what is in
            // the lane of another next hop is moved by who reads it, as after a change of routes.
            let may_be_astray = match damage {
                Damage::Value { column, .. } => column == "lane",
                Damage::File(FileDamage::Bit { .. }) => message.is_hit(damage),
                Damage::File(_) => false,
            };
            let is_right = tried.wanted.lane == wanted.lane
                || tried.wanted.lane.starts_with("damaged row ")
                || may_be_astray;
            assert!(is_right, "{name}: {} would go to {}", wanted.address, tried.wanted.lane);
            assert!(
                tried.body.as_ref().is_none_or(|body| *body == message.body),
                "{name}: another body"
            );
        }
        let all_gone = damage.is_without_queue();
        for (id, message) in &master.messages {
            for no in message.recipients.keys() {
                if !all_gone {
                    self.assert_kept((*id, *no), message, damage, name);
                }
            }
        }
    }

    fn assert_kept(&self, who: (MessageId, u16), message: &Message, damage: &Damage, name: &str) {
        let (id, no) = who;
        let key = message.seq << 16 | i64::from(no);
        let (tried, held) = (self.tried.get(&who), self.held.contains(&who));
        let goes = tried.is_some_and(|tried| tried.body.is_some());
        if goes || held {
            return;
        }
        let is_hit = message.is_hit(damage);
        assert!(is_hit, "{name}: {id} {no} is whole, and neither sent nor held");
        // Its body cannot be read: the attempt holds it.
        let of_message = |key: &i64| key >> 16 == message.seq;
        let is_named = tried.is_some()
            || self.damaged.iter().any(of_message)
            || self.addresses.contains(&message.recipients[&no].address)
            || self.has_nameless;
        let may_be_unknown =
            matches!(damage, Damage::File(FileDamage::Cut { .. } | FileDamage::Zeros { .. }))
                || name.ends_with("repaired")
                || changes_key(damage);
        assert!(is_named || may_be_unknown, "{name}: {id} {no} (key {key}) is not named");
    }
}

/// A row whose key changed is another row.
fn changes_key(damage: &Damage) -> bool {
    match damage {
        Damage::Value { column, .. } => matches!(column.as_str(), "id" | "seq" | "state"),
        Damage::File(_) => false,
    }
}

impl Message {
    fn is_hit(&self, damage: &Damage) -> bool {
        if self.file.as_ref().is_some_and(|file| damage.hits_file(file)) {
            return true;
        }
        if self.pages.iter().any(|page| damage.hits_page(*page)) {
            return true;
        }
        let Damage::Value { table, key: Value::Integer(key), .. } = damage else { return false };
        match table.as_str() {
            "messages" | "bodies" => *key == self.seq,
            "recipients" => key >> 16 == self.seq,
            "lanes" => self.lanes.contains(key),
            _ => false,
        }
    }
}

fn read(body: spool::StoredBody) -> Vec<u8> {
    match body {
        spool::StoredBody::Memory(bytes) => bytes.to_vec(),
        spool::StoredBody::File { mut file, .. } => {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
            bytes
        }
    }
}
