//! Messages as a function of their number.

use memchr::memmem;

/// Header field with the message's number; the first of the message as it was submitted.
const ID_FIELD: &str = "X-Load-Id: ";
/// Octets of one line of body with its CRLF, as base64 in mail has them.
const LINE: usize = 78;
/// Lines of ready-made text that bodies are cut from.
const LINES: usize = 8192;

/// How large the messages are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sizes {
    /// All alike, in octets.
    Fixed(usize),
    /// Most from 1 to 256 KiB, each 50th message 2 to 20 MiB: what people send.
    People,
    /// Most 1 to 16 KiB, each 20th 80 to 336 KiB: small and large bodies, but quick.
    Quick,
}

impl Sizes {
    /// Octets of message `id`.
    pub fn of(self, id: u64) -> usize {
        const KIB: u64 = 1024;
        let random = scramble(id);
        let size = match self {
            Self::Fixed(size) => return size,
            Self::People if id % 50 == 49 => 2048 * KIB + random % (18 * 1024 * KIB),
            Self::People => KIB + random % (255 * KIB),
            Self::Quick if id % 20 == 19 => 80 * KIB + random % (256 * KIB),
            Self::Quick => KIB + random % (15 * KIB),
        };
        usize::try_from(size).expect("fits")
    }
}

/// All messages there can be.
#[derive(Debug)]
pub struct Corpus {
    text: Vec<u8>,
    sizes: Sizes,
}

impl Corpus {
    /// Messages of these sizes.
    pub fn new(sizes: Sizes) -> Self {
        let mut text = Vec::with_capacity(LINES * LINE);
        for line in 0..LINES as u64 {
            // Lines with a dot in front have to be stuffed on the way.
            text.push(if line % 13 == 0 { b'.' } else { b'x' });
            for at in 0..(LINE as u64 - 3) / 5 {
                let random = scramble(line << 8 | at);
                text.extend((0..5).map(|byte| b'A' + (random >> (8 * byte) & 15) as u8));
            }
            text.extend_from_slice(b"\r\n");
            assert_eq!(text.len() % LINE, 0, "lines are alike");
        }
        Self { text, sizes }
    }

    /// Message `id` as submitted: CRLF lines, not dot-stuffed.
    pub fn message(&self, id: u64) -> Vec<u8> {
        let size = self.sizes.of(id);
        let mut message = format!(
            "{ID_FIELD}{id}\r\nFrom: <ann@load.test>\r\nTo: undisclosed-recipients:;\r\n\
             Date: Sun, 22 Nov 2026 12:00:00 +0000\r\nMessage-ID: <{id}@load.test>\r\n\
             Subject: message number {id}\r\n\r\n"
        )
        .into_bytes();
        message.reserve(size);
        let mut start = (scramble(id) % LINES as u64) as usize * LINE;
        while message.len() < size {
            let wanted = (size - message.len()).div_ceil(LINE) * LINE;
            let end = (start + wanted).min(self.text.len());
            message.extend_from_slice(&self.text[start..end]);
            start = 0;
        }
        message
    }

    /// The number written in `text`, which may be a message, a part of one, or a DSN about one.
    pub fn id_in(text: &[u8]) -> Option<u64> {
        let at = memmem::find(text, ID_FIELD.as_bytes())? + ID_FIELD.len();
        let digits: String =
            text[at..].iter().take_while(|b| b.is_ascii_digit()).map(|&b| char::from(b)).collect();
        digits.parse().ok()
    }

    /// Which message `received` is, and whether it is whole: everything below what relays put on
    /// top of it is as it was submitted.
    pub fn check(&self, received: &[u8]) -> Option<(u64, bool)> {
        let start = memmem::find(received, ID_FIELD.as_bytes())?;
        let id = Self::id_in(received)?;
        Some((id, received[start..] == self.message(id)))
    }
}

/// splitmix64: numbers that look random and are the same everywhere.
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_message_is_seen() {
        for sizes in [Sizes::Fixed(10_000), Sizes::People, Sizes::Quick] {
            let corpus = Corpus::new(sizes);
            for id in [0, 19, 49, 1_000_003] {
                let message = corpus.message(id);
                assert!(message.len() >= sizes.of(id) && message.len() < sizes.of(id) + LINE);
                let mut received = b"Received: from here\r\n".to_vec();
                received.extend_from_slice(&message);
                assert_eq!(corpus.check(&received), Some((id, true)));
                *received.last_mut().unwrap() ^= 1;
                assert_eq!(corpus.check(&received), Some((id, false)));
            }
        }
    }
}
