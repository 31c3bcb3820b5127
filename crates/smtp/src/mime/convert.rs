//! Carries a [`ConversionPlan`] out.

use super::encode::{Base64, QuotedPrintable, RawOctets};
use super::fields::ContentKind;
use super::fold::Folder;
use super::walker::{Entity, EntityForm, EntityHandler, Field, HeaderEnd, Walker};
use super::words::FieldEncoder;
use super::{Charset, ConversionPlan, ConversionRefused, Encoding, PartAction};

/// Converts a message, in pieces of any size.
#[derive(Debug)]
pub struct Conversion<'p> {
    walker: Walker<ConversionWriter<'p>>,
}

impl<'p> Conversion<'p> {
    /// Of the message that `plan` was made for.
    pub fn new(plan: &'p ConversionPlan) -> Self {
        Self { walker: Walker::new(ConversionWriter::new(plan)) }
    }

    /// Appends what the next piece becomes to `out`.
    ///
    /// # Errors
    ///
    /// [`ConversionRefused`] if this is not the message that the plan was made for.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), ConversionRefused> {
        std::mem::swap(&mut self.walker.handler().out, out);
        let pushed = self.walker.push(piece);
        std::mem::swap(&mut self.walker.handler().out, out);
        pushed
    }

    /// Appends what is left.
    ///
    /// # Errors
    ///
    /// As [`Conversion::push`].
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), ConversionRefused> {
        std::mem::swap(&mut self.walker.handler().out, out);
        *out = self.walker.finish()?.out;
        Ok(())
    }
}

#[derive(Debug)]
enum Encoder {
    None,
    QuotedPrintable(QuotedPrintable),
    Base64(Base64),
    RawOctets(RawOctets),
}

#[derive(Debug)]
struct ConversionWriter<'p> {
    plan: &'p ConversionPlan,
    actions: std::slice::Iter<'p, PartAction>,
    /// For the current entity.
    action: PartAction,
    entity: Entity,
    /// Behind the first header.
    is_inside: bool,
    /// The encoding of the current entity is said.
    has_label: bool,
    encoder: Encoder,
    /// While a field is folded.
    folder: Option<Folder>,
    /// While a field may have to be encoded.
    words: Option<FieldEncoder>,
    out: Vec<u8>,
}

impl<'p> ConversionWriter<'p> {
    fn new(plan: &'p ConversionPlan) -> Self {
        Self {
            plan,
            actions: plan.actions.iter(),
            action: PartAction::Keep,
            entity: Entity { is_message: true, is_sealed: false, depth: 0 },
            encoder: Encoder::None,
            is_inside: false,
            has_label: false,
            folder: None,
            words: None,
            out: Vec::new(),
        }
    }

    fn put(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn end_field(&mut self) -> Result<(), ConversionRefused> {
        if let Some(mut words) = self.words.take() {
            let mut encoded = Vec::new();
            words.finish(&mut encoded)?;
            self.emit(&encoded);
        }
        if let Some(mut folder) = self.folder.take() {
            folder.finish(&mut self.out);
        }
        Ok(())
    }

    /// Octets of a field as they are sent, but for folding.
    fn emit(&mut self, octets: &[u8]) {
        match &mut self.folder {
            Some(folder) => folder.push(octets, &mut self.out),
            None => self.out.extend_from_slice(octets),
        }
    }

    fn encoding_field(&mut self, word: &str) {
        self.put("Content-Transfer-Encoding: ");
        self.put(word);
        self.put("\r\n");
    }
}

impl EntityHandler for ConversionWriter<'_> {
    fn entity(&mut self, entity: Entity) {
        self.entity = entity;
        self.has_label = false;
        self.action = self.actions.next().copied().unwrap_or(PartAction::Keep);
    }

    fn field_start(&mut self, name: &[u8]) -> Result<(), ConversionRefused> {
        self.end_field()?;
        let ConversionPlan { folds, words, .. } = self.plan;
        let (is_folded, is_encoded) = if self.is_inside {
            let is_sealed = self.entity.is_sealed;
            (folds.is_inside && !is_sealed, words.inside && !is_sealed)
        } else {
            (folds.names.iter().any(|folded| name.eq_ignore_ascii_case(folded)), words.top)
        };
        self.folder = is_folded.then(Folder::default);
        self.words = is_encoded.then(FieldEncoder::default);
        Ok(())
    }

