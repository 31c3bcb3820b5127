//! How mail for one domain goes, leg by leg: what is asked, which hosts there are, and what it
//! comes to if none of them takes it. An attempt and `staunch explain` go by the same plan.

use policy::{Asked, Onward};

use crate::config::Config;
use crate::delivery::hosts::{self, Candidate};
use crate::delivery::outbound::Outbound;
use crate::delivery::outcome::{AgeCounts, AttemptError, Demand, MxEvidence, Walk};
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

/// Under a clock that may be wrong no certificate shows that it is bad.
fn demand(outbound: &Outbound, onward: Onward) -> Demand {
    match (onward, outbound.age_counts()) {
        (Onward::RequireTls, AgeCounts::Yes) => Demand::RequireTls,
        (Onward::RequireTls, AgeCounts::ClockSuspect) | (Onward::Anyhow, _) => Demand::Patient,
    }
}
