//! What is remembered about a domain, as a row of the store and back.

use std::sync::Arc;

use policy::sts::cache::{FailedFetch, Listed, State, Stored};
use policy::sts::{CachedPolicy, Id};
use smtp::HostName;
use spool::{Enforced, FoundPolicy, PolicyRow};

/// What the store has.
pub(super) fn stored(found: FoundPolicy<PolicyRow>) -> Stored {
    match found {
        FoundPolicy::Row(row) => stored_row(&row),
        FoundPolicy::Absent => Stored::Absent,
        FoundPolicy::Corrupt => Stored::Damaged,
    }
}

/// What a row says.
pub(super) fn stored_row(row: &PolicyRow) -> Stored {
    read(row).map_or(Stored::Damaged, |state| Stored::Row(Box::new(state)))
}

/// What is remembered beside the mail. What cannot be read counts as a policy that was lost.
pub(super) fn listed(found: FoundPolicy<Enforced>) -> Option<Listed> {
    match found {
        FoundPolicy::Row(entry) => Some(listed_entry(entry)),
        FoundPolicy::Absent => None,
        FoundPolicy::Corrupt => Some(Listed::UNREADABLE),
    }
}

pub(super) fn listed_entry(Enforced { fetched_at, expires_at }: Enforced) -> Listed {
    Listed { fetched_at, expires_at }
}

/// [`None`] if the row cannot be what was written.
pub(super) fn read(row: &PolicyRow) -> Option<State> {
    let kept = match (&row.id, &row.body, row.fetched_at) {
        (None, None, None) => None,
        (Some(id), Some(body), Some(fetched_at)) => {
            let kept = CachedPolicy::new(Id::parse(id)?, body, fetched_at).ok()?;
            // By a clock in doubt it may have been stored with a later end.
            Some(Arc::new(kept.until_at_least(row.expires_at.unwrap_or(fetched_at))))
        }
        _ => return None,
    };
    let failed = match (&row.failed_id, row.failed_at) {
        (Some(id), Some(at)) => {
            Some(FailedFetch { id: Id::parse(id)?, at, count: row.failed_count })
        }
        _ => None,
    };
    Some(State {
        kept,
        fleeting: None,
        recent: State::recent_from_text(&row.recent_fetches),
        failed,
        first_fetch_failures: row.first_fetch_failures,
        dns_failing_since: row.dns_failing_since,
        none_seen_at: row.none_seen_at,
        first_used_at: row.first_used_at,
        last_used_at: row.last_used_at,
        known_since: row.known_since,
        alarms: State::alarms_from_text(row.alarm.as_deref().unwrap_or_default()),
        listed: None,
    })
}

/// The row that says `state`.
pub(super) fn row_of(domain: &HostName, state: &State) -> PolicyRow {
    let kept = state.kept.as_deref();
    let failed = state.failed.as_ref();
    let alarms = state.alarms_to_text();
    PolicyRow {
        domain: domain.clone(),
        fetched_at: kept.map(CachedPolicy::fetched_at),
        expires_at: kept.map(CachedPolicy::expires_at),
        id: kept.map(|kept| kept.id().as_str().into()),
        mode: kept.map(|kept| kept.policy().mode().as_str().into()),
        body: kept.map(|kept| kept.body().as_bytes().to_vec()),
        last_used_at: state.last_used_at,
        failed_id: failed.map(|failed| failed.id.as_str().into()),
        failed_at: failed.map(|failed| failed.at),
        failed_count: failed.map_or(0, |failed| failed.count),
        first_fetch_failures: state.first_fetch_failures,
        dns_failing_since: state.dns_failing_since,
        none_seen_at: state.none_seen_at,
        recent_fetches: state.recent_to_text().into(),
        alarm: (!alarms.is_empty()).then(|| alarms.into()),
        first_used_at: state.first_used_at,
        known_since: state.known_since,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use policy::sts::cache::{Alarm, RecentFetch};

    use super::*;

    const BODY: &[u8] = b"version: STSv1\nmode: enforce\nmx: mx.a.test\nmax_age: 86400\n";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn full() -> State {
        let id = |text| Id::parse(text).unwrap();
        State {
            kept: Some(Arc::new(CachedPolicy::new(id("one"), BODY, at(0)).unwrap())),
            fleeting: None,
            recent: vec![RecentFetch { at: at(0), id: id("one"), failed: false }],
            failed: Some(FailedFetch { id: id("two"), at: at(60), count: 3 }),
            first_fetch_failures: 2,
            dns_failing_since: Some(at(10)),
            none_seen_at: Some(at(20)),
            first_used_at: Some(at(25)),
            last_used_at: Some(at(30)),
            known_since: Some(at(-5)),
            alarms: [Alarm::RecordGone, Alarm::FetchFailing].into(),
            listed: None,
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let domain = HostName::parse("a.test").unwrap();
        let held_longer = || {
            let kept =
                CachedPolicy::clone(full().kept.as_deref().unwrap()).until_at_least(at(900_000));
            State { kept: Some(Arc::new(kept)), ..full() }
        };
        for state in [State::default(), full(), held_longer()] {
            assert_eq!(read(&row_of(&domain, &state)).as_ref(), Some(&state));
        }
    }

    #[test]
    fn a_damaged_row_is_damaged_and_not_none() {
        let domain = HostName::parse("a.test").unwrap();
        let good = row_of(&domain, &full());
        type Damage = fn(&mut PolicyRow);
        let cases: [(&str, Damage); 5] = [
            ("no body", |row| row.body = None),
            ("no time", |row| row.fetched_at = None),
            ("no id", |row| row.id = None),
            ("body cut off", |row| row.body = Some(BODY[..40].to_vec())),
            ("impossible id", |row| row.id = Some("a b".into())),
        ];
        for (what, damage) in cases {
            let mut row = good.clone();
            damage(&mut row);
            assert_eq!(stored(FoundPolicy::Row(row)), Stored::Damaged, "{what}");
        }
        assert_eq!(stored(FoundPolicy::Corrupt), Stored::Damaged);
        assert_eq!(stored(FoundPolicy::Absent), Stored::Absent);
        assert_eq!(listed(FoundPolicy::Corrupt), Some(Listed::UNREADABLE));
    }

    #[test]
    fn a_damaged_end_does_not_end_a_policy_sooner() {
        let domain = HostName::parse("a.test").unwrap();
        let mut row = row_of(&domain, &full());
        for expires_at in [None, Some(Timestamp::MIN), Some(at(1))] {
            row.expires_at = expires_at;
            assert_eq!(read(&row).unwrap(), full());
        }
    }
}
