//! What MAIL and RCPT ask for stays with the message, and decides when it is tried.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at what it did not expect"
)]

mod common;

use common::{at, commit_as, envelope, hold, lane, open, sealed, settle, settlement};
use smtp::params::{ByMode, EnvelopeId, Notify, OriginalRecipient, Priority, Return};
use smtp::{Mailbox, ReversePath};
use spool::{
    Attempt, Change, Deadline, Filter, MessageId, MessageOptions, NewMessage, RecipientDeferral,
    RecipientNo, RecipientOptions, RecipientState, Selection, Spool, StoredEnvelope, Told,
};

/// An envelope for one recipient in lane 1.
fn one() -> StoredEnvelope {
    envelope(1, &[("b@to.example", lane(1))])
}

fn commit(spool: &Spool, change: impl FnOnce(&mut StoredEnvelope)) -> MessageId {
    let mut envelope = one();
    change(&mut envelope);
    commit_as(spool, b"x", envelope)
}

/// What is due in lane 1, in order, read in pages of `limit`.
fn due(spool: &Spool, now: i64, limit: usize) -> Vec<MessageId> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = spool.next(&lane(1), at(now), after, limit).unwrap();
        found.extend(page.due.iter().map(|due| due.message));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

fn notify(text: &str) -> Notify {
    Notify::parse(text).unwrap()
}

#[test]
fn what_was_asked_for_comes_back_as_it_was_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let everything = MessageOptions {
        ret: Some(Return::Headers),
        envelope_id: EnvelopeId::parse("QQ+20314"),
        smtp_utf8: true,
        require_tls: true,
        deliver_by: Some(Deadline { at: at(600), mode: ByMode::Notify, trace: true }),
        priority: Priority::new(-3).unwrap(),
        not_before: Some(at(60)),
        user: Some("ann".into()),
    };
    let full = MessageOptions {
        ret: Some(Return::Full),
        deliver_by: Some(Deadline { at: at(600), mode: ByMode::Return, trace: false }),
        ..MessageOptions::default()
    };
    let of_recipient = |notify: Option<Notify>, original: Option<&str>| RecipientOptions {
        notify,
        originals: original.map(|text| OriginalRecipient::parse(text).unwrap()).into(),
    };
    let recipients = [
        RecipientOptions::default(),
        of_recipient(Some(Notify::Never), Some("rfc822;a+2Bb@to.example")),
        of_recipient(Some(notify("SUCCESS,DELAY")), Some("utf-8;b\\x{E9}@to.example")),
        of_recipient(Some(notify("SUCCESS,FAILURE,DELAY")), None),
    ];
    let spool = open(dir.path());
    let ids = [everything.clone(), full.clone(), MessageOptions::default()].map(|options| {
        let mailboxes = vec![("b@to.example", lane(1)); recipients.len()];
        let mut envelope = envelope(1, &mailboxes);
        for (recipient, options) in envelope.recipients.iter_mut().zip(&recipients) {
            recipient.options = options.clone();
        }
        envelope.options = options;
        commit_as(&spool, b"x", envelope)
    });
    spool.close();
    let spool = open(dir.path());
    for (id, want) in ids.iter().zip([everything, full, MessageOptions::default()]) {
        let page = spool.next(&lane(1), at(60), None, 100).unwrap();
        let found = page.due.iter().find(|due| due.message == *id).unwrap();
        assert_eq!(found.options, want);
        let mut options: Vec<_> = found.recipients.iter().map(|r| (r.no, &r.options)).collect();
        options.sort_by_key(|(no, _)| *no);
        assert!(options.into_iter().map(|(_, options)| options).eq(&recipients));
        let detail = spool.show(*id).unwrap().unwrap();
        assert_eq!(detail.options, want);
        assert!(detail.recipients.iter().map(|row| &row.options).eq(&recipients));
        assert_eq!(detail.recipients[0].not_before, want.not_before);
    }
}

