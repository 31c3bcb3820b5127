//! The closed vocabulary of causes: one word and one code for each (`docs/operations.md`).
//!
//! The same word stands in logs, in the queue, in `explain`, in metrics and in DSNs, so a cause
//! found in one place can be searched for in all others.

use std::fmt;

use policy::{Origin, Refusal, TlsFailure};
use smtp::Status;

/// Why mail waits, was refused or came back.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Reason {
    /// No usable MX is in the domain's MTA-STS policy (RFC 8461 §4.1).
    MxNotListed,
    /// A local requirement is not met: the MX name is not one that can be authenticated.
    RuleNotMet,
    /// TLS is required and the host has none.
    StarttlsNotOffered,
    /// The host offers STARTTLS and then refuses it, or answers it dishonestly.
    StarttlsRefused,
    /// The handshake failed, or did not prove that the key is the certificate's.
    TlsHandshakeFailed,
    /// The certificate has expired.
    CertificateExpired,
    /// The certificate is not valid yet.
    CertificateNotYetValid,
    /// The certificate is for other names (RFC 9525).
    CertificateNameMismatch,
    /// The certificate does not chain to a trusted root.
    CertificateUntrusted,
    /// DANE is required, and the host has none.
    DaneRequired,
    /// The sender requires TLS, and the host does not promise to require it of the next one (RFC
    /// 8689).
    RequireTlsUnsupported,
    /// The sender requires TLS, and the host cannot be authenticated (RFC 8689 §4.2.1).
    RequireTlsUnauthenticated,
    /// The MX or address look-up failed; that is never read as "there is none".
    DnsFailure,
    /// The policy's TXT look-up failed on first contact.
    PolicyDnsFailure,
    /// A record announces a policy which could not be fetched.
    PolicyFetchFailed,
    /// A record announces a policy which is not one.
    PolicyInvalid,
    /// The domain's stored enforce policy cannot be read.
    PolicyLost,
    /// TCP was refused or unreachable.
    ConnectFailed,
    /// TCP did not answer in time.
    ConnectTimeout,
    /// The connection broke, or a reply did not come in time.
    ConnectionLost,
    /// The host refused at greeting or EHLO.
    GreetingRefused,
    /// The host asks us to slow down.
    Throttled,
    /// Enough of ours wait already: no attempt is counted.
    OwnLimit,
    /// It took too long while other mail needed the place: no attempt is counted.
    Yielded,
    /// The route's server does not let us in.
    AuthFailed,
    /// Every address is one that mail from outside must not be sent to.
    AddressForbidden,
    /// No host of the domain has an address.
    NoMailHost,
    /// The domain takes no mail (RFC 7505).
    NullMx,
    /// The domain does not exist.
    NoSuchDomain,
    /// The best MX is ourselves (RFC 5321 §5.1).
    MailLoop,
    /// The peer answered with a 4yz reply.
    Remote4xx,
    /// The peer answered with a 5yz reply.
    Remote5xx,
    /// The peer does not speak SMTP.
    ProtocolError,
    /// The message is larger than every host takes.
    SizeExceeded,
    /// The time is over that the sender gave it (RFC 2852).
    Expired,
    /// The operator gave up on it.
    ReturnedByOperator,
    /// An address or the header has UTF-8, and no host takes that (RFC 6531).
    SmtpUtf8Unsupported,
    /// No host takes eight bits, and the message cannot be converted (RFC 6152 §3).
    ConversionRefused,
    /// A line is longer than every host takes, and `delivery.long_lines` refuses that.
    LineTooLong,
    /// The message is to be returned by a certain time, and no host promises that (RFC 2852).
    DeliverByUnsupported,
    /// Trouble of our own: disk, descriptors.
    LocalError,
    /// What we stored of the message is damaged: it is held.
    MessageDamaged,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub(crate) const ALL: [Self; 42] = [
        Self::MxNotListed,
        Self::RuleNotMet,
        Self::StarttlsNotOffered,
        Self::StarttlsRefused,
        Self::TlsHandshakeFailed,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::CertificateNameMismatch,
        Self::CertificateUntrusted,
        Self::DaneRequired,
        Self::RequireTlsUnsupported,
        Self::RequireTlsUnauthenticated,
        Self::DnsFailure,
        Self::PolicyDnsFailure,
        Self::PolicyFetchFailed,
        Self::PolicyInvalid,
        Self::PolicyLost,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::ConnectionLost,
        Self::GreetingRefused,
        Self::Throttled,
        Self::OwnLimit,
        Self::Yielded,
        Self::AuthFailed,
        Self::AddressForbidden,
        Self::NoMailHost,
        Self::NullMx,
        Self::NoSuchDomain,
        Self::MailLoop,
        Self::Remote4xx,
        Self::Remote5xx,
        Self::ProtocolError,
        Self::SizeExceeded,
        Self::Expired,
        Self::ReturnedByOperator,
        Self::SmtpUtf8Unsupported,
        Self::ConversionRefused,
        Self::LineTooLong,
        Self::DeliverByUnsupported,
        Self::LocalError,
        Self::MessageDamaged,
    ];

    /// The word and the code while mail waits, or the permanent code where the cause ends it at
    /// once. For `remote_4xx`, `remote_5xx`, `greeting_refused` and `throttled` the peer's own
    /// code, if it gave one, stands before this.
    const fn row(self) -> (&'static str, Status) {
        match self {
            Self::MxNotListed => ("mx_not_listed", Status::transient(7, 5)),
            Self::RuleNotMet => ("rule_not_met", Status::transient(7, 5)),
            Self::StarttlsNotOffered => ("starttls_not_offered", Status::transient(7, 4)),
            Self::StarttlsRefused => ("starttls_refused", Status::transient(7, 4)),
            Self::TlsHandshakeFailed => ("tls_handshake_failed", Status::transient(7, 5)),
            Self::CertificateExpired => ("certificate_expired", Status::transient(7, 5)),
            Self::CertificateNotYetValid => ("certificate_not_yet_valid", Status::transient(7, 5)),
            Self::CertificateNameMismatch => ("certificate_name_mismatch", Status::transient(7, 5)),
            Self::CertificateUntrusted => ("certificate_untrusted", Status::transient(7, 5)),
            Self::DaneRequired => ("dane_required", Status::transient(7, 5)),
            Self::RequireTlsUnsupported => ("require_tls_unsupported", Status::permanent(7, 30)),
            Self::RequireTlsUnauthenticated => {
                ("require_tls_unauthenticated", Status::permanent(7, 10))
            }
            Self::DnsFailure => ("dns_failure", Status::transient(4, 3)),
            Self::PolicyDnsFailure => ("policy_dns_failure", Status::transient(4, 3)),
            Self::PolicyFetchFailed => ("policy_fetch_failed", Status::transient(4, 3)),
            Self::PolicyInvalid => ("policy_invalid", Status::transient(4, 3)),
            Self::PolicyLost => ("policy_lost", Status::transient(4, 3)),
            Self::ConnectFailed => ("connect_failed", Status::transient(4, 1)),
            Self::ConnectTimeout => ("connect_timeout", Status::transient(4, 1)),
            Self::ConnectionLost => ("connection_lost", Status::transient(4, 2)),
            Self::GreetingRefused => ("greeting_refused", Status::transient(3, 2)),
            Self::Throttled => ("throttled", Status::transient(3, 2)),
            Self::OwnLimit => ("own_limit", Status::transient(3, 2)),
            Self::Yielded => ("yielded", Status::transient(3, 2)),
            Self::AuthFailed => ("auth_failed", Status::transient(7, 0)),
            Self::AddressForbidden => ("address_forbidden", Status::transient(4, 4)),
            Self::NoMailHost => ("no_mail_host", Status::transient(4, 4)),
            Self::NullMx => ("null_mx", Status::permanent(1, 10)),
            Self::NoSuchDomain => ("no_such_domain", Status::permanent(1, 2)),
            Self::MailLoop => ("mail_loop", Status::permanent(4, 6)),
            Self::Remote4xx => ("remote_4xx", Status::transient(0, 0)),
            Self::Remote5xx => ("remote_5xx", Status::permanent(0, 0)),
            Self::ProtocolError => ("protocol_error", Status::transient(5, 0)),
            Self::SizeExceeded => ("size_exceeded", Status::permanent(3, 4)),
            Self::Expired => ("expired", Status::permanent(4, 7)),
            Self::ReturnedByOperator => ("returned_by_operator", Status::permanent(3, 0)),
            Self::SmtpUtf8Unsupported => ("smtputf8_unsupported", Status::permanent(6, 7)),
            Self::ConversionRefused => ("conversion_refused", Status::permanent(6, 3)),
            Self::LineTooLong => ("line_too_long", Status::permanent(6, 0)),
            Self::DeliverByUnsupported => ("deliver_by_unsupported", Status::permanent(3, 3)),
            Self::LocalError => ("local_error", Status::transient(3, 0)),
            Self::MessageDamaged => ("message_damaged", Status::transient(3, 0)),
        }
    }

    /// The word.
    pub(crate) const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The code that goes with it, where the peer gave none.
    pub(crate) const fn status(self) -> Status {
        self.row().1
    }

    /// Is it that mail was not protected as somebody asked? Such causes do not pass by themselves.
    pub(crate) const fn is_about_protection(self) -> bool {
        match self {
            Self::MxNotListed
            | Self::RuleNotMet
            | Self::StarttlsNotOffered
            | Self::StarttlsRefused
            | Self::TlsHandshakeFailed
            | Self::CertificateExpired
            | Self::CertificateNotYetValid
            | Self::CertificateNameMismatch
            | Self::CertificateUntrusted
            | Self::DaneRequired
            | Self::RequireTlsUnsupported
            | Self::RequireTlsUnauthenticated
            | Self::PolicyDnsFailure
            | Self::PolicyFetchFailed
            | Self::PolicyInvalid
            | Self::PolicyLost => true,
            Self::DnsFailure
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::ConnectionLost
            | Self::GreetingRefused
            | Self::Throttled
            | Self::OwnLimit
            | Self::Yielded
            | Self::AuthFailed
            | Self::AddressForbidden
            | Self::NoMailHost
            | Self::NullMx
            | Self::NoSuchDomain
            | Self::MailLoop
            | Self::Remote4xx
            | Self::Remote5xx
            | Self::ProtocolError
            | Self::SizeExceeded
            | Self::SmtpUtf8Unsupported
            | Self::ConversionRefused
            | Self::LineTooLong
            | Self::DeliverByUnsupported
            | Self::Expired
            | Self::ReturnedByOperator
            | Self::LocalError
            | Self::MessageDamaged => false,
        }
    }

    /// The reason of this word; `None` for a word that is not in the vocabulary.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word for what a policy has against a host.
