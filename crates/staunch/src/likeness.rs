//! What was probably meant by a word that is none of those that are known.

/// Our choice: words that are less alike are not meant (Jaro-Winkler; 1: the same).
const LIKENESS_MIN: f64 = 0.8;

/// The most similar of the words that it was shown.
#[derive(Debug)]
pub(crate) struct Nearest<'w> {
    word: &'w str,
    likeness: f64,
    found: Option<String>,
}

impl<'w> Nearest<'w> {
    /// Of none so far.
    pub(crate) fn to(word: &'w str) -> Self {
        Self { word, likeness: LIKENESS_MIN, found: None }
    }

    /// Shows it another word.
    pub(crate) fn look_at(&mut self, known: &str) {
        let likeness = strsim::jaro_winkler(self.word, known);
        if likeness > self.likeness {
            (self.likeness, self.found) = (likeness, Some(known.to_owned()));
        }
    }

    /// What it is, if any was similar enough.
    pub(crate) fn found(self) -> Option<String> {
        self.found
    }
}

/// The most similar of these words.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<String> {
    let mut nearest = Nearest::to(word);
    known.into_iter().for_each(|known| nearest.look_at(known));
    nearest.found()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_taken_for_what_was_meant_and_another_word_is_not() {
        let known = ["connections", "connect_timeout", "tls"];
        assert_eq!(nearest("conections", known).as_deref(), Some("connections"));
        assert_eq!(nearest("connect_timout", known).as_deref(), Some("connect_timeout"));
        assert_eq!(nearest("xyz", known), None);
        assert_eq!(nearest("connections", []), None);
    }
}
