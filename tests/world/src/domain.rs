//! A recipient domain: its MX records, its MTA-STS record and its policy, changed as a test needs.
//! Every change holds at once.

use std::sync::atomic::{AtomicU32, Ordering};

use hickory_proto::rr::RecordType;

use crate::World;
use crate::dns::Answer;
use crate::mx::Mx;
use crate::pki::Leaf;
use crate::policy_host::{Handshake, Reply, Serve, Site};

/// The mode of a policy (RFC 8461 §5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Hosts that fail get no mail.
    Enforce,
    /// Failures are reported only.
    Testing,
    /// No policy any more.
    None,
}

impl Mode {
    /// As written in a policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Testing => "testing",
            Self::None => "none",
        }
    }
}

/// Ids of policies; a new one for each, so that caches DSN. Only its differing counts.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// A domain of a world.
#[derive(Clone, Copy, Debug)]
pub struct Domain<'w> {
    world: &'w World,
    name: &'w str,
}

impl<'w> Domain<'w> {
    pub(crate) fn new(world: &'w World, name: &'w str) -> Self {
        Self { world, name }
    }

    /// An address here.
    pub fn address(&self, local: &str) -> String {
        format!("{local}@{}", self.name)
    }

    /// The whole MX set.
    pub fn mx(&self, hosts: &[(u16, &Mx)]) -> &Self {
        let hosts: Vec<(u16, &str)> = hosts.iter().map(|(p, mx)| (*p, mx.host())).collect();
        self.world.dns.mx(self.name, &hosts);
        self
    }

    /// The whole MX set, by names.
    pub fn mx_names(&self, hosts: &[(u16, &str)]) -> &Self {
        self.world.dns.mx(self.name, hosts);
        self
    }

    /// A null MX (RFC 7505): no mail at all.
    pub fn null_mx(&self) -> &Self {
        self.world.dns.mx(self.name, &[(0, ".")]);
        self
    }

    /// What the MX query gets.
    pub fn mx_answer(&self, answer: Answer) -> &Self {
        self.world.dns.set(self.name, RecordType::MX, answer);
        self
    }

    /// The host that serves the policy.
    pub fn policy_host(&self) -> String {
        format!("mta-sts.{}", self.name)
    }

    /// The name of the TXT record.
    pub fn record_name(&self) -> String {
        format!("_mta-sts.{}", self.name)
    }

    /// Publishes a policy: the body behind HTTPS with a good certificate, and a record with an id
    /// never used before.
    pub fn mta_sts(&self, mode: Mode, mx: &[&str], max_age: u32) -> &Self {
        self.policy_body(&policy_text(mode, mx, max_age)).new_id();
        self
    }

    /// A policy host with a good certificate that serves this body.
    pub fn policy_body(&self, body: &str) -> &Self {
        self.serve(Serve::Reply(Reply::ok(body)))
    }

    /// A policy host with a good certificate that serves like this.
    pub fn serve(&self, serve: Serve) -> &Self {
        let host = self.policy_host();
        let identity = self.world.pki.issue(&Leaf::named(&host));
        self.site(Site { identity, handshake: Handshake::Good, serve })
    }

    /// A policy host of any kind.
    pub fn site(&self, site: Site) -> &Self {
        self.world.dns.a(&self.policy_host(), std::net::Ipv4Addr::LOCALHOST);
        self.world.policies.set(&self.policy_host(), site);
        self
    }

    /// Changes the policy host.
    pub fn change_site(&self, change: impl FnOnce(&mut Site)) -> &Self {
        self.world.policies.change(&self.policy_host(), change);
        self
    }

    /// The policy host refuses connections.
    pub fn policy_host_down(&self) -> &Self {
        self.world.dns.a(&self.policy_host(), World::dead_address());
        self
    }

    /// A record with an id never used before.
    pub fn new_id(&self) -> &Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        self.record(&format!("v=STSv1; id=world{id};"))
    }

    /// This one TXT record.
    pub fn record(&self, text: &str) -> &Self {
        self.world.dns.txt(&self.record_name(), &[&[text.as_bytes()]]);
        self
    }

    /// What the TXT query gets.
    pub fn record_answer(&self, answer: Answer) -> &Self {
        self.world.dns.set(&self.record_name(), RecordType::TXT, answer);
        self
    }

    /// No TXT record any more.
    pub fn remove_record(&self) -> &Self {
        self.world.dns.remove(&self.record_name(), RecordType::TXT);
        self
    }

    /// Requests for the policy so far.
    pub fn policy_requests(&self) -> usize {
        self.world.policies.requests_to(&self.policy_host())
    }
}

/// A policy body (RFC 8461 §3.2).
pub fn policy_text(mode: Mode, mx: &[&str], max_age: u32) -> String {
    let mx: String = mx.iter().map(|pattern| format!("mx: {pattern}\r\n")).collect();
    format!("version: STSv1\r\nmode: {}\r\n{mx}max_age: {max_age}\r\n", mode.as_str())
}
