//! What comes before the first command: the proxy's header, and who the client is.

use smtp::proxy_header::{HeaderProgress, ProxyHeader, V2_OCTETS_MAX, parse};
use smtp::sasl::{ClientFinal, ClientFirst, Plain};
use smtp::sasl_client::{AuthStep, Authentication, Credentials};
use smtp::{Reply, ReplyParser};

use crate::common::{full_offer, play, submission_in_tls};
use crate::{choice, piece_size};

/// What is decided for a beginning holds for the whole, and no more is read than is needed.
pub fn check_proxy(data: &[u8]) {
    let whole = parse(data);
    // Before the first octets that are decided on, and at some places behind them.
    for end in (0..data.len().min(300)).chain([data.len().saturating_sub(1)]) {
        let decided = parse(&data[..end]);
        assert!(decided == HeaderProgress::NeedMore || decided == whole);
    }
    match whole {
        HeaderProgress::NeedMore => assert!(data.len() < V2_OCTETS_MAX),
        HeaderProgress::Invalid => {}
        HeaderProgress::Done { header, used } => {
            assert!(used <= data.len() && used <= V2_OCTETS_MAX);
            assert_eq!(parse(&data[..used - 1]), HeaderProgress::NeedMore);
            if let ProxyHeader::Tcp { source, destination } = header {
                assert_eq!(source.is_ipv4(), destination.is_ipv4());
            }
        }
    }
}

/// Messages of each mechanism, a dialogue with our server, and one of our client.
pub fn check_auth(mut data: &[u8]) {
    check_messages(data);
    let piece = piece_size(&mut data);
    let mechanism = if choice(&mut data).is_multiple_of(2) { "PLAIN" } else { "LOGIN" };
    let client = [format!("EHLO c\r\nAUTH {mechanism}").as_bytes(), data].concat();
    let whole = play(submission_in_tls(), &client, usize::MAX);
    assert_eq!(play(submission_in_tls(), &client, piece), whole);
    check_client(data);
}

fn check_messages(message: &[u8]) {
    if let Some(plain) = Plain::parse(message) {
        let identity = plain.authorize_as().unwrap_or_default();
        assert_eq!([identity, plain.user(), plain.password()].join("\0").as_bytes(), message);
        assert!(!format!("{plain:?}").contains("password"));
    }
    let lines: Vec<_> = message.splitn(2, |octet| *octet == b'\n').collect();
    let (Some(first), last) = (lines.first(), lines.get(1)) else { return };
    let Some(first) = ClientFirst::parse(first) else { return };
    let reply = first.reply("server", b"salt", 4096);
    assert!(reply.message().starts_with("r=") && reply.message().ends_with(",s=c2FsdA==,i=4096"));
    if let Some(last) = last.and_then(|last| ClientFinal::parse(last)) {
        let signed = reply.auth_message(&first, &last);
        assert!(signed.contains(reply.message()));
    }
}

/// The server's replies are `data`; the password goes to nobody but by the mechanism.
fn check_client(data: &[u8]) {
    let mut parser = ReplyParser::default();
    let (mut out, mut rest) = (Vec::new(), data);
    let credentials = Credentials::new("user", "secret").expect("a name and a password");
    let offered = full_offer().mechanisms();
    let Some(mut dialogue) = Authentication::start(offered, &credentials, &mut out) else { return };
    while let Some(reply) = next_reply(&mut parser, &mut rest) {
        match dialogue.on_reply(reply, &mut out) {
            AuthStep::Await(next) => dialogue = next,
            AuthStep::Done | AuthStep::Refused(_) => break,
        }
    }
    assert!(out.is_ascii() && out.ends_with(b"\r\n") && out.len() < 200);
}

fn next_reply(parser: &mut ReplyParser, rest: &mut &[u8]) -> Option<Reply> {
    let (used, reply) = parser.parse(rest).ok()?;
    *rest = &rest[used..];
    reply
}
