//! The parameters behind the paths of MAIL and RCPT (RFC 5321 §4.1.2).
//!
//! One that was not offered is refused, never ignored: its sender would count on what it asks for.

use crate::address::{AddressError, Mailbox, ReversePath};
use crate::extensions::Extension;
use crate::params::{
    ByMode, DeliverBy, EnvelopeId, Hold, Notify, OriginalRecipient, Priority, Return,
};
use crate::xtext;

use super::path::{Brackets, PathError, forward_path, reverse_path};
use super::{CommandError, Offer};

/// How the client says that the content is encoded (RFC 6152 §2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BodyKind {
    /// `BODY=7BIT`: no octet above 127, says the client.
    SevenBit,
    /// `BODY=8BITMIME`: octets above 127 are possible.
    EightBitMime,
}

/// The arguments of MAIL.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "three parameters without a value")]
pub struct Mail {
    /// The reverse-path: gets the DSNs; `<>` for a DSN itself.
    pub sender: ReversePath,
    /// How that was written.
    pub brackets: Brackets,
    /// `SIZE`: how large the message will be, in octets.
    pub size: Option<u64>,
    /// `BODY`; `None` if the client did not say.
    pub body: Option<BodyKind>,
    /// `SMTPUTF8`: addresses and header may be UTF-8.
    pub smtp_utf8: bool,
    /// `RET`: how much of the message a DSN returns (RFC 3461 §4.3).
    pub ret: Option<Return>,
    /// `ENVID`: the sender's own name for this sending (RFC 3461 §4.4).
    pub envelope_id: Option<EnvelopeId>,
    /// `REQUIRETLS`: over authenticated TLS or not at all (RFC 8689).
    pub require_tls: bool,
    /// `HOLDFOR` or `HOLDUNTIL`: not to be sent before (RFC 4865).
    pub hold: Option<Hold>,
    /// `BY`: when it shall have been delivered (RFC 2852).
    pub deliver_by: Option<DeliverBy>,
    /// `MT-PRIORITY`, -9 to 9 (RFC 6710).
    pub priority: Option<Priority>,
    /// `AUTH`: who submitted it first, says the client. Not used: nothing proves it.
    pub auth: bool,
}

/// The arguments of RCPT.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rcpt {
    /// Who shall get it.
    pub recipient: Recipient,
    /// How that was written.
    pub brackets: Brackets,
    /// `NOTIFY`: what the sender wants to be told (RFC 3461 §4.1).
    pub notify: Option<Notify>,
    /// `ORCPT`: the recipient as the sender wrote it (RFC 3461 §4.2).
    pub original: Option<OriginalRecipient>,
}

/// The forward-path of RCPT.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Recipient {
    /// An address with a domain.
    Mailbox(Mailbox),
    /// `<Postmaster>` without a domain: whoever runs this server (RFC 5321 §4.5.1).
    Postmaster,
}

impl Mail {
    /// MAIL with a sender and nothing else.
    pub fn from(sender: ReversePath) -> Self {
        Self {
            sender,
            brackets: Brackets::Written,
            size: None,
            body: None,
            smtp_utf8: false,
            ret: None,
            envelope_id: None,
            require_tls: false,
            hold: None,
            deliver_by: None,
            priority: None,
            auth: false,
        }
    }

    pub(super) fn parse(text: &[u8], offer: Offer) -> Result<Self, CommandError> {
        let (sender, brackets, parameters) = reverse_path(text).map_err(CommandError::Sender)?;
        let is_ascii = sender.as_str().is_ascii();
        if !is_ascii && !offer.has(Extension::SmtpUtf8) {
            return Err(CommandError::Sender(AddressError::NotAscii.into()));
        }
        let mut mail = Self { brackets, ..Self::from(sender) };
        for parameter in parameters.split_ascii_whitespace() {
            mail.set(parameter, offer)?;
        }
        if !is_ascii && !mail.smtp_utf8 {
            return Err(CommandError::Sender(AddressError::NotAscii.into()));
        }
        Ok(mail)
    }

    fn set(&mut self, parameter: &str, offer: Offer) -> Result<(), CommandError> {
        let (keyword, value) = split_parameter(parameter)?;
        let offered = |name: &str, offered: bool| offered && keyword.eq_ignore_ascii_case(name);
        let capable = |name: &str, capability| offered(name, offer.has(capability));
        let may_hold = offer.future_release().is_some();
        match () {
            () if offered("SIZE", true) => set_once(&mut self.size, value.and_then(parse_size)),
            () if capable("BODY", Extension::EightBitMime) => {
                set_once(&mut self.body, value.and_then(parse_body))
            }
            () if capable("SMTPUTF8", Extension::SmtpUtf8) => {
                raise_once(&mut self.smtp_utf8, value)
            }
            () if capable("REQUIRETLS", Extension::RequireTls) => {
                raise_once(&mut self.require_tls, value)
            }
            () if capable("RET", Extension::Dsn) => {
                set_once(&mut self.ret, value.and_then(Return::parse))
            }
            () if capable("ENVID", Extension::Dsn) => {
                set_once(&mut self.envelope_id, value.and_then(EnvelopeId::parse))
            }
            () if offered(Hold::KEYWORD_FOR, may_hold)
                || offered(Hold::KEYWORD_UNTIL, may_hold) =>
            {
                set_once(&mut self.hold, value.and_then(|value| parse_hold(keyword, value, offer)))
            }
            () if offered("BY", offer.deliver_by_min().is_some()) => {
                set_once(&mut self.deliver_by, value.and_then(|value| parse_by(value, offer)))
            }
            () if offered("MT-PRIORITY", offer.has(Extension::MtPriority)) => {
                set_once(&mut self.priority, value.and_then(Priority::parse))
            }
            () if offered("AUTH", !offer.mechanisms().is_empty()) => {
                // RFC 4954 §5: `<>` or an address, as xtext or, since RFC 6531, with the escapes
                // for UTF-8.
                let is_identity = value.is_some_and(|value| {
                    value == "<>"
                        || xtext::decode(value).is_some()
                        || xtext::decode_unitext(value).is_some()
                });
                if !is_identity {
                    return Err(CommandError::BadParameter);
                }
                raise_once(&mut self.auth, None)
            }
            () => Err(CommandError::UnknownParameter),
        }
    }
}

