//! How many clients are here, in all and from one address?

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::arrival::Peer;
use crate::config::Limits;

/// Everyone who is connected.
#[derive(Debug, Default)]
pub(super) struct Visitors {
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    all: usize,
    by_client: HashMap<Peer, usize>,
}

impl Visitors {
    /// Lets a client in, unless there are too many already.
    pub(super) fn enter(self: &Arc<Self>, client: Peer, limits: &Limits) -> Option<Visit> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if present.all >= limits.connections {
            return None;
        }
        let of_client = present.by_client.entry(client).or_default();
        if *of_client >= limits.connections_per_client {
            return None;
        }
        *of_client += 1;
        present.all += 1;
        Some(Visit { visitors: Arc::clone(self), client })
    }
}

/// A client that is connected, until this is dropped.
#[derive(Debug)]
pub(super) struct Visit {
    visitors: Arc<Visitors>,
    client: Peer,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut present = self.visitors.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.all = present.all.saturating_sub(1);
        let left = present.by_client.get_mut(&self.client).map(|count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == Some(0) {
            present.by_client.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn places_are_limited_in_all_and_per_client_and_come_back() {
        let limits = Limits {
            message_size: 1,
            recipients: 1,
            connections: 3,
            connections_per_client: 2,
            errors_per_session: 1,
            memory: 1,
            queue_messages: None,
            disk_free_min: 0,
            messages_per_client_per_minute: None,
            recipients_per_sender_per_hour: None,
        };
        let visitors = Arc::new(Visitors::default());
        let client = |n| Peer::Remote(IpAddr::V4(Ipv4Addr::from_bits(n)));
        let first = visitors.enter(client(1), &limits);
        let second = visitors.enter(client(1), &limits);
        assert!(first.is_some() && second.is_some());
        assert!(visitors.enter(client(1), &limits).is_none(), "two per client");
        let third = visitors.enter(client(2), &limits);
        assert!(third.is_some());
        assert!(visitors.enter(client(3), &limits).is_none(), "three in all");
        drop(first);
        let again = visitors.enter(client(3), &limits);
        assert!(again.is_some());
        drop((second, third, again));
        let present = visitors.present.lock().unwrap();
        assert_eq!((present.all, present.by_client.len()), (0, 0));
    }
}
