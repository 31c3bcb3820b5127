//! `[[limit]]` with `mx`: what all hosts of one site share.

use std::sync::Arc;
use std::time::Duration;

use smtp::Domain;
use tokio::time::Instant;

use crate::config::{Limit, most_specific};

/// Ours: how long an attempt waits for its turn in place. Beyond that its lane waits instead, which holds no
/// place that other mail could use.
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
    /// Places taken.
    pub(super) open: usize,
    /// When the next message may begin; never, so at once, if none did yet.
    next: Option<Instant>,
    /// Shared by all who wait.
    line: Arc<()>,
}

/// One who waits for a site, for a turn or for a place. Counts as long as it lives, so also a wait that is
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

    /// A place in the line, unless `most` have one.
    pub(super) fn line_up(&self, most: usize) -> Option<InLine> {
        // One of them is that of the site itself.
        (Arc::strong_count(&self.line) <= most).then(|| InLine { _line: Arc::clone(&self.line) })
    }

    /// A turn for one message: when. None if it is too far off to wait for.
    ///
    /// Turns are handed out evenly over the minute, so no minute has more than its number.
    fn turn(&mut self, limit: &Limit, now: Instant) -> Option<Instant> {
        let Some(per_minute) = limit.messages_per_minute else { return Some(now) };
        let interval = MINUTE / u32::try_from(per_minute).unwrap_or(u32::MAX);
        let turn = self.next.map_or(now, |next| next.max(now));
        if turn.duration_since(now) > TURN_WAIT_MAX {
            return None;
        }
        self.next = Some(turn + interval);
        Some(turn)
    }

    /// A turn, and a place in the line if it is one to wait for. None if it is too far off, or `most` wait.
    pub(super) fn turn_in_line(
        &mut self,
        limit: &Limit,
        now: Instant,
        most: usize,
    ) -> Option<(Instant, Option<InLine>)> {
        let line = self.line_up(most);
        let is_now = self.next.is_none_or(|next| next <= now);
        if line.is_none() && limit.messages_per_minute.is_some() && !is_now {
            return None;
        }
        let turn = self.turn(limit, now)?;
        Some((turn, line.filter(|_| turn > now)))
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
        let seconds = |turn: Option<Instant>| turn.map(|turn| turn.duration_since(now).as_secs());
        let turns: Vec<_> = (0..5).map(|_| seconds(site.turn(&limit, now))).collect();
        assert_eq!(turns, [Some(0), Some(10), Some(20), Some(30), None]);
        let later = now + Duration::from_secs(35);
        assert_eq!(seconds(site.turn(&limit, later)), Some(40));
        let idle = now + Duration::from_secs(500);
        assert_eq!(seconds(site.turn(&limit, idle)), Some(500), "turns that nobody took are gone");
    }
}
