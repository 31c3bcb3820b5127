//! What a walk over several hosts comes to when none of them took the mail.

use smtp::Domain;

use super::error::{AttemptError, Conclusive, HostError, MxEvidence, Permanence};

/// The failures of one attempt so far.
#[derive(Debug)]
pub(crate) struct Walk {
    /// The one that says most.
    host: Option<(Domain, HostError)>,
    destination: Option<AttemptError>,
    /// The least final of them.
    finality: Permanence,
    demand: Demand,
}

/// May it end mail that what it requires cannot be had?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Demand {
    /// No: what is missing may come.
    Patient,
    /// Yes: the sender requires TLS, and rather has the mail back (RFC 8689 §4.2.1).
    RequireTls,
}

impl Walk {
    /// A walk that has not begun.
    pub(crate) fn new(demand: Demand) -> Self {
        Self { host: None, destination: None, finality: Permanence::Permanent, demand }
    }

    /// A next hop could not be tried at all. Of several the first counts, since it is preferred.
    pub(crate) fn destination_failed(&mut self, error: AttemptError) {
        self.finality = Permanence::Transient;
        self.destination.get_or_insert(error);
    }

    /// A host did not take the mail. Of equal failures the first counts.
    pub(crate) fn host_failed(&mut self, mx: &Domain, error: HostError) {
        let finality =
            if self.is_ruled_out_by(&error) { Permanence::Permanent } else { error.permanence() };
        self.finality = self.finality.max(finality);
        if self.host.as_ref().is_none_or(|(_, known)| error.weight() > known.weight()) {
            self.host = Some((mx.clone(), error));
        }
    }

    /// Ends the walk before everything was tried, if something was: what was left out may have
    /// worked.
    pub(crate) fn break_off(&mut self) -> bool {
        let has_begun = self.host.is_some() || self.destination.is_some();
        if has_begun {
            self.finality = Permanence::Transient;
        }
        has_begun
    }

    fn is_ruled_out_by(&self, error: &HostError) -> bool {
        match self.demand {
            Demand::Patient => false,
            Demand::RequireTls => error.rules_out_require_tls(),
        }
    }

    /// Would mail end by what nobody authenticated? Then [`Walk::into_error`] wants evidence.
    pub(crate) fn is_hearsay(&self) -> bool {
        self.host.is_some() && self.finality == Permanence::Unauthenticated
    }

    /// The failure of the attempt. A host's failure says more than that of a next hop without
    /// hosts.
    pub(crate) fn into_error(self, evidence: MxEvidence) -> AttemptError {
        let is_ruled_out = self.host.as_ref().is_some_and(|(_, error)| self.is_ruled_out_by(error));
        let Some((mx, error)) = self.host else {
            return self.destination.unwrap_or_else(|| {
                AttemptError::Local("the next hop names no host to try".to_owned())
            });
        };
        if is_ruled_out && self.finality == Permanence::Permanent {
            return AttemptError::RequireTls { mx, error };
        }
        let conclusive = match (self.finality, evidence) {
            (Permanence::Permanent, _) | (Permanence::Unauthenticated, MxEvidence::Uncontested) => {
                Conclusive::Yes
            }
            (
                Permanence::Unauthenticated,
                MxEvidence::ContradictsPolicy | MxEvidence::ContradictsRoute,
            )
            | (Permanence::Transient, _) => Conclusive::No,
        };
        AttemptError::Host { mx, error, conclusive }
    }
}

#[cfg(test)]
mod tests {
    use policy::{Origin, Refusal, TlsFailure};
    use smtp::client::Stage;
    use smtp::{HostName, RemoteText};

    use super::*;
    use crate::delivery::outcome::Disposition;
    use crate::telemetry::Reason;

    fn mx(name: &str) -> Domain {
        Domain::Name(HostName::parse(name).unwrap())
    }

    #[test]
    fn the_failure_that_says_most_is_reported() {
        let mut walk = Walk::new(Demand::Patient);
        walk.host_failed(&mx("a.test"), HostError::NoAddress);
        walk.host_failed(&mx("b.test"), HostError::TooLarge { limit: 1 });
        let (reason, text) = (Reason::ConnectionLost, RemoteText::new(""));
        let lost = HostError::Interrupted { stage: Stage::Mail, reason, text };
        walk.host_failed(&mx("c.test"), lost);
        let error = walk.into_error(MxEvidence::Uncontested);
        assert_eq!(error.problem().reason, Reason::ConnectionLost);
        assert_eq!(error.verdict().0, Disposition::Defer, "one of them may work later");
    }

    #[test]
    fn mail_is_returned_only_if_every_host_is_of_no_use_and_no_policy_contradicts() {
        let cases = [
            (MxEvidence::Uncontested, Disposition::Fail),
            (MxEvidence::ContradictsPolicy, Disposition::Defer),
            (MxEvidence::ContradictsRoute, Disposition::Defer),
        ];
        for (evidence, fate) in cases {
            let mut walk = Walk::new(Demand::Patient);
            walk.host_failed(&mx("a.test"), HostError::NoAddress);
            let loopback = std::net::Ipv4Addr::LOCALHOST.into();
            walk.host_failed(&mx("b.test"), HostError::ForbiddenAddress(loopback));
            assert!(walk.is_hearsay());
            assert_eq!(walk.into_error(evidence).verdict().0, fate, "{evidence:?}");
        }
    }

