//! Background tasks that end with their owner, so that a finished test leaves nothing running.

use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;

use crate::log::lock;

/// Tasks that are aborted when the last holder is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut set = lock(&self.0);
        while set.try_join_next().is_some() {}
        set.spawn(task);
    }
}
