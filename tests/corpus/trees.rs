//! What mail-parser reads in a message before and after conversion.

use mail_parser::{Header, HeaderName, HeaderValue, Message, MessageParser, PartType};

use crate::tally::Verdict;

/// Fields that conversion may change: they say how the content is written.
const OF_THE_ENCODING: [&str; 2] = ["MIME-Version", "Content-Transfer-Encoding"];

/// Where the header ends before a line that is no field (RFC 5322 §2.2) this parser reads on: not
/// as we, Python and Postfix.
const READS_ON: &str = "converted; mail-parser reads fields below a line that is no field";
const LABELLED: &str = "converted; what had no Content-Type is labelled as text with its charset";

pub(crate) fn compare(sent: &[u8], became: &[u8]) -> Verdict {
    match compare_trees(sent, became) {
        Verdict::Differing(_) if has_line_that_is_no_field(sent) => {
            Verdict::Allowed(READS_ON.to_owned())
        }
        verdict => verdict,
    }
}

fn has_line_that_is_no_field(message: &[u8]) -> bool {
    let (_, rest) = smtp::header::split(message);
    !rest.is_empty() && !rest.starts_with(b"\r\n")
}

fn compare_trees(sent: &[u8], became: &[u8]) -> Verdict {
    let parser = MessageParser::default();
    match (parser.parse(sent), parser.parse(became)) {
        (Some(sent), Some(became)) => match difference(&sent, &became) {
            None if is_labelled(&sent, &became) => Verdict::Allowed(LABELLED.to_owned()),
            None => Verdict::Converted,
            Some(how) => Verdict::Differing(how),
        },
        (None, None) => Verdict::Converted,
        (sent, _) => Verdict::Differing(format!(
            "only {} is read",
            sent.map_or("the result", |_| "the original")
        )),
    }
}

fn difference(sent: &Message<'_>, became: &Message<'_>) -> Option<String> {
    if sent.parts.len() != became.parts.len() {
        return Some(format!("{} parts became {}", sent.parts.len(), became.parts.len()));
    }
    for (at, (one, other)) in sent.parts.iter().zip(&became.parts).enumerate() {
        if let Some(how) = fields(&one.headers, &other.headers) {
            return Some(format!("part {at}: {how}"));
        }
        let how = match (&one.body, &other.body) {
            (PartType::Message(one), PartType::Message(other)) => difference(one, other),
            (one, other) => (!is_same(one, other)).then(|| "another content".to_owned()),
        };
        if let Some(how) = how {
            return Some(format!("part {at}: {how}"));
        }
    }
    None
}

/// Has a part a Content-Type that it had not?
fn is_labelled(sent: &Message<'_>, became: &Message<'_>) -> bool {
    let has_none = |headers: &[Header<'_>]| headers.iter().all(|header| !is_type(header));
    sent.parts.iter().zip(&became.parts).any(|(one, other)| {
        let is_inside = match (&one.body, &other.body) {
            (PartType::Message(one), PartType::Message(other)) => is_labelled(one, other),
            (_, _) => false,
        };
        is_inside || (has_none(&one.headers) && !has_none(&other.headers))
    })
}

fn is_type(header: &Header<'_>) -> bool {
    header.name == HeaderName::ContentType
}

/// The kind of a part may be told from its type only, so that text and other content are compared
/// by their octets.
fn is_same(one: &PartType<'_>, other: &PartType<'_>) -> bool {
    match (one, other) {
        (PartType::Multipart(one), PartType::Multipart(other)) => one == other,
        (PartType::Text(one), PartType::Text(other))
        | (PartType::Html(one), PartType::Html(other)) => one == other,
        (
            PartType::Binary(one) | PartType::InlineBinary(one),
            PartType::Binary(other) | PartType::InlineBinary(other),
        ) => one == other,
        (_, _) => false,
    }
}

fn fields(one: &[Header<'_>], other: &[Header<'_>]) -> Option<String> {
    let is_untyped = !one.iter().any(is_type);
    let counts = |header: &&Header<'_>| {
        let is_label = is_untyped && is_type(header) && is_plain_text(&header.value);
        let is_named = |name: &&str| header.name.as_str().eq_ignore_ascii_case(name);
        !is_label && !OF_THE_ENCODING.iter().any(is_named)
    };
    let mut others = other.iter().filter(counts);
    for header in one.iter().filter(counts) {
        let Some(same) = others.next() else {
            return Some(format!("no {}", header.name.as_str()));
        };
        if header.name != same.name || header.value != same.value {
            return Some(format!(
                "{:?} became {:?}",
                (&header.name, &header.value),
                (&same.name, &same.value)
            ));
        }
    }
    others.next().map(|header| format!("{} is new: {:?}", header.name.as_str(), header.value))
}

fn is_plain_text(value: &HeaderValue<'_>) -> bool {
    let HeaderValue::ContentType(kind) = value else { return false };
    kind.ctype() == "text" && kind.subtype() == Some("plain") && kind.attribute("charset").is_some()
}
