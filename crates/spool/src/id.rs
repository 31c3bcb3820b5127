//! Message ids: unique across nodes, in time order within one process.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

/// Characters of an id as text: 130 bits of base32 hold its 128.
pub const ID_CHARS: usize = 26;
/// Our choice: characters that name a message if no other id begins so. They say in which second it
/// came; fewer stand for hours of mail, of which one message may be all that is left.
pub const ID_PREFIX_MIN: usize = 8;
/// Crockford's base32: without i, l, o and u, so that ids can be read out.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Bits of the counter below the milliseconds.
const COUNTER_BITS: u32 = 16;

/// The name of one message, from its first byte to the last line about it in a log.
///
/// 48 bits of milliseconds since 1970, 16 bits that count within one, 64 random bits. The text form
/// is 26 characters of lower-case Crockford base32 and sorts as the id does.
///
/// ```
/// let id = spool::MessageId::from_u128(1);
/// assert_eq!(id.to_string(), "00000000000000000000000001");
/// assert_eq!("0000000000000000000000000I".parse(), Ok(id));
/// ```
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MessageId(u128);

/// The text is not a message id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a message id")]
pub struct BadId;

impl MessageId {
    /// The id with this number.
    pub const fn from_u128(number: u128) -> Self {
        Self(number)
    }

    /// The id as a number.
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    pub(crate) const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Evenly spread, for the choice of a directory.
    pub(crate) const fn low_byte(self) -> u8 {
        let [.., low] = self.to_bytes();
        low
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; ID_CHARS];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            let digit = usize::try_from(rest & 31).unwrap_or_default();
            *place = ALPHABET.get(digit).copied().unwrap_or_default();
            rest >>= 5;
        }
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = BadId;

    /// Upper case, and the letters Crockford reads as digits, are accepted.
    fn from_str(text: &str) -> Result<Self, BadId> {
        if text.len() != ID_CHARS {
            return Err(BadId);
        }
        IdPrefix::read(text).map(|prefix| Self(prefix.first))
    }
}

/// The ids that begin alike.
///
/// ```
/// let prefix: spool::IdPrefix = "01M8K8N6".parse().unwrap();
/// assert!(prefix.covers("01m8k8n64x0a1b2c3d4e5f6g7h".parse().unwrap()));
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IdPrefix {
    first: u128,
    last: u128,
}

/// The text does not name a message by the beginning of its id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadIdPrefix {
    /// No id begins so.
    #[error("not a message id")]
    NotAnId,
    /// It stands for too many ids.
    #[error("too short: {ID_PREFIX_MIN} of the {ID_CHARS} characters of an id are needed")]
    TooShort,
}

impl IdPrefix {
    /// Does this id begin so?
    pub fn covers(self, id: MessageId) -> bool {
        (self.first..=self.last).contains(&id.0)
    }

    /// The first and the last id that begin so, as they are stored.
    pub(crate) const fn bounds(self) -> [[u8; 16]; 2] {
        [self.first.to_be_bytes(), self.last.to_be_bytes()]
    }

    /// Of [`ID_CHARS`] characters at most.
    fn read(text: &str) -> Result<Self, BadId> {
        let missing = ID_CHARS.checked_sub(text.len()).ok_or(BadId)?;
        let free_bits = u32::try_from(missing * 5).map_err(|_| BadId)?;
        let mut number = 0_u128;
        for byte in text.bytes() {
            if number >> 123 != 0 {
                return Err(BadId);
            }
            number = number << 5 | u128::from(digit(byte).ok_or(BadId)?);
        }
        // Of the 130 bits an id has the lower 128.
        if number.leading_zeros() < free_bits {
            return Err(BadId);
        }
        let first = number.checked_shl(free_bits).unwrap_or_default();
        let behind = 1_u128.checked_shl(free_bits).map_or(u128::MAX, |span| span - 1);
        Ok(Self { first, last: first | behind })
    }
}

impl FromStr for IdPrefix {
    type Err = BadIdPrefix;

    /// As [`MessageId::from_str`], but for the length.
    fn from_str(text: &str) -> Result<Self, BadIdPrefix> {
        if text.len() < ID_PREFIX_MIN && text.bytes().all(|byte| digit(byte).is_some()) {
            return Err(BadIdPrefix::TooShort);
        }
        Self::read(text).map_err(|BadId| BadIdPrefix::NotAnId)
    }
}

