//! Why a handshake failed, in words for operators.
//!
//! The library names the first thing that it missed: of a client that speaks TLS 1.0 that is a
//! signature algorithm, of one without ECDHE a group.

use rustls::{AlertDescription, PeerIncompatible};

/// What is at the other end of a handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    /// We are the client.
    Host,
    /// We are the server.
    Client,
}

/// A failed handshake in words for operators, where the library's name the first thing that it
/// missed.
pub(crate) fn described(error: &rustls::Error, side: Side) -> String {
    let other = match side {
        Side::Host => "the peer",
        Side::Client => "the client",
    };
    if is_about_version(error) {
        format!("{other} speaks none of the TLS versions that we accept")
    } else if is_about_suites(error) {
        format!("no cipher suite in common with {other}: {SUITES} ({error})")
    } else if is_about_signatures(error) {
        format!(
            "no signature algorithm in common with {other}; a peer that names none means SHA-1 ({error})"
        )
    } else {
        error.to_string()
    }
}

/// Our suites, as far as people look for them.
const SUITES: &str = "of TLS 1.2 we have ECDHE with AES-GCM or ChaCha20-Poly1305 only, no RSA or DHE key exchange and no CBC";

fn is_about_version(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
            | rustls::Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                    | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                    | PeerIncompatible::Tls12NotOffered
                    | PeerIncompatible::Tls12NotOfferedOrEnabled
                    | PeerIncompatible::SupportedVersionsExtensionRequired
            )
    )
}

/// No signature scheme in common (RFC 5246 §7.4.1.4.1, RFC 8446 §4.2.3).
fn is_about_signatures(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::PeerIncompatible(
            PeerIncompatible::SignatureAlgorithmsExtensionRequired
                | PeerIncompatible::NoSignatureSchemesInCommon
        )
    )
}

/// A host says handshake_failure for whatever it minds; a suite is by far the usual thing (RFC 5246
/// §7.2.2).
fn is_about_suites(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity
        ) | rustls::Error::PeerIncompatible(
            PeerIncompatible::NoCipherSuitesInCommon
                | PeerIncompatible::NoKxGroupsInCommon
                | PeerIncompatible::NamedGroupsExtensionRequired
                | PeerIncompatible::EcPointsExtensionRequired
        )
    )
}
