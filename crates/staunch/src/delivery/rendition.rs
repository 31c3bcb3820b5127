//! What is sent to a host, and in which form does it take it?
//!
//! A host has limits, and a message has needs. Where they do not fit, other hosts of the next hop
//! come first; a message that no host takes as it is, is converted for those that take eight bits
//! only as seven (RFC 6152 §3). What cannot be changed without changing what it says (UTF-8
//! addresses, signed content) is not sent there at all.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use jiff::Timestamp;
use smtp::client::{Addressee, Envelope, MailOptions};
use smtp::mime::{
    Conversion, ConversionPlan, ConversionRefused, Goal, HeaderGoal, LINE_OCTETS_MAX, Survey,
};
use smtp::params::{ByMode, DeliverBy};
use smtp::{Extension, Extensions};
use spool::{BodyBytes, BodyFacts, Deadline, StoreError};

use crate::config::{Delivery, EightBit, LongLines};
use crate::delivery::outbound::Outbound;
use crate::delivery::outcome::{HostError, Unsupported};
use crate::delivery::transmit::{self, BodySource, PIECE_OCTETS};
use crate::message::{Body, Work};

/// RFC 2852 §4: digits of a by-time.
const BY_TIME_MAX: i64 = 999_999_999;

/// When is a message converted?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Converting {
    /// Not while there are hosts that may take it as it is.
    Later,
    /// Where it has to be.
    Now,
}

/// A message in the form in which one host takes it.
pub(crate) struct Rendition {
    body: LoadedBody,
    /// Octets of the body as it is stored.
    stored: u64,
    /// How it is changed, if it is.
    plan: Option<ConversionPlan>,
    /// Octets that go over the wire without dots (RFC 1870 §5).
    size: u64,
    /// Is this UTF-8 mail (RFC 6531)?
    smtp_utf8: bool,
    deliver_by: Option<DeliverBy>,
}

impl Rendition {
    /// Makes `work` ready for a host that offers `extensions`.
    ///
    /// # Errors
    ///
    /// [`HostError`] if the host does not take it, or it cannot be read.
    pub(crate) async fn pack(
        outbound: &Outbound,
        rules: &Delivery,
        work: &Work,
        extensions: &Extensions,
        converting: Converting,
    ) -> Result<Self, HostError> {
        let facts = &work.facts;
        let deliver_by = deliver_by(work.options.deliver_by, extensions, outbound.now())?;
        let has_utf8_address = work.needs_utf8_addresses();
        let takes_utf8 = extensions.offers(Extension::SmtpUtf8);
        if has_utf8_address && !takes_utf8 {
            return Err(HostError::Unfit(Unsupported::SmtpUtf8));
        }
        let mut goal = goal(rules, facts, extensions)?;
        check_size(sent_size(facts), extensions)?;
        let body = LoadedBody::load(outbound, work).await?;
        let mut rendition = Self {
            body,
            stored: facts.size,
            plan: None,
            size: sent_size(facts),
            smtp_utf8: has_utf8_address,
            deliver_by,
        };
        // Only a client that said so may have sent UTF-8 in the header, and only then it means
        // that.
        if work.options.smtp_utf8 && facts.has_8bit && !rendition.smtp_utf8 {
            rendition.smtp_utf8 = rendition.has_utf8_header().await?;
        }
        if rendition.smtp_utf8 && !takes_utf8 {
            // No address of the envelope needs it, and what people read in the header has a form in
            // ASCII.
            rendition.smtp_utf8 = false;
            goal.header = HeaderGoal::Ascii;
        }
        // RFC 6531 §3.1: who takes UTF-8 in the header takes eight bits.
        goal.seven_bit &= !rendition.smtp_utf8;
        let is_for_others = goal.seven_bit || goal.header == HeaderGoal::Ascii;
        if is_for_others && converting == Converting::Later {
            return Err(HostError::Unfit(Unsupported::EightBit));
        }
        if !goal.is_reached() {
            rendition.convert(goal).await?;
            check_size(rendition.size, extensions)?;
        }
        Ok(rendition)
    }

    async fn has_utf8_header(&self) -> Result<bool, HostError> {
        let plan = self.body.survey(self.stored, Goal::default()).await?;
        // In what cannot be told from a header, any octet may be one of it.
        Ok(plan.map_or(true, |plan| plan.has_8bit_header()))
    }

