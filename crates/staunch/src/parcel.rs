//! What is sent to a host, and in which form does it take it?

use std::fs::File;
use std::sync::Arc;

use spool::{BodyBytes, BodyFacts, StoreError};

use crate::queue::work::{Body, Work};
use crate::relay::Relay;
use crate::transmit::{self, BodySource};

/// A message's body at hand.
pub(crate) struct Parcel {
    body: Loaded,
    size: u64,
}

enum Loaded {
    Memory(BodyBytes),
    File(Arc<File>),
}

impl Parcel {
    /// Takes the body from memory or store.
    ///
    /// # Errors
    ///
    /// Why it cannot be read.
    pub(crate) async fn load(relay: &Relay, work: &Work) -> Result<Self, String> {
        let size = work.facts.size;
        if let Body::Hot(hot) = &work.body {
            return Ok(Self { body: Loaded::Memory(hot.bytes.clone()), size });
        }
        let (spool, message) = (relay.spool.clone(), work.message);
        let read = tokio::task::spawn_blocking(move || spool.body(message)).await;
        let body = match read.unwrap_or(Err(StoreError::Closed)) {
            Ok(spool::Body::Memory(bytes)) => Loaded::Memory(bytes),
            Ok(spool::Body::File { file, .. }) => Loaded::File(Arc::new(file)),
            Err(error) => return Err(format!("the message cannot be read: {error}")),
        };
        Ok(Self { body, size })
    }

    /// The body as it is sent.
    pub(crate) fn body(&self) -> transmit::Body<'_> {
        let source = match &self.body {
            Loaded::Memory(bytes) => BodySource::Memory(bytes),
            Loaded::File(file) => BodySource::File(Arc::clone(file)),
        };
        transmit::Body { source, size: self.size }
    }
}

/// Octets that go over the wire without dots (RFC 1870 §5): the last line gets its end if it has none.
pub(crate) fn sent_size(facts: &BodyFacts) -> u64 {
    let lacks_end = facts.size > 0 && !facts.ends_with_newline;
    if lacks_end { facts.size.saturating_add(2) } else { facts.size }
}
