//! Message ids: unique across nodes, in time order within one process.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

/// Characters of an id as text: 130 bits of base32 hold its 128.
pub const ID_CHARS: usize = 26;
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
        let mut number = 0_u128;
        for byte in text.bytes() {
            if number >> 123 != 0 {
                return Err(BadId);
            }
            number = number << 5 | u128::from(digit(byte).ok_or(BadId)?);
        }
        Ok(Self(number))
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
