//! Which octets of a message are header, content, boundary? (RFC 2046 §5.1, RFC 5322 §2)
//!
//! A boundary is a line that is `--`, the boundary of any multipart that is open, perhaps `--`, and
//! white space. RFC 2046 would also let a line count that only begins so, and readers differ; where
//! one boundary begins like another, and in text that quotes boundaries, the whole line is what was
//! meant.

use super::ConversionRefused;
use super::fields::{self, ContentKind, Label, Untyped};
use super::lines::{Lines, Segment};
use crate::header::{self, Above, HeaderLine};

/// Multiparts that may be open inside each other. Our choice, as Postfix's `mime_nesting_limit`.
const DEPTH_MAX: usize = 100;
/// Messages, multiparts and parts of a message. Our choice: far above what people send, and each
/// costs a few octets.
pub(super) const ENTITIES_MAX: usize = 10_000;
/// Octets of a field that has to be understood as a whole. Our choice.
const FIELD_OCTETS_MAX: usize = 16 * 1024;

const CRLF: &[u8] = b"\r\n";

/// Looks at what the walker finds, in order. Together the octets are those of the message.
pub(super) trait EntityHandler {
    /// The header of a message or part begins.
    fn entity(&mut self, entity: Entity);
    /// A field of its header begins.
    fn field_start(&mut self, name: &[u8]) -> Result<(), ConversionRefused>;
    /// Octets of the field that has begun, if it says nothing about the form.
    fn header(&mut self, octets: &[u8]);
    /// A whole field that says something about its form.
    fn field(&mut self, field: Field, octets: &[u8]);
    /// Its header is over, but for the empty line.
    fn header_end(&mut self, form: &EntityForm, end: HeaderEnd) -> Result<(), ConversionRefused>;
    /// Octets of its content, if it is neither multipart nor message. No piece ends between CR and
    /// LF.
    fn content(&mut self, octets: &[u8]);
    /// Its content is over. An error ends the walk there, wherever the input was cut.
    fn content_end(&mut self) -> Result<(), ConversionRefused>;
    /// A multipart has parts: here begins its first.
    fn first_boundary(&mut self);
    /// Boundaries, and the empty line behind a header.
    fn line(&mut self, octets: &[u8]);
    /// What stands before the first part of a multipart or behind its last: for nobody to read.
    fn aside(&mut self, octets: &[u8]);
}

/// A message or a part of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entity {
    /// Is it a message of its own?
    pub(super) is_message: bool,
    /// Is it inside of what must not be changed?
    pub(super) is_sealed: bool,
    /// How many multiparts it is inside of.
    pub(super) depth: usize,
}

/// How a header ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum HeaderEnd {
    EmptyLine,
    /// The next line is no field (see [`crate::header`]), but content.
    AtText,
    /// There is no content.
    Nowhere,
}

/// A field that says something about an entity's form.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Field {
    ContentType,
    TransferEncoding,
    MimeVersion,
}

impl Field {
    fn named(name: &[u8]) -> Option<Self> {
        match name.to_ascii_lowercase().as_slice() {
            b"content-type" => Some(Self::ContentType),
            b"content-transfer-encoding" => Some(Self::TransferEncoding),
            b"mime-version" => Some(Self::MimeVersion),
            _ => None,
        }
    }
}

/// What a header says about the form of its entity.
#[derive(Clone, Debug, Default)]
pub(super) struct EntityForm {
    /// Content-Type; `None` if there is none.
    pub(super) kind: Option<ContentKind>,
    /// Content-Transfer-Encoding; `None` if there is none.
    pub(super) label: Option<Label>,
    /// Is there a MIME-Version?
    pub(super) has_version: bool,
    /// What it is without Content-Type.
    untyped: Untyped,
}

impl EntityForm {
    /// What the entity is made of. A message that is encoded as a whole cannot be looked into. RFC
    /// 2045 §6.4 allows no encoding for a multipart either, and readers look at its parts whatever
    /// it says.
    pub(super) fn made_of(&self) -> ContentKind {
        let kind = match (&self.kind, self.untyped) {
            (Some(kind), _) => kind.clone(),
            (None, Untyped::Text) => ContentKind::Text,
            (None, Untyped::Message) => ContentKind::Message,
        };
        match kind {
            ContentKind::Message if matches!(self.label, Some(Label::Encoded | Label::Quoted)) => {
                ContentKind::Opaque
            }
            kind @ (ContentKind::Text
            | ContentKind::Other
            | ContentKind::Opaque
            | ContentKind::Status
            | ContentKind::Multipart { .. }
            | ContentKind::Message) => kind,
        }
    }
}

/// A multipart whose last boundary was not met yet.
#[derive(Debug)]
struct Level {
    boundary: Box<[u8]>,
    parts: Untyped,
    is_sealed: bool,
    /// Its boundary was met.
    has_parts: bool,
}

