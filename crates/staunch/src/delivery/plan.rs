//! How mail for one domain goes, leg by leg: what is asked, which hosts there are, and what it
//! comes to if none of them takes it. An attempt and `staunch explain` go by the same plan.

use std::collections::VecDeque;

use policy::{Asked, Onward};

use crate::config::{CleartextFallback, Config};
use crate::connect::Starttls;
use crate::delivery::hosts::{self, Candidate};
use crate::delivery::outbound::Outbound;
use crate::delivery::outcome::{AgeCounts, AttemptError, Demand, HostError, MxEvidence, Walk};
use crate::delivery::rendition::Converting;
use crate::delivery::requirement::{self, Local};
use crate::delivery::route::{Leg, NextHop};
use crate::dns::Freshness;
use crate::policies::PolicyWatch;
use crate::telemetry::Problem;

/// The way to one next hop, as far as it was gone.
pub(crate) struct DeliveryPlan<'a> {
    outbound: &'a Outbound,
    config: &'a Config,
    next_hop: &'a NextHop,
    local: Local,
    freshness: Freshness,
    /// The first leg of which is known what is asked.
    bound: Option<(&'a Leg, Asked)>,
    /// What became of the hosts.
    pub(crate) walk: Walk,
}

impl<'a> DeliveryPlan<'a> {
    /// For mail with such a wish for the way behind `next_hop`. DNS is asked as `freshness` says.
    pub(crate) fn new(
        outbound: &'a Outbound,
        config: &'a Config,
        next_hop: &'a NextHop,
        (onward, freshness): (Onward, Freshness),
    ) -> Self {
        let local = Local { floor: next_hop.floor, onward };
        let walk = Walk::new(demand(outbound, onward));
        Self { outbound, config, next_hop, local, freshness, bound: None, walk }
    }

    /// What is asked of the hosts of `leg`; `None` if that cannot be known now. With a watch on the
    /// policy, which shows from when on it is outdated.
    pub(crate) async fn ask(&mut self, leg: &'a Leg) -> (Option<Asked>, Option<PolicyWatch>) {
        let Self { outbound, config, local, freshness, .. } = *self;
        let (asked, watch) = requirement::watched(outbound, config, leg, local, freshness).await;
        match asked {
            Ok(asked) => {
                self.bound.get_or_insert_with(|| (leg, asked.clone()));
                (Some(asked), watch)
            }
            Err(error) => {
                self.walk.leg_failed(error);
                (None, watch)
            }
        }
    }

    /// The hosts of `leg` in the order in which they are tried.
    ///
    /// # Errors
    ///
    /// Why there are none; the walk knows it already.
    pub(crate) async fn candidates(
        &mut self,
        leg: &Leg,
        asked: &Asked,
    ) -> Result<Vec<Candidate>, Problem> {
        let Self { outbound, config, next_hop, freshness, .. } = *self;
        let found = hosts::candidates(outbound, config, next_hop, leg, (asked, freshness)).await;
        found.map_err(|error| {
            let problem = error.problem();
            self.walk.leg_failed(error);
            problem
        })
    }

    /// What the walk comes to, with a look at what speaks against hearsay: also what the first leg
    /// was asked of which that was known.
    pub(crate) async fn conclude(self) -> AttemptError {
        let (leg, asked) = match &self.bound {
            Some((leg, asked)) => (Some(*leg), Some(asked)),
            None => (self.next_hop.legs.first(), None),
        };
        let evidence = match leg.filter(|_| self.walk.is_hearsay()) {
            Some(leg) => hosts::evidence(self.outbound, leg, asked).await,
            None => MxEvidence::Uncontested,
        };
        self.walk.into_error(evidence)
    }
}

/// In which manner a host is tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TryOptions {
    pub(crate) starttls: Starttls,
    pub(crate) converting: Converting,
}

/// The hosts of a leg, in the order in which they are tried: one after the other; then those again
/// that take the message in another form than its own; and at last, where nothing is required and
/// TLS broke, in clear text.
#[derive(Debug)]
pub(crate) struct HostOrder {
    first: VecDeque<Candidate>,
    convert: VecDeque<Candidate>,
    clear: VecDeque<Candidate>,
    may_go_clear: bool,
}

impl HostOrder {
    /// For mail that asks for this of a connection. `is_retry`: an attempt on it has failed before.
    pub(crate) fn new(
        candidates: Vec<Candidate>,
        fallback: CleartextFallback,
        asked: &Asked,
        is_retry: Retry,
    ) -> Self {
        let is_allowed = match fallback {
            CleartextFallback::Never => false,
            CleartextFallback::SecondAttempt => is_retry == Retry::Yes,
            CleartextFallback::Immediate => true,
        };
        Self {
            first: candidates.into(),
            convert: VecDeque::new(),
            clear: VecDeque::new(),
            may_go_clear: is_allowed && !asked.binding.needs_tls(),
        }
    }

    /// The next one.
    pub(crate) fn next(&mut self) -> Option<(Candidate, TryOptions)> {
        let options = |starttls, converting| TryOptions { starttls, converting };
        let first =
            self.first.pop_front().map(|it| (it, options(Starttls::Use, Converting::Later)));
        let again = || Some((self.convert.pop_front()?, options(Starttls::Use, Converting::Now)));
        first
            .or_else(again)
            .or_else(|| Some((self.clear.pop_front()?, options(Starttls::Skip, Converting::Now))))
    }

    /// The host does not take eight bits: the others come first.
    pub(crate) fn convert_later(&mut self, candidate: Candidate) {
        self.convert.push_back(candidate);
    }

    /// The host failed so. Clear text follows a failed STARTTLS when the operator allows; not to a
    /// host that lately did better: it fails in another way ([`HostError::StarttlsGone`]).
    pub(crate) fn failed(&mut self, candidate: Candidate, options: TryOptions, error: &HostError) {
        let HostError::Connect(failure) = error else { return };
        if self.may_go_clear && options.starttls == Starttls::Use && failure.is_tls() {
            self.clear.push_back(candidate);
        }
    }
}

/// Was the mail tried before?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Retry {
    /// An attempt has failed.
    Yes,
    /// It is its first one.
    No,
}

/// Under a clock that may be wrong no certificate shows that it is bad.
fn demand(outbound: &Outbound, onward: Onward) -> Demand {
    match (onward, outbound.age_counts()) {
        (Onward::RequireTls, AgeCounts::Yes) => Demand::RequireTls,
        (Onward::RequireTls, AgeCounts::ClockSuspect) | (Onward::Anyhow, _) => Demand::Patient,
    }
}
