//! What is remembered about a domain, as a row of the store and back.

use std::sync::Arc;

use policy::sts::keep::{FailedFetch, State};
use policy::sts::{Id, Kept};
use smtp::HostName;
use spool::{Found, PolicyRow};

/// What the row says. A row that cannot be read counts as a lost policy, not as none.
pub(super) fn state_of(found: Found<PolicyRow>) -> State {
    match found {
        Found::Row(row) => read(&row).unwrap_or_else(State::lost),
        Found::Absent => State::default(),
        Found::Corrupt => State::lost(),
    }
}

/// [`None`] if the row cannot be what was written.
pub(super) fn read(row: &PolicyRow) -> Option<State> {
    let kept = match (&row.id, &row.body, row.fetched_at) {
        (None, None, None) => None,
        (Some(id), Some(body), Some(fetched_at)) => {
            Some(Arc::new(Kept::new(Id::parse(id)?, body, fetched_at).ok()?))
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
        last_used_at: row.last_used_at,
        alarms: State::alarms_from_text(row.alarm.as_deref().unwrap_or_default()),
    })
}

pub(super) fn row_of(domain: &HostName, state: &State) -> PolicyRow {
    let kept = state.kept.as_deref();
    let failed = state.failed.as_ref();
    let alarms = state.alarms_to_text();
    PolicyRow {
        domain: domain.clone(),
        fetched_at: kept.map(Kept::fetched_at),
        expires_at: kept.map(Kept::expires_at),
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
        first_used_at: None,
        known_since: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use policy::sts::keep::{Alarm, RecentFetch};

    const BODY: &[u8] = b"version: STSv1\nmode: enforce\nmx: mx.a.test\nmax_age: 86400\n";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn full() -> State {
        let id = |text| Id::parse(text).unwrap();
        State {
            kept: Some(Arc::new(Kept::new(id("one"), BODY, at(0)).unwrap())),
            fleeting: None,
            recent: vec![RecentFetch { at: at(0), id: id("one"), failed: false }],
            failed: Some(FailedFetch { id: id("two"), at: at(60), count: 3 }),
            first_fetch_failures: 2,
            dns_failing_since: Some(at(10)),
            none_seen_at: Some(at(20)),
            last_used_at: Some(at(30)),
            alarms: [Alarm::RecordGone, Alarm::FetchFailing].into(),
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let domain = HostName::parse("a.test").unwrap();
        for state in [State::default(), State::lost(), full()] {
            assert_eq!(read(&row_of(&domain, &state)).as_ref(), Some(&state));
        }
    }

    #[test]
    fn a_damaged_row_is_a_lost_policy_and_not_none() {
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
            assert_eq!(state_of(Found::Row(row)), State::lost(), "{what}");
        }
        assert_eq!(state_of(Found::Corrupt), State::lost());
        assert_eq!(state_of(Found::Absent), State::default());
    }
}
