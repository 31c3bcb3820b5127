//! What a walk over several hosts comes to when none of them took the mail.

use smtp::Domain;

use super::error::{AttemptError, Conclusive, Finality, HostError, MxEvidence};

/// The failures of one attempt so far.
#[derive(Debug)]
pub(crate) struct Walk {
    /// The one that says most.
    host: Option<(Domain, HostError)>,
    leg: Option<AttemptError>,
    /// The least final of them.
    finality: Finality,
}

impl Default for Walk {
    fn default() -> Self {
        Self { host: None, leg: None, finality: Finality::Sure }
    }
}

impl Walk {
    /// A next hop could not be tried at all. Of several the first counts, since it is preferred.
    pub(crate) fn leg_failed(&mut self, error: AttemptError) {
        self.finality = Finality::Open;
        self.leg.get_or_insert(error);
    }

    /// A host did not take the mail. Of equal failures the first counts.
    pub(crate) fn host_failed(&mut self, mx: &Domain, error: HostError) {
        self.finality = self.finality.max(error.finality());
        if self.host.as_ref().is_none_or(|(_, known)| error.weight() > known.weight()) {
            self.host = Some((mx.clone(), error));
        }
    }

    /// Would mail end by what nobody authenticated? Then [`Walk::into_error`] wants evidence.
    pub(crate) fn is_hearsay(&self) -> bool {
        self.host.is_some() && self.finality == Finality::Hearsay
    }

    /// The failure of the attempt. A host's failure says more than that of a next hop without hosts.
    pub(crate) fn into_error(self, evidence: MxEvidence) -> AttemptError {
        let Some((mx, error)) = self.host else {
            return self.leg.unwrap_or_else(|| {
                AttemptError::Local("the next hop names no host to try".to_owned())
            });
        };
        let conclusive = match (self.finality, evidence) {
            (Finality::Sure, _) | (Finality::Hearsay, MxEvidence::Uncontested) => Conclusive::Yes,
            (Finality::Hearsay, MxEvidence::ContradictsPolicy | MxEvidence::ContradictsRoute)
            | (Finality::Open, _) => Conclusive::No,
        };
        AttemptError::Host { mx, error, conclusive }
    }
}

#[cfg(test)]
mod tests {
    use smtp::client::Stage;
    use smtp::{HostName, RemoteText};

    use super::*;
    use crate::outcome::{Fate, Reason};

    fn mx(name: &str) -> Domain {
        Domain::Name(HostName::parse(name).unwrap())
    }

    #[test]
    fn the_failure_that_says_most_is_reported() {
        let mut walk = Walk::default();
        walk.host_failed(&mx("a.test"), HostError::NoAddress);
        walk.host_failed(&mx("b.test"), HostError::TooLarge { limit: 1 });
        let (reason, text) = (Reason::ConnectionLost, RemoteText::new(""));
        let lost = HostError::Interrupted { stage: Stage::Mail, reason, text };
        walk.host_failed(&mx("c.test"), lost);
        let error = walk.into_error(MxEvidence::Uncontested);
        assert_eq!(error.problem().reason, Reason::ConnectionLost);
        assert_eq!(error.verdict().0, Fate::Defer, "one of them may work later");
    }

    #[test]
    fn mail_is_returned_only_if_every_host_is_of_no_use_and_no_policy_contradicts() {
        let cases = [
            (MxEvidence::Uncontested, Fate::Fail),
            (MxEvidence::ContradictsPolicy, Fate::Defer),
            (MxEvidence::ContradictsRoute, Fate::Defer),
        ];
        for (evidence, fate) in cases {
            let mut walk = Walk::default();
            walk.host_failed(&mx("a.test"), HostError::NoAddress);
            let loopback = std::net::Ipv4Addr::LOCALHOST.into();
            walk.host_failed(&mx("b.test"), HostError::ForbiddenAddress(loopback));
            assert!(walk.is_hearsay());
            assert_eq!(walk.into_error(evidence).verdict().0, fate, "{evidence:?}");
        }
    }

    #[test]
    fn what_the_host_itself_said_needs_no_evidence() {
        let mut walk = Walk::default();
        walk.host_failed(&mx("a.test"), HostError::TooLarge { limit: 1 });
        assert!(!walk.is_hearsay());
        assert_eq!(walk.into_error(MxEvidence::ContradictsPolicy).verdict().0, Fate::Fail);

        let mut mixed = Walk::default();
        mixed.host_failed(&mx("a.test"), HostError::TooLarge { limit: 1 });
        mixed.host_failed(&mx("b.test"), HostError::NoAddress);
        assert!(mixed.is_hearsay());
        assert_eq!(mixed.into_error(MxEvidence::ContradictsPolicy).verdict().0, Fate::Defer);
    }
}
