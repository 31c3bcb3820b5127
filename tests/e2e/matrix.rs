//! Each mode of a policy meets each fault of an MX (RFC 8461 §5): the mail goes out as decided, or
//! waits with the right reason, or goes to the next MX. One table, one named test per cell.

use world::{Leaf, Mode, Mx, Script, Starttls, World};

use crate::harness::{Stage, on_stage};

/// What is wrong with the preferred MX.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    /// No MX of the domain is in the policy.
    MxUnlisted,
    /// The preferred MX is not in the policy, the next one is.
    SomeMxListed,
    StarttlsAbsent,
    Starttls454,
    Starttls501,
    HandshakeAbort,
    HandshakeAlert,
    /// Plaintext in the segment of the 220 to STARTTLS.
    InjectedPlaintext,
    SelfSigned,
    UntrustedCa,
    Expired,
    NotYetValid,
    WrongName,
    CommonNameOnly,
    Tls11Only,
    /// Another's chain, without its key.
    ReplayedChain,
    /// Nothing.
    Good,
}

/// What becomes of mail when this is the only MX.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// Delivered over TLS at once.
    Encrypted,
    /// Delivered in clear at once.
    Clear,
    /// Deferred; in clear from the second attempt on, as nothing is required.
    ClearLater(&'static str),
    /// Deferred, and never even begun with this host.
    Refused(&'static str),
}

/// The decision.
fn fate(mode: Mode, fault: Fault) -> Fate {
    match mode {
        Mode::Enforce => enforced(fault),
        // RFC 8461 §5: testing changes nothing but the reports; none is as no policy.
        Mode::Testing | Mode::None => unrequired(fault),
    }
}

fn enforced(fault: Fault) -> Fate {
    Fate::Refused(match fault {
        Fault::Good => return Fate::Encrypted,
        Fault::MxUnlisted | Fault::SomeMxListed => "mx_not_listed",
        Fault::StarttlsAbsent => "starttls_not_offered",
        Fault::Starttls454 | Fault::Starttls501 | Fault::InjectedPlaintext => "starttls_refused",
        Fault::HandshakeAbort | Fault::HandshakeAlert | Fault::Tls11Only | Fault::ReplayedChain => {
            "tls_handshake_failed"
        }
        Fault::SelfSigned | Fault::UntrustedCa => "certificate_untrusted",
        Fault::Expired => "certificate_expired",
        Fault::NotYetValid => "certificate_not_yet_valid",
        Fault::WrongName | Fault::CommonNameOnly => "certificate_name_mismatch",
    })
}

fn unrequired(fault: Fault) -> Fate {
    match fault {
        Fault::StarttlsAbsent => Fate::Clear,
        Fault::Starttls454 | Fault::Starttls501 | Fault::InjectedPlaintext => {
            Fate::ClearLater("starttls_refused")
        }
        Fault::HandshakeAbort | Fault::HandshakeAlert | Fault::Tls11Only => {
            Fate::ClearLater("tls_handshake_failed")
        }
        Fault::MxUnlisted
        | Fault::SomeMxListed
        | Fault::SelfSigned
        | Fault::UntrustedCa
        | Fault::Expired
        | Fault::NotYetValid
        | Fault::WrongName
        | Fault::CommonNameOnly
        | Fault::ReplayedChain
        | Fault::Good => Fate::Encrypted,
    }
}

impl Fault {
    /// Spoils a good host.
    fn apply(self, world: &World, mx: &Mx) {
        let leaf = Leaf::named(mx.host());
        let starttls = match self {
            Self::StarttlsAbsent => Starttls::Absent,
            Self::Starttls454 => Starttls::Reply("454 4.7.0 TLS not available".to_owned()),
            Self::Starttls501 => Starttls::Reply("501 5.5.4 Syntax error".to_owned()),
            Self::HandshakeAbort => Starttls::Abort,
            Self::HandshakeAlert => Starttls::Alert,
            Self::InjectedPlaintext => Starttls::InjectPlaintext,
            Self::Tls11Only => Starttls::Tls11Only,
            _ => Starttls::Good,
        };
        let leaf = match self {
            Self::SelfSigned => leaf.self_signed(),
            Self::UntrustedCa => leaf.untrusted(),
            Self::Expired => leaf.expired(),
            Self::NotYetValid => leaf.not_yet_valid(),
            Self::WrongName => Leaf::named("mx.elsewhere.test"),
            Self::CommonNameOnly => leaf.common_name_only(),
            _ => leaf,
        };
        let identity = world.pki.issue(&leaf);
        let identity = if self == Self::ReplayedChain { identity.replayed() } else { identity };
        mx.script(|script| *script = Script { starttls, identity, ..script.clone() });
    }

    fn is_about_names(self) -> bool {
        matches!(self, Self::MxUnlisted | Self::SomeMxListed)
    }
}

/// What a testing policy would have refused, if anything.
fn finding(mode: Mode, fault: Fault) -> Option<&'static str> {
    match (mode, enforced(fault)) {
        (Mode::Testing, Fate::Refused(reason)) => Some(reason),
        _ => None,
    }
}

