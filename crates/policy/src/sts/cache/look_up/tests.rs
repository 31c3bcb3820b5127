//! Look-ups as their driver sees them: what is asked, fetched and written in this order, and what
//! came of it.

use super::super::{CachedPolicy, KeepSettings, Listed, Moment};
use super::*;
use crate::sts::record::RecordError;
use jiff::Timestamp;

const ENFORCE: &str = "version: STSv1\nmode: enforce\nmx: mx.example\nmax_age: 604800\n";
const OTHER: &str = "version: STSv1\nmode: enforce\nmx: mx2.example\nmax_age: 604800\n";
const TESTING: &str = "version: STSv1\nmode: testing\nmx: mx.example\nmax_age: 604800\n";
const FLEETING: &str = "version: STSv1\nmode: enforce\nmx: mx.example\nmax_age: 0\n";

fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn now() -> Moment {
    Moment::undoubted(start())
}

fn usable(id: &str) -> TxtAnswer {
    TxtAnswer::Usable(Id::parse(id).unwrap())
}

fn kept(body: &str) -> Arc<CachedPolicy> {
    let an_hour_ago = start().checked_sub(Duration::from_secs(60 * 60)).unwrap();
    Arc::new(CachedPolicy::new(Id::parse("v1").unwrap(), body.as_bytes(), an_hour_ago).unwrap())
}

/// A row with this policy, and its entry beside the mail.
fn stored(body: &str) -> (Stored, Option<Listed>) {
    let state = State { kept: Some(kept(body)), ..State::default() };
    let listed = state.to_list(now());
    (Stored::Row(Box::new(state)), listed)
}

fn for_mail((stored, listed): (Stored, Option<Listed>)) -> LookUp {
    LookUp::for_mail(stored, listed, KeepSettings::default())
}

/// Drives it to its answer. The disk takes what `takes` says.
fn drive(
    look_up: &mut LookUp,
    answer: &TxtAnswer,
    (body, room): (&str, Room),
    takes: impl Fn(Write) -> Written,
) -> Verdict {
    let mut effect = LookUpEffect::Ask;
    loop {
        effect = match effect {
            LookUpEffect::Ask => look_up.answered(answer, now()),
            LookUpEffect::Fetch => {
                look_up.fetched(Ok(PolicyFile::read(body.as_bytes()).unwrap()), room, now())
            }
            LookUpEffect::Write(write) => look_up.written(takes(write), now()),
            LookUpEffect::Answer(verdict) => return verdict,
        };
    }
}

fn takes_all(_: Write) -> Written {
    Written::Synced
}

#[test]
fn a_policy_that_lasts_is_news_also_to_whom_one_that_does_not_said_the_same() {
    for (body, is_news) in [(ENFORCE, true), (OTHER, true), (FLEETING, false)] {
        let mut look_up = for_mail((Stored::Absent, None));
        look_up.remember_fleeting(Some(kept(FLEETING)));
        let verdict = drive(&mut look_up, &usable("v2"), (body, Room::Free), takes_all);
        assert!(matches!(verdict, Verdict::Use(_)));
        assert_eq!(look_up.changes_the_requirement(now()), is_news, "{body}");
    }
}

#[test]
fn mail_that_is_told_of_no_record_learns_nothing_from_a_policy_of_other_mail() {
    let mut look_up = for_mail((Stored::Absent, None));
    look_up.remember_fleeting(Some(kept(FLEETING)));
    let none = TxtAnswer::Unusable(RecordError::NoRecord);
    let verdict = drive(&mut look_up, &none, (ENFORCE, Room::Free), takes_all);
    assert!(matches!(verdict, Verdict::NoPolicy(_)));
    assert!(!look_up.changes_the_requirement(now()));
}

#[test]
fn a_row_on_the_disk_is_news_although_the_list_could_not_be_written() {
    let fails = |failing: fn(Write) -> bool| {
        move |write| if failing(write) { Written::Failed } else { Written::Synced }
    };
    let list = fails(|write| matches!(write, Write::List(_)));
    let unlist = fails(|write| matches!(write, Write::Unlist));
    let replace = fails(|write| matches!(write, Write::Replace));
    type Takes<'t> = &'t dyn Fn(Write) -> Written;
    let cases: [(&str, Takes<'_>, bool); 4] = [
        (OTHER, &list, true),
        (TESTING, &unlist, true),
        (ENFORCE, &list, false),
        (TESTING, &replace, false),
    ];
    for (body, takes, is_news) in cases {
        let mut look_up = for_mail(stored(ENFORCE));
        let verdict = drive(&mut look_up, &usable("v2"), (body, Room::Free), takes);
        assert_eq!(matches!(verdict, Verdict::Defer(_)), body != ENFORCE, "{body}: {verdict:?}");
        assert_eq!(look_up.changes_the_requirement(now()), is_news, "{body}");
    }
}