#[test]
fn priority_moves_mail_by_a_bounded_time_so_nothing_starves() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    const MINUTE: i64 = 60;
    let arrived = |minute: i64, priority: i8| {
        commit(&spool, |envelope| {
            envelope.arrived_at = at(minute * MINUTE);
            envelope.options.priority = Priority::new(priority).unwrap();
        })
    };
    let least = arrived(0, -9);
    let ordinary = [0, 10, 100, 200].map(|minute| arrived(minute, 0));
    let most = arrived(101, 9);
    let little = arrived(15, 1);
    // Ten minutes a step: the most urgent counts as minute 11, the least urgent as minute 90.
    let want = [ordinary[0], little, ordinary[1], most, least, ordinary[2], ordinary[3]];
    for limit in 1..9 {
        assert_eq!(due(&spool, 300 * MINUTE, limit), want, "pages of {limit}");
    }
    // Urgent or not, nothing is due before its time, and idleness serves the least urgent at once.
    assert_eq!(due(&spool, 0, 10), [ordinary[0], least]);
    assert_eq!(spool.next_due(&lane(1), at(0)).unwrap(), Some(at(10 * MINUTE)));
    assert_eq!(spool.next_due(&lane(1), at(100 * MINUTE)).unwrap(), Some(at(101 * MINUTE)));
}

#[test]
fn ext_12_mail_with_a_release_time_is_not_due_before_whatever_operators_do() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, |envelope| envelope.options.not_before = Some(at(1000)));
    let row = || spool.show(id).unwrap().unwrap().recipients.remove(0);
    assert_eq!(row().next_attempt_at, at(1000));
    assert_eq!(due(&spool, 999, 10), []);
    let this = Selection::Messages(vec![id]);
    spool.retry(&this, at(5), None).unwrap();
    assert_eq!(row().next_attempt_at, at(1000));
    hold(&spool, id);
    assert_eq!(due(&spool, 1000, 10), []);
    spool.release(&this, at(6), None).unwrap();
    assert_eq!((row().state, row().next_attempt_at), (RecipientState::Queued, at(1000)));
    // No clock that was wrong wrote this.
    assert_eq!(spool.cut_waits(at(7), at(100)).unwrap(), 0);
    assert_eq!(due(&spool, 1000, 10), [id]);
    spool.retry(&this, at(2000), None).unwrap();
    assert_eq!(row().next_attempt_at, at(2000));
}

#[test]
fn a_release_time_in_the_past_is_now() {
    let envelope = StoredEnvelope {
        options: MessageOptions { not_before: Some(at(-5)), ..MessageOptions::default() },
        ..one()
    };
    assert_eq!(envelope.begins_at(), at(0));
}

#[test]
fn who_is_held_from_the_first_is_not_due_until_released() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, |envelope| {
        let more = envelope.recipients[0].clone();
        envelope.recipients.push(more);
        envelope.recipients[0].state = RecipientState::Held;
    });
    let page = spool.next(&lane(1), at(9), None, 10).unwrap();
    assert_eq!(page.due[0].recipients.iter().map(|r| r.no.0).collect::<Vec<_>>(), [1]);
    assert_eq!(spool.count().unwrap().held, 1);
    spool.release(&Selection::Matching(Filter::default()), at(3), None).unwrap();
    let page = spool.next(&lane(1), at(9), None, 10).unwrap();
    assert_eq!((page.due[0].message, page.due[0].recipients.len()), (id, 2));
}

#[test]
fn who_may_be_told_of_a_delay_is_found_until_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let mut wishes = one();
    let template = wishes.recipients[0].clone();
    wishes.recipients =
        [None, Some(Notify::Never), Some(notify("SUCCESS,FAILURE")), Some(notify("DELAY"))]
            .map(|notify| {
                let options = RecipientOptions { notify, ..RecipientOptions::default() };
                spool::NewRecipient { options, ..template.clone() }
            })
            .to_vec();
    wishes.options.not_before = Some(at(50));
    let id = commit_as(&spool, b"x", wishes);
    commit(&spool, |envelope| envelope.sender = ReversePath::Null);
    let unwarned = |since: i64| -> Vec<u16> {
        let page = spool.unwarned(&lane(1), at(since), None, 100).unwrap();
        let numbers = page.due.iter().flat_map(|due| &due.recipients);
        numbers
            .map(|r| {
                assert_eq!(r.waits_since, Some(at(50)));
                r.no.0
            })
            .collect()
    };
    assert!(unwarned(49).is_empty(), "it waits since its release");
    assert_eq!(unwarned(50), [0, 3]);
    let mut told = settlement(&spool, id);
    let wait = RecipientDeferral { due_at: at(60), problem: None, attempt: Attempt::Counted };
    told.changes =
        vec![(RecipientNo(0), Change::Deferred(wait)), (RecipientNo(0), Change::Told(Told::Delay))];
    settle(&spool, told).unwrap();
    assert_eq!(unwarned(900), [3], "each once");
}

