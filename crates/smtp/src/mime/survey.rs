//! What has to be done to a message so that a host can take it?

use super::fields::{ContentKind, Label};
use super::fold::Folder;
use super::signed::Untouchable;
use super::walker::{Entity, EntityForm, EntityHandler, Field, HeaderEnd, Walker};
use super::words::FieldEncoder;
use super::{
    Charset, ConversionPlan, ConversionRefused, EightBitContent, EncodedHeaders, Encoding, Folds,
    Goal, HeaderGoal, LINE_OCTETS_MAX, PartAction,
};

/// Looks at a message once, in pieces, and makes a [`ConversionPlan`].
#[derive(Debug)]
pub struct Survey {
    walker: Walker<SurveyFindings>,
}

impl Survey {
    /// Of a message that shall reach `goal`.
    pub fn new(goal: Goal) -> Self {
        Self { walker: Walker::new(SurveyFindings::new(goal)) }
    }

    /// The next piece.
    ///
    /// # Errors
    ///
    /// [`ConversionRefused`] if the message cannot be converted.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), ConversionRefused> {
        self.walker.push(piece)
    }

    /// What has to be done, after the last piece.
    ///
    /// # Errors
    ///
    /// [`ConversionRefused`] if the message cannot be converted.
    pub fn finish(self) -> Result<ConversionPlan, ConversionRefused> {
        Ok(self.walker.finish()?.plan())
    }
}

/// What is known of the current entity.
#[derive(Debug)]
struct CurrentEntity {
    entity: Entity,
    form: EntityForm,
    has_8bit: bool,
    /// Octets of the line so far, and whether one was too long.
    line: usize,
    has_long_line: bool,
    utf8: Utf8,
}

impl CurrentEntity {
    fn new(entity: Entity) -> Self {
        let (has_8bit, has_long_line) = (false, false);
        let (form, utf8) = (EntityForm::default(), Utf8::default());
        Self { entity, form, has_8bit, line: 0, has_long_line, utf8 }
    }
}

#[derive(Debug)]
struct SurveyFindings {
    plan: ConversionPlan,
    current: CurrentEntity,
    /// Which entities have others in them.
    composites: Vec<usize>,
    /// The multipart whose header was the last one, if it says that it is encoded, and how deep it
    /// is.
    mislabelled: Option<(usize, usize)>,
    /// Multiparts whose boundary has not come yet.
    unparted: usize,
    /// Octets above 127 in a header inside the message, or in content that is left alone: they
    /// stay.
    has_8bit_inside: bool,
    /// The name of the current field, in lower case.
    field: Vec<u8>,
    folder: Folder,
    words: FieldEncoder,
    /// Has the current field octets above 127 that are to be encoded?
    is_encoded: bool,
    /// Why one cannot be.
    unencodable: Option<ConversionRefused>,
    untouchable: Untouchable,
}

/// Fields of the message's own header that are folded. Our choice: more names than that nobody
/// writes with lines that are too long.
const FOLDED_NAMES_MAX: usize = 100;

impl SurveyFindings {
    fn new(goal: Goal) -> Self {
        let plan = ConversionPlan {
            goal,
            actions: Vec::new(),
            eight_bit: EightBitContent::default(),
            folds: Folds::default(),
            words: EncodedHeaders::default(),
            leaves_8bit: false,
            is_dkim_signed: false,
        };
        let entity = Entity { is_message: true, is_sealed: false, depth: 0 };
        Self {
            plan,
            current: CurrentEntity::new(entity),
            composites: Vec::new(),
            mislabelled: None,
            unparted: 0,
            has_8bit_inside: false,
            field: Vec::new(),
            folder: Folder::default(),
            words: FieldEncoder::default(),
            is_encoded: false,
            unencodable: None,
            untouchable: Untouchable::default(),
        }
    }

    /// In the header of the message, not in one of a part?
    fn is_top(&self) -> bool {
        self.plan.actions.len() <= 1
    }

    fn note_header(&mut self, octets: &[u8]) {
        self.plan.eight_bit.in_header |= !octets.is_ascii();
        self.has_8bit_inside |= !octets.is_ascii() && !self.is_top() && !self.may_encode();
        let may_fold = self.plan.goal.short_lines && self.is_top();
        if may_fold && Untouchable::is_signature(&self.field) {
            self.untouchable.push(octets);
        }
        if !self.may_encode() {
            self.note_lines(octets);
            return;
        }
        self.is_encoded |= !octets.is_ascii();
        let mut passed_on = Vec::new();
        self.words.push(octets, &mut passed_on);
        // What is too long to be encoded is passed on.
        if !passed_on.is_ascii() {
            self.unencodable = Some(ConversionRefused::TooComplex);
        }
        self.note_lines(&passed_on);
    }