fn digit(byte: u8) -> Option<u8> {
    let byte = match byte.to_ascii_lowercase() {
        b'o' => b'0',
        b'i' | b'l' => b'1',
        other => other,
    };
    let place = ALPHABET.iter().position(|&letter| letter == byte)?;
    u8::try_from(place).ok()
}

/// Makes ids. One per process; ids from one source never repeat and always rise, also when the
/// clock is set back.
#[derive(Debug)]
pub struct IdSource {
    /// Milliseconds and counter of the newest id.
    last: AtomicU64,
    /// The system's entropy as the key of a hash: 64 bits that no other node repeats.
    random: RandomState,
}

impl Default for IdSource {
    fn default() -> Self {
        Self::new()
    }
}

impl IdSource {
    /// A source with random bits of its own.
    pub fn new() -> Self {
        Self { last: AtomicU64::new(0), random: RandomState::new() }
    }

    /// A new id, made at `now`.
    pub fn next(&self, now: Timestamp) -> MessageId {
        let wanted = u64::try_from(now.as_millisecond()).unwrap_or_default() << COUNTER_BITS;
        let above = |last: u64| wanted.max(last.saturating_add(1));
        let last = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(above(last)))
            .unwrap_or_else(|unchanged| unchanged);
        let first = above(last);
        MessageId(u128::from(first) << 64 | u128::from(self.random.hash_one(first)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_are_the_same_id_and_the_same_order() {
        let numbers = [0, 1, 31, 32, 1 << 64, u128::MAX - 1, u128::MAX];
        let texts: Vec<_> =
            numbers.iter().map(|&number| MessageId::from_u128(number).to_string()).collect();
        assert!(texts.is_sorted());
        for (number, text) in numbers.iter().zip(&texts) {
            assert_eq!(text.parse(), Ok(MessageId::from_u128(*number)), "{text}");
            assert_eq!(text.to_uppercase().parse(), Ok(MessageId::from_u128(*number)), "{text}");
        }
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        let long = "0".repeat(27);
        // The last has 130 bits set: more than an id has.
        for text in
            ["", "0", long.as_str(), "u0000000000000000000000000", &"z".repeat(26), &"é".repeat(13)]
        {
            assert_eq!(text.parse::<MessageId>(), Err(BadId), "{text:?}");
        }
    }

    #[test]
    fn a_prefix_covers_the_ids_that_begin_so_and_no_others() {
        let id: MessageId = "01m8k8n64x0a1b2c3d4e5f6g7h".parse().unwrap();
        let next = MessageId::from_u128(id.as_u128() + 1);
        for chars in ID_PREFIX_MIN..=ID_CHARS {
            let whole = id.to_string();
            let text = whole.get(..chars).unwrap();
            let prefix: IdPrefix = text.parse().unwrap();
            assert_eq!(text.to_uppercase().parse(), Ok(prefix));
            assert!(prefix.covers(id));
            assert_eq!(prefix.covers(next), chars < ID_CHARS, "{chars}");
            let [first, last] = prefix.bounds().map(MessageId::from_bytes);
            assert!(first.to_string().starts_with(text));
            assert!(last.to_string().starts_with(text));
            let [before, behind] = [first.as_u128() - 1, last.as_u128() + 1];
            assert!(!prefix.covers(MessageId::from_u128(before)));
            assert!(!prefix.covers(MessageId::from_u128(behind)));
        }
        assert!("7zzzzzzz".parse::<IdPrefix>().unwrap().covers(MessageId::from_u128(u128::MAX)));
    }

    #[test]
    fn what_begins_no_id_or_too_many_is_no_prefix() {
        let long = "0".repeat(27);
        for text in ["01m8k8nu", "80000000", "01m8-8n6", long.as_str(), &"é".repeat(4)] {
            assert_eq!(text.parse::<IdPrefix>(), Err(BadIdPrefix::NotAnId), "{text:?}");
        }
        for text in ["", "0", "01m8k8n"] {
            assert_eq!(text.parse::<IdPrefix>(), Err(BadIdPrefix::TooShort), "{text:?}");
        }
    }

    #[test]
    fn ids_rise_even_when_the_clock_is_set_back() {
        let source = IdSource::new();
        let late = Timestamp::from_second(2_000_000_000).unwrap();
        let early = Timestamp::from_second(1_000_000_000).unwrap();
        let times = [early, early, late, early, late, Timestamp::MIN];
        let ids: Vec<_> = times.iter().map(|&now| source.next(now)).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
        assert_ne!(IdSource::new().next(early), IdSource::new().next(early), "two nodes");
    }
}
