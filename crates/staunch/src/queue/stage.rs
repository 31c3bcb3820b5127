//! For unit tests: everything that delivers, with a store in a directory of its own, and nothing
//! running.

use std::sync::{Arc, mpsc};

use smtp::ReversePath;
use spool::{Filter, LaneKey, MessageId, QueueRow, Spool, StoredEnvelope};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::{Config, Surroundings, load};
use crate::daemon::assemble;
use crate::queue::events::Event;
use crate::queue::gathering;
use crate::queue::handle::QueueHandle;

pub(super) const BODY: &[u8] = b"Subject: x\r\n\r\nx\r\n";

pub(crate) struct Stage {
    _dir: TempDir,
    pub(crate) handle: Arc<QueueHandle>,
    events: tokio::sync::mpsc::Receiver<Event>,
    config: watch::Sender<Arc<Config>>,
}

pub(super) fn lane(name: &str) -> LaneKey {
    LaneKey::new(name)
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("staunch.toml");
        let text = format!(
            "hostname = \"relay.test\"\ndata_dir = \"{}\"\n[dns]\nservers = [\"127.0.0.1:9\"]\n",
            dir.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let config = Arc::new(load(Some(&file), &Surroundings::default()).unwrap().config);
        let spool = Spool::open(&dir.path().join("data"), spool::Options::default()).unwrap();
        let (sender, config) = watch::channel(config);
        let (handle, events) = assemble(config, spool).unwrap();
        Self { _dir: dir, handle, events, config: sender }
    }

    /// The same configuration, read again: what began before is outdated.
    pub(super) fn reload(&self) {
        self.config.send_replace(Arc::new(Config::clone(&self.handle.config())));
    }

    /// What the queue is told next, if anything.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    pub(super) fn commit(&self, envelope: StoredEnvelope) -> MessageId {
        let spool = &self.handle.spool;
        let mut draft = spool.draft(spool.new_id(clock::now()));
        draft.write(BODY).unwrap();
        let (done, result) = mpsc::channel();
        spool.commit(draft.seal().unwrap(), envelope, move |id| done.send(id).unwrap());
        result.recv().unwrap().unwrap()
    }

    /// As at a stop: failures that wait for others of their message end.
    pub(super) async fn end_what_is_gathered(&self) {
        let stop = CancellationToken::new();
        stop.cancel();
        gathering::watch(Arc::clone(&self.handle), stop).await;
        self.handle.tracker.close();
        self.handle.tracker.wait().await;
    }

    pub(super) fn queue(&self) -> Vec<QueueRow> {
        self.handle.spool.list(&Filter::default(), None, 100).unwrap().rows
    }

    /// The recipients of DSNs, and of everything else.
    pub(super) fn recipients(&self) -> (Vec<String>, Vec<String>) {
        let (dsns, others): (Vec<_>, Vec<_>) =
            self.queue().into_iter().partition(|row| row.sender == ReversePath::Null);
        let names = |rows: Vec<QueueRow>| {
            rows.into_iter().map(|row| row.recipient.to_string()).collect::<Vec<_>>()
        };
        (names(dsns), names(others))
    }
}