    /// Is the header that we are in one that gets encoded words?
    fn may_encode(&self) -> bool {
        let goal = self.plan.goal;
        let is_content = goal.seven_bit && !self.current.entity.is_sealed;
        goal.header == HeaderGoal::Ascii && (self.is_top() || is_content)
    }

    fn note_lines(&mut self, octets: &[u8]) {
        if self.plan.goal.short_lines {
            self.folder.push(octets, &mut Vec::new());
        }
    }

    fn end_field(&mut self) -> Result<(), ConversionRefused> {
        let mut encoded = Vec::new();
        self.words.finish(&mut encoded)?;
        self.note_lines(&encoded);
        if let Some(refused) = self.unencodable {
            return Err(refused);
        }
        if std::mem::take(&mut self.is_encoded) {
            let is_top = self.is_top();
            let words = &mut self.plan.words;
            *if is_top { &mut words.top } else { &mut words.inside } = true;
        }
        self.untouchable.end();
        let name = std::mem::take(&mut self.field);
        if !self.folder.finish(&mut Vec::new()) || self.current.entity.is_sealed {
            return Ok(());
        }
        let folds = &mut self.plan.folds;
        if self.plan.actions.len() > 1 {
            folds.is_inside = true;
        } else if !folds.names.contains(&name) && folds.names.len() < FOLDED_NAMES_MAX {
            folds.names.push(name);
        }
        Ok(())
    }

    /// What has raw octets in it does not say `7bit` (RFC 2045 §6.2). Which of those around it that
    /// is, is not looked at: the label that they came with is true for all of them.
    fn plan(mut self) -> ConversionPlan {
        self.plan.folds.names.retain(|name| !self.untouchable.has(name));
        // Readers show what stands in a multipart without parts.
        if self.unparted > 0 && std::mem::take(&mut self.plan.eight_bit.in_aside) {
            self.plan.leaves_8bit = true;
            self.has_8bit_inside = true;
        }
        if self.has_8bit_inside {
            for place in self.composites {
                if let Some(action @ PartAction::Relabel) = self.plan.actions.get_mut(place) {
                    *action = PartAction::Keep;
                }
            }
        }
        self.plan
    }

    fn decide(&mut self, action: PartAction) {
        if let Some(last) = self.plan.actions.last_mut() {
            *last = action;
        }
    }

    /// What becomes of content without parts.
    fn action(&self) -> Result<PartAction, ConversionRefused> {
        let CurrentEntity { entity, form, has_8bit, has_long_line, utf8, .. } = &self.current;
        let is_8bit_in_the_way = *has_8bit && self.plan.goal.seven_bit;
        let is_line_in_the_way = *has_long_line && self.plan.goal.short_lines;
        if !is_8bit_in_the_way && !is_line_in_the_way {
            return Ok(self.relabelled(*entity, form));
        }
        if form.made_of() == ContentKind::Status && !entity.is_sealed {
            return Ok(PartAction::Keep);
        }
        let encoding = match (entity.is_sealed, form.label, form.made_of()) {
            (true, _, _) if is_8bit_in_the_way => return Err(ConversionRefused::Sealed),
            (true, _, _) => return Ok(PartAction::Keep),
            // What stands there is read with raw octets in it, and without its encoding it is
            // something else.
            (false, Some(Label::Quoted), ContentKind::Text | ContentKind::Other)
                if is_8bit_in_the_way =>
            {
                Encoding::RawOctets
            }
            (false, Some(Label::Quoted | Label::Encoded), _) => return Ok(PartAction::Keep),
            (false, _, ContentKind::Text) => Encoding::QuotedPrintable,
            (false, _, ContentKind::Other) => Encoding::Base64,
            // It may not be encoded. Most hosts take it as it is; none of our doing is worse than
            // returning it.
            (
                false,
                _,
                ContentKind::Opaque
                | ContentKind::Multipart { .. }
                | ContentKind::Message
                | ContentKind::Status,
            ) => {
                return Ok(PartAction::Keep);
            }
        };
        let is_named = form.kind.is_some() || !has_8bit;
        let charset = if utf8.is_valid() { Charset::Utf8 } else { Charset::Unknown };
        Ok(PartAction::Encode { encoding, charset: (!is_named).then_some(charset) })
    }

    /// A label of eight bits on what has seven is for nobody but hosts that do not take it.
    fn relabelled(&self, entity: Entity, form: &EntityForm) -> PartAction {
        let is_wrong = self.plan.goal.seven_bit && form.label == Some(Label::EightBit);
        if is_wrong && !entity.is_sealed { PartAction::Relabel } else { PartAction::Keep }
    }
}

impl EntityHandler for SurveyFindings {
    fn entity(&mut self, entity: Entity) {
        // The parts of a multipart that says how it is encoded are in the clear, as its first one
        // shows: it says `7bit` then.
        if let Some((place, depth)) = self.mislabelled.take()
            && entity.depth == depth + 1
            && let Some(action) = self.plan.actions.get_mut(place)
        {
            *action = PartAction::Relabel;
        }
        self.plan.actions.push(PartAction::Keep);
        self.current = CurrentEntity::new(entity);
    }

