//! From what is written to what is meant: units, ranges, names and their relations.
//!
//! Everything wrong is collected, so that an operator mends a file in one go. A value that is wrong
//! is replaced by some harmless one to be able to go on; the [`Config`] made from it is dropped.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use smtp::Mailbox;

use super::checker::{Checker, Findings, in_range};
use super::listener::{ListenAddress, ListenersFrom};
use super::log_filter::log_filter;
use super::units::{self, YEAR};
use super::{
    Admin, CleartextFallback, Config, DelayWarning, Delivery, Dns, DomainPattern, DsnReturn,
    DsnSettings, EightBit, Hostname, IpFamily, Limits, Log, LogFormat, LongLines, MinVersion,
    MtaSts, OnFetchFailure, Prefix, StsMode, Tls, TlsFloor, file,
};

/// Where a resolver listens unless a port is written.
const DNS_PORT: u16 = 53;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes a [`Config`] of a complete `file`, that is one with host name, directories and listeners.
///
/// # Errors
///
/// Everything that is wrong.
pub(super) fn check(file: &file::File, listeners: ListenersFrom) -> Result<Config, Findings> {
    let mut checker = Checker::default();
    let mut config = checker.config(file, listeners);
    if let Some(config) = &mut config {
        checker.no_shared_sockets(config);
        checker.follow_aliases(config);
    }
    match config {
        Some(config) if checker.findings.is_empty() => Ok(config),
        Some(_) | None => Err(checker.findings),
    }
}

impl Checker {
    /// Each socket has a path of its own.
    pub(super) fn no_shared_sockets(&mut self, config: &Config) {
        let (admin, submit) = (&config.admin.socket, &config.submit.socket);
        if admin == submit {
            let reason = "is admin.socket, too";
            self.wrong("submit.socket".into(), &submit.to_string_lossy(), reason);
        }
        for (index, listener) in config.listeners.iter().enumerate() {
            if let ListenAddress::Unix(path) = &listener.address
                && (path == admin || path == submit)
            {
                let reason = "is admin.socket or submit.socket, too";
                let key = format!("listener[{index}].address");
                self.wrong(key, &listener.address.to_string(), reason);
            }
        }
    }

    fn config(&mut self, file: &file::File, from: ListenersFrom) -> Option<Config> {
        let hostname = self.parsed("hostname", &file.hostname, Hostname::parse);
        let origin = self.parsed("origin", &file.origin, Hostname::parse);
        let dsn = self.dsn(&file.dsn);
        let grace = Duration::ZERO..=HOUR;
        Some(Config {
            data_dir: self.path("data_dir", &file.data_dir),
            shutdown_grace: self.duration("shutdown_grace", &file.shutdown_grace, grace),
            listeners: self.listeners(&file.listener, from),
            access: self.access(&file.access),
            aliases: self.aliases(&file.aliases),
            limits: self.limits(&file.limits),
            dns: self.dns(&file.dns),
            delivery: self.delivery(&file.delivery),
            tls: self.tls(&file.tls),
            mta_sts: self.mta_sts(&file.mta_sts),
            routes: self.routes(&file.route),
            sources: self.sources(&file.source),
            outbound_limits: self.outbound_limits(&file.limit),
            admin: self.admin(&file.admin),
            submit: self.submit(&file.submit),
            log: self.log(&file.log),
            hostname: hostname?,
            origin: origin?.domain().clone(),
            dsn: dsn?,
        })
    }