pub(crate) fn refusal_reason(refusal: &Refusal) -> Reason {
    match refusal {
        Refusal::MxNotListed { origin: Origin::Sts { .. }, .. } => Reason::MxNotListed,
        Refusal::MxNotListed { origin: Origin::Rule, .. }
        | Refusal::MxNameUnauthenticated { .. } => Reason::RuleNotMet,
        Refusal::RequireTlsUnauthenticated { .. } => Reason::RequireTlsUnauthenticated,
    }
}

/// The word for what is missing at a connection.
pub(crate) fn tls_reason(failure: &TlsFailure) -> Reason {
    match failure {
        TlsFailure::NotEncrypted => Reason::StarttlsNotOffered,
        TlsFailure::PossessionUnproven => Reason::TlsHandshakeFailed,
        TlsFailure::Expired { .. } => Reason::CertificateExpired,
        TlsFailure::NotYetValid { .. } => Reason::CertificateNotYetValid,
        TlsFailure::NameMismatch { .. } | TlsFailure::OtherServerName { .. } => {
            Reason::CertificateNameMismatch
        }
        TlsFailure::NoCertificate | TlsFailure::Untrusted { .. } => Reason::CertificateUntrusted,
        TlsFailure::RequireTlsNotOffered => Reason::RequireTlsUnsupported,
        TlsFailure::DaneRequired => Reason::DaneRequired,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_word_and_is_found_by_it() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
        assert_eq!(Reason::parse("no_idea"), None);
    }
}
