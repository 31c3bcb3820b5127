//! How many clients are here, in all and from one place?

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::peer::{ClientTrust, Peer};
use crate::config::Limits;
use crate::lock::lock;
use crate::place::ClientPlace;

/// The part of `limits.connections` that strangers never get: however many they are, those who may
/// relay find a place.
const RESERVED_PART: usize = 10;

/// Everyone who is connected.
#[derive(Debug, Default)]
pub(super) struct ClientLimits {
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    all: usize,
    by_place: HashMap<ClientPlace, usize>,
}

impl ClientLimits {
    /// Lets a client in, unless there are too many already.
    pub(super) fn enter(
        self: &Arc<Self>,
        client: Peer,
        standing: ClientTrust,
        limits: &Limits,
    ) -> Option<ClientSlot> {
        let mut slot = self.enter_unnamed(limits)?;
        slot.name(client, standing, limits).then_some(slot)
    }

    /// Lets in whom a proxy has not named yet. [`ClientSlot::name`] follows.
    pub(super) fn enter_unnamed(self: &Arc<Self>, limits: &Limits) -> Option<ClientSlot> {
        let mut present = self.present();
        if present.all >= limits.connections {
            return None;
        }
        present.all += 1;
        Some(ClientSlot { client_limits: Arc::clone(self), place: None })
    }

    fn present(&self) -> std::sync::MutexGuard<'_, Present> {
        lock(&self.present)
    }
}

/// A client that is connected, until this is dropped.
#[derive(Debug)]
pub(super) struct ClientSlot {
    client_limits: Arc<ClientLimits>,
    place: Option<ClientPlace>,
}

impl ClientSlot {
    /// It is this client. `false`: there are too many of its kind, and it has to go.
    #[must_use]
    pub(super) fn name(&mut self, client: Peer, standing: ClientTrust, limits: &Limits) -> bool {
        let mut present = self.client_limits.present();
        let places = match standing {
            ClientTrust::Trusted => limits.connections,
            ClientTrust::Stranger => limits.connections - limits.connections / RESERVED_PART,
        };
        // The visit itself counts already.
        if present.all > places {
            return false;
        }
        let of_client = present.by_place.entry(client.place()).or_default();
        if *of_client >= limits.connections_per_client {
            return false;
        }
        *of_client += 1;
        self.place = Some(client.place());
        true
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let mut present = self.client_limits.present();
        present.all = present.all.saturating_sub(1);
        let Some(place) = self.place else { return };
        let left = present.by_place.get_mut(&place).map(|count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == Some(0) {
            present.by_place.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::super::peer::ClientTrust::{Stranger, Trusted};
    use super::*;

    fn limits(connections: usize, connections_per_client: usize) -> Limits {
        Limits {
            message_size: 1,
            recipients: 1,
            connections,
            connections_per_client,
            errors_per_session: 1,
            client_timeout: std::time::Duration::from_secs(1),
            memory: 1,
            queue_messages: None,
            disk_free_min: 0,
            messages_per_client_per_minute: None,
            recipients_per_sender_per_hour: None,
        }
    }

    fn client(n: u32) -> Peer {
        Peer::Remote(IpAddr::V4(Ipv4Addr::from_bits(n)))
    }

    #[test]
    fn places_are_limited_in_all_and_per_client_and_come_back() {
        let limits = limits(3, 2);
        let client_limits = Arc::new(ClientLimits::default());
        let enter = |n| client_limits.enter(client(n), Trusted, &limits);
        let first = enter(1);
        let second = enter(1);
        assert!(first.is_some() && second.is_some());
        assert!(enter(1).is_none(), "two per client");
        let third = enter(2);
        assert!(third.is_some());
        assert!(enter(3).is_none(), "three in all");
        drop(first);
        let again = enter(3);
        assert!(again.is_some());
        drop((second, third, again));
        let present = client_limits.present.lock().unwrap();
        assert_eq!((present.all, present.by_place.len()), (0, 0));
    }

    #[test]
    fn strangers_leave_a_tenth_to_those_who_may_relay() {
        let limits = limits(20, 20);
        let client_limits = Arc::new(ClientLimits::default());
        let strangers: Vec<_> =
            std::iter::from_fn(|| client_limits.enter(client(1), Stranger, &limits)).collect();
        assert_eq!(strangers.len(), 18);
        let trusted: Vec<_> =
            std::iter::from_fn(|| client_limits.enter(client(2), Trusted, &limits)).collect();
        assert_eq!(trusted.len(), 2);
    }

    #[test]
    fn who_comes_through_a_proxy_counts_as_itself_once_it_is_named() {
        let limits = limits(20, 1);
        let client_limits = Arc::new(ClientLimits::default());
        let mut first = client_limits.enter_unnamed(&limits).unwrap();
        let mut second = client_limits.enter_unnamed(&limits).unwrap();
        assert!(first.name(client(1), Stranger, &limits));
        assert!(!second.name(client(1), Stranger, &limits), "one per client");
        drop(second);
        drop(first);
        let present = client_limits.present.lock().unwrap();
        assert_eq!((present.all, present.by_place.len()), (0, 0));
    }
}
