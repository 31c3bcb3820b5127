//! The three roads on which nothing may change that need not: relay to a host that takes
//! everything, relay to one that takes seven bits only, and submission.

use std::collections::BTreeMap;

use world::Received;

use crate::judge;
use crate::message::Message;
use crate::stage::{Door, Envelope, Stage, arrived};
use crate::tally::{Tally, Verdict};
use crate::trees;

pub(crate) async fn to_a_full_host(stage: &Stage, messages: &[Message]) -> Tally {
    let envelope = |message: &Message| envelope(message, "full.test", Flag::WhereNeeded);
    let refused = stage.pass(Door::Relay, messages, envelope).await;
    let arrived = arrived(&stage.full, 0, first_recipient);
    judged("relay to a full host", messages, &refused, &arrived, as_sent)
}

/// With Date and Message-ID where they were not.
pub(crate) async fn by_submission(stage: &Stage, messages: &[Message]) -> Tally {
    let since = stage.full.received().len();
    let envelope = |message: &Message| envelope(message, "full.test", Flag::WhereNeeded);
    let refused = stage.pass(Door::Submission, messages, envelope).await;
    let arrived = arrived(&stage.full, since, first_recipient);
    judged("submission", messages, &refused, &arrived, |message, content| {
        match as_sent(message, content) {
            Verdict::Differing(how) => completed(message, content, how),
            verdict => verdict,
        }
    })
}

pub(crate) async fn to_a_bare_host(stage: &Stage, messages: &[Message]) -> Tally {
    let envelope = |message: &Message| envelope(message, "bare.test", Flag::Never);
    let refused = stage.pass(Door::Relay, messages, envelope).await;
    let arrived = arrived(&stage.bare, 0, first_recipient);
    converted(stage, "relay to a bare host", messages, (&refused, &arrived))
}

/// Only those whose header needs SMTPUTF8, and says so.
pub(crate) async fn to_a_bare_host_with_smtputf8(stage: &Stage, messages: &[Message]) -> Tally {
    let with_utf8: Vec<Message> =
        messages.iter().filter(|message| message.has_utf8_header()).cloned().collect();
    let since = stage.bare.received().len();
    let envelope = |message: &Message| envelope(message, "bare.test", Flag::WhereNeeded);
    let refused = stage.pass(Door::Relay, &with_utf8, envelope).await;
    let arrived = arrived(&stage.bare, since, first_recipient);
    converted(stage, "relay to a bare host, SMTPUTF8", &with_utf8, (&refused, &arrived))
}

/// Whether SMTPUTF8 is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Flag {
    WhereNeeded,
    Never,
}

fn envelope(message: &Message, domain: &str, smtputf8: Flag) -> Envelope {
    let body = if message.is_eight_bit() { " BODY=8BITMIME" } else { "" };
    let is_flagged = smtputf8 == Flag::WhereNeeded && message.has_utf8_header();
    Envelope {
        // Without a sender nobody is sent a DSN.
        from: String::new(),
        to: format!("{}@{domain}", message.local_part()),
        mail: format!("{body}{}", if is_flagged { " SMTPUTF8" } else { "" }),
        rcpt: "",
    }
}

fn first_recipient(received: &Received) -> Option<String> {
    received.to.first().cloned()
}

type Arrived = BTreeMap<usize, Vec<Received>>;
type Reasons = BTreeMap<usize, String>;

/// One verdict for each message: `compare` is asked about those that arrived, once, below our
/// Received.
fn judged(
    road: &'static str,
    messages: &[Message],
    refused: &Reasons,
    arrived: &Arrived,
    compare: impl Fn(&Message, &[u8]) -> Verdict,
) -> Tally {
    let mut tally = Tally::new(road);
    for message in messages {
        let verdict = match below(message, refused, arrived) {
            Ok(content) => compare(message, content),
            Err(verdict) => verdict,
        };
        tally.add(message, verdict);
    }
    tally
}

/// What arrived, without our Received field.
fn below<'a>(
    message: &Message,
    refused: &Reasons,
    arrived: &'a Arrived,
) -> Result<&'a [u8], Verdict> {
    let copies = arrived.get(&message.number).map(Vec::as_slice).unwrap_or_default();
    match (copies, refused.get(&message.number)) {
        ([one], None) => smtp::header::split_field(&one.content)
            .filter(|(field, _)| field.starts_with(b"Received: "))
            .map(|(_, rest)| rest)
            .ok_or_else(|| Verdict::Differing("no Received of ours".to_owned())),
        ([], Some(reason)) => Err(Verdict::Refused(reason.clone())),
        ([], None) => Err(Verdict::Differing("it was taken, and did not arrive".to_owned())),
        (copies, reason) => {
            let how = format!("{} copies arrived, and it was refused: {reason:?}", copies.len());
            Err(Verdict::Differing(how))
        }
    }
}

