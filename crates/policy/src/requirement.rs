//! What must hold before mail may go to a host?
//!
//! A [`Requirement`] is a conjunction, not a rank: each party (the recipient's domain, the
//! operator, the sender) adds its own, and [`Requirement::join`] is the only way to combine them.
//! It is commutative, associative and idempotent, and its result asks for everything both sides ask
//! for. No operation lowers a requirement.
//!
//! [`Asked`] splits what is asked into what binds and what is only watched. The mode of an MTA-STS
//! policy is looked at here and nowhere else.
//!
//! Not here: whether a host meets it ([`crate::authorize`], [`crate::AuthorizedMx::admit`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use smtp::HostName;

use crate::sts::{Mode, MxPattern, Policy};

/// May mail go in clear?
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Channel {
    /// TLS where offered, clear otherwise (RFC 7435).
    #[default]
    ClearAllowed,
    /// TLS must succeed, or the host is left.
    Encrypted,
}

/// How the host must prove who it is.
///
/// A lattice: `None` ⊑ `Either` ⊑ { `Pkix`, `Dane` } ⊑ `Both`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Identity {
    /// It need not; with TLS, any certificate will do.
    #[default]
    None,
    /// By a certificate from a trusted authority, or by DANE.
    Either,
    /// By a certificate from a trusted authority for the MX name (RFC 8461 §4.2).
    Pkix,
    /// By DANE (RFC 7672).
    Dane,
    /// By both: a valid certificate and DANE.
    Both,
}

impl Identity {
    /// The weakest demand that asks for both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, more) | (more, Self::None) => more,
            (Self::Either, more) | (more, Self::Either) => more,
            (Self::Pkix, Self::Pkix) => Self::Pkix,
            (Self::Dane, Self::Dane) => Self::Dane,
            (Self::Pkix, Self::Dane) | (Self::Dane, Self::Pkix) => Self::Both,
            (Self::Both, _) | (_, Self::Both) => Self::Both,
        }
    }
}

/// What must the host promise about the way behind it?
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RequireTls {
    /// Nothing: behind the host the mail may go in clear text.
    #[default]
    No,
    /// To protect the mail as it was protected on the way to it: it offers REQUIRETLS (RFC 8689
    /// §2).
    Yes,
}

/// Who says which MX names count.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Origin {
    /// The MTA-STS policy of this domain.
    Sts {
        /// The policy domain that published the list.
        domain: HostName,
    },
    /// The operator, in the configuration.
    Rule,
}

/// MX names that count. The MX must match at least one; an empty set allows no host at all.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PatternSet {
    /// The policy, or the operator, that lists them.
    pub origin: Origin,
    /// The names; shared, since a policy may have many.
    pub patterns: Arc<[MxPattern]>,
}

impl PatternSet {
    /// Is the name one of them?
    pub fn allows(&self, mx: &HostName) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(mx))
    }
}

/// The operator's demand on domains without a policy, and at least on all others.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Floor {
    /// TLS where it works, clear otherwise.
    #[default]
    Opportunistic,
    /// TLS with any certificate.
    Encrypt,
    /// TLS with a host that proves who it is.
    Verify,
}

/// All that must hold at once. `Requirement::default()` asks for nothing.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Requirement {
    channel: Channel,
    identity: Identity,
    mx: BTreeSet<PatternSet>,
    require_tls: RequireTls,
}

impl Requirement {
    /// What the operator's floor asks of every domain, with a policy or without.
    pub fn from_floor(floor: Floor) -> Self {
        match floor {
            Floor::Opportunistic => Self::default(),
            Floor::Encrypt => Self { channel: Channel::Encrypted, ..Self::default() },
            Floor::Verify => Self::identified(Identity::Either),
        }
    }

    /// Only hosts with these names.
    pub fn listed(names: PatternSet) -> Self {
        Self { mx: BTreeSet::from([names]), ..Self::default() }
    }

    /// What `domain`'s policy asks for when it is enforced (RFC 8461 §4): TLS, a certificate for
    /// the MX name, and an MX that it lists. A policy with mode `none` asks for nothing.
    ///
    /// Whether it binds is decided by [`Asked::new`].
    pub fn from_sts(domain: &HostName, policy: &Policy) -> Self {
        match policy.mode() {
            Mode::None => Self::default(),
            Mode::Enforce | Mode::Testing => {
                let origin = Origin::Sts { domain: domain.clone() };
                Self::listed(PatternSet { origin, patterns: Arc::clone(policy.mx()) })
                    .join(&Self::identified(Identity::Pkix))
            }
        }
    }

