//! Messages for hosts that do not take them as they are: eight bits as seven, long lines as short
//! ones (RFC 6152 §3, RFC 2045 §6).
//!
//! A [`Survey`] looks at the message and makes a [`ConversionPlan`]; a [`Conversion`] carries it
//! out. Both read the message in pieces and hold no more than a line's head, one field of a header
//! and the open boundaries, so that the size of a message does not matter; its depth and parts are
//! bounded.
//!
//! Text becomes quoted-printable, other content base64, each part for itself; fields that are
//! missing are added, and a multipart that said `8bit` says `7bit`. Long lines of header fields are
//! folded at white space, but for fields that a DKIM signature covers as they are written. Content
//! that must not be changed (RFC 1847) is [`ConversionRefused`] where its eight bits are in the
//! way. What readers get along with is repaired: raw octets in what says quoted-printable, an
//! encoding of a multipart, an encoding said twice. What cannot be encoded (base64 with raw octets,
//! a fragment of a message) stays as it is.
//!
//! Raw octets above 127 in *header* fields stay as they are, unless [`HeaderGoal`] says else: they
//! are not allowed without SMTPUTF8 in the first place, and Postfix passes them on alike. What such
//! a header is inside of keeps its label of eight bits; and so it is with a
//! `message/delivery-status`, whose fields no program decodes. In mail with SMTPUTF8 they mean
//! UTF-8, and become encoded words for a host that does not know it; an address has no such form.
//!
//! A DKIM signature of the body does not survive: whoever converts says so
//! ([`ConversionPlan::breaks_dkim`]).

mod convert;
mod encode;
mod fields;
mod fold;
mod lines;
mod scan;
mod signed;
mod survey;
#[cfg(test)]
mod tests;
mod walker;
mod words;

pub use convert::Conversion;
pub use survey::Survey;
pub use words::in_ascii;

/// Octets of a line without its end that every host takes (RFC 5321 §4.5.3.1.6).
pub const LINE_OCTETS_MAX: usize = crate::limits::CONTENT_LINE_OCTETS - 2;

/// What a host cannot take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Goal {
    /// No octets above 127 in content.
    pub seven_bit: bool,
    /// No lines over [`LINE_OCTETS_MAX`] in content, and in header fields none that can be folded.
    pub short_lines: bool,
    /// What header fields may have.
    pub header: HeaderGoal,
}

/// What of header fields a host cannot take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HeaderGoal {
    /// They stay as they are, but for lines that are too long.
    #[default]
    AsItIs,
    /// Raw octets above 127 become encoded words (RFC 2047): for mail with SMTPUTF8. Headers of
    /// parts are content, as far as the host is concerned: they are encoded where content has to
    /// be.
    Ascii,
}

impl Goal {
    /// Is there nothing to reach?
    pub fn is_reached(self) -> bool {
        !self.seven_bit && !self.short_lines && self.header == HeaderGoal::AsItIs
    }
}

/// Why a message cannot be converted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConversionRefused {
    /// Eight bits inside multipart/signed or multipart/encrypted (RFC 1847 §2.1).
    #[error("it is signed or encrypted, and must not be changed")]
    Sealed,
    /// Two Content-Types in one header.
    #[error("a part has two types")]
    Ambiguous,
    /// An address in a header field has octets above 127, which no encoding can stand for.
    #[error("an address in the header has UTF-8")]
    Utf8Address,
    /// Too many parts, parts inside parts, or too long a field.
    #[error("it has too many parts")]
    TooComplex,
}

/// What has to be done to a message, entity by entity.
#[derive(Clone, Debug)]
pub struct ConversionPlan {
    goal: Goal,
    actions: Vec<PartAction>,
    eight_bit: EightBitContent,
    folds: Folds,
    words: EncodedHeaders,
    /// Content that says that it is encoded, or may not be, has octets above 127: nothing helps
    /// there.
    leaves_8bit: bool,
    is_dkim_signed: bool,
}

/// Which headers get encoded words.
#[derive(Clone, Copy, Debug, Default)]
struct EncodedHeaders {
    /// That of the message.
    top: bool,
    /// Those of parts, and of messages inside.
    inside: bool,
}

/// Which fields are folded.
#[derive(Clone, Debug, Default)]
struct Folds {
    /// Of the message's own header: their names, in lower case.
    names: Vec<Vec<u8>>,
    /// Are there others, in headers inside?
    is_inside: bool,
}

/// Where octets above 127 stand beside content.
#[derive(Clone, Copy, Debug, Default)]
struct EightBitContent {
    in_header: bool,
    /// Before or behind the parts of a multipart.
    in_aside: bool,
}

impl ConversionPlan {
    /// Can the message go as it is?
    pub fn is_empty(&self) -> bool {
        self.folds.names.is_empty() && !self.words.top && !self.changes_content()
    }

    fn changes_content(&self) -> bool {
        let is_kept = self.actions.iter().all(|action| *action == PartAction::Keep);
        self.eight_bit.in_aside || self.folds.is_inside || self.words.inside || !is_kept
    }

    /// Has a header, that of the message or of any part, octets above 127?
    pub fn has_8bit_header(&self) -> bool {
        self.eight_bit.in_header
    }

    /// Do octets above 127 stay in content, because no encoding would be understood?
    pub fn leaves_8bit(&self) -> bool {
        self.leaves_8bit
    }

    /// Has the message a DKIM-Signature that does not survive? Folding the header alone leaves each
    /// valid (RFC 6376 §3.4.2).
    pub fn breaks_dkim(&self) -> bool {
        self.is_dkim_signed && (self.words.top || self.changes_content())
    }
}

/// What becomes of one entity.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum PartAction {
    /// It stays as it is.
    Keep,
    /// It says `8bit`, and will be `7bit`.
    Relabel,
    /// Its content is encoded.
    Encode {
        encoding: Encoding,
        /// For a header without Content-Type.
        charset: Option<Charset>,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Encoding {
    QuotedPrintable,
    Base64,
    /// It says quoted-printable, and has raw octets above 127 all the same: they are encoded, and
    /// the rest stays.
    RawOctets,
}

/// What text without Content-Type is taken for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Charset {
    /// It is valid UTF-8, which other text with octets above 127 hardly ever is.
    Utf8,
    /// It is in a charset that nobody names: labelled `unknown-8bit` (RFC 1428 §3).
    Unknown,
}
