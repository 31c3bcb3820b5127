//! Who says what time it is, and when it is enough.
//!
//! Whoever controls one policy host, or one address, or came to be known yesterday, is one voice at
//! most. What they say is kept against CLOCK_BOOTTIME, so that it keeps its meaning when the wall
//! clock moves.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use jiff::{SignedDuration, Timestamp};
use smtp::HostName;

use super::{AGREEMENT_MAX, ClockReading, KNOWN_FOR, WITNESSES, plus, signed};
use crate::registrable_domain;

/// Our choice: voices that are kept, the latest. More than any honest [`WITNESSES`] need.
const VOICES_MAX: usize = 64;
/// RFC 4291 §2.5.4: what one machine gets; all addresses below it are one.
const V6_NETWORK_BITS: u32 = 64;

/// A policy host that proved its name by a certificate, and what it says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Witness {
    /// The policy domain, whose `mta-sts` host answered over HTTPS.
    pub domain: HostName,
    /// The address that the policy host answered from.
    pub address: IpAddr,
    /// When a policy of the domain was first known.
    pub known_since: Timestamp,
    /// What time it is there.
    pub date: Timestamp,
}

/// One registrable domain's word.
#[derive(Clone, Debug)]
struct Voice {
    domain: HostName,
    network: IpAddr,
    /// What the wall clock would have shown at CLOCK_BOOTTIME zero.
    origin: Timestamp,
}

/// What was said since the doubt began, or since the last witnesses were believed.
#[derive(Clone, Debug, Default)]
pub(super) struct Voices(Vec<Voice>);

impl Voices {
    /// Takes down what `witness` says, and drops what its registrable domain said before. Who is
    /// not known for long enough at the time `steady` says nothing.
    pub(super) fn hear(&mut self, witness: &Witness, reading: ClockReading, steady: Timestamp) {
        if steady.duration_since(witness.known_since) < KNOWN_FOR {
            return;
        }
        let domain = registrable_domain(&witness.domain);
        self.0.retain(|voice| voice.domain != domain);
        if self.0.len() >= VOICES_MAX {
            self.0.remove(0);
        }
        let origin = origin(witness.date, reading);
        self.0.push(Voice { domain, network: network(witness.address), origin });
    }

    /// Do enough of them say the same, and the wall clock, too?
    pub(super) fn confirm(&self, reading: ClockReading) -> bool {
        let wall = origin(reading.wall, reading);
        let is_near = |a: Timestamp, b: Timestamp| a.duration_since(b).abs() <= AGREEMENT_MAX;
        let agreeing: Vec<_> = self.0.iter().filter(|voice| is_near(voice.origin, wall)).collect();
        // Each in turn as the earliest of a group whose members are near enough to each other.
        // Domains differ anyway, so what is counted is networks.
        agreeing.iter().any(|first| {
            let group = agreeing.iter().filter(|voice| {
                voice.origin >= first.origin && is_near(voice.origin, first.origin)
            });
            group.map(|voice| voice.network).collect::<BTreeSet<_>>().len() >= WITNESSES
        })
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn origin(time: Timestamp, reading: ClockReading) -> Timestamp {
    plus(time, SignedDuration::ZERO.saturating_sub(signed(reading.boottime)))
}

/// What counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << V6_NETWORK_BITS)).into(),
    }
}
