//! Which mail is being tried at this moment, and what decides whether it is still sent: its
//! attempt, or an operator's order to take it out of the queue.
//!
//! Both want the same mail, and exactly one gets it:
//!
//! * The operator first changes the store, then counts a removal and looks for attempts on that
//!   mail, in one step ([`Underway::remove`]). What has not come to MAIL yet is withdrawn, and is
//!   not sent; what has is left alone, and said to be.
//! * An attempt is marked and reads the count of removals in one step, too ([`Underway::begin`]).
//!   If anything was removed since its mail was read from the store, it looks there again. So
//!   either the operator sees the attempt, or the attempt sees the removal.
//! * As the last thing before MAIL the attempt says that it is at the host
//!   ([`Sending::hand_over`]), which fails if it was withdrawn. One of the two is first, whatever
//!   happens.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use spool::{MessageId, RecipientNo};
use tokio::sync::Notify;

use crate::lock::lock;
use crate::message::Removals;

/// No host has heard of the mail.
const PENDING: u8 = 0;
/// A host may be taking it.
const AT_HOST: u8 = 1;
/// It is not sent any more.
const WITHDRAWN: u8 = 2;

/// All attempts of the daemon.
#[derive(Debug)]
pub(crate) struct Underway {
    attempts: Mutex<HashMap<MessageId, Vec<Marked>>>,
    /// Only counted up while `attempts` is locked.
    removals: AtomicU64,
}

impl Default for Underway {
    fn default() -> Self {
        Self { attempts: Mutex::default(), removals: AtomicU64::new(1) }
    }
}

#[derive(Debug)]
struct Marked {
    attempt: Arc<MarkedAttempt>,
    recipients: Vec<RecipientNo>,
}

#[derive(Debug)]
struct MarkedAttempt {
    state: AtomicU8,
    withdrawn: Notify,
}

impl Underway {
    fn lock(&self) -> MutexGuard<'_, HashMap<MessageId, Vec<Marked>>> {
        lock(&self.attempts)
    }

    /// To be taken before mail is read from the store, or committed, and kept with it.
    pub(crate) fn removals(&self) -> Removals {
        Removals(self.removals.load(Ordering::SeqCst))
    }

    /// Notes that `message` is being tried for `recipients`, until the mark is dropped.
    pub(crate) fn begin(
        self: &Arc<Self>,
        message: MessageId,
        recipients: Vec<RecipientNo>,
    ) -> Sending {
        let (state, withdrawn) = (AtomicU8::new(PENDING), Notify::new());
        let attempt = Arc::new(MarkedAttempt { state, withdrawn });
        let mut attempts = self.lock();
        let marked = Marked { attempt: Arc::clone(&attempt), recipients };
        attempts.entry(message).or_default().push(marked);
        let as_of = self.removals();
        Sending { underway: Arc::clone(self), message, attempt, as_of }
    }

    /// Is the recipient being tried at this moment?
    pub(crate) fn is_sending(&self, message: MessageId, no: RecipientNo) -> bool {
        let is_it = |marked: &Marked| {
            marked.recipients.contains(&no) && marked.attempt.state() != WITHDRAWN
        };
        self.lock().get(&message).is_some_and(|all| all.iter().any(is_it))
    }

    /// May a host be taking its mail at this moment?
    pub(crate) fn is_at_host(&self, message: MessageId, no: RecipientNo) -> bool {
        let is_it =
            |marked: &Marked| marked.recipients.contains(&no) && marked.attempt.state() == AT_HOST;
        self.lock().get(&message).is_some_and(|all| all.iter().any(is_it))
    }

    /// Attempts at this moment.
    pub(crate) fn count(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    /// `who` was held or deleted, and that is committed. Attempts on them that no host has heard of
    /// are withdrawn, for all their recipients; returns those whom a host may be taking.
    pub(crate) fn remove(
        &self,
        who: &[(MessageId, RecipientNo)],
    ) -> HashSet<(MessageId, RecipientNo)> {
        let attempts = self.lock();
        self.removals.fetch_add(1, Ordering::SeqCst);
        let is_at_host = |(message, no): &(MessageId, RecipientNo)| {
            let all = attempts.get(message).map(Vec::as_slice).unwrap_or_default();
            let mut its = all.iter().filter(|marked| marked.recipients.contains(no));
            its.any(|marked| !marked.attempt.withdraw())
        };
        who.iter().copied().filter(is_at_host).collect()
    }

    /// Mail ended in the store that may be in memory elsewhere.
    pub(crate) fn note_removal(&self) {
        self.remove(&[]);
    }
}

impl MarkedAttempt {
    fn state(&self) -> u8 {
        self.state.load(Ordering::SeqCst)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Is it withdrawn now?
    fn withdraw(&self) -> bool {
        let is_withdrawn = self.change(PENDING, WITHDRAWN);
        if is_withdrawn {
            self.withdrawn.notify_one();
        }
        is_withdrawn || self.state() == WITHDRAWN
    }
}

/// The mark of mail that is being tried.
#[derive(Debug)]
pub(crate) struct Sending {
    underway: Arc<Underway>,
    message: MessageId,
    attempt: Arc<MarkedAttempt>,
    as_of: Removals,
}

impl Sending {
    /// Is everybody still in the queue who was when that was `read`?
    pub(crate) fn is_as(&self, read: Removals) -> bool {
        self.as_of == read
    }