    /// What the sender asks for with REQUIRETLS (RFC 8689 §4.2.1): a host whose name is
    /// authenticated, which proves that it is that host, and which will ask the same of the next
    /// one.
    pub fn from_require_tls() -> Self {
        Self { require_tls: RequireTls::Yes, ..Self::identified(Identity::Either) }
    }

    /// An identity can only be proven over TLS.
    fn identified(identity: Identity) -> Self {
        Self { channel: Channel::Encrypted, identity, ..Self::default() }
    }

    /// The weakest requirement that asks for everything that both ask for.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        Self {
            channel: self.channel.max(other.channel),
            identity: self.identity.join(other.identity),
            mx: self.mx.union(&other.mx).cloned().collect(),
            require_tls: self.require_tls.max(other.require_tls),
        }
    }

    /// May mail go in clear?
    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// How the host must prove who it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// What the host must promise about the way behind it.
    pub fn require_tls(&self) -> RequireTls {
        self.require_tls
    }

    /// The sets of names that the MX must be in, every one of them.
    pub fn listings(&self) -> impl Iterator<Item = &PatternSet> {
        self.mx.iter()
    }

    /// Is clear text refused?
    pub fn needs_tls(&self) -> bool {
        match self.channel {
            Channel::ClearAllowed => false,
            Channel::Encrypted => true,
        }
    }
}

/// Does a published policy bind us, or do we only watch what it would do?
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Effect {
    /// It binds, as far as its own mode says so.
    Enforced,
    /// The operator asked for a report only (`mta_sts.mode = "report"`).
    ReportOnly,
}

/// The MTA-STS policy in force for a domain.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    /// The domain that published the policy.
    pub domain: &'a HostName,
    /// What that domain published; its mode may be `none`.
    pub policy: &'a Policy,
    /// What it may do.
    pub effect: Effect,
}

/// All that is asked for one delivery.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Asked {
    /// No mail moves unless this holds.
    pub enforced: Arc<Requirement>,
    /// Checked and recorded in the same way, and never in the way of the mail.
    pub report_only: Arc<Requirement>,
}

