//! Parameters of MAIL and RCPT that stay with a message until it is delivered.
//!
//! Each type has one parser, which takes the value behind the `=`, and one `Display`, which writes
//! it for the next hop. What must go on unchanged (ENVID, ORCPT: RFC 3461 §5.2.1) is kept as it was
//! written; what is understood is kept as its meaning.

use std::fmt;

use crate::remote_text::RemoteText;
use crate::xtext;

/// RFC 3461 §4.4: characters of an envelope id, before they are encoded.
pub const ENVELOPE_ID_CHARS_MAX: usize = 100;
/// RFC 3461 §4.2: characters of an original recipient, as it is written.
pub const ORIGINAL_RECIPIENT_CHARS_MAX: usize = 500;
/// RFC 2852 §4 and RFC 4865 §3: digits of a time in seconds.
const SECONDS_DIGITS_MAX: usize = 9;

/// How much of the message a DSN of failure returns: `RET` (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Return {
    /// `FULL`: all of it.
    Full,
    /// `HDRS`: the header without the body.
    Headers,
}

impl Return {
    /// Reads the value of `RET`, in any case.
    pub fn parse(value: &str) -> Option<Self> {
        [Self::Full, Self::Headers].into_iter().find(|r| value.eq_ignore_ascii_case(r.as_str()))
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        }
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The sender's own name for this sending: `ENVID` (RFC 3461 §4.4), kept as xtext.
///
/// ```
/// use smtp::params::EnvelopeId;
/// let id = EnvelopeId::parse("QQ314159+20x").unwrap();
/// assert_eq!(id.as_str(), "QQ314159+20x");
/// assert_eq!(id.decoded().as_str(), "QQ314159 x");
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct EnvelopeId(Box<str>);

impl EnvelopeId {
    /// Reads xtext that stands for up to [`ENVELOPE_ID_CHARS_MAX`] printable characters. Others
    /// could not be written into a DSN (RFC 3461 §4.4).
    pub fn parse(value: &str) -> Option<Self> {
        let text = xtext::decode(value)?;
        let fits = (1..=ENVELOPE_ID_CHARS_MAX).contains(&text.len());
        let is_printable = text.iter().all(|byte| matches!(byte, b' '..=b'~'));
        (fits && is_printable).then(|| Self(value.into()))
    }

    /// The xtext, as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it stands for.
    pub fn decoded(&self) -> RemoteText {
        xtext::shown(&self.0)
    }
}

impl fmt::Display for EnvelopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the sender wants to be told about one recipient: `NOTIFY` (RFC 3461 §4.1).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Notify {
    /// `NEVER`: nothing at all.
    Never,
    /// A list of at least one of the three.
    On {
        /// `SUCCESS`: that it was delivered.
        success: bool,
        /// `FAILURE`: that it was not.
        failure: bool,
        /// `DELAY`: that it takes long.
        delay: bool,
    },
}

impl Notify {
    /// Reads the value of `NOTIFY`: `NEVER` alone, or a list of the others, in any case.
    ///
    /// ```
    /// use smtp::params::Notify;
    /// let wish = Notify::parse("success,Delay").unwrap();
    /// assert_eq!(wish, Notify::On { success: true, failure: false, delay: true });
    /// assert_eq!(wish.to_string(), "SUCCESS,DELAY");
    /// assert_eq!(Notify::parse("NEVER,FAILURE"), None);
    /// ```
    pub fn parse(value: &str) -> Option<Self> {
        if value.eq_ignore_ascii_case("NEVER") {
            return Some(Self::Never);
        }
        let (mut success, mut failure, mut delay) = (false, false, false);
        for word in value.split(',') {
            let wish = match word {
                _ if word.eq_ignore_ascii_case("SUCCESS") => &mut success,
                _ if word.eq_ignore_ascii_case("FAILURE") => &mut failure,
                _ if word.eq_ignore_ascii_case("DELAY") => &mut delay,
                _ => return None,
            };
            *wish = true;
        }
        Some(Self::On { success, failure, delay })
    }