const APART: &str = "an empty line in front of a first line that begins with a blank";

fn as_sent(message: &Message, content: &[u8]) -> Verdict {
    if content == message.octets {
        Verdict::Identical
    } else if content.strip_prefix(b"\r\n").is_some_and(|rest| rest == message.octets)
        && matches!(message.octets.first(), Some(b' ' | b'\t'))
    {
        Verdict::Allowed(APART.to_owned())
    } else {
        Verdict::Differing(first_difference(&message.octets, content))
    }
}

/// The same after Date and Message-ID that were added are taken out again.
fn completed(message: &Message, content: &[u8], how: String) -> Verdict {
    let mut rest = Vec::with_capacity(content.len());
    let mut added = Vec::new();
    for field in smtp::header::fields(content) {
        let name = smtp::header::name(field).unwrap_or_default().to_ascii_lowercase();
        let is_new = matches!(name.as_slice(), b"date" | b"message-id") && !has(message, &name);
        if is_new { added.push(name) } else { rest.extend_from_slice(field) }
    }
    rest.extend_from_slice(smtp::header::split(content).1);
    added.sort();
    // To what is signed nothing may be added.
    let is_signed = has(message, b"dkim-signature");
    let lacking =
        [&b"date"[..], b"message-id"].into_iter().filter(|name| !is_signed && !has(message, name));
    match as_sent(message, &rest) {
        Verdict::Differing(_) => Verdict::Differing(how),
        _ if lacking.ne(added.iter().map(Vec::as_slice)) => {
            Verdict::Differing("Date or Message-ID is still missing, or there twice".to_owned())
        }
        Verdict::Identical => Verdict::Allowed("Date or Message-ID added".to_owned()),
        Verdict::Allowed(class) => Verdict::Allowed(format!("Date or Message-ID added; {class}")),
        verdict => verdict,
    }
}

fn has(message: &Message, wanted: &[u8]) -> bool {
    smtp::header::fields(&message.octets)
        .filter_map(smtp::header::name)
        .any(|name| name.eq_ignore_ascii_case(wanted))
}

/// Decision 11: fields stay unless the client asks for SMTPUTF8, and what has no encoding is better
/// sent than returned.
const AS_IT_IS: &str =
    "as it was sent, though it has eight bits: in fields, or in what has no encoding";

/// Those that arrived otherwise than they were sent are judged by both parsers.
fn converted(
    stage: &Stage,
    road: &'static str,
    messages: &[Message],
    (refused, arrived): (&Reasons, &Arrived),
) -> Tally {
    let mut changed = BTreeMap::new();
    for message in messages {
        if let Ok(content) = below(message, refused, arrived)
            && let Verdict::Differing(_) = as_sent(message, content)
        {
            let sent = stage.cache.join("messages").join(format!("{}.eml", message.name));
            let became = stage.write(&format!("{}.converted", message.name), content);
            changed.insert(message.number, vec![sent, became]);
        }
    }
    let python = judge::trees(stage, &changed);
    judged(road, messages, refused, arrived, |message, content| match as_sent(message, content) {
        Verdict::Identical if message.is_eight_bit() => Verdict::Allowed(AS_IT_IS.to_owned()),
        Verdict::Differing(_) if !message.is_eight_bit() => {
            Verdict::Differing("nothing had to change".to_owned())
        }
        Verdict::Differing(_) => {
            let ours = trees::compare(&message.octets, content);
            let theirs = python.get(&message.number).expect("a verdict on each");
            both(ours, theirs)
        }
        verdict => verdict,
    })
}

fn both(mail_parser: Verdict, python: &Verdict) -> Verdict {
    match (mail_parser, python) {
        (Verdict::Differing(one), Verdict::Differing(other)) => {
            Verdict::Differing(format!("mail-parser: {one}; Python: {other}"))
        }
        (Verdict::Differing(one), _) => Verdict::Differing(format!("mail-parser: {one}")),
        (_, Verdict::Differing(other)) => Verdict::Differing(format!("Python: {other}")),
        (Verdict::Allowed(one), _) => Verdict::Allowed(one),
        (_, Verdict::Allowed(other)) => Verdict::Allowed(other.clone()),
        (_, _) => Verdict::Converted,
    }
}

/// Where two messages begin to differ, and what stands there.
pub(crate) fn first_difference(sent: &[u8], became: &[u8]) -> String {
    let at = sent.iter().zip(became).take_while(|(one, other)| one == other).count();
    let around = |octets: &[u8]| {
        let part = octets.get(at.saturating_sub(20)..).unwrap_or_default();
        part.get(..60).unwrap_or(part).escape_ascii().to_string()
    };
    format!("at {at}: sent \"{}\", became \"{}\"", around(sent), around(became))
}
