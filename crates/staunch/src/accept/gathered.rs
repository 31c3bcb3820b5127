//! Content in small pieces is put together.
//!
//! A piece ends at each dot that SMTP's transparency added, in the worst case there is one a line,
//! and what is done with a piece costs more than its octets: a file is written to.

use smtp::server::ServerStep;

use crate::budget::Held;

/// Our choice: content that is handed on at once.
const OCTETS: usize = 16 * 1024;

/// What was put together of one read.
#[derive(Debug, Default)]
pub(super) struct GatheredContent(Vec<u8>);

impl GatheredContent {
    /// Takes the content of a step, if it is small, more may come `behind` it, and there is memory;
    /// `lend` is asked once whether there is, with the octets.
    pub(super) fn takes(
        &mut self,
        step: &ServerStep<'_>,
        behind: &[u8],
        lend: impl FnOnce(usize) -> bool,
    ) -> bool {
        let ServerStep::Content(piece) = step else { return false };
        if self.0.capacity() == 0 {
            let is_worth_it = piece.len() < OCTETS / 4 && behind.len() > OCTETS / 4;
            if !is_worth_it || !lend(OCTETS) {
                return false;
            }
            self.0.reserve_exact(OCTETS);
        }
        let fits = self.0.len() + piece.len() <= self.0.capacity();
        if fits {
            self.0.extend_from_slice(piece);
        }
        fits
    }

    /// All of it, if there is something, and what is held with it.
    pub(super) fn step(&self, held: Held) -> Option<(ServerStep<'_>, Held)> {
        let held = Held { now: held.now + self.0.capacity(), ..held };
        (!self.0.is_empty()).then_some((ServerStep::Content(&self.0), held))
    }

    /// The handler has the content; the capacity stays for the next pieces.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Held = Held { now: 100, least: 10 };

    #[test]
    fn small_pieces_become_one_as_far_as_there_is_memory() {
        let behind = vec![b'x'; OCTETS];
        let mut gathered = GatheredContent::default();
        assert!(
            !gathered.takes(&ServerStep::Content(b"a\r\n"), &behind, |_| false),
            "nothing is lent"
        );
        assert!(
            !gathered.takes(&ServerStep::Content(b"a\r\n"), b"b", |_| true),
            "nothing comes behind"
        );
        assert!(!gathered.takes(&ServerStep::Content(&behind), &behind, |_| true), "it is large");
        assert!(!gathered.takes(&ServerStep::End, &behind, |_| true));
        assert!(gathered.step(HELD).is_none());
        assert!(gathered.takes(&ServerStep::Content(b"a\r\n"), &behind, |octets| octets == OCTETS));
        assert!(
            gathered.takes(&ServerStep::Content(b".b\r\n"), b"", |_| false),
            "it has the memory"
        );
        let (step, held) = gathered.step(HELD).unwrap();
        assert_eq!((step, held.now), (ServerStep::Content(b"a\r\n.b\r\n"), 100 + OCTETS));
        assert!(!gathered.takes(&ServerStep::Content(&behind), b"", |_| true), "it does not fit");
        gathered.clear();
        assert!(gathered.step(HELD).is_none());
    }
}
