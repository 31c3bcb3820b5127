//! The certificates that a peer sent, and whether they were found good within this very second.
//!
//! Every mail is judged anew, also over a kept connection. Most of that is one signature, which no
//! second mail of the same second can find otherwise: the same certificates, authorities and time
//! give the same answer. That answer is kept, and nothing else; with any of the three changed the
//! signature is looked at again.

use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use rustls_pki_types::CertificateDer;

use crate::certificate::RootsId;

/// The certificates in the order in which they came, the peer's own first. They never change.
#[derive(Debug, Default)]
pub struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    /// By these authorities, at this second since 1970, a path to one of them was valid.
    good: Mutex<Option<(RootsId, i64)>>,
}

impl Chain {
    /// Says whether there is a valid path to one of the authorities at the time, which `judge`
    /// finds out.
    ///
    /// # Errors
    ///
    /// As `judge`. Failures are never kept.
    pub(crate) fn is_good<E>(
        &self,
        roots: RootsId,
        second: i64,
        judge: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let question = Some((roots, second));
        if *self.good.lock().unwrap_or_else(PoisonError::into_inner) == question {
            return Ok(());
        }
        judge()?;
        *self.good.lock().unwrap_or_else(PoisonError::into_inner) = question;
        Ok(())
    }
}

impl From<Vec<CertificateDer<'static>>> for Chain {
    fn from(certificates: Vec<CertificateDer<'static>>) -> Self {
        Self { certificates, good: Mutex::default() }
    }
}

impl Clone for Chain {
    fn clone(&self) -> Self {
        self.certificates.clone().into()
    }
}

impl Deref for Chain {
    type Target = [CertificateDer<'static>];

    fn deref(&self) -> &Self::Target {
        &self.certificates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Roots;

    #[test]
    fn only_a_good_answer_to_the_very_same_question_is_kept() {
        let chain = Chain::from(vec![CertificateDer::from(vec![1])]);
        let [first, second] = [Roots::new(Vec::new()).id(), Roots::new(Vec::new()).id()];
        assert_ne!(first, second, "other authorities, even if they look alike");
        let mut asked = 0;
        let mut ask = |chain: &Chain, roots, at, answer: Result<(), ()>| {
            chain.is_good(roots, at, || {
                asked += 1;
                answer
            })
        };
        assert_eq!(ask(&chain, first, 7, Err(())), Err(()));
        assert_eq!(ask(&chain, first, 7, Ok(())), Ok(()), "a failure is looked at again");
        assert_eq!(ask(&chain, first, 7, Err(())), Ok(()), "and this answer is kept");
        assert_eq!(ask(&chain, first, 8, Err(())), Err(()), "for that second");
        assert_eq!(ask(&chain, second, 7, Err(())), Err(()), "and those authorities");
        assert_eq!(ask(&chain.clone(), first, 7, Err(())), Err(()), "and not for a copy");
        assert_eq!(asked, 5);
    }
}
