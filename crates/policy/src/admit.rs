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
use crate::requirement::{Identity, Requirement};

/// What is certain about an admitted connection. The least that the requirement asked for: a
/// certificate nobody asked for is not examined.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Proof {
    /// Nothing: clear text.
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
/// # let name = smtp::HostName::parse("mx.example").unwrap();
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

    /// What the shadow requirement would have refused, host and connection.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

/// A connection that mail must not be sent over. It is still good for QUIT.
#[derive(Debug)]
pub struct Denied<C> {
    /// The connection.
    pub connection: C,
    /// What is missing.
    pub failure: TlsFailure,
}

impl AuthorizedMx {
    /// Compares what was required with what was observed, before `MAIL FROM`.
    ///
    /// # Errors
    ///
    /// [`Denied`] if the binding requirement does not hold. What the shadow requirement misses
    /// becomes a [`Finding`].
    pub fn admit<C>(
        &self,
        connection: C,
        observed: &Observed,
        roots: &Roots,
        now: Timestamp,
    ) -> Result<Admitted<C>, Denied<C>> {
        let judge = |requirement| self.judge(requirement, observed, roots, now);
        let proof = match judge(&self.asked().binding) {
            Ok(proof) => proof,
            Err(failure) => return Err(Denied { connection, failure }),
        };
        let mut findings = self.findings().to_vec();
        findings.extend(judge(&self.asked().shadow).err().map(Finding::Connection));
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
            Observed::Tls(tls) => self.judge_tls(requirement.identity(), tls, roots, now),
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
                certificate::verify(tls, self.server_name(), roots, now)?;
                Ok(Proof::VerifiedPkix)
            }
            // TLSA records are no part of what is observed, so nothing can satisfy these.
            Identity::Dane | Identity::Both => Err(TlsFailure::DaneRequired),
        }
    }
}