    /// What two wishes for one recipient come to: whatever one of them asks for. Without a wish a
    /// sender is told of failures and delays (RFC 3461 §4.1).
    ///
    /// ```
    /// use smtp::params::Notify;
    /// let both = Notify::together(Notify::parse("SUCCESS"), None).unwrap();
    /// assert_eq!(both.to_string(), "SUCCESS,FAILURE,DELAY");
    /// assert_eq!(Notify::together(Some(Notify::Never), Some(both)), Some(both));
    /// assert_eq!(Notify::together(None, None), None);
    /// ```
    pub fn together(first: Option<Self>, second: Option<Self>) -> Option<Self> {
        const UNSAID: Notify = Notify::On { success: false, failure: true, delay: true };
        if first == second {
            return first;
        }
        match (first.unwrap_or(UNSAID), second.unwrap_or(UNSAID)) {
            (Self::Never, other) | (other, Self::Never) => Some(other),
            (
                Self::On { success, failure, delay },
                Self::On { success: success_2, failure: failure_2, delay: delay_2 },
            ) => Some(Self::On {
                success: success || success_2,
                failure: failure || failure_2,
                delay: delay || delay_2,
            }),
        }
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::On { success, failure, delay } = self else { return f.write_str("NEVER") };
        let wishes = [(*success, "SUCCESS"), (*failure, "FAILURE"), (*delay, "DELAY")];
        let mut separator = "";
        for (_, word) in wishes.into_iter().filter(|(wanted, _)| *wanted) {
            write!(f, "{separator}{word}")?;
            separator = ",";
        }
        Ok(())
    }
}

/// Whom the sender wrote to: `ORCPT` (RFC 3461 §4.2), kept as it was written.
///
/// ```
/// use smtp::params::OriginalRecipient;
/// let original = OriginalRecipient::parse("rfc822;a+2Bb@example.com").unwrap();
/// assert_eq!((original.addr_type(), original.address_xtext()), ("rfc822", "a+2Bb@example.com"));
/// assert_eq!(original.address().as_str(), "a+b@example.com");
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct OriginalRecipient(Box<str>);

impl OriginalRecipient {
    /// Reads `addr-type;address`. The address is xtext of printable characters, or, for the type
    /// `utf-8`, one of the forms of RFC 6533 §3. Postfix 3.7 writes UTF-8 addresses as xtext under
    /// the type `rfc822`; refusing that would return its mail.
    pub fn parse(value: &str) -> Option<Self> {
        let (addr_type, address) = value.split_once(';')?;
        let type_ok = !addr_type.is_empty() && addr_type.bytes().all(is_type_char);
        let fits = value.len() <= ORIGINAL_RECIPIENT_CHARS_MAX && !address.is_empty();
        let address_ok = if is_utf8_type(addr_type) {
            let address = xtext::decode_unitext(address)?;
            !address.chars().any(char::is_control)
        } else {
            let octets = xtext::decode(address)?;
            std::str::from_utf8(&octets).is_ok_and(|text| !text.chars().any(char::is_control))
        };
        (type_ok && fits && address_ok).then(|| Self(value.into()))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What kind of address it is: `rfc822`, `utf-8`.
    pub fn addr_type(&self) -> &str {
        self.0.split_once(';').map_or("", |(addr_type, _)| addr_type)
    }

    /// The address as it was written.
    pub fn address_xtext(&self) -> &str {
        self.0.split_once(';').map_or("", |(_, address)| address)
    }

    /// The address that it stands for.
    pub fn address(&self) -> RemoteText {
        let written = self.address_xtext();
        if is_utf8_type(self.addr_type()) {
            RemoteText::new(xtext::decode_unitext(written).as_deref().unwrap_or(written))
        } else {
            xtext::shown(written)
        }
    }
}

impl fmt::Display for OriginalRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// RFC 3798 §2.1 registers types as atoms; so they have no specials, of which `+` and `=` matter
/// here.
fn is_type_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*-/?^_`{|}~.".contains(&byte)
}

fn is_utf8_type(addr_type: &str) -> bool {
    addr_type.eq_ignore_ascii_case("utf-8")
}

/// By when the message shall have been delivered: `BY` (RFC 2852 §4).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DeliverBy {
    /// From now, in seconds; may be over already.
    pub seconds: i64,
    /// What happens to the message when that time is over.
    pub mode: ByMode,
    /// `T`: each relay tells the sender that it took the message.
    pub trace: bool,
}

/// What happens to mail that is not delivered in time.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ByMode {
    /// `R`: it is returned, and not tried any more.
    Return,
    /// `N`: the sender is told, and it is tried further.
    Notify,
}

impl DeliverBy {
    /// Reads the value of `BY`. With [`ByMode::Return`] a time that is over is no value at all
    /// (RFC 2852 §4.1.1): such mail could not be accepted and delivered.
    ///
    /// ```
    /// use smtp::params::{ByMode, DeliverBy};
    /// let by = DeliverBy::parse("120;rt").unwrap();
    /// assert_eq!(by, DeliverBy { seconds: 120, mode: ByMode::Return, trace: true });
    /// assert_eq!(by.to_string(), "120;RT");
    /// assert_eq!(DeliverBy::parse("0;R"), None);
    /// ```
    pub fn parse(value: &str) -> Option<Self> {
        let (time, mode) = value.split_once(';')?;
        let digits = time.strip_prefix(['-', '+']).unwrap_or(time);
        let seconds = i64::try_from(parse_seconds(digits)?).ok()?;
        let seconds = if time.starts_with('-') { -seconds } else { seconds };
        let (mode, trace) = match mode.to_ascii_uppercase().as_str() {
            "R" => (ByMode::Return, false),
            "RT" => (ByMode::Return, true),
            "N" => (ByMode::Notify, false),
            "NT" => (ByMode::Notify, true),
            _ => return None,
        };
        (mode == ByMode::Notify || seconds > 0).then_some(Self { seconds, mode, trace })
    }
}

impl fmt::Display for DeliverBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            ByMode::Return => "R",
            ByMode::Notify => "N",
        };
        write!(f, "{};{mode}{}", self.seconds, if self.trace { "T" } else { "" })
    }
}

