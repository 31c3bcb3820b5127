//! Where a login stands.

use smtp::sasl::{ClientFirst, Mechanism, ServerFirst};

use crate::auth::{Challenged, Login};

/// What the client's next message is.
#[derive(Debug)]
pub(super) enum Dialogue {
    Plain,
    LoginName,
    LoginPassword(Box<str>),
    ScramFirst(Mechanism),
    ScramLast(Box<Exchange>),
    /// It has seen our proof; all that is left is an empty message.
    ScramEnd(Login),
}

/// A SCRAM exchange whose challenge was sent.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) first: ClientFirst,
    pub(super) reply: ServerFirst,
    pub(super) challenged: Challenged,
}
