//! Outcomes as documents: what a sender or a domain's owner is told, in the formats that RFCs give
//! for it.
//!
//! No I/O and no clock: facts and times come in, bytes go out. Text that strangers wrote enters only
//! as [`smtp::RemoteText`].

pub mod dsn;
mod lines;
mod mime;

pub use dsn::{Dsn, FailedRecipient, Returned};