/// How urgent the message is: `MT-PRIORITY` (RFC 6710 §4), from -9 to 9.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Priority(i8);

impl Priority {
    /// RFC 6710 §4: priorities reach from -9 to 9.
    const MAX: i8 = 9;

    /// `None` for a number outside -9..=9.
    pub const fn new(value: i8) -> Option<Self> {
        if value >= -Self::MAX && value <= Self::MAX { Some(Self(value)) } else { None }
    }

    /// Reads the value of `MT-PRIORITY`: one digit, with a minus or nothing in front.
    pub fn parse(value: &str) -> Option<Self> {
        let digits = value.strip_prefix('-').unwrap_or(value);
        let written = digits.len() == 1 && value != "-0";
        written.then(|| value.parse().ok()).flatten().and_then(Self::new)
    }

    /// The priority as a number, -9 to 9; more is more urgent.
    pub const fn get(self) -> i8 {
        self.0
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How long the message is kept before it is sent: FUTURERELEASE (RFC 4865 §3).
///
/// The values of its two parameters, [`Hold::KEYWORD_FOR`] and [`Hold::KEYWORD_UNTIL`], are told
/// apart by their form.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Hold {
    /// `HOLDFOR`: so many seconds from its acceptance.
    For(u64),
    /// `HOLDUNTIL`: a date and time of RFC 3339. Its form is checked, not its calendar.
    Until(Box<str>),
}

impl Hold {
    /// The parameter with seconds.
    pub const KEYWORD_FOR: &str = "HOLDFOR";
    /// The parameter with a date.
    pub const KEYWORD_UNTIL: &str = "HOLDUNTIL";

    /// Reads the value of either parameter.
    ///
    /// ```
    /// use smtp::params::Hold;
    /// assert_eq!(Hold::parse("86400"), Some(Hold::For(86_400)));
    /// let until = "2026-12-24T18:00:00Z";
    /// assert_eq!(Hold::parse(until).unwrap().to_string(), until);
    /// assert_eq!(Hold::parse("tomorrow"), None);
    /// ```
    pub fn parse(value: &str) -> Option<Self> {
        if is_date_time(value) {
            return Some(Self::Until(value.into()));
        }
        parse_seconds(value).filter(|_| !value.starts_with('0')).map(Self::For)
    }

    /// The parameter that this is the value of.
    pub const fn keyword(&self) -> &'static str {
        match self {
            Self::For(_) => Self::KEYWORD_FOR,
            Self::Until(_) => Self::KEYWORD_UNTIL,
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(seconds) => seconds.fmt(f),
            Self::Until(date_time) => f.write_str(date_time),
        }
    }
}

fn parse_seconds(digits: &str) -> Option<u64> {
    let written = digits.len() <= SECONDS_DIGITS_MAX && digits.bytes().all(|b| b.is_ascii_digit());
    written.then(|| digits.parse().ok()).flatten()
}

/// The shape of RFC 3339 §5.6's date-time: `9999-99-99T99:99:99`, a fraction, `Z` or an offset.
pub(crate) fn is_date_time(value: &str) -> bool {
    const FRACTION_DIGITS_MAX: usize = 9;
    let Some((second, behind)) = value.split_at_checked("9999-99-99T99:99:99".len()) else {
        return false;
    };
    let zone = match behind.strip_prefix('.') {
        None => behind,
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if !(1..=FRACTION_DIGITS_MAX).contains(&(fraction.len() - zone.len())) {
                return false;
            }
            zone
        }
    };
    let zone_ok =
        zone.eq_ignore_ascii_case("Z") || has_shape(zone, "+99:99") || has_shape(zone, "-99:99");
    has_shape(second, "9999-99-99T99:99:99") && zone_ok
}

