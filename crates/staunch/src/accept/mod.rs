//! Mail comes in: TCP, SMTP, a body on its way to the store, and 250 once it is safe there.
//!
//! Each client has a session task that owns its connection and the message it sends. The order and
//! form of commands is judged by `smtp::server`; whether a sender, recipient or message is taken,
//! by [`handler`]; both against the configuration of the moment.
//!
//! Not here: durability (`queue::intake`), where mail goes next (`route`).

mod arrival;
pub(crate) mod bind;
mod certificates;
mod client_limits;
mod dialogue;
mod envelope;
mod facts;
mod fixups;
mod gathered;
mod handler;
mod handshake;
pub(crate) mod identity;
mod incoming;
mod inherited;
mod leave;
mod listener;
mod listener_view;
mod listeners;
mod login;
mod offer;
mod peer;
mod proxy;
mod received;
mod refusal;
mod rules;
mod session;
mod shared;
mod stream;
mod timeouts;
mod told;

pub(crate) use crate::accept::listeners::{BindError, Listeners, PreparedListeners};
pub(crate) use inherited::Inherited;
pub(crate) use shared::{SessionsShared, shares};