    async fn convert(&mut self, goal: Goal) -> Result<(), HostError> {
        let plan = match self.body.survey(self.stored, goal).await? {
            Ok(plan) => plan,
            Err(ConversionRefused::Utf8Address) => {
                return Err(HostError::Unfit(Unsupported::SmtpUtf8));
            }
            Err(ConversionRefused::Sealed) => {
                return Err(HostError::Unfit(Unsupported::Conversion(ConversionRefused::Sealed)));
            }
            Err(refused) if goal.header == HeaderGoal::Ascii => {
                return Err(HostError::Unfit(Unsupported::Conversion(refused)));
            }
            // Its structure is odd. Most hosts take it as it is, long lines and eight bits, too.
            Err(ConversionRefused::Ambiguous | ConversionRefused::TooComplex) => return Ok(()),
        };
        if !plan.is_empty() {
            self.size = self.body.measure(self.stored, plan.clone()).await?;
            self.plan = Some(plan);
        }
        Ok(())
    }

    /// The work with the addresses that are sent.
    pub(crate) fn addressed<'w>(&self, work: &'w Work) -> Cow<'w, Work> {
        if self.smtp_utf8 { Cow::Borrowed(work) } else { work.in_ascii() }
    }

    /// What is said about it.
    pub(crate) fn envelope<'a>(
        &self,
        work: &'a Work,
        recipients: &'a [Addressee<'a>],
    ) -> Envelope<'a> {
        let options = MailOptions {
            smtp_utf8: self.smtp_utf8,
            ret: work.options.ret,
            envelope_id: work.options.envelope_id.as_ref(),
            require_tls: work.options.require_tls,
            deliver_by: self.deliver_by,
            priority: work.options.priority,
        };
        let (sender, has_8bit) = (&work.sender, work.facts.has_8bit);
        Envelope { sender, recipients, size: self.size, has_8bit, options }
    }

    /// The body as it is sent.
    pub(crate) fn body(&self) -> transmit::BodyContent<'_> {
        let source = match &self.body {
            LoadedBody::Memory(bytes) => BodySource::Memory(bytes),
            LoadedBody::File(file) => BodySource::File(Arc::clone(file)),
        };
        transmit::BodyContent { source, size: self.stored, plan: self.plan.as_ref() }
    }

    /// How it was converted, if it was.
    pub(crate) fn plan(&self) -> Option<&ConversionPlan> {
        self.plan.as_ref()
    }
}

/// Octets that go over the wire without dots: the last line gets its end if it has none.
fn sent_size(facts: &BodyFacts) -> u64 {
    let lacks_end = facts.size > 0 && !facts.ends_with_newline;
    if lacks_end { facts.size.saturating_add(2) } else { facts.size }
}

fn check_size(size: u64, extensions: &Extensions) -> Result<(), HostError> {
    match extensions.size_limit() {
        Some(limit) if size > limit => Err(HostError::TooLarge { limit }),
        Some(_) | None => Ok(()),
    }
}

/// What of the message the host does not take.
fn goal(rules: &Delivery, facts: &BodyFacts, extensions: &Extensions) -> Result<Goal, HostError> {
    let is_long = facts.longest_line > octets(LINE_OCTETS_MAX);
    let short_lines = match rules.long_lines {
        LongLines::Pass => false,
        LongLines::Encode => is_long,
        LongLines::Refuse if is_long => return Err(HostError::Unfit(Unsupported::LongLines)),
        LongLines::Refuse => false,
    };
    let seven_bit = match rules.eightbit {
        EightBit::Convert => facts.has_8bit && !extensions.offers(Extension::EightBitMime),
        EightBit::Send => false,
    };
    Ok(Goal { seven_bit, short_lines, header: HeaderGoal::AsItIs })
}

/// The time that is left, in the form that the host takes. Mail that is to come back in time must
/// not go where nobody would see to that (RFC 2852 §4).
fn deliver_by(
    deadline: Option<Deadline>,
    extensions: &Extensions,
    now: Timestamp,
) -> Result<Option<DeliverBy>, HostError> {
    let Some(Deadline { at, mode, trace }) = deadline else { return Ok(None) };
    let seconds = at.duration_since(now).as_secs().clamp(-BY_TIME_MAX, BY_TIME_MAX);
    match (mode, extensions.deliver_by()) {
        (ByMode::Notify, None) => Ok(None),
        (ByMode::Return, Some(least)) if seconds >= i64::from(least.max(1)) => {
            Ok(Some(DeliverBy { seconds, mode, trace }))
        }
        (ByMode::Notify, Some(_)) => Ok(Some(DeliverBy { seconds, mode, trace })),
        (ByMode::Return, Some(_) | None) => Err(HostError::Unfit(Unsupported::DeliverBy)),
    }
}

/// A body at hand.
#[derive(Clone)]
enum LoadedBody {
    Memory(BodyBytes),
    File(Arc<File>),
}