    fn limits(&mut self, written: &file::LimitsTable) -> Limits {
        // RFC 5321 §4.5.3.1 asks for 64 KiB and 100 recipients; less is the operator's decision.
        Limits {
            message_size: self.size("limits.message_size", &written.message_size, 1024),
            recipients: self.count("limits.recipients", written.recipients),
            connections: self.count("limits.connections", written.connections),
            connections_per_client: self
                .count("limits.connections_per_client", written.connections_per_client),
            errors_per_session: self.count("limits.errors_per_session", written.errors_per_session),
            // RFC 5321 §4.5.3.2.7 asks for five minutes; less is the operator's decision.
            client_timeout: self.duration(
                "limits.client_timeout",
                &written.client_timeout,
                SECOND..=HOUR,
            ),
            memory: self.size("limits.memory", &written.memory, 1 << 20),
            queue_messages: Some(written.queue_messages).filter(|messages| *messages > 0),
            disk_free_min: self.size("limits.disk_free_min", &written.disk_free_min, 0),
            messages_per_client_per_minute: NonZeroU32::new(written.messages_per_client_per_minute),
            recipients_per_sender_per_hour: NonZeroU32::new(written.recipients_per_sender_per_hour),
        }
    }

    fn dns(&mut self, written: &file::DnsTable) -> Dns {
        match written.dnssec.as_str() {
            "off" => {}
            "validate" | "trust-ad" => {
                let reason = "this version does not use DNSSEC: the only value is \"off\"";
                self.wrong("dns.dnssec".into(), &written.dnssec, reason);
            }
            other => self.wrong("dns.dnssec".into(), other, "not one of: off"),
        }
        Dns {
            servers: self.all("dns.servers", &written.servers, resolver_address),
            timeout: self.duration(
                "dns.timeout",
                &written.timeout,
                100 * MILLISECOND..=60 * SECOND,
            ),
        }
    }

    fn delivery(&mut self, written: &file::DeliveryTable) -> Delivery {
        let retry = self.all("delivery.retry", &written.retry, |text| {
            in_range(units::duration(text), &(SECOND..=DAY), units::show_duration)
        });
        if written.retry.is_empty() {
            self.finding("delivery.retry".into(), "at least one wait is needed".into());
        }
        Delivery {
            port: self.port("delivery.port", written.port),
            tls: self.listed("delivery.tls", &written.tls, TlsFloor::Opportunistic),
            eightbit: self.listed("delivery.eightbit", &written.eightbit, EightBit::Convert),
            long_lines: self.listed("delivery.long_lines", &written.long_lines, LongLines::Pass),
            cleartext_fallback: self.listed(
                "delivery.cleartext_fallback",
                &written.cleartext_fallback,
                CleartextFallback::Never,
            ),
            ip: self.listed("delivery.ip", &written.ip, IpFamily::Both),
            retry,
            lifetime: self.duration("delivery.lifetime", &written.lifetime, SECOND..=YEAR),
            bounce_lifetime: self.duration(
                "delivery.bounce_lifetime",
                &written.bounce_lifetime,
                SECOND..=YEAR,
            ),
            delay_notice: DelayWarning {
                usual: self.wait("delivery.delay_notice_after", &written.delay_notice_after),
                policy: self
                    .wait("delivery.delay_notice_after_policy", &written.delay_notice_after_policy),
            },
            connections: self.count("delivery.connections", written.connections),
            connections_per_domain: self
                .count("delivery.connections_per_domain", written.connections_per_domain),
            connections_per_host: self
                .count("delivery.connections_per_host", written.connections_per_host),
            connections_per_site: self
                .count("delivery.connections_per_site", written.connections_per_site),
            messages_per_connection: self
                .count("delivery.messages_per_connection", written.messages_per_connection),
            recipients_per_transaction: self
                .count("delivery.recipients_per_transaction", written.recipients_per_transaction),
            connection_idle: self.duration(
                "delivery.connection_idle",
                &written.connection_idle,
                Duration::ZERO..=300 * SECOND,
            ),
            connect_timeout: self.duration(
                "delivery.connect_timeout",
                &written.connect_timeout,
                100 * MILLISECOND..=300 * SECOND,
            ),
            allow_addresses: self.all(
                "delivery.allow_addresses",
                &written.allow_addresses,
                Prefix::parse,
            ),
        }
    }

