//! Which name servers are in use? Decided here without asking any; time comes from the caller.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// How long a server is left out before it is examined again. Our choice: what mail may wait for
/// it.
const OUT_FOR: Duration = Duration::from_secs(60);
/// Our choice: how often a server is examined at most, however many names go wrong.
const EXAMINED_EVERY: Duration = Duration::from_secs(10);
/// How long a server is taken for one without EDNS. Our choice: one question an hour too many costs
/// nothing.
const WITHOUT_EDNS_FOR: Duration = Duration::from_secs(60 * 60);

/// What is known of the servers, by their number in the configuration.
#[derive(Debug)]
pub(super) struct Standings(Vec<ServerStanding>);

#[derive(Clone, Debug, Default)]
struct ServerStanding {
    /// Left out; examined again after this.
    out_until: Option<Instant>,
    examined_at: Option<Instant>,
    without_edns_until: Option<Instant>,
    /// What it said to the last control question, if that went wrong.
    fault: Option<Arc<str>>,
    /// Somebody was told that it is out.
    is_told: bool,
}

/// Is a server asked?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StandingState {
    /// It is asked, in its turn.
    InUse,
    /// It fails the control question, but there is no better one.
    Failing,
    /// It is left out for now.
    Out,
}

impl StandingState {
    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::InUse => "in_use",
            Self::Failing => "failing",
            Self::Out => "out",
        }
    }
}

/// What became of a server that failed the control question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ServerVerdict {
    /// It is left out; news.
    TakenOut,
    /// It is left out, as was said before.
    StillOut,
    /// It is the last one, so it stays, and the others are tried again.
    Last,
}

impl Standings {
    pub(super) fn of(servers: usize) -> Self {
        Self(vec![ServerStanding::default(); servers])
    }

    /// Who is asked, in this order; never nobody, unless there is nobody at all.
    pub(super) fn order(&self) -> Vec<usize> {
        let in_use = self.0.iter().enumerate().filter(|(_, one)| one.out_until.is_none());
        in_use.map(|(number, _)| number).collect()
    }

    /// Who was left out for long enough.
    pub(super) fn overdue(&self, now: Instant) -> Vec<usize> {
        let is_over = |one: &ServerStanding| one.out_until.is_some_and(|until| until <= now);
        let over = self.0.iter().enumerate().filter(|(_, one)| is_over(one));
        over.map(|(number, _)| number).collect()
    }

    /// Is it time for a control question? If so, the next one is not for a while.
    pub(super) fn begin_examination(&mut self, number: usize, now: Instant) -> bool {
        let Some(one) = self.0.get_mut(number) else { return false };
        if one.examined_at.is_some_and(|at| now < at + EXAMINED_EVERY) {
            return false;
        }
        one.examined_at = Some(now);
        true
    }

    /// It answered the control question. Was it left out?
    pub(super) fn passed(&mut self, number: usize) -> bool {
        let Some(one) = self.0.get_mut(number) else { return false };
        one.fault = None;
        one.out_until = None;
        std::mem::take(&mut one.is_told)
    }

    /// It did not answer the control question, or wrongly: `fault` says how.
    pub(super) fn failed(&mut self, number: usize, fault: &str, now: Instant) -> ServerVerdict {
        let is_other_in_use = self.order().iter().any(|other| *other != number);
        if !is_other_in_use {
            // Nobody is better: one of the others may have recovered.
            self.0.iter_mut().for_each(|one| one.out_until = None);
        }
        let Some(one) = self.0.get_mut(number) else { return ServerVerdict::Last };
        one.fault = Some(fault.into());
        if !is_other_in_use {
            return ServerVerdict::Last;
        }
        one.out_until = Some(now + OUT_FOR);
        if std::mem::replace(&mut one.is_told, true) {
            ServerVerdict::StillOut
        } else {
            ServerVerdict::TakenOut
        }
    }

    /// It answers without EDNS what it does not understand with it.
    pub(super) fn knows_no_edns(&mut self, number: usize, now: Instant) {
        if let Some(one) = self.0.get_mut(number) {
            one.without_edns_until = Some(now + WITHOUT_EDNS_FOR);
        }
    }

    pub(super) fn uses_edns(&self, number: usize, now: Instant) -> bool {
        let until = self.0.get(number).and_then(|one| one.without_edns_until);
        until.is_none_or(|until| until <= now)
    }

    pub(super) fn state(&self, number: usize) -> StandingState {
        match self.0.get(number) {
            Some(ServerStanding { out_until: Some(_), .. }) => StandingState::Out,
            Some(ServerStanding { fault: Some(_), .. }) => StandingState::Failing,
            Some(_) | None => StandingState::InUse,
        }
    }

    pub(super) fn fault(&self, number: usize) -> Option<Arc<str>> {
        self.0.get(number)?.fault.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_fails_the_control_question_is_left_out_until_it_passes() {
        let (mut servers, now) = (Standings::of(3), Instant::now());
        assert_eq!(servers.order(), [0, 1, 2]);
        assert_eq!(servers.failed(0, "REFUSED", now), ServerVerdict::TakenOut);
        assert_eq!((servers.order(), servers.state(0)), (vec![1, 2], StandingState::Out));
        assert!(servers.overdue(now + OUT_FOR - Duration::from_secs(1)).is_empty());
        assert_eq!(servers.overdue(now + OUT_FOR), [0]);
        assert_eq!(servers.failed(0, "REFUSED", now + OUT_FOR), ServerVerdict::StillOut);
        assert!(servers.overdue(now + OUT_FOR).is_empty());
        assert!(servers.passed(0));
        assert_eq!((servers.order(), servers.state(0)), (vec![0, 1, 2], StandingState::InUse));
        assert!(!servers.passed(0), "that is no news");
    }

    #[test]
    fn the_last_server_is_never_left_out_and_brings_the_others_back() {
        let (mut servers, now) = (Standings::of(2), Instant::now());
        assert_eq!(servers.failed(1, "SERVFAIL", now), ServerVerdict::TakenOut);
        assert_eq!(servers.failed(0, "timed out", now), ServerVerdict::Last);
        assert_eq!((servers.order(), servers.state(0)), (vec![0, 1], StandingState::Failing));
        let mut alone = Standings::of(1);
        assert_eq!(alone.failed(0, "SERVFAIL", now), ServerVerdict::Last);
        assert_eq!(alone.order(), [0]);
    }

    #[test]
    fn a_server_is_not_examined_for_every_name_that_goes_wrong() {
        let (mut servers, now) = (Standings::of(1), Instant::now());
        assert!(servers.begin_examination(0, now));
        assert!(!servers.begin_examination(0, now + EXAMINED_EVERY - Duration::from_millis(1)));
        assert!(servers.begin_examination(0, now + EXAMINED_EVERY));
    }

    #[test]
    fn that_a_server_has_no_edns_is_forgotten_after_an_hour() {
        let (mut servers, now) = (Standings::of(1), Instant::now());
        servers.knows_no_edns(0, now);
        assert!(!servers.uses_edns(0, now + WITHOUT_EDNS_FOR - Duration::from_secs(1)));
        assert!(servers.uses_edns(0, now + WITHOUT_EDNS_FOR));
    }
}
