//! Makes room for other mail: the agreement between the queue, which owns the places, and an
//! attempt that has one.
//!
//! An attempt may be ended at any time until content goes out, and nothing was said by that. From
//! then on the host may be taking the mail, and nobody hurries it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use smtp::Domain;
use tokio::sync::Notify;

use crate::lock::lock;

/// An attempt that has not taken mail to a host for so long is slow: its place is charged to those
/// that may be held up, and before the content it makes room as soon as other mail needs it. Our
/// choice: with room enough a host has all the time that RFC 5321 §4.5.3.2 gives it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What an attempt is about at the moment, for whoever is told that it took too long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Doing {
    /// The next hop's policy and hosts are looked up.
    LookingUp,
    /// This host is looked up, called or asked.
    Asking(Domain),
}

/// One attempt's part of it.
#[derive(Debug)]
pub(crate) struct Yielding {
    is_asked: AtomicBool,
    has_content: AtomicBool,
    changed: Notify,
    doing: Mutex<Doing>,
}

impl Default for Yielding {
    fn default() -> Self {
        Self {
            is_asked: AtomicBool::new(false),
            has_content: AtomicBool::new(false),
            changed: Notify::new(),
            doing: Mutex::new(Doing::LookingUp),
        }
    }
}

impl Yielding {
    /// Other mail needs the place. `false`: in vain, the host may have the content.
    pub(crate) fn ask(&self) -> bool {
        self.is_asked.store(true, Ordering::SeqCst);
        self.changed.notify_one();
        !self.has_content.load(Ordering::SeqCst)
    }

    /// Returns as soon as the attempt is to be ended. To be polled by the task that makes the
    /// attempt, after it: so content does not begin meanwhile.
    pub(crate) async fn granted(&self) {
        while !self.is_asked.load(Ordering::SeqCst) || self.has_content.load(Ordering::SeqCst) {
            self.changed.notified().await;
        }
    }

    /// Content goes out from here on.
    pub(crate) fn content_begins(&self) {
        self.has_content.store(true, Ordering::SeqCst);
    }

    /// The host has said what it has to say.
    pub(crate) fn content_ended(&self) {
        self.has_content.store(false, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Remembers what the attempt is about.
    pub(crate) fn set_doing(&self, doing: Doing) {
        *lock(&self.doing) = doing;
    }

    /// What the attempt is about.
    pub(crate) fn doing(&self) -> Doing {
        lock(&self.doing).clone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn an_attempt_makes_room_when_it_is_asked_and_not_while_content_is_out() {
        let yielding = Yielding::default();
        assert!(yielding.granted().now_or_never().is_none(), "nobody asked");
        yielding.content_begins();
        assert!(!yielding.ask(), "in vain");
        assert!(yielding.granted().now_or_never().is_none());
        yielding.content_ended();
        assert!(yielding.granted().now_or_never().is_some(), "before the next host is asked");
        assert!(Yielding::default().ask());
    }

    #[tokio::test]
    async fn who_waits_for_the_word_hears_it() {
        let yielding = Yielding::default();
        tokio::join!(yielding.granted(), async { yielding.ask() });
        let yielding = Yielding::default();
        yielding.content_begins();
        yielding.ask();
        tokio::join!(yielding.granted(), async { yielding.content_ended() });
    }
}
