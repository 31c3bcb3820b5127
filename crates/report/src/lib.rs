//! Outcomes as documents: what a sender or a domain's owner is told, in the formats that RFCs give
//! for it.
//!
//! No I/O and no clock: facts and times come in, bytes go out. Text that strangers wrote enters
//! only as [`smtp::RemoteText`].

mod address;
pub mod dsn;
mod lines;
mod mime;
mod wording;

pub use dsn::{Dsn, DsnKind, ReportedRecipient, Returned};
pub use wording::Action;