    fn tls(&mut self, written: &file::TlsTable) -> Tls {
        let ca_file = self.optional_path("tls.ca_file", &written.ca_file);
        if ca_file.is_none() && !written.system_roots {
            let reason = "false: then tls.ca_file has to name CA certificates";
            self.finding("tls.system_roots".into(), reason.into());
        }
        Tls {
            ca_file,
            system_roots: written.system_roots,
            min_version: self.listed("tls.min_version", &written.min_version, MinVersion::Tls12),
            post_quantum: written.post_quantum,
        }
    }

    fn mta_sts(&mut self, written: &file::MtaStsTable) -> MtaSts {
        let patterns =
            self.all("mta_sts.report_domains", &written.report_domains, DomainPattern::parse);
        self.no_ties("mta_sts.report_domains", patterns.iter().map(|pattern| (0, pattern)));
        MtaSts {
            mode: self.listed("mta_sts.mode", &written.mode, StsMode::Enforce),
            report_domains: patterns,
            policy_port: self.port("mta_sts.policy_port", written.policy_port),
            ca_file: self.optional_path("mta_sts.ca_file", &written.ca_file),
            fetch_timeout: self.duration(
                "mta_sts.fetch_timeout",
                &written.fetch_timeout,
                SECOND..=600 * SECOND,
            ),
            dns_failure: self.listed(
                "mta_sts.dns_failure",
                &written.dns_failure,
                OnFetchFailure::Defer,
            ),
            dns_failure_cap: self.duration(
                "mta_sts.dns_failure_cap",
                &written.dns_failure_cap,
                Duration::ZERO..=30 * DAY,
            ),
            fetch_failure: self.listed(
                "mta_sts.fetch_failure",
                &written.fetch_failure,
                OnFetchFailure::Deliver,
            ),
            // Short ones are for tests; five minutes is the shortest that a policy host is asked.
            refresh_every: self.duration(
                "mta_sts.refresh_every",
                &written.refresh_every,
                SECOND..=30 * DAY,
            ),
        }
    }

    /// Says of every pattern that stands there twice that nothing decides between the two.
    pub(super) fn no_ties<'a>(
        &mut self,
        key: &str,
        patterns: impl Iterator<Item = (usize, &'a DomainPattern)>,
    ) {
        let mut seen = BTreeMap::new();
        for (index, pattern) in patterns {
            let text = pattern.to_string();
            let key = key.replace("[]", &format!("[{index}]"));
            if let Some(first) = seen.insert(text.clone(), key.clone()) {
                let reason = if first == key {
                    "stands there twice".to_owned()
                } else {
                    format!(
                        "is in {first}, too, and nothing decides between the two: take it out of one"
                    )
                };
                self.wrong(key, &text, reason);
            }
        }
    }

    fn dsn(&mut self, written: &file::DsnTable) -> Option<DsnSettings> {
        let returns = self.listed("dsn.return", &written.returns, DsnReturn::Headers);
        let from = self.parsed("dsn.from", &written.from, Mailbox::parse);
        let rate_per_sender_per_hour = NonZeroU32::new(written.rate_per_sender_per_hour);
        from.map(|from| DsnSettings { from, returns, rate_per_sender_per_hour })
    }

    fn admin(&mut self, written: &file::AdminTable) -> Admin {
        let socket = self.socket("admin.socket", &written.socket);
        Admin { socket }
    }

    fn log(&mut self, written: &file::LogTable) -> Log {
        if let Err(reason) = log_filter(&written.level) {
            self.wrong("log.level".into(), &written.level, reason);
        }
        Log {
            format: self.listed("log.format", &written.format, LogFormat::Auto),
            level: written.level.clone(),
        }
    }
}

/// An address with or without port, 53 by default.
fn resolver_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)))
        .map_err(|_| "not an address like 127.0.0.1, 127.0.0.1:53 or [::1]:53")
        .and_then(|server| if server.port() == 0 { Err("port 0") } else { Ok(server) })
}
