//! What stands between the angle brackets of MAIL and RCPT, and what behind them.

use crate::address::{AddressError, Mailbox, ReversePath};
use crate::limits;

use super::Recipient;

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// It does not stand between angle brackets.
    #[error("expected <address>")]
    Brackets,
    /// The source route in front of the address is malformed (RFC 5321 §4.1.2).
    #[error("the source route is malformed")]
    Route,
    /// The path has more than [`limits::PATH_ACCEPTED_OCTETS`], with its brackets.
    #[error("longer than an address can be")]
    TooLong,
    /// The address is wrong.
    #[error("{0}")]
    Address(#[from] AddressError),
}

/// How a path was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Brackets {
    /// As RFC 5321 §4.1.1.2 has it.
    Written,
    /// Not at all: devices do that, and other servers take it.
    Missing,
}

/// Reads the sender and what stands behind it.
pub(super) fn reverse_path(text: &[u8]) -> Result<(ReversePath, Brackets, &str), PathError> {
    if let Some((mailbox, rest)) = bare(text) {
        return Ok((ReversePath::Mailbox(mailbox), Brackets::Missing, rest));
    }
    let (address, rest) = split(text)?;
    Ok((ReversePath::parse_utf8(address)?, Brackets::Written, rest))
}

/// Reads the recipient and what stands behind it.
pub(super) fn forward_path(text: &[u8]) -> Result<(Recipient, Brackets, &str), PathError> {
    if let Some((mailbox, rest)) = bare(text) {
        return Ok((Recipient::Mailbox(mailbox), Brackets::Missing, rest));
    }
    let (address, rest) = split(text)?;
    let recipient = if address.eq_ignore_ascii_case("postmaster") {
        Recipient::Postmaster
    } else {
        Recipient::Mailbox(Mailbox::parse_utf8(address)?)
    };
    Ok((recipient, Brackets::Written, rest))
}

/// An address without brackets, and what stands behind it. Only the plain form, up to a blank or
/// the end: nothing that two servers could read in two ways.
fn bare(text: &[u8]) -> Option<(Mailbox, &str)> {
    let text = std::str::from_utf8(text).ok()?;
    let end = text.find([' ', '\t']).unwrap_or(text.len());
    let (address, rest) = text.split_at_checked(end)?;
    let is_plain = !address.contains(['<', '>', '"', '\\', '[', ':', ',']);
    is_plain.then(|| Mailbox::parse_utf8(address).ok()).flatten().map(|mailbox| (mailbox, rest))
}

/// Splits `<path> parameters`, and takes brackets and source route off the path.
fn split(text: &[u8]) -> Result<(&str, &str), PathError> {
    let text = std::str::from_utf8(text).map_err(|_| PathError::Address(AddressError::NotAscii))?;
    let inner = text.strip_prefix('<').ok_or(PathError::Brackets)?;
    let end = path_end(inner.as_bytes()).ok_or(PathError::Brackets)?;
    let (path, rest) = inner.split_at_checked(end).ok_or(PathError::Brackets)?;
    let rest = rest.strip_prefix('>').ok_or(PathError::Brackets)?;
    if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
        return Err(PathError::Brackets);
    }
    if path.len() + 2 > limits::PATH_ACCEPTED_OCTETS {
        return Err(PathError::TooLong);
    }
    Ok((without_route(path)?, rest))
}

/// Where the closing bracket is; one inside a quoted local part is text.
fn path_end(inner: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut bytes = inner.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => _ = bytes.next(),
            b'>' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Drops a source route, which is accepted and ignored (RFC 5321 §4.1.1.2, appendix C).
fn without_route(path: &str) -> Result<&str, PathError> {
    if !path.starts_with('@') {
        return Ok(path);
    }
    // A literal in the route has colons of its own.
    let mut in_literal = false;
    let end = path.find(|c| {
        in_literal = (in_literal || c == '[') && c != ']';
        c == ':' && !in_literal
    });
    let (route, address) =
        end.and_then(|end| path.split_at_checked(end)).ok_or(PathError::Route)?;
    for hop in route.split(',') {
        Mailbox::parse_utf8(&format!("x{hop}")).map_err(|_| PathError::Route)?;
    }
    Ok(address.strip_prefix(':').unwrap_or(address))
}
