//! May mail go over this connection?
//!
//! This module is the only place that answers. [`AuthorizedMx::admit`] is the only constructor of
//! [`Admitted`], and transmitting takes nothing else. It compares what is asked with what was
//! observed, for every mail anew, also on connections that carried mail before.
//!
//! Not here: how a certificate is judged ([`crate::certificate`]).

use jiff::Timestamp;

use crate::authorize::{AuthorizedMx, Finding};
use crate::certificate::{self, Roots, TlsFailure};
use crate::observed::{Observed, ObservedTls};
use crate::requirement::{Identity, RequireTls, Requirement};

/// What is certain about an admitted connection. The least that the requirement asked for: a
/// certificate nobody asked for is not examined.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Proof {
    /// Nothing is certain: the connection is in clear text.
    Plain,
    /// Nobody but the peer reads along; who the peer is was not asked.
    Encrypted,
    /// The peer is the MX host, says a trusted authority (RFC 8461 §4.2).
    VerifiedPkix,
}

/// A connection that mail may be sent over. Only [`AuthorizedMx::admit`] makes one, and it owns the
/// connection:
///
/// ```
/// # use policy::{Admitted, Asked, AuthorizedMx, Denied, Located, NamedBy, Observed, Proof, Roots};
/// # let name = smtp::Domain::Name(smtp::HostName::parse("mx.example").unwrap());
/// # let located = Located { mx: name.clone(), next_hop: name, named_by: NamedBy::ImplicitMx };
/// # let mx = policy::authorize(located, &Asked::default()).unwrap();
/// # let now = jiff::Timestamp::UNIX_EPOCH;
/// let admitted: Admitted<&str> = mx.admit("socket", &Observed::Plain, &Roots::default(), now)?;
/// # Ok::<(), Denied<&str>>(())
/// ```
///
/// ```compile_fail,E0451
/// # use policy::{Admitted, Asked, AuthorizedMx, Denied, Located, NamedBy, Observed, Proof, Roots};
/// let admitted = Admitted { connection: "socket", proof: Proof::Plain, findings: Vec::new() };
/// # Ok::<(), Denied<&str>>(())
/// ```
#[derive(Debug)]
pub struct Admitted<C> {
    connection: C,
    proof: Proof,
    findings: Vec<Finding>,
}

impl<C> Admitted<C> {
    /// The connection, to send over.
    pub fn connection_mut(&mut self) -> &mut C {
        &mut self.connection
    }

    /// Gives the connection back; it has to be admitted again for the next mail.
    pub fn into_connection(self) -> C {
        self.connection
    }

    /// What is certain about it.
    pub fn proof(&self) -> Proof {
        self.proof
    }

    /// What the report-only requirement would have refused, host and connection.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

/// A connection that mail must not be sent over. It is still good for QUIT.
#[derive(Debug)]
pub struct Denied<C> {
    /// The connection as it was handed in, to say QUIT on.
    pub connection: C,
    /// What the connection lacks for the enforced requirement.
    pub failure: TlsFailure,
}

impl AuthorizedMx {
    /// Compares what was required with what was observed, before `MAIL FROM`.
    ///
    /// # Errors
    ///
    /// [`Denied`] if the enforced requirement does not hold. What the report-only requirement
    /// misses becomes a [`Finding`].
    pub fn admit<C>(
        &self,
        connection: C,
        observed: &Observed,
        roots: &Roots,
        now: Timestamp,
    ) -> Result<Admitted<C>, Denied<C>> {
        let judge = |requirement| self.judge(requirement, observed, roots, now);
        let proof = match judge(&self.asked().enforced) {
            Ok(proof) => proof,
            Err(failure) => return Err(Denied { connection, failure }),
        };
        let mut findings = self.findings().to_vec();
        findings.extend(judge(&self.asked().report_only).err().map(Finding::Connection));
        Ok(Admitted { connection, proof, findings })
    }

    fn judge(
        &self,
        requirement: &Requirement,
        observed: &Observed,
        roots: &Roots,
        now: Timestamp,
    ) -> Result<Proof, TlsFailure> {
        match observed {
            Observed::Plain if requirement.needs_tls() => Err(TlsFailure::NotEncrypted),
            Observed::Plain => Ok(Proof::Plain),
            Observed::Tls(tls) => {
                let proof = self.judge_tls(requirement.identity(), tls, roots, now)?;
                match requirement.require_tls() {
                    RequireTls::Yes if !tls.offers_require_tls => {
                        Err(TlsFailure::RequireTlsNotOffered)
                    }
                    RequireTls::Yes | RequireTls::No => Ok(proof),
                }
            }
        }
    }