/// Is each character that of `shape`, in either case, with a digit where that has 9?
fn has_shape(text: &str, shape: &str) -> bool {
    let matches =
        |(a, b): (u8, u8)| if b == b'9' { a.is_ascii_digit() } else { a.eq_ignore_ascii_case(&b) };
    text.len() == shape.len() && text.bytes().zip(shape.bytes()).all(matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written again for each value; `None` where it was refused.
    fn written<T: fmt::Display>(value: &str, parse: impl Fn(&str) -> Option<T>) -> Option<String> {
        parse(value).map(|parsed| parsed.to_string())
    }

    #[test]
    fn dsn_01_values_are_read_in_any_case_and_bad_ones_refused() {
        for (value, want) in [
            ("full", Some("FULL")),
            ("HDRS", Some("HDRS")),
            ("", None),
            ("HEADERS", None),
            ("FULL,HDRS", None),
        ] {
            assert_eq!(written(value, Return::parse).as_deref(), want, "{value}");
        }
        for (value, want) in [
            ("never", Some("NEVER")),
            ("FAILURE", Some("FAILURE")),
            ("delay,Success,FAILURE", Some("SUCCESS,FAILURE,DELAY")),
            ("DELAY,DELAY", Some("DELAY")),
            ("NEVER,FAILURE", None),
            ("FAILURE,NEVER", None),
            ("", None),
            ("FAILURE,", None),
            ("SOMETIMES", None),
        ] {
            assert_eq!(written(value, Notify::parse).as_deref(), want, "{value}");
        }
    }

    #[test]
    fn dsn_02_identifiers_and_original_recipients_go_on_as_they_were_written() {
        let hundred = "x".repeat(100);
        let encoded = "+41".repeat(100);
        for (value, valid) in [
            ("QQ+2B+3D", true),
            (&hundred, true),
            (&encoded, true),
            (&"x".repeat(101), false),
            ("", false),
            ("a=b", false),
            ("a+0D+0Ab", false),
            ("+FF", false),
            ("+2", false),
        ] {
            assert_eq!(
                written(value, EnvelopeId::parse).as_deref(),
                valid.then_some(value),
                "{value}"
            );
        }
        let longest = format!("rfc822;{}", "x".repeat(493));
        for (value, valid) in [
            ("rfc822;a+2Bb@x.example", true),
            ("RFC822;a@x", true),
            ("X.400;/c=us/", false),
            ("X.400;/c+3Dus/", true),
            (r"utf-8;a\x{FC}b@x", true),
            ("utf-8;a\u{fc}b@x", true),
            (r"utf-8;\x{0D}\x{0A}", false),
            ("utf-8;a+2Bb@x", false),
            ("rfc822;a\u{fc}b@x", false),
            (r"rfc822;a\x{FC}", true),
            (&longest, true),
            (&format!("{longest}x"), false),
            ("rfc822;", false),
            (";a@x", false),
            ("a b;c", false),
            ("rfc822", false),
            ("rfc822;a+0Ab", false),
        ] {
            let got = written(value, OriginalRecipient::parse);
            assert_eq!(got.as_deref(), valid.then_some(value), "{value}");
        }
        let utf8 = OriginalRecipient::parse(r"UTF-8;a\x{FC}b@x").unwrap();
        assert_eq!(utf8.address().as_str(), "a\u{fc}b@x");
    }

    #[test]
    fn times_have_at_most_nine_digits_and_their_own_forms() {
        for (value, want) in [
            ("60;R", Some("60;R")),
            ("+60;n", Some("60;N")),
            ("-60;NT", Some("-60;NT")),
            ("0;N", Some("0;N")),
            ("999999999;rt", Some("999999999;RT")),
            ("1000000000;N", None),
            ("0;R", None),
            ("-1;R", None),
            ("60", None),
            ("60;", None),
            ("60;T", None),
            ("60;TR", None),
            ("+-1;N", None),
            (";N", None),
        ] {
            assert_eq!(written(value, DeliverBy::parse).as_deref(), want, "{value}");
        }
        for (value, want) in [
            ("0", Some("0")),
            ("9", Some("9")),
            ("-9", Some("-9")),
            ("-0", None),
            ("10", None),
            ("+1", None),
            ("", None),
            ("-", None),
            ("05", None),
        ] {
            assert_eq!(written(value, Priority::parse).as_deref(), want, "{value}");
        }
        for (value, valid) in [
            ("1", true),
            ("999999999", true),
            ("0", false),
            ("01", false),
            ("1000000000", false),
            ("", false),
            ("2026-12-24T18:00:00Z", true),
            ("2026-12-24t18:00:00.25z", true),
            ("2026-12-24T18:00:00+01:00", true),
            ("2026-12-24T18:00:00-01:00", true),
            ("2026-12-24T18:00:00", false),
            ("2026-12-24T18:00:00.Z", false),
            ("2026-12-24T18:00:00.0123456789Z", false),
            ("2026-12-24 18:00:00Z", false),
            ("2026-12-24T18:00Z", false),
            ("2026-12-24T18:00:00\u{fc}", false),
        ] {
            assert_eq!(written(value, Hold::parse).as_deref(), valid.then_some(value), "{value}");
        }
    }
}