    /// Only these are tried.
    pub(crate) fn narrow(&self, recipients: Vec<RecipientNo>) {
        let mut attempts = self.underway.lock();
        let all = attempts.get_mut(&self.message).map(Vec::as_mut_slice).unwrap_or_default();
        let its = all.iter_mut().find(|marked| Arc::ptr_eq(&marked.attempt, &self.attempt));
        if let Some(marked) = its {
            marked.recipients = recipients;
        }
    }

    /// From here on a host may be taking the mail. `false` if it was withdrawn: nothing may be said
    /// of it.
    pub(crate) fn hand_over(&self) -> bool {
        self.attempt.change(PENDING, AT_HOST) || self.attempt.state() == AT_HOST
    }

    /// The host did not take it, for certain: until the next one is asked it may be withdrawn
    /// again.
    pub(crate) fn take_back(&self) {
        self.attempt.change(AT_HOST, PENDING);
    }

    /// Was it withdrawn?
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.attempt.state() == WITHDRAWN
    }

    /// Returns as soon as it is withdrawn.
    pub(crate) async fn withdrawn(&self) {
        while !self.is_withdrawn() {
            self.attempt.withdrawn.notified().await;
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut attempts = self.underway.lock();
        let Some(all) = attempts.get_mut(&self.message) else { return };
        all.retain(|marked| !Arc::ptr_eq(&marked.attempt, &self.attempt));
        if all.is_empty() {
            attempts.remove(&self.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: RecipientNo = RecipientNo(0);
    const B: RecipientNo = RecipientNo(1);

    fn id() -> MessageId {
        MessageId::from_u128(1)
    }

    #[test]
    fn what_no_host_has_heard_of_is_withdrawn_and_what_one_may_take_is_not() {
        let underway = Arc::new(Underway::default());
        let sending = underway.begin(id(), vec![A]);
        assert!(underway.remove(&[(id(), A), (id(), B)]).is_empty());
        assert!(sending.is_withdrawn() && !sending.hand_over());
        assert!(!underway.is_sending(id(), A), "it is not sent any more");
        assert!(underway.remove(&[(id(), A)]).is_empty(), "again");
        drop(sending);

        let sending = underway.begin(id(), vec![A]);
        assert!(sending.hand_over() && sending.hand_over());
        assert_eq!(underway.remove(&[(id(), A), (id(), B)]), HashSet::from([(id(), A)]));
        assert!(underway.is_sending(id(), A) && !underway.is_sending(id(), B));
        sending.take_back();
        assert!(underway.remove(&[(id(), A)]).is_empty(), "the next host has not heard of it");
        assert!(!sending.hand_over());
        drop(sending);
        assert_eq!(underway.count(), 0);
    }

    #[test]
    fn an_attempt_is_withdrawn_as_a_whole_and_others_of_its_message_are_not() {
        let underway = Arc::new(Underway::default());
        let (both, other) =
            (underway.begin(id(), vec![A, B]), underway.begin(id(), vec![RecipientNo(2)]));
        underway.remove(&[(id(), B)]);
        assert!(!both.hand_over() && other.hand_over());
        let narrowed = underway.begin(id(), vec![A, B]);
        narrowed.narrow(vec![A]);
        underway.remove(&[(id(), B)]);
        assert!(narrowed.hand_over());
    }

    #[test]
    fn an_attempt_sees_a_removal_that_did_not_see_it() {
        let underway = Arc::new(Underway::default());
        let read = underway.removals();
        assert!(underway.begin(id(), vec![A]).is_as(read));
        underway.remove(&[(id(), A)]);
        assert!(!underway.begin(id(), vec![A]).is_as(read));
        assert!(underway.begin(id(), vec![A]).is_as(underway.removals()));
        underway.note_removal();
        assert!(!underway.begin(id(), vec![A]).is_as(Removals::default()));
    }

    #[tokio::test]
    async fn who_waits_for_a_withdrawal_hears_of_it() {
        let underway = Arc::new(Underway::default());
        let sending = underway.begin(id(), vec![A]);
        let withdraw = async { underway.remove(&[(id(), A)]) };
        tokio::join!(sending.withdrawn(), withdraw);
        sending.withdrawn().await;
    }

    /// Whatever the threads do: either the host has it and the operator is told, or neither.
    #[test]
    fn exactly_one_of_operator_and_attempt_gets_the_mail() {
        for _ in 0..2_000 {
            let underway = Arc::new(Underway::default());
            let sending = underway.begin(id(), vec![A]);
            let operator = Arc::clone(&underway);
            let operator = std::thread::spawn(move || operator.remove(&[(id(), A)]).len());
            let handed_over = sending.hand_over();
            assert_eq!(operator.join().unwrap(), usize::from(handed_over));
        }
    }
}