/// One cell: alone, and with a good MX behind it.
fn cell(mode: Mode, fault: Fault) {
    on_stage(|stage| async move {
        if fault != Fault::SomeMxListed {
            only_mx(stage, mode, fault).await;
        }
        if fault != Fault::MxUnlisted {
            with_next_mx(stage, mode, fault).await;
        }
    });
}

fn domain_name(mode: Mode, fault: Fault, variant: &str) -> String {
    format!("{fault:?}.{}.{variant}.test", mode.as_str()).to_ascii_lowercase()
}

async fn only_mx(stage: &Stage, mode: Mode, fault: Fault) {
    let name = domain_name(mode, fault, "alone");
    let host = format!("mx.{name}");
    let mx = stage.world.mx(&host).await;
    fault.apply(&stage.world, &mx);
    let listed = if fault.is_about_names() { "mx.listed.test" } else { host.as_str() };
    let domain = stage.world.domain(&name);
    domain.mx(&[(10, &mx)]).mta_sts(mode, &[listed], 86400);
    let recipient = domain.address("user");

    let id = stage.relay.submit("sender@client.test", &[&recipient], &name).await;
    let fate = fate(mode, fault);
    match fate {
        Fate::Encrypted => expect_delivery(stage, &mx, &recipient, Channel::Tls).await,
        Fate::Clear => expect_delivery(stage, &mx, &recipient, Channel::Clear).await,
        Fate::ClearLater(reason) => {
            expect_deferral(stage, &recipient, reason).await;
            expect_delivery(stage, &mx, &recipient, Channel::Clear).await;
        }
        Fate::Refused(reason) => {
            expect_deferral(stage, &recipient, reason).await;
            expect_queued(stage, &recipient, &host, reason).await;
            assert_eq!(mx.commanded("MAIL"), 0, "not even begun: {:?}", mx.commands());
            if fault.is_about_names() {
                assert_eq!(mx.connections(), 0, "not even a TCP connection");
            }
            stage.discard(&id).await;
        }
    }
    if let (Fate::Encrypted | Fate::Clear, Some(reason)) = (fate, finding(mode, fault)) {
        let waived = stage.relay.event("policy_waived").with("mx", &host).await;
        assert_eq!(waived.text("reason").as_deref(), Some(reason));
    }
}

/// It is tried as it is, and then in another form.
#[test]
fn what_testing_waives_is_told_once_of_mail_that_is_converted() {
    on_stage(|stage| async {
        let mx = stage.world.mx("mx.once.test").await;
        mx.script(|script| script.keywords = Vec::new());
        let domain = stage.world.domain("once.test");
        domain.mx(&[(10, &mx)]).mta_sts(Mode::Testing, &["other.test"], 86400);
        let id = stage.relay.submit("a@client.test", &["b@once.test"], "gr\u{fc}n").await;
        stage.relay.event("delivered").with("message_id", &id).await;
        assert_eq!(stage.relay.event("converted").with("message_id", &id).count(), 1);
        assert_eq!(stage.relay.event("policy_waived").with("message_id", &id).count(), 1);
    });
}