/// A DSN to the sender of [`one`].
fn dsn(spool: &Spool) -> NewMessage {
    let mut envelope = envelope(1, &[("sender@from.example", lane(9))]);
    envelope.sender = ReversePath::Null;
    NewMessage { body: sealed(spool, b"n"), envelope }
}

#[test]
fn ext_13_deadlines_are_found_by_time_until_they_are_dealt_with() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let by = |second: i64, mode| {
        move |envelope: &mut StoredEnvelope| {
            envelope.options.deliver_by = Some(Deadline { at: at(second), mode, trace: false });
        }
    };
    assert_eq!(spool.next_deadline(at(0)).unwrap(), None);
    let later = commit(&spool, by(300, ByMode::Return));
    let sooner = commit(&spool, |envelope| {
        by(200, ByMode::Notify)(envelope);
        let other = Mailbox::parse("c@other.example").unwrap();
        let template = envelope.recipients[0].clone();
        envelope.recipients.push(spool::NewRecipient {
            mailbox: other,
            lane: lane(2),
            ..template.clone()
        });
        let held = RecipientState::Held;
        envelope.recipients.push(spool::NewRecipient { state: held, ..template });
    });
    // Nobody is to be told, and nothing is to be stopped.
    commit(&spool, |envelope| {
        by(100, ByMode::Notify)(envelope);
        envelope.sender = ReversePath::Null;
    });
    assert_eq!(spool.next_deadline(at(0)).unwrap(), Some(at(200)));
    assert_eq!(spool.next_deadline(at(200)).unwrap(), Some(at(300)), "after that");
    assert_eq!(spool.next_deadline(at(300)).unwrap(), None);
    assert!(spool.overdue(at(199), None, 10).unwrap().overdue.is_empty());

    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = spool.overdue(at(300), after, 1).unwrap();
        found.extend(page.overdue);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let of = |message, number: u8| (message, lane(number));
    assert_eq!(found, [of(sooner, 1), of(sooner, 2), of(sooner, 1), of(later, 1)]);
    let numbers = |which: &spool::Overdue| -> Vec<u16> {
        let page = spool.overdue_of(which, at(300)).unwrap();
        page.due.iter().flat_map(|due| &due.recipients).map(|r| r.no.0).collect()
    };
    assert_eq!(numbers(&of(sooner, 1)), [0, 2], "a held one, too");
    assert_eq!(numbers(&of(sooner, 2)), [1]);

    let mut told = settlement(&spool, sooner);
    told.changes = vec![
        (RecipientNo(0), Change::Told(Told::Deadline)),
        (RecipientNo(2), Change::Told(Told::Deadline)),
    ];
    told.dsns.push(dsn(&spool));
    settle(&spool, told).unwrap();
    assert!(numbers(&of(sooner, 1)).is_empty());
    assert_eq!(
        spool.unwarned(&lane(1), at(900), None, 10).unwrap().due.len(),
        1,
        "the other one's"
    );
    assert_eq!(spool.show(sooner).unwrap().unwrap().recipients.len(), 3, "they wait on");
    let mut ended = settlement(&spool, later);
    ended.changes.push((RecipientNo(0), Change::Failed));
    settle(&spool, ended).unwrap();
    assert_eq!(spool.overdue(at(300), None, 10).unwrap().overdue, [of(sooner, 2)]);
}
