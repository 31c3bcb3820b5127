//! SMTP as data and state machines (RFC 5321 and its extensions).
//!
//! Nothing here opens a socket, reads a clock or touches a disk: bytes and decisions come in, bytes
//! and questions go out. That is what makes every part of it testable at every split of its input.
//!
//! In reading order: names ([`HostName`]), addresses ([`Mailbox`]), what strangers say
//! ([`RemoteText`]), codes ([`Status`]). Then a side each. The server's: [`command`] with its
//! parameters ([`params`]), content ([`data`]), the session ([`server`]). The client's: replies
//! ([`reply`]), what is offered ([`extensions`]), a transaction ([`client`]), and a message for
//! hosts that take less ([`mime`]). Both need to know where a header ends ([`header`]).

pub mod address;
mod base64;
pub mod client;
pub mod command;
pub mod data;
pub mod extensions;
pub mod header;
pub mod host;
pub mod limits;
pub mod mime;
pub mod originals;
pub mod params;
pub mod proxy_header;
pub mod remote_text;
pub mod reply;
pub mod response;
pub mod sasl;
pub mod sasl_client;
pub mod server;
pub mod status;
pub mod transparency;
pub mod xtext;

pub use address::{AddressError, Domain, Mailbox, ReversePath};
pub use client::{
    Addressee, Ending, Envelope, Finished, Interrupted, RecipientReply, Stage, Transaction,
    TransactionStep, Transfer, Unexpected,
};
pub use extensions::{Extension, Extensions, HostLimits};
pub use host::{HostName, HostNameError, NameTooLong};
pub use remote_text::RemoteText;
pub use reply::{Reply, ReplyClass, ReplyError, ReplyParser};
pub use response::Response;
pub use status::{Class, Status};
pub use transparency::{Stuffer, Verbatim};
