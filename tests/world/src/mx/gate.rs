//! A host that waits for the test, and not for a time.

use std::sync::Arc;

use tokio::sync::watch;

/// Closed until the test opens it; clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed one.
    #[expect(clippy::new_without_default, reason = "a default does not say that it is closed")]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets through whoever waits, and all who come later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn passed(&self) {
        // The sender is held here, so it does not go away.
        let mut state = self.0.subscribe();
        let _open = state.wait_for(|is_open| *is_open).await;
    }
}

impl PartialEq for Gate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Gate {}
