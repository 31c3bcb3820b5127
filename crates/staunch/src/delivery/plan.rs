//! How mail for one domain goes, destination by destination: what is asked, which hosts there are,
//! and what it comes to if none of them takes it. An attempt and `staunch explain` go by the same
//! plan.

use std::collections::VecDeque;

use policy::{Asked, RequireTls};

use crate::config::{CleartextFallback, Config};
use crate::connect::Starttls;
use crate::delivery::hosts::{self, Candidate};
use crate::delivery::outbound::Outbound;
use crate::delivery::outcome::{AgeCounts, AttemptError, Demand, HostError, MxEvidence, Walk};
use crate::delivery::rendition::Converting;
use crate::delivery::requirement::{self, Local};
use crate::delivery::route::{Destination, NextHop};
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
    /// The first destination of which is known what is asked.
    bound: Option<(&'a Destination, Asked)>,
    /// What became of the hosts.
    pub(crate) walk: Walk,
}

impl<'a> DeliveryPlan<'a> {
    /// For mail with such a wish for the way behind `next_hop`. DNS is asked as `freshness` says.
    pub(crate) fn new(
        outbound: &'a Outbound,
        config: &'a Config,
        next_hop: &'a NextHop,
        (require_tls, freshness): (RequireTls, Freshness),
    ) -> Self {
        let local = Local { floor: next_hop.floor, require_tls };
        let walk = Walk::new(demand(outbound, require_tls));
        Self { outbound, config, next_hop, local, freshness, bound: None, walk }
    }

    /// What is asked of the hosts of `destination`; `None` if that cannot be known now. With a
    /// watch on the policy, which shows from when on it is outdated.
    pub(crate) async fn ask(
        &mut self,
        destination: &'a Destination,
    ) -> (Option<Asked>, Option<PolicyWatch>) {
        let Self { outbound, config, local, freshness, .. } = *self;
        let (asked, watch) =
            requirement::watched(outbound, config, destination, local, freshness).await;
        match asked {
            Ok(asked) => {
                self.bound.get_or_insert_with(|| (destination, asked.clone()));
                (Some(asked), watch)
            }
            Err(error) => {
                self.walk.destination_failed(error);
                (None, watch)
            }
        }
    }

    /// The hosts of `destination` in the order in which they are tried.
    ///
    /// # Errors
    ///
    /// Why there are none; the walk knows it already.
    pub(crate) async fn candidates(
        &mut self,
        destination: &Destination,
        asked: &Asked,
    ) -> Result<Vec<Candidate>, Problem> {
        let Self { outbound, config, next_hop, freshness, .. } = *self;
        let found =
            hosts::candidates(outbound, config, next_hop, destination, (asked, freshness)).await;
        found.map_err(|error| {
            let problem = error.problem();
            self.walk.destination_failed(error);
            problem
        })
    }

    /// What the walk comes to, with a look at what speaks against hearsay: also what the first
    /// destination was asked of which that was known.
    pub(crate) async fn conclude(self) -> AttemptError {
        let (destination, asked) = match &self.bound {
            Some((destination, asked)) => (Some(*destination), Some(asked)),
            None => (self.next_hop.destinations.first(), None),
        };
        let evidence = match destination.filter(|_| self.walk.is_hearsay()) {
            Some(destination) => hosts::evidence(self.outbound, destination, asked).await,
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

/// The hosts of a destination, in the order in which they are tried: one after the other; then
/// those again that take the message in another form than its own; and at last, where nothing is
/// required and TLS broke, in clear text.
#[derive(Debug)]
pub(crate) struct HostOrder {
    first: VecDeque<Candidate>,
    convert: VecDeque<Candidate>,
    clear: VecDeque<Candidate>,
    may_go_clear: bool,
}

impl HostOrder {
    /// For mail that asks for this of a connection.
    pub(crate) fn new(
        candidates: Vec<Candidate>,
        fallback: CleartextFallback,
        asked: &Asked,
        retry: Retry,
    ) -> Self {
        let is_allowed = match fallback {
            CleartextFallback::Never => false,
            CleartextFallback::SecondAttempt => retry == Retry::Yes,
            CleartextFallback::Immediate => true,
        };
        Self {
            first: candidates.into(),
            convert: VecDeque::new(),
            clear: VecDeque::new(),
            may_go_clear: is_allowed && !asked.enforced.needs_tls(),
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
fn demand(outbound: &Outbound, require_tls: RequireTls) -> Demand {
    match (require_tls, outbound.age_counts()) {
        (RequireTls::Yes, AgeCounts::Yes) => Demand::RequireTls,
        (RequireTls::Yes, AgeCounts::ClockSuspect) | (RequireTls::No, _) => Demand::Patient,
    }
}
