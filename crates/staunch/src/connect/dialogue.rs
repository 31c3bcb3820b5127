//! The words before mail: greeting, EHLO, STARTTLS.

use smtp::limits::{GREETING_TIMEOUT, HELLO_TIMEOUT};
use smtp::{Domain, Extension, Extensions, ReplyClass};

use super::failure::{ConnectCause, ConnectStep};
use crate::connect::connection::Connection;

/// How much TLS is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum HelloWish {
    /// Without it there is no session.
    Required,
    /// It is used where it is offered.
    IfOffered,
    /// It is left alone.
    No,
}

/// What follows EHLO in clear text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Opening {
    /// MAIL may follow; the session stays in plain text.
    Plain,
    /// STARTTLS was answered 220: the handshake follows.
    Tls,
}

/// From the greeting to what follows EHLO in clear text.
///
/// # Errors
///
/// [`ConnectCause`].
pub(super) async fn opening(
    connection: &mut Connection,
    name: &Domain,
    wish: HelloWish,
) -> Result<Opening, ConnectCause> {
    greeting(connection).await?;
    let helo = if wish == HelloWish::Required { Helo::Never } else { Helo::Allowed };
    hello(connection, name, helo).await?;
    let is_offered = connection.extensions().offers(Extension::Starttls);
    if wish == HelloWish::No || (wish == HelloWish::IfOffered && !is_offered) {
        return Ok(Opening::Plain);
    }
    // Where it is required it is tried also if not offered: who strips the offer from EHLO gains
    // nothing (RFC 8461 §10.2).
    let reply = connection
        .command("STARTTLS\r\n", HELLO_TIMEOUT)
        .await
        .map_err(|broken| ConnectStep::Starttls.broken(broken))?;
    match (reply.code, is_offered) {
        (220, _) => Ok(Opening::Tls),
        (_, true) => Err(ConnectCause::StarttlsRefused(reply)),
        (_, false) => Err(ConnectCause::StarttlsNotOffered(reply)),
    }
}

/// Waits until the host says that it is there.
///
/// # Errors
///
/// [`ConnectCause`].
pub(super) async fn greeting(connection: &mut Connection) -> Result<(), ConnectCause> {
    let greeting = connection
        .reply(GREETING_TIMEOUT)
        .await
        .map_err(|broken| ConnectStep::Greeting.broken(broken))?;
    if greeting.class() == ReplyClass::Success {
        Ok(())
    } else {
        Err(ConnectCause::Greeting(greeting))
    }
}

/// May HELO follow an EHLO that was not understood? It has no extensions, so no STARTTLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Helo {
    /// Plain text is enough for this connection.
    Allowed,
    /// TLS is needed, or there already.
    Never,
}

/// RFC 5321 §3.2: only after a reply that says that EHLO is not known. Hosts of before 1995 say so
/// in any of the words that §4.2.2 has for it, since what comes in place of HELO is out of
/// sequence, too. Never 421 or 550, which are about us.
const NOT_UNDERSTOOD: std::ops::RangeInclusive<u16> = 500..=504;

/// Says who we are, and remembers what is offered.
///
/// # Errors
///
/// [`ConnectCause`].
pub(super) async fn hello(
    connection: &mut Connection,
    name: &Domain,
    helo: Helo,
) -> Result<(), ConnectCause> {
    let broken = |broken| ConnectStep::Ehlo.broken(broken);
    let reply =
        connection.command(&format!("EHLO {name}\r\n"), HELLO_TIMEOUT).await.map_err(broken)?;
    if reply.class() == ReplyClass::Success {
        connection.set_extensions(Extensions::from_reply(&reply));
        return Ok(());
    }
    if helo == Helo::Never || !NOT_UNDERSTOOD.contains(&reply.code) {
        return Err(ConnectCause::Ehlo(reply));
    }
    let reply =
        connection.command(&format!("HELO {name}\r\n"), HELLO_TIMEOUT).await.map_err(broken)?;
    if reply.class() == ReplyClass::Success { Ok(()) } else { Err(ConnectCause::Ehlo(reply)) }
}
