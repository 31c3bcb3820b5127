//! What a reload does to the listeners, for people: one entry for each of them, by its address.

use crate::config::{Config, ListenAddress, Listener};
use crate::control::api::{ListenerChange, ListenerEffect};

/// From the listeners of `before` to those of `after`, in the order of `after`.
pub(crate) fn listener_changes(before: &Config, after: &Config) -> Vec<ListenerChange> {
    let mut gone: Vec<&Listener> = before.listeners.iter().collect();
    let mut changes = Vec::new();
    for listener in &after.listeners {
        let same = gone.iter().position(|before| before.address == listener.address);
        let Some(at) = same else {
            changes.push(change(&listener.address, ListenerEffect::Opened, Vec::new()));
            continue;
        };
        let keys = differing_keys(gone.remove(at), listener);
        if !keys.is_empty() {
            changes.push(change(&listener.address, ListenerEffect::Changed, keys));
        }
    }
    let closed = gone.into_iter();
    changes.extend(closed.map(|l| change(&l.address, ListenerEffect::Closed, Vec::new())));
    changes
}

fn change(address: &ListenAddress, effect: ListenerEffect, keys: Vec<&str>) -> ListenerChange {
    let keys = keys.into_iter().map(str::to_owned).collect();
    ListenerChange { address: address.to_string(), effect, keys }
}

fn differing_keys(before: &Listener, after: &Listener) -> Vec<&'static str> {
    let (old, new) = (before.tls.as_ref(), after.tls.as_ref());
    let certificates = (old.map(|tls| &tls.certificate), new.map(|tls| &tls.certificate));
    let tls_keys = (old.map(|tls| &tls.key), new.map(|tls| &tls.key));
    let keys = [
        ("mode", before.mode != after.mode),
        ("tls_certificate", certificates.0 != certificates.1),
        ("tls_key", tls_keys.0 != tls_keys.1),
        ("proxy_protocol_from", before.proxy_protocol_from != after.proxy_protocol_from),
        ("bare_newline", before.bare_newline != after.bare_newline),
        ("require_tls", before.require_tls != after.require_tls),
        ("add_missing_headers", before.missing_headers != after.missing_headers),
        ("hide_client", before.client_in_received != after.client_in_received),
    ];
    keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}