impl LoadedBody {
    /// Takes the body from memory or store.
    async fn load(outbound: &Outbound, work: &Work) -> Result<Self, HostError> {
        if let Body::Hot(hot) = &work.body {
            return Ok(Self::Memory(hot.bytes.clone()));
        }
        let (spool, message) = (outbound.spool.clone(), work.message);
        if let Some(bytes) = spool.body_at_hand(message) {
            return Ok(Self::Memory(bytes));
        }
        let read = tokio::task::spawn_blocking(move || spool.body(message)).await;
        match read.unwrap_or(Err(StoreError::Closed)) {
            Ok(spool::StoredBody::Memory(bytes)) => Ok(Self::Memory(bytes)),
            Ok(spool::StoredBody::File { file, .. }) => Ok(Self::File(Arc::new(file))),
            Err(error) if error.is_damage() => {
                Err(HostError::Damaged(format!("the message cannot be read: {error}")))
            }
            Err(error) => Err(HostError::Body(format!("the message cannot be read: {error}"))),
        }
    }

    async fn survey(
        &self,
        size: u64,
        goal: Goal,
    ) -> Result<Result<ConversionPlan, ConversionRefused>, HostError> {
        let body = self.clone();
        off_the_async_threads(move || {
            let mut survey = Survey::new(goal);
            let looked = body.each_piece(size, |piece| survey.push(piece))?;
            Ok(looked.and_then(|()| survey.finish()))
        })
        .await
    }

    /// Octets of the converted body, its last line end included.
    async fn measure(&self, size: u64, plan: ConversionPlan) -> Result<u64, HostError> {
        let body = self.clone();
        off_the_async_threads(move || {
            let (mut conversion, mut out) = (Conversion::new(&plan), Vec::new());
            let (mut count, mut ends) = (0, false);
            let mut note = |out: &mut Vec<u8>| {
                count += octets(out.len());
                ends = out.last().map_or(ends, |last| *last == b'\n');
                out.clear();
            };
            let converted = body.each_piece(size, |piece| {
                conversion.push(piece, &mut out)?;
                note(&mut out);
                Ok(())
            })?;
            converted.and_then(|()| conversion.finish(&mut out)).map_err(io::Error::other)?;
            note(&mut out);
            Ok(if ends { count } else { count + 2 })
        })
        .await
    }

    fn each_piece(
        &self,
        size: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), ConversionRefused>,
    ) -> io::Result<Result<(), ConversionRefused>> {
        let file = match self {
            Self::Memory(bytes) => return Ok(take(bytes)),
            Self::File(file) => file,
        };
        let (mut buffer, mut offset) = (vec![0; PIECE_OCTETS], 0);
        while offset < size {
            let read = file.read_at(&mut buffer, offset)?;
            let piece = buffer.get(..read).filter(|piece| !piece.is_empty());
            let Some(piece) = piece else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            if let Err(refused) = take(piece) {
                return Ok(Err(refused));
            }
            offset += octets(read);
        }
        Ok(Ok(()))
    }
}

async fn off_the_async_threads<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, HostError> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)));
    done.map_err(|error| HostError::Body(format!("reading the body: {error}")))
}

fn octets(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use smtp::Reply;

    use super::*;

    fn extensions(keyword: &str) -> Extensions {
        let reply = Reply::parse(format!("250-mx\r\n250 {keyword}\r\n").as_bytes()).unwrap();
        Extensions::from_reply(&reply)
    }

    #[test]
    fn ext_13_the_time_that_is_left_goes_on_and_mail_to_be_returned_only_where_that_is_kept() {
        let now = Timestamp::from_second(1000).unwrap();
        let cases = [
            (ByMode::Return, 1090, "DELIVERBY", Ok(Some("90;R"))),
            (ByMode::Return, 1090, "DELIVERBY 90", Ok(Some("90;R"))),
            (ByMode::Return, 1090, "DELIVERBY 91", Err(())),
            (ByMode::Return, 1000, "DELIVERBY", Err(())),
            (ByMode::Return, 1090, "HELP", Err(())),
            (ByMode::Notify, 1090, "DELIVERBY 240", Ok(Some("90;N"))),
            (ByMode::Notify, 910, "DELIVERBY", Ok(Some("-90;N"))),
            (ByMode::Notify, 1090, "HELP", Ok(None)),
        ];
        for (mode, at, keyword, want) in cases {
            let at = Timestamp::from_second(at).unwrap();
            let deadline = Some(Deadline { at, mode, trace: false });
            let got = deliver_by(deadline, &extensions(keyword), now).map_err(drop);
            let got = got.map(|by| by.map(|by| by.to_string()));
            assert_eq!(got, want.map(|by| by.map(str::to_owned)), "{mode:?} {keyword}");
        }
        assert!(deliver_by(None, &extensions("HELP"), now).is_ok_and(|by| by.is_none()));
    }
}