impl Rcpt {
    /// RCPT with a recipient and nothing else.
    pub fn to(recipient: Recipient) -> Self {
        Self { recipient, brackets: Brackets::Written, notify: None, original: None }
    }

    /// Has it anything that stands in an SMTPUTF8 transaction only (RFC 6531 §3.4)?
    pub fn needs_smtp_utf8(&self) -> bool {
        let address = match &self.recipient {
            Recipient::Mailbox(mailbox) => mailbox.as_str(),
            Recipient::Postmaster => "",
        };
        let original = self.original.as_ref().map_or("", OriginalRecipient::as_str);
        !address.is_ascii() || !original.is_ascii()
    }

    pub(super) fn parse(text: &[u8], offer: Offer) -> Result<Self, CommandError> {
        let (recipient, brackets, parameters) =
            forward_path(text).map_err(CommandError::Recipient)?;
        let mut rcpt = Self { brackets, ..Self::to(recipient) };
        for parameter in parameters.split_ascii_whitespace() {
            rcpt.set(parameter, offer)?;
        }
        if rcpt.needs_smtp_utf8() && !offer.has(Extension::SmtpUtf8) {
            return Err(CommandError::Recipient(PathError::Address(AddressError::NotAscii)));
        }
        Ok(rcpt)
    }

    fn set(&mut self, parameter: &str, offer: Offer) -> Result<(), CommandError> {
        let (keyword, value) = split_parameter(parameter)?;
        let offered = |name: &str| offer.has(Extension::Dsn) && keyword.eq_ignore_ascii_case(name);
        match () {
            () if offered("NOTIFY") => set_once(&mut self.notify, value.and_then(Notify::parse)),
            () if offered("ORCPT") => {
                set_once(&mut self.original, value.and_then(OriginalRecipient::parse))
            }
            () => Err(CommandError::UnknownParameter),
        }
    }
}

/// RFC 5321 §4.1.2, esmtp-param, with UTF-8 in the value (RFC 6531 §3.3).
fn split_parameter(text: &str) -> Result<(&str, Option<&str>), CommandError> {
    let (keyword, value) = text.split_once('=').map_or((text, None), |(k, v)| (k, Some(v)));
    let keyword_ok = keyword.starts_with(|c: char| c.is_ascii_alphanumeric())
        && keyword.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let is_value_char = |byte: u8| !byte.is_ascii() || byte.is_ascii_graphic() && byte != b'=';
    let value_ok = value.is_none_or(|v| !v.is_empty() && v.bytes().all(is_value_char));
    if keyword_ok && value_ok { Ok((keyword, value)) } else { Err(CommandError::BadParameter) }
}

fn set_once<T>(slot: &mut Option<T>, value: Option<T>) -> Result<(), CommandError> {
    match (slot.is_some(), value) {
        (false, Some(value)) => {
            *slot = Some(value);
            Ok(())
        }
        (true, _) | (false, None) => Err(CommandError::BadParameter),
    }
}

/// For a parameter that has no value, or none that is wrong.
fn raise_once(flag: &mut bool, wrong: Option<&str>) -> Result<(), CommandError> {
    if *flag || wrong.is_some() {
        return Err(CommandError::BadParameter);
    }
    *flag = true;
    Ok(())
}

/// RFC 1870 §4: up to twenty digits.
fn parse_size(value: &str) -> Option<u64> {
    let digits = value.len() <= 20 && value.bytes().all(|byte| byte.is_ascii_digit());
    // Twenty digits may exceed 64 bits; no message does.
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}

fn parse_body(value: &str) -> Option<BodyKind> {
    if value.eq_ignore_ascii_case("7BIT") {
        Some(BodyKind::SevenBit)
    } else if value.eq_ignore_ascii_case("8BITMIME") {
        Some(BodyKind::EightBitMime)
    } else {
        None
    }
}

/// RFC 4865 §4.2 treats a time that is too far away like one that is malformed. A date needs a
/// clock to be judged by, and is left to the caller.
fn parse_hold(keyword: &str, value: &str, offer: Offer) -> Option<Hold> {
    let hold = Hold::parse(value).filter(|hold| keyword.eq_ignore_ascii_case(hold.keyword()))?;
    let reach = offer.future_release()?.seconds_max();
    let within_reach = match hold {
        Hold::For(seconds) => seconds <= reach,
        Hold::Until(_) => true,
    };
    within_reach.then_some(hold)
}

/// RFC 2852 §4.1.1: what has to be returned sooner than we can promise is not taken.
fn parse_by(value: &str, offer: Offer) -> Option<DeliverBy> {
    let min = i64::from(offer.deliver_by_min()?);
    DeliverBy::parse(value).filter(|by| by.mode == ByMode::Notify || by.seconds >= min)
}
