//! `[[limit]]` with `mx`: what all hosts of one site share.

use std::sync::Arc;
use std::time::Duration;

use smtp::Domain;
use tokio::time::Instant;

use crate::config::{Limit, most_specific};

/// Our choice: how long an attempt waits for its turn in place. Beyond that its lane waits instead,
/// which holds no place that other mail could use.
const TURN_WAIT_MAX: Duration = Duration::from_secs(30);
/// What `messages_per_minute` is about.
const MINUTE: Duration = Duration::from_secs(60);

/// The limit for `host`, if one is about it.
pub(crate) fn site_limit<'a>(limits: &'a [Limit], host: &Domain) -> Option<&'a Limit> {
    most_specific(limits, |limit| limit.mx.as_slice(), host.name()?)
}

/// Its place in the list.
pub(super) fn site_of(limits: &[Limit], host: &Domain) -> Option<usize> {
    let found = site_limit(limits, host)?;
    limits.iter().position(|limit| std::ptr::eq(limit, found))
}

/// What hosts of one site have now.
#[derive(Debug, Default)]
pub(super) struct Site {
    /// Places of the pool that its hosts have taken.
    pub(super) open: usize,
    /// When the next message may begin; never, so at once, if none did yet.
    next: Option<Instant>,
    /// Shared by all who wait.
    line: Arc<()>,
}

/// When a message may begin.
#[derive(Debug)]
pub(super) enum RateSlot {
    /// At once: no rate is set, or it is not used up.
    Now,
    /// Then; the place in the line is kept until it is.
    At(Instant, InLine),
    /// Not before so long; that is too far off to wait for it.
    TooFar(Duration),
}

/// One who waits for a turn. Counts as long as it lives, so also a wait that is
/// dropped needs no farewell.
#[derive(Debug)]
pub(super) struct InLine {
    _line: Arc<()>,
}

impl Site {
    /// Is there another place?
    pub(super) fn has_room(&self, limit: &Limit) -> bool {
        limit.connections.is_none_or(|most| self.open < most)
    }

    /// When one message may begin.
    ///
    /// Turns are handed out evenly over the minute, so no minute has more than its number. So many
    /// as may have a connection wait for theirs, and `most` where that is not limited: the others
    /// are told when to come again.
    pub(super) fn turn_in_line(&mut self, limit: &Limit, now: Instant, most: usize) -> RateSlot {
        let Some(per_minute) = limit.messages_per_minute else { return RateSlot::Now };
        let interval = MINUTE / u32::try_from(per_minute).unwrap_or(u32::MAX);
        let turn = self.next.map_or(now, |next| next.max(now));
        let wait = turn.duration_since(now);
        // One of them is that of the site itself.
        let in_line = Arc::strong_count(&self.line) - 1;
        let most = limit.connections.unwrap_or(most).max(1);
        if !wait.is_zero() && (wait > TURN_WAIT_MAX || in_line >= most) {
            return RateSlot::TooFar(wait);
        }
        self.next = Some(turn + interval);
        if wait.is_zero() {
            RateSlot::Now
        } else {
            RateSlot::At(turn, InLine { _line: Arc::clone(&self.line) })
        }
    }
}

#[cfg(test)]
mod tests {
    use smtp::HostName;

    use super::*;
    use crate::config::DomainPattern;

    fn limit(index: usize, mx: &str, per_minute: usize) -> Limit {
        Limit {
            index,
            domains: Vec::new(),
            mx: vec![DomainPattern::parse(mx).unwrap()],
            connections: None,
            messages_per_minute: Some(per_minute),
        }
    }

    #[test]
    fn the_closest_pattern_is_the_site() {
        let limits = [limit(0, "*", 1), limit(1, "*.google.com", 1), limit(2, "a.google.com", 1)];
        let host = |name| Domain::Name(HostName::parse(name).unwrap());
        for (name, want) in [("mx.test", 0), ("b.c.google.com", 1), ("A.google.com", 2)] {
            assert_eq!(site_of(&limits, &host(name)), Some(want), "{name}");
        }
        assert_eq!(site_of(&limits[1..], &host("google.com")), None);
        assert_eq!(site_of(&limits, &Domain::Literal("192.0.2.1".parse().unwrap())), None);
    }

    #[test]
    fn turns_are_spread_over_the_minute_and_not_promised_far_ahead() {
        let limit = limit(0, "*", 6);
        let (mut site, now) = (Site::default(), Instant::now());
        let mut lines = Vec::new();
        let mut seconds = |site: &mut Site, at: Instant| match site.turn_in_line(&limit, at, 10) {
            RateSlot::Now => Ok(at.duration_since(now).as_secs()),
            RateSlot::At(turn, line) => {
                lines.push(line);
                Ok(turn.duration_since(now).as_secs())
            }
            RateSlot::TooFar(wait) => Err(wait.as_secs()),
        };
        let turns: Vec<_> = (0..5).map(|_| seconds(&mut site, now)).collect();
        assert_eq!(turns, [Ok(0), Ok(10), Ok(20), Ok(30), Err(40)]);
        assert_eq!(seconds(&mut site, now + Duration::from_secs(35)), Ok(40));
        let idle = now + Duration::from_secs(500);
        assert_eq!(seconds(&mut site, idle), Ok(500), "turns that nobody took are gone");
    }

    #[test]
    fn as_many_wait_for_their_turn_as_may_have_a_connection() {
        let limit = Limit { connections: Some(1), ..limit(0, "*", 60) };
        let (mut site, now) = (Site::default(), Instant::now());
        assert!(matches!(site.turn_in_line(&limit, now, 10), RateSlot::Now));
        let first = site.turn_in_line(&limit, now, 10);
        assert!(matches!(first, RateSlot::At(..)));
        assert!(matches!(site.turn_in_line(&limit, now, 10), RateSlot::TooFar(_)));
        drop(first);
        assert!(matches!(site.turn_in_line(&limit, now, 10), RateSlot::At(..)));
    }
}
