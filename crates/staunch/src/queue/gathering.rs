//! Failures of one message that come within some seconds are told in one DSN.
//!
//! A message to three hundred domains ends in three hundred attempts, and each failure by itself
//! would be a DSN to the same sender. So a failure of a message that has other recipients waits
//! for company. Meanwhile its recipient is in the store as one that waits, with what was said, and
//! nobody tries it: if the daemon ends before the DSN is written, it is tried again, and fails
//! again.

use std::collections::HashMap;
use std::sync::Arc;

use spool::{MessageId, RecipientNo, StoreError};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::settle::{self, Failing};
use super::store;
use crate::queue::facts::QueueFact;
use crate::queue::gathered::Gathered;
use crate::queue::handle::QueueHandle;

/// Tells of what was gathered, until `stop`; then of all that is left.
pub(crate) async fn watch(handle: Arc<QueueHandle>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let wait = async {
            match handle.gathering.next() {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = handle.gathering.came() => {}
            () = wait => {}
        }
        tell(&handle, handle.gathering.take(Some(Instant::now())));
    }
    handle.gathering.close();
    tell(&handle, handle.gathering.take(None));
}

/// Each message in a task of its own: none waits for another one's disk or bug.
fn tell(handle: &Arc<QueueHandle>, due: Vec<(MessageId, Gathered)>) {
    for (message, gathered) in due {
        let handle = Arc::clone(handle);
        handle.tracker.clone().spawn(async move {
            let _ending = EndingRecipients::of(&handle, message, &gathered);
            if let Err(error) = end(&handle, gathered).await {
                handle.note_store_error(&error);
                QueueFact::StoreFailed {
                    error: &error,
                    what: "failures are not told yet: they are tried again",
                }
                .tell();
            }
        });
    }
}

/// The recipients end, or are tried again: they are nobody's from then on.
struct EndingRecipients<'a> {
    handle: &'a QueueHandle,
    message: MessageId,
    recipients: Vec<RecipientNo>,
}

impl<'a> EndingRecipients<'a> {
    fn of(handle: &'a QueueHandle, message: MessageId, gathered: &Gathered) -> Self {
        let targets = gathered.failures.iter().flat_map(|(_, work, _)| &work.targets);
        Self { handle, message, recipients: targets.map(|target| target.no).collect() }
    }
}

impl Drop for EndingRecipients<'_> {
    fn drop(&mut self) {
        self.handle.gathering.forget(self.message, &self.recipients);
    }
}

/// Ends those that are still in the queue, and tells of them.
async fn end(handle: &Arc<QueueHandle>, gathered: Gathered) -> Result<(), StoreError> {
    let (mut marks, mut failing) = (Vec::new(), Vec::new());
    for (lane, mut work, problems) in gathered.failures {
        let numbers: Vec<RecipientNo> = work.targets.iter().map(|target| target.no).collect();
        let problems: HashMap<_, _> = numbers.iter().copied().zip(problems).collect();
        let sending = handle.underway.begin(work.message, numbers);
        store::keep_queued(handle, &lane, &mut work, &sending).await?;
        if sending.hand_over() {
            marks.push(sending);
            failing.push(Failing { lane, work, problems });
        }
    }
    let permit = handle.spool.settle_permit()?;
    settle::fail_together(handle, &handle.config(), permit, &failing).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use smtp::{Mailbox, ReversePath};
    use spool::{
        MessageOptions, NewRecipient, RecipientOptions, RecipientState, Selection, StoredEnvelope,
    };

    use super::super::stage::{BODY, Stage, lane};
    use super::super::stop::{self, Verb};
    use super::*;
    use crate::clock;
    use crate::message::{Work, facts_of};
    use crate::telemetry::{Problem, Reason};

    /// A message with one recipient in each of these domains.
    fn commit(stage: &Stage, domains: &[&str]) -> MessageId {
        let recipient = |domain: &&str| NewRecipient {
            mailbox: Mailbox::parse(&format!("r@{domain}")).unwrap(),
            lane: lane(domain),
            options: RecipientOptions::default(),
            state: RecipientState::Queued,
        };
        let now = clock::now();
        stage.commit(StoredEnvelope {
            sender: ReversePath::parse("s@sender.test").unwrap(),
            recipients: domains.iter().map(recipient).collect(),
            arrived_at: now,
            expires_at: now + jiff::SignedDuration::from_secs(9_000),
            client: "test".into(),
            facts: facts_of(BODY),
            options: MessageOptions::default(),
        })
    }

    fn work(stage: &Stage, domain: &str) -> Work {
        let page = stage.handle.spool.next(&lane(domain), clock::now(), None, 10).unwrap();
        page.due.into_iter().next().and_then(store::whole).unwrap()
    }

    async fn fail(stage: &Stage, domain: &str) {
        let (handle, work) = (&stage.handle, work(stage, domain));
        let problem = Problem::new(Reason::ConnectFailed, "down");
        let permit = handle.spool.settle_permit().unwrap();
        let config = handle.config();
        settle::fail_soon(handle, &config, permit, (&work, &lane(domain)), &problem).await;
    }

    #[tokio::test]
    async fn failures_of_one_message_end_together_and_are_nobodys_until_then() {
        let stage = Stage::new();
        let message = commit(&stage, &["a.test", "b.test", "c.test"]);
        for (domain, number) in [("a.test", 0), ("b.test", 1)] {
            fail(&stage, domain).await;
            assert!(stage.handle.gathering.has(message, RecipientNo(number)), "{domain}");
        }
        assert_eq!(stage.recipients().1.len(), 3, "all are in the store");
        stage.end_what_is_gathered().await;
        assert!(!stage.handle.gathering.has(message, RecipientNo(0)));
        assert_eq!(stage.recipients(), (vec!["s@sender.test".into()], vec!["r@c.test".into()]));
    }

    #[tokio::test]
    async fn a_failure_that_can_have_no_company_ends_at_once() {
        let stage = Stage::new();
        commit(&stage, &["a.test"]);
        fail(&stage, "a.test").await;
        assert_eq!(stage.recipients(), (vec!["s@sender.test".into()], Vec::new()));
    }

    #[tokio::test]
    async fn an_operator_who_comes_first_is_heeded() {
        let stage = Stage::new();
        let message = commit(&stage, &["a.test", "b.test"]);
        fail(&stage, "a.test").await;
        let selection = Selection::Messages(vec![message]);
        stop::take_out(&stage.handle, Verb::Delete, selection, &|_| ()).await.unwrap();
        stage.end_what_is_gathered().await;
        assert_eq!(stage.recipients(), (Vec::new(), Vec::new()), "nobody is told");
    }
}
