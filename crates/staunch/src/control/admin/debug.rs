//! `staunch debug`: everything about a name into the log, for a while.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use jiff::Timestamp;
use policy::RequireTls;
use smtp::HostName;
use tokio::time::sleep;

use super::answer::{AdminPeer, AdminRefused};
use crate::clock;
use crate::control::Control;
use crate::control::api::{DebugOrder, Debugged};
use crate::control::facts::ControlFact;
use crate::delivery::plan::DeliveryPlan;
use crate::delivery::route;
use crate::dns::Freshness;
use crate::queue::handle::QueueHandle;
use crate::telemetry::DebuggedName;

/// Our choice: an order that was forgotten does not fill the disk for longer.
const SECONDS_MAX: u64 = 24 * 60 * 60;

/// What an order names.
enum DebugSubject {
    /// A client, or a host by its address.
    Address(IpAddr),
    /// A domain, a host or a smarthost.
    Name(HostName),
}

impl DebugSubject {
    fn parse(text: &str) -> Result<Self, AdminRefused> {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            // As facts have it.
            return Ok(Self::Address(address.to_canonical()));
        }
        let parsed = HostName::parse(text);
        parsed.map(Self::Name).map_err(|error| AdminRefused::bad(format!("{text:?}: {error}")))
    }
}

impl fmt::Display for DebugSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name.as_str()),
        }
    }
}

/// Begins before the hosts are known, so that finding them is logged, too.
pub(super) async fn debug(
    State(control): State<Arc<Control>>,
    ConnectInfo(AdminPeer { uid }): ConnectInfo<AdminPeer>,
    Json(order): Json<DebugOrder>,
) -> Result<Json<Debugged>, AdminRefused> {
    let named = DebugSubject::parse(&order.name)?;
    let name = named.to_string();
    if order.seconds == 0 {
        if !control.log.end(&name, None) {
            return Err(AdminRefused::missing(format!("{name} is not debugged")));
        }
        ControlFact::DebugEnded { name: &name, uid }.tell();
        return Ok(Json(Debugged { name, hosts: Vec::new(), until: None }));
    }
    if order.seconds > SECONDS_MAX {
        return Err(AdminRefused::bad("at most 24h at a time"));
    }
    let length = Duration::from_secs(order.seconds);
    let until = clock::now().saturating_add(length).unwrap_or(Timestamp::MAX);
    let order = DebuggedName { name: name.clone(), hosts: Vec::new(), until };
    control.log.follow(order).map_err(AdminRefused::bad)?;
    end_later(&control, &name, until, length);
    let hosts = match &named {
        DebugSubject::Address(_) => Vec::new(),
        DebugSubject::Name(domain) => hosts(&control.queue, domain).await,
    };
    // Meanwhile its time may be over, or somebody has ended it.
    if !control.log.add_hosts(&name, until, &hosts) {
        return Ok(Json(Debugged { name, hosts, until: None }));
    }
    ControlFact::Debugging { name: &name, hosts: &hosts.join(" "), until, uid }.tell();
    Ok(Json(Debugged { name, hosts, until: Some(until) }))
}

/// The hosts that mail for `domain` would go to, as far as they can be found now.
async fn hosts(queue: &QueueHandle, domain: &HostName) -> Vec<String> {
    let outbound = &*queue.outbound;
    let config = outbound.config();
    let next_hop = route::next_hop(&config, domain, RequireTls::No);
    let how = (RequireTls::No, Freshness::Cached);
    let mut plan = DeliveryPlan::new(outbound, &config, &next_hop, how);
    let mut hosts = Vec::new();
    for destination in &next_hop.destinations {
        let (Some(asked), _watch) = plan.ask(destination).await else { continue };
        let found = plan.candidates(destination, &asked).await.unwrap_or_default();
        hosts.extend(found.iter().map(|candidate| candidate.located.mx.to_string()));
    }
    hosts
}

/// Ends the order when its time is over, unless another one has taken its place.
fn end_later(control: &Arc<Control>, name: &str, until: Timestamp, length: Duration) {
    let (control, name) = (Arc::clone(control), name.to_owned());
    let tracker = control.queue.tracker.clone();
    tracker.spawn(async move {
        let is_over = control.stop.run_until_cancelled(sleep(length)).await.is_some();
        if is_over && control.log.end(&name, Some(until)) {
            ControlFact::DebugEnded { name: &name, uid: None }.tell();
        }
    });
}