async fn with_next_mx(stage: &Stage, mode: Mode, fault: Fault) {
    let name = domain_name(mode, fault, "pair");
    let (first_host, next_host) = (format!("mx1.{name}"), format!("mx2.{name}"));
    let first = stage.world.mx(&first_host).await;
    let next = stage.world.mx(&next_host).await;
    fault.apply(&stage.world, &first);
    let listed = [next_host.as_str(), first_host.as_str()];
    let listed = if fault.is_about_names() { &listed[..1] } else { &listed };
    let domain = stage.world.domain(&name);
    domain.mx(&[(10, &first), (20, &next)]).mta_sts(mode, listed, 86400);
    let recipient = domain.address("user");

    stage.relay.submit("sender@client.test", &[&recipient], &name).await;
    match fate(mode, fault) {
        Fate::Encrypted => expect_delivery(stage, &first, &recipient, Channel::Tls).await,
        Fate::Clear => expect_delivery(stage, &first, &recipient, Channel::Clear).await,
        Fate::ClearLater(reason) | Fate::Refused(reason) => {
            expect_delivery(stage, &next, &recipient, Channel::Tls).await;
            let refused = stage.relay.event("mx_refused").with("mx", &first_host);
            refused.with("reason", reason).await;
            assert_eq!(first.commanded("MAIL"), 0, "not even begun: {:?}", first.commands());
            if fault.is_about_names() {
                assert_eq!(first.connections(), 0, "not even a TCP connection");
            }
        }
    }
}

/// How a delivered message came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Channel {
    Tls,
    Clear,
}

async fn expect_delivery(stage: &Stage, mx: &Mx, recipient: &str, channel: Channel) {
    let delivered = stage.relay.event("delivered").with("recipient", recipient).await;
    assert_eq!(delivered.text("mx").as_deref(), Some(mx.host()));
    let message = mx.message_to(recipient).await;
    let came = if message.tls.is_some() { Channel::Tls } else { Channel::Clear };
    assert_eq!(came, channel);
    let tls_version = message.tls.map(|tls| tls.version.to_owned());
    assert_eq!(delivered.text("tls_version"), tls_version, "the log says what the host saw");
    assert_eq!(mx.received().len(), 1, "once\n{}", stage.relay.lines_about(mx.host()));
}

async fn expect_deferral(stage: &Stage, recipient: &str, reason: &str) {
    let deferred = stage.relay.event("deferred").with("recipient", recipient).await;
    assert_eq!(deferred.text("reason").as_deref(), Some(reason));
}

async fn expect_queued(stage: &Stage, recipient: &str, host: &str, reason: &str) {
    let row = stage.relay.queued(recipient).await.expect("it waits in the queue");
    assert_eq!(row["last"]["reason"], reason, "{row}");
    let code = if reason.starts_with("starttls") { "4.7.4" } else { "4.7.5" };
    assert_eq!(row["last"]["status"], code, "{row}");
    assert_eq!(row["last"]["mx"], host, "{row}");
}

macro_rules! cells {
    ($($fault:ident => $test:ident),* $(,)?) => {
        mod enforce {
            $(#[test] fn $test() { super::cell(super::Mode::Enforce, super::Fault::$fault); })*
        }
        mod testing {
            $(#[test] fn $test() { super::cell(super::Mode::Testing, super::Fault::$fault); })*
        }
        mod none {
            $(#[test] fn $test() { super::cell(super::Mode::None, super::Fault::$fault); })*
        }
    };
}

cells! {
    MxUnlisted => mx_unlisted,
    SomeMxListed => some_mx_listed,
    StarttlsAbsent => starttls_absent,
    Starttls454 => starttls_454,
    Starttls501 => starttls_501,
    HandshakeAbort => handshake_abort,
    HandshakeAlert => handshake_alert,
    InjectedPlaintext => plaintext_injected_behind_the_220,
    SelfSigned => self_signed,
    UntrustedCa => untrusted_ca,
    Expired => expired,
    NotYetValid => not_yet_valid,
    WrongName => wrong_name,
    CommonNameOnly => common_name_only,
    Tls11Only => tls_1_1_only,
    ReplayedChain => anothers_chain_replayed,
    Good => good,
}
