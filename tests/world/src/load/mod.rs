//! Load: many known messages in at one end, every one of them checked at the other.
//!
//! A message is a function of its number ([`Corpus`]), so generator ([`Load`]) and sink ([`Sink`])
//! need no common memory: the sink makes the message anew and compares it byte by byte.

mod corpus;
mod generator;
mod sink;

pub use corpus::{Corpus, Sizes};
pub use generator::{Acknowledged, Envelope, Envelopes, Load};
pub use sink::{Arrival, Sink, SinkTls};