/// What a header that begins is the header of.
#[derive(Clone, Copy, Debug)]
enum Begins {
    Message,
    /// Of a part, which is this without Content-Type.
    Part(Untyped),
}

/// A boundary that was met.
#[derive(Clone, Copy, Debug)]
struct Boundary {
    /// Of which open multipart.
    level: usize,
    /// Was it the last one?
    closes: bool,
}

/// Where the next line stands.
#[derive(Debug)]
enum WalkerPlace {
    Header {
        form: EntityForm,
        /// Above the next line.
        above: Above,
        /// The field that is being read, as far as it is needed as a whole.
        field: Option<(Field, Vec<u8>)>,
    },
    /// Content of an entity without parts.
    Content,
    /// Before the first part or behind the last one.
    Aside,
}

/// Walks over one message, in pieces of any size.
#[derive(Debug)]
pub(super) struct Walker<V> {
    lines: Lines,
    steps: Steps<V>,
}

impl<V: EntityHandler> Walker<V> {
    pub(super) fn new(handler: V) -> Self {
        let mut steps = Steps {
            handler,
            place: WalkerPlace::Aside,
            levels: Vec::new(),
            entities: 0,
            line_end_is_due: false,
        };
        steps.begin(Begins::Message);
        Self { lines: Lines::default(), steps }
    }

    pub(super) fn handler(&mut self) -> &mut V {
        &mut self.steps.handler
    }

    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), ConversionRefused> {
        let steps = &mut self.steps;
        self.lines.feed(piece, |segment| steps.segment(segment))
    }

    /// The message is over.
    pub(super) fn finish(mut self) -> Result<V, ConversionRefused> {
        let steps = &mut self.steps;
        self.lines.finish(|segment| steps.segment(segment))?;
        self.steps.end()?;
        Ok(self.steps.handler)
    }
}

#[derive(Debug)]
struct Steps<V> {
    handler: V,
    place: WalkerPlace,
    levels: Vec<Level>,
    entities: usize,
    /// The last line of content had an end, which is the boundary's if one follows (RFC 2046
    /// §5.1.1).
    line_end_is_due: bool,
}

impl<V: EntityHandler> Steps<V> {
    fn segment(&mut self, segment: Segment<'_>) -> Result<(), ConversionRefused> {
        if let Some(boundary) = self.boundary(&segment) {
            return self.cross(boundary, segment.octets);
        }
        match self.place {
            WalkerPlace::Header { .. } => self.header(&segment),
            WalkerPlace::Content => {
                self.content(&segment);
                Ok(())
            }
            WalkerPlace::Aside => {
                self.handler.aside(segment.octets);
                Ok(())
            }
        }
    }

    fn begin(&mut self, begins: Begins) {
        let (is_message, untyped) = match begins {
            Begins::Message => (true, Untyped::Text),
            Begins::Part(untyped) => (false, untyped),
        };
        self.entities += 1;
        let is_sealed = self.levels.last().is_some_and(|level| level.is_sealed);
        self.handler.entity(Entity { is_message, is_sealed, depth: self.levels.len() });
        let form = EntityForm { untyped, ..EntityForm::default() };
        self.place = WalkerPlace::Header { form, above: Above::Nothing, field: None };
    }

    /// Is it a boundary of an open multipart, the innermost first, and does it close that?
    fn boundary(&self, segment: &Segment<'_>) -> Option<Boundary> {
        let rest = segment.short_line()?.strip_prefix(b"--")?;
        self.levels.iter().enumerate().rev().find_map(|(at, level)| {
            let behind = rest.strip_prefix(&*level.boundary)?.trim_ascii_end();
            match behind {
                b"" => Some(Boundary { level: at, closes: false }),
                b"--" => Some(Boundary { level: at, closes: true }),
                _ => None,
            }
        })
    }

    fn cross(&mut self, boundary: Boundary, octets: &[u8]) -> Result<(), ConversionRefused> {
        let Boundary { level, closes } = boundary;
        self.end_header_without_line()?;
        if matches!(self.place, WalkerPlace::Content) {
            self.handler.content_end()?;
        }
        if std::mem::take(&mut self.line_end_is_due) {
            self.handler.line(CRLF);
        }
        self.handler.line(octets);
        if !closes
            && let Some(met) = self.levels.get_mut(level)
            && !std::mem::replace(&mut met.has_parts, true)
        {
            self.handler.first_boundary();
        }
        self.levels.truncate(level + usize::from(!closes));
        if closes {
            self.place = WalkerPlace::Aside;
            return Ok(());
        }
        if self.entities >= ENTITIES_MAX {
            return Err(ConversionRefused::TooComplex);
        }
        let untyped = self.levels.last().map(|level| level.parts).unwrap_or_default();
        self.begin(Begins::Part(untyped));
        Ok(())
    }

