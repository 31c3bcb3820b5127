//! A stage for DSNs: senders' mail comes home to a server that the test watches.

use world::{Mx, Relay, Then, World};

use crate::harness::PROGRAM;

/// Bounces come home to the server that our own domain is routed to, which has no MX record.
pub(crate) struct Home {
    pub(crate) world: World,
    pub(crate) relay: Relay,
    pub(crate) home: Mx,
    /// Refuses every recipient.
    pub(crate) mx: Mx,
}

impl Home {
    pub(crate) async fn start() -> Self {
        Self::with("").await
    }

    /// With more keys of `[delivery]`.
    pub(crate) async fn with(delivery: &str) -> Self {
        let world = World::start(PROGRAM).await;
        let home = world.mx("home.sender.test").await;
        let mx = world.mx("mx.far.test").await;
        mx.on("RCPT", Then::reply("550 5.1.1 Nobody of that name"));
        world.domain("far.test").mx(&[(10, &mx)]);
        let overlay = format!(
            "[delivery]\nretry = [\"1s\"]\n{delivery}\n\
             [[route]]\ndomains = [\"sender.test\"]\nvia = [\"smtp://[home.sender.test]:{}\"]\n\
             tls = \"opportunistic\"\n",
            world.mx_port()
        );
        let relay = world.relay(&overlay).await;
        Self { world, relay, home, mx }
    }
}

/// The value of a field of the per-recipient part, without folding.
pub(crate) fn field<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}