impl Asked {
    /// What operator and sender ask for (`local`) and what the domain published.
    ///
    /// RFC 8461 §5: `enforce` binds, `testing` is watched, `none` says nothing. None of them takes
    /// anything away from `local`.
    pub fn new(local: Requirement, published: Option<Published<'_>>) -> Self {
        let Some(Published { domain, policy, effect }) = published else {
            return Self { enforced: local.into(), report_only: Arc::default() };
        };
        let theirs = Requirement::from_sts(domain, policy);
        match (policy.mode(), effect) {
            (Mode::Enforce, Effect::Enforced) => {
                Self { enforced: local.join(&theirs).into(), report_only: Arc::default() }
            }
            (Mode::Enforce, Effect::ReportOnly)
            | (Mode::Testing | Mode::None, Effect::Enforced | Effect::ReportOnly) => {
                Self { enforced: local.into(), report_only: theirs.into() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn channels() -> impl Strategy<Value = Channel> {
        prop_oneof![Just(Channel::ClearAllowed), Just(Channel::Encrypted)]
    }

    fn identities() -> impl Strategy<Value = Identity> {
        use Identity::{Both, Dane, Either, None, Pkix};
        prop_oneof![Just(None), Just(Either), Just(Pkix), Just(Dane), Just(Both)]
    }

    fn listings() -> impl Strategy<Value = PatternSet> {
        let origin = prop_oneof![
            Just(Origin::Rule),
            "[ab]\\.test".prop_map(|d| Origin::Sts { domain: HostName::parse(&d).unwrap() }),
        ];
        let pattern = "(\\*\\.)?[ab]\\.test".prop_map(|p| MxPattern::parse(&p).unwrap());
        (origin, prop::collection::vec(pattern, 0..3))
            .prop_map(|(origin, patterns)| PatternSet { origin, patterns: patterns.into() })
    }

    fn requirements() -> impl Strategy<Value = Requirement> {
        let require_tls = prop_oneof![Just(RequireTls::No), Just(RequireTls::Yes)];
        (channels(), identities(), prop::collection::btree_set(listings(), 0..3), require_tls)
            .prop_map(|(channel, identity, mx, require_tls)| Requirement {
                channel,
                identity,
                mx,
                require_tls,
            })
    }

    /// Does `strong` ask for at least what `weak` asks for? By meaning, not by `join`.
    fn implies(strong: &Requirement, weak: &Requirement) -> bool {
        let proofs = |identity| -> Vec<(bool, bool)> {
            // The (PKIX, DANE) outcomes that satisfy it.
            let all = [(false, false), (true, false), (false, true), (true, true)];
            let ok = |&(pkix, dane): &(bool, bool)| match identity {
                Identity::None => true,
                Identity::Either => pkix || dane,
                Identity::Pkix => pkix,
                Identity::Dane => dane,
                Identity::Both => pkix && dane,
            };
            all.into_iter().filter(ok).collect()
        };
        let weak_proofs = proofs(weak.identity);
        (strong.needs_tls() || !weak.needs_tls())
            && proofs(strong.identity).iter().all(|proof| weak_proofs.contains(proof))
            && weak.mx.is_subset(&strong.mx)
            && (strong.require_tls == RequireTls::Yes || weak.require_tls == RequireTls::No)
    }

    proptest! {
        #[test]
        fn join_is_the_least_upper_bound(
            a in requirements(), b in requirements(), c in requirements(),
        ) {
            let ab = a.join(&b);
            prop_assert_eq!(&ab, &b.join(&a));
            prop_assert_eq!(ab.join(&c), a.join(&b.join(&c)));
            prop_assert_eq!(&a.join(&a), &a);
            prop_assert_eq!(&a.join(&Requirement::default()), &a);
            prop_assert!(implies(&ab, &a) && implies(&ab, &b));
            if implies(&c, &a) && implies(&c, &b) {
                prop_assert!(implies(&c, &ab), "join asks for more than both do");
            }
            if implies(&b, &a) {
                prop_assert!(implies(&b.join(&c), &a.join(&c)), "not monotone");
            }
        }
    }

    fn policy(mode: Mode) -> Policy {
        let body = format!("version: STSv1\nmode: {mode}\nmx: *.example.com\nmax_age: 60");
        Policy::parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn an_identity_is_never_asked_for_without_tls() {
        let domain = HostName::parse("example.com").unwrap();
        let cases = [
            (Requirement::from_floor(Floor::Opportunistic), Identity::None, false, 0),
            (Requirement::from_floor(Floor::Encrypt), Identity::None, true, 0),
            (Requirement::from_floor(Floor::Verify), Identity::Either, true, 0),
            (Requirement::from_sts(&domain, &policy(Mode::Enforce)), Identity::Pkix, true, 1),
            (Requirement::from_sts(&domain, &policy(Mode::Testing)), Identity::Pkix, true, 1),
            (Requirement::from_sts(&domain, &policy(Mode::None)), Identity::None, false, 0),
            (Requirement::from_require_tls(), Identity::Either, true, 0),
        ];
        for (requirement, identity, tls, listings) in cases {
            assert_eq!(requirement.identity(), identity);
            assert_eq!(requirement.needs_tls(), tls, "{requirement:?}");
            assert_eq!(requirement.channel() == Channel::Encrypted, tls);
            assert_eq!(requirement.listings().count(), listings, "{requirement:?}");
        }
    }

    #[test]
    fn only_an_enforced_policy_binds_and_none_lowers_the_floor() {
        let domain = HostName::parse("example.com").unwrap();
        for floor in [Floor::Opportunistic, Floor::Encrypt, Floor::Verify] {
            let local = Requirement::from_floor(floor);
            assert_eq!(*Asked::new(local.clone(), None).enforced, local);
            for mode in [Mode::Enforce, Mode::Testing, Mode::None] {
                for effect in [Effect::Enforced, Effect::ReportOnly] {
                    let policy = policy(mode);
                    let theirs = Requirement::from_sts(&domain, &policy);
                    let published = Published { domain: &domain, policy: &policy, effect };
                    let asked = Asked::new(local.clone(), Some(published));
                    let nothing = Requirement::default();
                    let want = if mode == Mode::Enforce && effect == Effect::Enforced {
                        (local.join(&theirs), nothing)
                    } else {
                        (local.clone(), theirs)
                    };
                    assert_eq!((&*asked.enforced, &*asked.report_only), (&want.0, &want.1));
                    assert!(implies(&asked.enforced, &local), "{mode} lowers {floor:?}");
                }
            }
        }
    }
}
