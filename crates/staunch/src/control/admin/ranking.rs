//! `queue list --sort`: the first rows in another order than that of the queue. Each row is looked
//! at, and no more are kept than are wanted.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::answer::AdminRefused;
use crate::control::api::{ListedRecipient, MailState, SORTED_ROWS_MAX, SortBy};

/// Rows in order.
#[derive(Debug)]
pub(super) struct Ranking {
    by: SortBy,
    limit: usize,
    seen: u64,
    /// By rank, then by the order of the queue.
    rows: BTreeMap<(Rank, u64), ListedRecipient>,
}

/// Only ranks of the same order are compared. What is not known comes last.
#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Rank {
    Number(i64),
    Address(String, String),
    Unknown,
}

impl Ranking {
    /// The first rows by this order. One more than the most is for whoever wants to know whether
    /// there are more.
    pub(super) fn new(by: SortBy, limit: Option<u64>) -> Result<Self, AdminRefused> {
        let limit = limit.unwrap_or(SORTED_ROWS_MAX);
        if limit > SORTED_ROWS_MAX + 1 {
            let text = format!("limit: a list in another order has {SORTED_ROWS_MAX} rows at most");
            return Err(AdminRefused::bad(text));
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(Self { by, limit, seen: 0, rows: BTreeMap::new() })
    }

    pub(super) fn add(&mut self, row: ListedRecipient) {
        self.rows.insert((rank(self.by, &row), self.seen), row);
        self.seen += 1;
        if self.rows.len() > self.limit {
            self.rows.pop_last();
        }
    }

    pub(super) fn rows(self) -> impl Iterator<Item = ListedRecipient> {
        self.rows.into_values()
    }
}

fn rank(by: SortBy, row: &ListedRecipient) -> Rank {
    let number = |number: Option<i64>| number.map_or(Rank::Unknown, Rank::Number);
    let milliseconds = |time: Option<Timestamp>| time.map(Timestamp::as_millisecond);
    match by {
        SortBy::Age => number(milliseconds(row.arrived_at)),
        SortBy::Newest => number(milliseconds(row.arrived_at).map(|time| -time)),
        SortBy::Size => number(row.size.map(|size| -size.try_into().unwrap_or(i64::MAX))),
        SortBy::Next => match row.state {
            MailState::Held => Rank::Unknown,
            MailState::Queued | MailState::Sending => number(milliseconds(row.next_attempt_at)),
        },
        SortBy::Recipient => {
            let (local, domain) = row.recipient.rsplit_once('@').unwrap_or((&row.recipient, ""));
            Rank::Address(domain.to_ascii_lowercase(), local.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(recipient: &str, state: &str, size: Option<u64>, second: u32) -> ListedRecipient {
        let time = format!("2026-01-01T00:00:{second:02}Z");
        let row = json!({
            "recipient": recipient, "state": state, "size": size,
            "arrived_at": time, "next_attempt_at": time,
        });
        serde_json::from_value(row).unwrap()
    }

    fn ranked(by: SortBy, limit: u64) -> Vec<String> {
        let mut ranking = Ranking::new(by, Some(limit)).unwrap();
        for row in [
            row("c@B.test", "queued", Some(5), 7),
            row("b@b.test", "held", Some(9), 1),
            row("x@a.test", "sending", None, 3),
            row("d@c.test", "queued", Some(9), 7),
        ] {
            ranking.add(row);
        }
        ranking.rows().map(|row| row.recipient).collect()
    }

    #[test]
    fn rows_come_in_the_order_that_is_asked_for_and_equal_ones_in_that_of_the_queue() {
        let orders = [
            (SortBy::Age, ["b@b.test", "x@a.test", "c@B.test", "d@c.test"]),
            (SortBy::Newest, ["c@B.test", "d@c.test", "x@a.test", "b@b.test"]),
            (SortBy::Size, ["b@b.test", "d@c.test", "c@B.test", "x@a.test"]),
            (SortBy::Next, ["x@a.test", "c@B.test", "d@c.test", "b@b.test"]),
            (SortBy::Recipient, ["x@a.test", "b@b.test", "c@B.test", "d@c.test"]),
        ];
        for (by, want) in orders {
            assert_eq!(ranked(by, 9), want, "{by:?}");
            assert_eq!(ranked(by, 2), want[..2], "{by:?}");
        }
        assert!(Ranking::new(SortBy::Size, Some(SORTED_ROWS_MAX + 2)).is_err());
    }
}
