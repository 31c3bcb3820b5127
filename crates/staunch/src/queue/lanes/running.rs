//! The attempts that hold a place: for how long, charged to whom, and who should make room.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use spool::LaneKey;

use super::accounts::{Charge, LaneClass};
use super::group::Group;
use super::rows::Limited;
use crate::delivery::yielding::PATIENCE;

/// Who is slow for so long, and has no mail to show for it, is not proven any more.
const PROOF_LASTS: Duration = Duration::from_secs(60);
/// Who is asked to make room and can, has ended by then. Our choice.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// The longest that time is believed to pass between two looks: the queue looks more often than
/// that, so what is more is a clock that was set.
const STEP_MAX: Duration = Duration::from_secs(35);

/// Time that passes, by a clock that may be set: it never runs back, and no jump makes everybody
/// old.
#[derive(Debug, Default)]
pub(super) struct Uptime {
    last: Option<Timestamp>,
    passed: Duration,
}

impl Uptime {
    /// Counts what passed since the last call, at most [`STEP_MAX`].
    pub(super) fn advance(&mut self, now: Timestamp) {
        let step = self.last.map(|last| now.duration_since(last));
        let step = step.and_then(|step| Duration::try_from(step).ok()).unwrap_or_default();
        self.passed += step.min(STEP_MAX);
        self.last = Some(now);
    }

    pub(super) fn passed(&self) -> Duration {
        self.passed
    }
}

/// An attempt, as long as it runs. Never used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Ticket(u64);

#[cfg(test)]
impl Ticket {
    /// Of an attempt that is made without a scheduler.
    pub(crate) const ALONE: Self = Self(0);
}

/// Was an attempt asked to make room?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum AskedToYield {
    /// No, it may go on.
    No,
    /// It was then, and has not ended yet.
    Yes(Duration),
    /// In vain: the host has the content.
    InVain,
}

/// An attempt that holds a place.
#[derive(Debug)]
pub(super) struct RunningAttempt {
    pub(super) lane: LaneKey,
    pub(super) charge: Charge,
    since: Duration,
    asked: AskedToYield,
}

/// For whose account is room needed?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Need {
    /// Any account will do.
    Any,
    /// That of new and troubled next hops together.
    Unproven,
    /// That of who is in trouble.
    Troubled,
    /// That of this registrable domain, until it has taken mail.
    Group(Group),
    /// What a client or a sender may have of the places of strangers.
    Limited(LaneClass, Limited),
}

impl Need {
    fn includes(self, charge: Charge) -> bool {
        match self {
            Self::Any => true,
            Self::Unproven => charge.class.is_unproven(),
            Self::Troubled => charge.class == LaneClass::Troubled,
            Self::Group(group) => charge.class.is_unproven() && charge.group == group,
            Self::Limited(LaneClass::Troubled, limited) => {
                charge.class == LaneClass::Troubled && limited.includes(charge.submitter)
            }
            Self::Limited(LaneClass::New | LaneClass::Proven, limited) => {
                charge.class.is_unproven() && limited.includes(charge.submitter)
            }
        }
    }
}

/// The attempts that run, by ticket.
#[derive(Debug, Default)]
pub(super) struct Running {
    attempts: HashMap<Ticket, RunningAttempt>,
    tickets: u64,
    /// When these took mail, of late.
    takings: HashMap<Group, Duration>,
}

impl Running {
    pub(super) fn begin(&mut self, lane: LaneKey, charge: Charge, uptime: &Uptime) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let attempt =
            RunningAttempt { lane, charge, since: uptime.passed(), asked: AskedToYield::No };
        self.attempts.insert(ticket, attempt);
        ticket
    }

    /// The attempt is over; none: it was taken out before.
    pub(super) fn end(&mut self, ticket: Ticket) -> Option<RunningAttempt> {
        self.attempts.remove(&ticket)
    }

    /// Whom their places are charged to.
    #[cfg(test)]
    pub(super) fn charges(&self) -> impl Iterator<Item = Charge> {
        self.attempts.values().map(|attempt| attempt.charge)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.attempts.len()
    }

    /// It cannot make room.
    pub(super) fn asked_in_vain(&mut self, ticket: Ticket) {
        if let Some(attempt) = self.attempts.get_mut(&ticket) {
            attempt.asked = AskedToYield::InVain;
        }
    }

    /// The charge of `ticket`, to be changed.
    pub(super) fn charge_mut(&mut self, ticket: Ticket) -> Option<&mut Charge> {
        self.attempts.get_mut(&ticket).map(|attempt| &mut attempt.charge)
    }

    /// Those that are slow and not charged as that, each with its lane.
    pub(super) fn newly_slow(&self, uptime: &Uptime) -> Vec<(Ticket, LaneKey)> {
        let is_new = |attempt: &RunningAttempt| {
            attempt.charge.class != LaneClass::Troubled && attempt.age(uptime) >= PATIENCE
        };
        let slow = self.attempts.iter().filter(|(_, attempt)| is_new(attempt));
        slow.map(|(ticket, attempt)| (*ticket, attempt.lane.clone())).collect()
    }

    /// An attempt there took mail.
    pub(super) fn took_mail(&mut self, group: Group, uptime: &Uptime) {
        self.takings.insert(group, uptime.passed());
    }

    /// What is too long ago says nothing.
    pub(super) fn forget_takings(&mut self, uptime: &Uptime) {
        let passed = uptime.passed();
        self.takings.retain(|_, at| passed.saturating_sub(*at) < PROOF_LASTS);
    }

    /// The groups of those that have been slow for so long that nothing is proven by former mail:
    /// unless other attempts there took some meanwhile.
    pub(super) fn disproven(&self, uptime: &Uptime) -> impl Iterator<Item = Group> {
        let long = self.attempts.values().filter(|attempt| attempt.age(uptime) >= PROOF_LASTS);
        let takes_none = |group: &Group| {
            let at = self.takings.get(group);
            at.is_none_or(|at| uptime.passed().saturating_sub(*at) >= PROOF_LASTS)
        };
        long.map(|attempt| attempt.charge.group).filter(takes_none)
    }

    /// The longest running ones that should make room so that `wanted` others can begin, without
    /// those that do already.
    pub(super) fn ask_to_give_way(
        &mut self,
        need: Need,
        wanted: usize,
        uptime: &Uptime,
    ) -> Vec<Ticket> {
        let passed = uptime.passed();
        for attempt in self.attempts.values_mut() {
            // It began with the content at that moment, or is being settled.
            if let AskedToYield::Yes(at) = attempt.asked
                && passed.saturating_sub(at) > ANSWERED_WITHIN
            {
                attempt.asked = AskedToYield::InVain;
            }
        }
        let its = self.attempts.iter_mut().filter(|(_, attempt)| need.includes(attempt.charge));
        let (asked, free): (Vec<_>, Vec<_>) =
            its.partition(|(_, attempt)| matches!(attempt.asked, AskedToYield::Yes(_)));
        let mut slow: Vec<_> = free
            .into_iter()
            .filter(|(_, attempt)| {
                attempt.asked == AskedToYield::No && attempt.age(uptime) >= PATIENCE
            })
            .collect();
        slow.sort_unstable_by_key(|(ticket, attempt)| (attempt.since, **ticket));
        slow.truncate(wanted.saturating_sub(asked.len()));
        let asked = slow.into_iter().map(|(ticket, attempt)| {
            attempt.asked = AskedToYield::Yes(passed);
            *ticket
        });
        asked.collect()
    }
}

impl RunningAttempt {
    fn age(&self, uptime: &Uptime) -> Duration {
        uptime.passed().saturating_sub(self.since)
    }
}
