//! Who handed mail in, as far as it matters for whose turn it is.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::IpAddr;

use smtp::ReversePath;

use crate::place::ClientPlace;

/// A client and a sender of it. Both are numbers, since there is a pair for each lane; who shares
/// them shares a turn, and nothing else.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Submitter {
    /// The user who logged in, else the address (IPv6: the /64) or user of this machine.
    pub(crate) client: u32,
    /// A hash of the reverse-path, never 0.
    pub(crate) sender: u32,
}

impl Submitter {
    /// Of a lane of which nothing was read yet.
    pub(crate) const UNKNOWN: Self = Self { client: 0, sender: 0 };

    /// The `user` who logged in, if one did; `client` as [`spool::StoredEnvelope::client`] has it;
    /// the sender.
    pub(crate) fn of(user: Option<&str>, client: &str, sender: &ReversePath) -> Self {
        // What follows the address is the client's own word.
        let address = client.split_whitespace().next().unwrap_or_default();
        let client = match (user, address.parse::<IpAddr>()) {
            (Some(user), _) => number(("user", user)),
            (None, Ok(address)) => number(("place", ClientPlace::of(address))),
            (None, Err(_)) => number(("local", client)),
        };
        Self { client, sender: number(sender.as_str()) }
    }
}

/// Never that of [`Submitter::UNKNOWN`].
fn number(of: impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    // The upper half is as good as the lower one.
    u32::try_from(hasher.finish() >> u32::BITS).unwrap_or_default().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_the_same_whatever_it_says_of_itself() {
        let sender = ReversePath::parse("a@sender.test").unwrap();
        let of = |user, client: &str| Submitter::of(user, client, &sender);
        assert_eq!(of(None, "192.0.2.1 (a.test)"), of(None, "192.0.2.1 (b.test)"));
        assert_eq!(of(None, "2001:db8::1 (a.test)"), of(None, "2001:db8::2"));
        assert_ne!(of(None, "192.0.2.1"), of(None, "192.0.2.2"));
        assert_eq!(of(Some("joe"), "192.0.2.1"), of(Some("joe"), "192.0.2.2"));
        assert_ne!(of(Some("joe"), "192.0.2.1"), of(None, "192.0.2.1"));
        let other = Submitter::of(None, "192.0.2.1", &ReversePath::Null);
        let one = of(None, "192.0.2.1");
        assert!(one.client == other.client && one.sender != other.sender);
        assert_ne!(one, Submitter::UNKNOWN);
    }
}