    fn field_start(&mut self, name: &[u8]) -> Result<(), ConversionRefused> {
        self.end_field()?;
        self.field = name.to_ascii_lowercase();
        self.plan.is_dkim_signed |= self.is_top() && self.field == b"dkim-signature";
        Ok(())
    }

    fn header(&mut self, octets: &[u8]) {
        self.note_header(octets);
    }

    fn field(&mut self, _field: Field, octets: &[u8]) {
        self.note_header(octets);
    }

    fn header_end(&mut self, form: &EntityForm, _end: HeaderEnd) -> Result<(), ConversionRefused> {
        self.end_field()?;
        self.decide(self.relabelled(self.current.entity, form));
        if matches!(form.made_of(), ContentKind::Multipart { .. } | ContentKind::Message) {
            self.composites.push(self.plan.actions.len().saturating_sub(1));
        }
        self.unparted += usize::from(matches!(form.made_of(), ContentKind::Multipart { .. }));
        let is_encoded = matches!(form.label, Some(Label::Quoted | Label::Encoded));
        let is_open = self.plan.goal.seven_bit && !self.current.entity.is_sealed;
        if is_open && is_encoded && matches!(form.made_of(), ContentKind::Multipart { .. }) {
            let place = self.plan.actions.len().saturating_sub(1);
            self.mislabelled = Some((place, self.current.entity.depth));
        }
        self.current.form = form.clone();
        Ok(())
    }

    fn content(&mut self, octets: &[u8]) {
        let current = &mut self.current;
        current.has_8bit |= !octets.is_ascii();
        current.utf8.push(octets);
        match octets.strip_suffix(b"\r\n") {
            Some(text) => {
                current.has_long_line |= current.line + text.len() > LINE_OCTETS_MAX;
                current.line = 0;
            }
            None => {
                current.line += octets.len();
                current.has_long_line |= current.line > LINE_OCTETS_MAX;
            }
        }
    }

    fn content_end(&mut self) -> Result<(), ConversionRefused> {
        let action = self.action()?;
        self.decide(action);
        let stays = action == PartAction::Keep && self.current.has_8bit;
        self.has_8bit_inside |= stays;
        self.plan.leaves_8bit |= stays;
        Ok(())
    }

    fn first_boundary(&mut self) {
        self.unparted = self.unparted.saturating_sub(1);
    }

    fn line(&mut self, _octets: &[u8]) {}

    fn aside(&mut self, octets: &[u8]) {
        if self.plan.goal.seven_bit && !octets.is_ascii() {
            self.plan.eight_bit.in_aside = true;
        }
    }
}

/// Is content UTF-8, in pieces? (RFC 3629 §4)
#[derive(Clone, Copy, Debug, Default)]
struct Utf8 {
    /// Octets that a character still needs.
    missing: u8,
    /// What the next of them may be, where not all of 80..=BF.
    first: Option<(u8, u8)>,
    is_broken: bool,
}

impl Utf8 {
    fn push(&mut self, octets: &[u8]) {
        if self.missing == 0 && octets.is_ascii() {
            return;
        }
        for &octet in octets {
            self.octet(octet);
        }
    }

    fn octet(&mut self, octet: u8) {
        if self.missing > 0 {
            let (low, high) = self.first.take().unwrap_or((0x80, 0xbf));
            self.missing -= 1;
            self.is_broken |= !(low..=high).contains(&octet);
            return;
        }
        (self.missing, self.first) = match octet {
            0x00..=0x7f => (0, None),
            0xc2..=0xdf => (1, None),
            0xe0 => (2, Some((0xa0, 0xbf))),
            0xed => (2, Some((0x80, 0x9f))),
            0xe1..=0xef => (2, None),
            0xf0 => (3, Some((0x90, 0xbf))),
            0xf4 => (3, Some((0x80, 0x8f))),
            0xf1..=0xf3 => (3, None),
            0x80..=0xc1 | 0xf5..=0xff => {
                self.is_broken = true;
                (0, None)
            }
        };
    }

    fn is_valid(self) -> bool {
        !self.is_broken && self.missing == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn utf8_is_what_the_standard_library_takes_for_it(
            text in any::<String>(),
            octets in prop::collection::vec(any::<u8>(), 0..4),
            cut in 0usize..10,
        ) {
            let octets = [text.into_bytes(), octets].concat();
            let (front, back) = octets.split_at(cut.min(octets.len()));
            let mut utf8 = Utf8::default();
            utf8.push(front);
            utf8.push(back);
            prop_assert_eq!(utf8.is_valid(), std::str::from_utf8(&octets).is_ok());
        }
    }
}
