//! SMTP as data and state machines (RFC 5321 and its extensions).
//!
//! Nothing here opens a socket, reads a clock or touches a disk: bytes and decisions come in, bytes
//! and questions go out. That is what makes every part of it testable at every split of its input.
//!
//! In reading order: names ([`HostName`]), addresses ([`Mailbox`]), what strangers say
//! ([`RemoteText`]), codes ([`Status`]).

pub mod address;
pub mod host;
pub mod remote_text;
pub mod status;

pub use address::{AddressError, Domain, Mailbox, ReversePath};
pub use host::{HostName, HostNameError};
pub use remote_text::RemoteText;
pub use status::{Class, Status};