    fn judge_tls(
        &self,
        identity: Identity,
        tls: &ObservedTls,
        roots: &Roots,
        now: Timestamp,
    ) -> Result<Proof, TlsFailure> {
        match identity {
            Identity::None => Ok(Proof::Encrypted),
            Identity::Either | Identity::Pkix => {
                certificate::verify(tls, self.host(), roots, now)?;
                Ok(Proof::VerifiedPkix)
            }
            // TLSA records are no part of what is observed, so nothing can satisfy these.
            Identity::Dane | Identity::Both => Err(TlsFailure::DaneRequired),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_ca::{Ca, host, leaf_params, name, now, observed, self_signed, shown, variant};
    use crate::{Asked, Effect, Floor, Located, NamedBy, Published, Requirement, authorize, sts};

    const MX: &str = "mx.example.test";

    fn sts(mode: &str) -> Asked {
        let body = format!("version: STSv1\nmode: {mode}\nmx: {MX}\nmax_age: 60");
        let policy = sts::Policy::parse(body.as_bytes()).unwrap();
        let domain = &name("example.test");
        let effect = Effect::Enforced;
        Asked::new(Requirement::default(), Some(Published { domain, policy: &policy, effect }))
    }

    fn floor(floor: Floor) -> Asked {
        Asked::new(Requirement::from_floor(floor), None)
    }

    fn authorized(asked: &Asked) -> AuthorizedMx {
        let next_hop = host("example.test");
        authorize(Located { mx: host(MX), next_hop, named_by: NamedBy::MxRecords }, asked).unwrap()
    }

    /// Every kind of connection.
    fn connections(ca: &Ca) -> [(&'static str, Observed); 7] {
        let good = ca.leaf(&leaf_params(&[MX]));
        let unproven = ObservedTls { possession_proven: false, ..shown(vec![good.clone()], MX) };
        let mut expired = leaf_params(&[MX]);
        expired.not_after = rcgen::date_time_ymd(2026, 2, 1);
        [
            ("plain", Observed::Plain),
            ("good", observed(vec![good], MX)),
            ("wrong name", observed(vec![ca.leaf(&leaf_params(&["example.test"]))], MX)),
            ("expired", observed(vec![ca.leaf(&expired)], MX)),
            ("self-signed", observed(vec![self_signed(&leaf_params(&[MX]))], MX)),
            ("replayed", Observed::Tls(unproven)),
            ("anonymous", observed(Vec::new(), MX)),
        ]
    }

    #[test]
    fn requirement_and_observation_decide_together() {
        use Proof::{Encrypted, Plain, VerifiedPkix};
        let ca = Ca::root("Test CA");
        let clear = Err("NotEncrypted");
        let any = [Ok(Encrypted); 6];
        let verified = [
            Ok(VerifiedPkix),
            Err("NameMismatch"),
            Err("Expired"),
            Err("Untrusted"),
            Err("PossessionUnproven"),
            Err("NoCertificate"),
        ];
        let cases = [
            // (asked) -> plain, then the six encrypted ones in the order above
            ("opportunistic", floor(Floor::Opportunistic), Ok(Plain), any),
            ("encrypt", floor(Floor::Encrypt), clear, any),
            ("verify", floor(Floor::Verify), clear, verified),
            ("enforce", sts("enforce"), clear, verified),
            ("testing", sts("testing"), Ok(Plain), any),
            ("none", sts("none"), Ok(Plain), any),
        ];
        for (asked_name, asked, plain, encrypted) in cases {
            let mx = authorized(&asked);
            let wants = std::iter::once(plain).chain(encrypted);
            for ((seen_name, seen), want) in connections(&ca).into_iter().zip(wants) {
                let got = mx.admit((), &seen, &ca.roots(), now());
                let got = got.map(|a| a.proof()).map_err(|denied| variant(&denied.failure));
                assert_eq!(got, want.map_err(str::to_owned), "{asked_name}, {seen_name}");
            }
        }
    }

    #[test]
    fn testing_finds_what_enforce_would_refuse_and_stops_nothing() {
        let ca = Ca::root("Test CA");
        let (strict, watching) = (authorized(&sts("enforce")), authorized(&sts("testing")));
        for (name, seen) in connections(&ca) {
            let refused = strict.admit((), &seen, &ca.roots(), now()).err();
            let admitted = watching.admit((), &seen, &ca.roots(), now()).unwrap();
            let found = refused.map(|denied| Finding::Connection(denied.failure));
            assert_eq!(admitted.findings(), Vec::from_iter(found), "{name}");
        }
        let unlisted = host("other.test");
        let located =
            Located { mx: unlisted.clone(), next_hop: unlisted, named_by: NamedBy::MxRecords };
        let mx = authorize(located, &sts("testing")).unwrap();
        let admitted = mx.admit((), &Observed::Plain, &ca.roots(), now()).unwrap();
        assert_eq!(admitted.findings().len(), 2, "host and connection");
    }

    #[test]
    fn a_pooled_connection_is_judged_again_for_each_mail() {
        let ca = Ca::root("Test CA");
        let seen = observed(vec![self_signed(&leaf_params(&[MX]))], MX);
        let first = authorized(&Asked::default());
        let admitted = first.admit("socket", &seen, &ca.roots(), now()).unwrap();
        let pooled = admitted.into_connection();
        let second = authorized(&sts("enforce"));
        let denied = second.admit(pooled, &seen, &ca.roots(), now()).unwrap_err();
        assert_eq!(denied.connection, "socket", "given back, for QUIT");
        // Nor does yesterday's verdict hold today.
        let good = observed(vec![ca.leaf(&leaf_params(&[MX]))], MX);
        assert!(second.admit((), &good, &ca.roots(), now()).is_ok());
        let later = "2027-06-01T00:00:00Z".parse().unwrap();
        assert!(second.admit((), &good, &ca.roots(), later).is_err());
        assert!(second.admit((), &good, &Roots::default(), now()).is_err());
    }

    #[test]
    fn the_connection_comes_through_unchanged() {
        let mx = authorized(&Asked::default());
        let roots = Roots::default();
        let mut admitted = mx.admit(vec![1], &Observed::Plain, &roots, now()).unwrap();
        admitted.connection_mut().push(2);
        assert_eq!(admitted.into_connection(), [1, 2]);
    }

    #[test]
    fn rtls_05_require_tls_wants_certificate_and_promise_under_the_same_tls() {
        let ca = Ca::root("Test CA");
        let body = format!("version: STSv1\nmode: enforce\nmx: {MX}\nmax_age: 60");
        let policy = sts::Policy::parse(body.as_bytes()).unwrap();
        let (domain, effect) = (name("example.test"), Effect::Enforced);
        let published = Published { domain: &domain, policy: &policy, effect };
        let asked = Asked::new(Requirement::from_require_tls(), Some(published));
        let mx = authorized(&asked);
        let wants = [
            "NotEncrypted",
            "",
            "NameMismatch",
            "Expired",
            "Untrusted",
            "PossessionUnproven",
            "NoCertificate",
        ];
        for ((name, seen), want) in connections(&ca).into_iter().zip(wants) {
            let got = mx.admit((), &seen, &ca.roots(), now());
            let got = got.map(|a| a.proof()).map_err(|denied| variant(&denied.failure));
            let without = if want.is_empty() { "RequireTlsNotOffered" } else { want };
            assert_eq!(got, Err(without.to_owned()), "{name}");
            let Observed::Tls(tls) = seen else { continue };
            let promised = Observed::Tls(ObservedTls { offers_require_tls: true, ..tls });
            let got = mx.admit((), &promised, &ca.roots(), now());
            let got = got.map(|a| a.proof()).map_err(|denied| variant(&denied.failure));
            let with = if want.is_empty() { Ok(Proof::VerifiedPkix) } else { Err(want.to_owned()) };
            assert_eq!(got, with, "{name}, promised");
        }
    }

    #[test]
    fn a_demand_for_dane_is_met_by_no_certificate() {
        let ca = Ca::root("Test CA");
        let mx = authorized(&sts("enforce"));
        for (_, seen) in connections(&ca) {
            if let Observed::Tls(tls) = &seen {
                for identity in [Identity::Dane, Identity::Both] {
                    let got = mx.judge_tls(identity, tls, &ca.roots(), now());
                    assert_eq!(got, Err(TlsFailure::DaneRequired));
                }
            }
        }
    }
}
