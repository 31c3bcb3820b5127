//! File descriptors: as many as the system lets us have, and a word where the configuration allows
//! for more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::daemon::facts::DaemonFact;

/// The store, listeners, logs, and what libraries keep open.
const OTHERS: u64 = 200;

/// Raises the soft limit to the hard one: the usual 1,024 are for programs that use select(2). Says
/// so if that is still less than the connections that the configuration allows for.
pub(crate) fn raise(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    let mut have = limit.current;
    if have != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // A sandbox may forbid it; then the limit is what it was.
        if setrlimit(Resource::Nofile, raised).is_ok() {
            have = limit.maximum;
        }
    }
    let wanted = wanted(config);
    if let Some(have) = have.filter(|have| *have < wanted) {
        DaemonFact::FewDescriptors { have, wanted }.tell();
    }
}

/// Each connection may have the file of a large body open, too.
fn wanted(config: &Config) -> u64 {
    let connections = config.limits.connections.saturating_add(config.delivery.connections);
    u64::try_from(connections).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(OTHERS)
}