    fn header(&mut self, octets: &[u8]) {
        let Some(words) = &mut self.words else { return self.emit(octets) };
        let mut passed_on = Vec::new();
        words.push(octets, &mut passed_on);
        self.emit(&passed_on);
    }

    fn field(&mut self, field: Field, octets: &[u8]) {
        match (field, self.action) {
            // Of several the first one counted; the others go.
            (Field::TransferEncoding, PartAction::Relabel | PartAction::Encode { .. })
                if std::mem::replace(&mut self.has_label, true) => {}
            (Field::TransferEncoding, PartAction::Relabel) => self.encoding_field("7bit"),
            (Field::TransferEncoding, PartAction::Encode { encoding, .. }) => {
                self.encoding_field(encoding.word());
            }
            (Field::TransferEncoding, PartAction::Keep)
            | (Field::ContentType | Field::MimeVersion, _) => self.header(octets),
        }
    }

    fn header_end(&mut self, form: &EntityForm, end: HeaderEnd) -> Result<(), ConversionRefused> {
        self.end_field()?;
        let is_top = !std::mem::replace(&mut self.is_inside, true);
        let is_encode = |action: &PartAction| matches!(action, PartAction::Encode { .. });
        // An encoded part is one only where MIME holds (RFC 2045 §4).
        let needs_version =
            is_encode(&self.action) || is_top && self.plan.actions.iter().any(is_encode);
        if self.entity.is_message && !form.has_version && needs_version {
            self.put("MIME-Version: 1.0\r\n");
        }
        let PartAction::Encode { encoding, charset } = self.action else {
            self.encoder = Encoder::None;
            // Fields of a message inside must not become this header's.
            let is_next_encoded = self.actions.as_slice().first().is_some_and(is_encode);
            let opens = match form.made_of() {
                ContentKind::Message => is_next_encoded,
                // Nor what stands before the first part, without its octets above 127.
                ContentKind::Multipart { .. } => self.plan.eight_bit.in_aside,
                ContentKind::Text
                | ContentKind::Other
                | ContentKind::Status
                | ContentKind::Opaque => false,
            };
            if end == HeaderEnd::AtText && opens {
                self.put("\r\n");
            }
            return Ok(());
        };
        if let Some(charset) = charset {
            self.put("Content-Type: text/plain; charset=");
            self.put(charset.name());
            self.put("\r\n");
        }
        if form.label.is_none() {
            self.encoding_field(encoding.word());
        }
        if end == HeaderEnd::AtText {
            self.put("\r\n");
        }
        self.encoder = match encoding {
            Encoding::QuotedPrintable => Encoder::QuotedPrintable(QuotedPrintable::default()),
            Encoding::Base64 => Encoder::Base64(Base64::default()),
            Encoding::RawOctets => Encoder::RawOctets(RawOctets::default()),
        };
        Ok(())
    }

    fn content(&mut self, octets: &[u8]) {
        match &mut self.encoder {
            Encoder::None => self.out.extend_from_slice(octets),
            Encoder::QuotedPrintable(encoder) => encoder.push(octets, &mut self.out),
            Encoder::Base64(encoder) => encoder.push(octets, &mut self.out),
            Encoder::RawOctets(encoder) => encoder.push(octets, &mut self.out),
        }
    }

    fn content_end(&mut self) -> Result<(), ConversionRefused> {
        match &mut self.encoder {
            Encoder::None | Encoder::RawOctets(_) => {}
            Encoder::QuotedPrintable(encoder) => encoder.finish(&mut self.out),
            Encoder::Base64(encoder) => encoder.finish(&mut self.out),
        }
        self.encoder = Encoder::None;
        Ok(())
    }

    fn first_boundary(&mut self) {}

    fn line(&mut self, octets: &[u8]) {
        self.out.extend_from_slice(octets);
    }

    fn aside(&mut self, octets: &[u8]) {
        if !self.plan.eight_bit.in_aside {
            self.out.extend_from_slice(octets);
            return;
        }
        // Nobody reads it, and there is no way to encode it.
        self.out.extend(octets.iter().map(|&octet| if octet.is_ascii() { octet } else { b'?' }));
    }
}

impl Encoding {
    const fn word(self) -> &'static str {
        match self {
            Self::QuotedPrintable | Self::RawOctets => "quoted-printable",
            Self::Base64 => "base64",
        }
    }
}

impl Charset {
    const fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "utf-8",
            // RFC 1428 §3.
            Self::Unknown => "unknown-8bit",
        }
    }
}