    fn header(&mut self, segment: &Segment<'_>) -> Result<(), ConversionRefused> {
        let WalkerPlace::Header { form, above, field } = &mut self.place else { return Ok(()) };
        if segment.is_start {
            match HeaderLine::of(segment.octets, *above) {
                HeaderLine::Continuation => {}
                HeaderLine::Field(name) => {
                    end_field(&mut self.handler, form, field)?;
                    self.handler.field_start(name)?;
                    *field = Field::named(name).map(|named| (named, Vec::new()));
                    *above = Above::Field;
                }
                HeaderLine::Empty => {
                    let kind = self.end_header(HeaderEnd::EmptyLine)?;
                    return self.enter(kind);
                }
                HeaderLine::Text => {
                    let kind = self.end_header(HeaderEnd::AtText)?;
                    self.enter(kind)?;
                    return self.segment(*segment);
                }
            }
        }
        match field {
            Some((_, octets)) => {
                octets.extend_from_slice(segment.octets);
                if octets.len() > FIELD_OCTETS_MAX {
                    return Err(ConversionRefused::TooComplex);
                }
            }
            None => self.handler.header(segment.octets),
        }
        Ok(())
    }

    /// Ends the header; returns what the content behind it is made of.
    fn end_header(&mut self, end: HeaderEnd) -> Result<ContentKind, ConversionRefused> {
        let place = std::mem::replace(&mut self.place, WalkerPlace::Content);
        let WalkerPlace::Header { mut form, mut field, .. } = place else {
            return Ok(ContentKind::Opaque);
        };
        end_field(&mut self.handler, &mut form, &mut field)?;
        self.handler.header_end(&form, end)?;
        if end == HeaderEnd::EmptyLine {
            self.handler.line(CRLF);
        }
        Ok(form.made_of())
    }

    /// The content of what is made so begins.
    fn enter(&mut self, kind: ContentKind) -> Result<(), ConversionRefused> {
        match kind {
            ContentKind::Multipart { boundary, parts, is_sealed } => {
                if self.levels.len() >= DEPTH_MAX {
                    return Err(ConversionRefused::TooComplex);
                }
                let is_sealed = is_sealed || self.levels.last().is_some_and(|l| l.is_sealed);
                self.levels.push(Level { boundary, parts, is_sealed, has_parts: false });
                self.place = WalkerPlace::Aside;
            }
            ContentKind::Message => {
                if self.entities >= ENTITIES_MAX {
                    return Err(ConversionRefused::TooComplex);
                }
                self.begin(Begins::Message);
            }
            ContentKind::Text | ContentKind::Other | ContentKind::Status | ContentKind::Opaque => {}
        }
        Ok(())
    }

    /// Where a boundary or the end of the message cuts a header off, there is no content.
    fn end_header_without_line(&mut self) -> Result<(), ConversionRefused> {
        if let WalkerPlace::Header { form, field, .. } = &mut self.place {
            end_field(&mut self.handler, form, field)?;
            self.handler.header_end(form, HeaderEnd::Nowhere)?;
            self.place = WalkerPlace::Aside;
        }
        Ok(())
    }

    fn content(&mut self, segment: &Segment<'_>) {
        if self.levels.is_empty() {
            self.handler.content(segment.octets);
            return;
        }
        if std::mem::take(&mut self.line_end_is_due) {
            self.handler.content(CRLF);
        }
        let text = segment.text();
        self.handler.content(text);
        self.line_end_is_due = text.len() < segment.octets.len();
    }

    fn end(&mut self) -> Result<(), ConversionRefused> {
        self.end_header_without_line()?;
        if matches!(self.place, WalkerPlace::Content) {
            if std::mem::take(&mut self.line_end_is_due) {
                self.handler.content(CRLF);
            }
            self.handler.content_end()?;
        }
        Ok(())
    }
}

/// The field that was being read is over.
fn end_field(
    handler: &mut impl EntityHandler,
    form: &mut EntityForm,
    field: &mut Option<(Field, Vec<u8>)>,
) -> Result<(), ConversionRefused> {
    let Some((field, octets)) = field.take() else { return Ok(()) };
    let value = header::value(&octets);
    let is_clear = match field {
        // Of two, readers take one or the other.
        Field::ContentType => form.kind.replace(fields::kind(value)).is_none(),
        // Here they take the first.
        Field::TransferEncoding => {
            form.label.get_or_insert_with(|| fields::label(value));
            true
        }
        Field::MimeVersion => {
            form.has_version = true;
            true
        }
    };
    handler.field(field, &octets);
    if is_clear { Ok(()) } else { Err(ConversionRefused::Ambiguous) }
}