    #[test]
    fn rtls_07_what_cannot_be_had_ends_mail_only_if_every_host_has_shown_it() {
        let lacks_keyword = || HostError::Tls(TlsFailure::RequireTlsNotOffered);
        let unknown = || {
            let (mx, next_hop) = (mx("mx.test"), mx("b.test"));
            HostError::Refused(Refusal::RequireTlsUnauthenticated { mx, next_hop })
        };
        let unproven = || HostError::Tls(TlsFailure::PossessionUnproven);
        let unlisted = || {
            let origin = Origin::Sts { domain: HostName::parse("b.test").unwrap() };
            HostError::Refused(Refusal::MxNotListed { mx: mx("evil.test"), origin })
        };
        let lost = || HostError::Interrupted {
            stage: Stage::Mail,
            reason: Reason::ConnectionLost,
            text: RemoteText::new(""),
        };
        type Failures = Vec<HostError>;
        let cases: [(Failures, Disposition, &str); 12] = [
            (vec![lacks_keyword()], Disposition::Fail, "require_tls_unsupported 5.7.30"),
            (vec![unknown()], Disposition::Fail, "require_tls_unauthenticated 5.7.10"),
            (vec![unproven()], Disposition::Fail, "require_tls_unauthenticated 5.7.10"),
            (
                vec![unproven(), lacks_keyword()],
                Disposition::Fail,
                "require_tls_unsupported 5.7.30",
            ),
            (vec![lacks_keyword(), lost()], Disposition::Defer, "require_tls_unsupported 4.7.30"),
            (vec![lost(), unknown()], Disposition::Defer, "connection_lost 4.4.2"),
            // What a policy does not list proves nothing, wherever among the others it stands.
            (vec![unlisted()], Disposition::Defer, "mx_not_listed 4.7.5"),
            (vec![unlisted(), unlisted()], Disposition::Defer, "mx_not_listed 4.7.5"),
            (
                vec![unlisted(), lacks_keyword()],
                Disposition::Defer,
                "require_tls_unsupported 4.7.30",
            ),
            (
                vec![lacks_keyword(), unlisted()],
                Disposition::Defer,
                "require_tls_unsupported 4.7.30",
            ),
            (
                vec![unproven(), unlisted(), lost()],
                Disposition::Defer,
                "tls_handshake_failed 4.7.5",
            ),
            (
                vec![HostError::NoAddress, unknown()],
                Disposition::Defer,
                "require_tls_unauthenticated 4.7.10",
            ),
        ];
        for (failures, fate, want) in cases {
            let told = format!("{failures:?}");
            let mut walk = Walk::new(Demand::RequireTls);
            for error in failures {
                walk.host_failed(&mx("mx.test"), error);
            }
            let error = walk.into_error(MxEvidence::ContradictsPolicy);
            assert_eq!(error.verdict().0, fate, "{told}");
            let problem = error.problem();
            let problem = if fate == Disposition::Fail { problem } else { problem.for_now() };
            assert_eq!(format!("{} {}", problem.reason, problem.status), want, "{told}");
        }
        let mut patient = Walk::new(Demand::Patient);
        patient.host_failed(&mx("mx.test"), unproven());
        assert_eq!(patient.into_error(MxEvidence::Uncontested).verdict().0, Disposition::Defer);
        let mut with_leg = Walk::new(Demand::RequireTls);
        with_leg.host_failed(&mx("mx.test"), lacks_keyword());
        with_leg.destination_failed(AttemptError::Local(String::new()));
        assert_eq!(with_leg.into_error(MxEvidence::Uncontested).verdict().0, Disposition::Defer);
    }

    #[test]
    fn a_walk_that_is_broken_off_ends_no_mail() {
        let mut walk = Walk::new(Demand::Patient);
        assert!(!walk.break_off(), "nothing was tried, so there is nothing to say yet");
        walk.host_failed(&mx("a.test"), HostError::TooLarge { limit: 1 });
        assert!(walk.break_off());
        assert_eq!(walk.into_error(MxEvidence::Uncontested).verdict().0, Disposition::Defer);
    }

    #[test]
    fn what_the_host_itself_said_needs_no_evidence() {
        let mut walk = Walk::new(Demand::Patient);
        walk.host_failed(&mx("a.test"), HostError::TooLarge { limit: 1 });
        assert!(!walk.is_hearsay());
        assert_eq!(walk.into_error(MxEvidence::ContradictsPolicy).verdict().0, Disposition::Fail);

        let mut mixed = Walk::new(Demand::Patient);
        mixed.host_failed(&mx("a.test"), HostError::TooLarge { limit: 1 });
        mixed.host_failed(&mx("b.test"), HostError::NoAddress);
        assert!(mixed.is_hearsay());
        assert_eq!(mixed.into_error(MxEvidence::ContradictsPolicy).verdict().0, Disposition::Defer);
    }
}
