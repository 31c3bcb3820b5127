//! The text as a data structure. Every default is here and nowhere else.
//!
//! Types are what TOML can say, no more: units, ranges and names are judged in `check`. An empty
//! string stands for "not set" wherever interface and comment say so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Keys whose tables add up over the layers.
pub(super) const TABLE_LISTS: [&str; 4] = ["listener", "route", "source", "limit"];

/// A whole configuration as written.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub(super) hostname: String,
    pub(super) origin: String,
    pub(super) data_dir: String,
    pub(super) shutdown_grace: String,
    pub(super) access: AccessTable,
    pub(super) aliases: AliasesTable,
    pub(super) limits: LimitsTable,
    pub(super) dns: DnsTable,
    pub(super) delivery: DeliveryTable,
    pub(super) tls: TlsTable,
    pub(super) mta_sts: MtaStsTable,
    pub(super) dsn: DsnTable,
    pub(super) admin: AdminTable,
    pub(super) submit: SubmitTable,
    pub(super) log: LogTable,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) listener: Vec<ListenerTable>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) route: Vec<RouteTable>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) source: Vec<SourceTable>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) limit: Vec<LimitTable>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            origin: String::new(),
            data_dir: String::new(),
            shutdown_grace: "30s".into(),
            access: AccessTable::default(),
            aliases: AliasesTable::default(),
            limits: LimitsTable::default(),
            dns: DnsTable::default(),
            delivery: DeliveryTable::default(),
            tls: TlsTable::default(),
            mta_sts: MtaStsTable::default(),
            dsn: DsnTable::default(),
            admin: AdminTable::default(),
            submit: SubmitTable::default(),
            log: LogTable::default(),
            listener: Vec::new(),
            route: Vec::new(),
            source: Vec::new(),
            limit: Vec::new(),
        }
    }
}

/// `[[listener]]`; none means the two built-in ones.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "keys of a file")]
pub(super) struct ListenerTable {
    pub(super) address: String,
    #[serde(default = "relay")]
    pub(super) mode: String,
    #[serde(default)]
    pub(super) tls_certificate: String,
    #[serde(default)]
    pub(super) tls_key: String,
    #[serde(default)]
    pub(super) proxy_protocol_from: Vec<String>,
    #[serde(default = "reject")]
    pub(super) bare_newline: String,
    #[serde(default)]
    pub(super) require_tls: bool,
    #[serde(default = "yes")]
    pub(super) add_missing_headers: bool,
    #[serde(default)]
    pub(super) hide_client: bool,
}

fn relay() -> String {
    "relay".into()
}

fn yes() -> bool {
    true
}

fn reject() -> String {
    "reject".into()
}

impl ListenerTable {
    /// The built-in listeners, both on loopback.
    pub(super) fn built_in() -> Vec<Self> {
        let built_in = |address: &str| Self {
            address: address.into(),
            mode: relay(),
            tls_certificate: String::new(),
            tls_key: String::new(),
            proxy_protocol_from: Vec::new(),
            bare_newline: reject(),
            require_tls: false,
            add_missing_headers: true,
            hide_client: false,
        };
        ["127.0.0.1:2525", "[::1]:2525"].map(built_in).into()
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AccessTable {
    pub(super) networks: Vec<String>,
    pub(super) open_relay_acknowledged: bool,
    pub(super) users_file: String,
    pub(super) sender_must_match_user: bool,
    pub(super) deny_recipients: Vec<String>,
    pub(super) deny_senders: Vec<String>,
}

impl Default for AccessTable {
    fn default() -> Self {
        Self {
            networks: vec!["127.0.0.0/8".into(), "::1/128".into()],
            open_relay_acknowledged: false,
            users_file: "/etc/staunch/users".into(),
            sender_must_match_user: false,
            deny_recipients: Vec::new(),
            deny_senders: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct AliasesTable {
    pub(super) postmaster: String,
    /// Every other key is a name.
    #[serde(flatten)]
    pub(super) names: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LimitsTable {
    pub(super) message_size: String,
    pub(super) recipients: u32,
    pub(super) connections: u32,
    pub(super) connections_per_client: u32,
    pub(super) errors_per_session: u32,
    pub(super) client_timeout: String,
    pub(super) memory: String,
    pub(super) queue_messages: u64,
    pub(super) disk_free_min: String,
    pub(super) messages_per_client_per_minute: u32,
    pub(super) recipients_per_sender_per_hour: u32,
}

impl Default for LimitsTable {
    fn default() -> Self {
        Self {
            message_size: "50MiB".into(),
            recipients: 1000,
            connections: 1000,
            connections_per_client: 100,
            errors_per_session: 20,
            client_timeout: "5m".into(),
            memory: "64MiB".into(),
            queue_messages: 0,
            disk_free_min: "256MiB".into(),
            messages_per_client_per_minute: 0,
            recipients_per_sender_per_hour: 0,
        }
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DnsTable {
    pub(super) servers: Vec<String>,
    pub(super) dnssec: String,
    pub(super) timeout: String,
}

impl Default for DnsTable {
    fn default() -> Self {
        Self { servers: Vec::new(), dnssec: "off".into(), timeout: "5s".into() }
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DeliveryTable {
    pub(super) port: u16,
    pub(super) tls: String,
    pub(super) cleartext_fallback: String,
    pub(super) eightbit: String,
    pub(super) long_lines: String,
    pub(super) ip: String,
    pub(super) retry: Vec<String>,
    pub(super) lifetime: String,
    pub(super) bounce_lifetime: String,
    pub(super) delay_notice_after: String,
    pub(super) delay_notice_after_policy: String,
    pub(super) connections: u32,
    pub(super) connections_per_domain: u32,
    pub(super) connections_per_host: u32,
    pub(super) connections_per_site: u32,
    pub(super) messages_per_connection: u32,
    pub(super) recipients_per_transaction: u32,
    pub(super) connection_idle: String,
    pub(super) connect_timeout: String,
    pub(super) allow_addresses: Vec<String>,
}

impl Default for DeliveryTable {
    fn default() -> Self {
        Self {
            port: 25,
            tls: "opportunistic".into(),
            cleartext_fallback: "second-attempt".into(),
            eightbit: "convert".into(),
            long_lines: "pass".into(),
            ip: "both".into(),
            retry: ["5m", "15m", "30m", "1h", "2h", "4h"].map(Into::into).into(),
            lifetime: "5d".into(),
            bounce_lifetime: "1d".into(),
            delay_notice_after: "4h".into(),
            delay_notice_after_policy: "30m".into(),
            connections: 500,
            connections_per_domain: 20,
            connections_per_host: 10,
            connections_per_site: 100,
            messages_per_connection: 100,
            recipients_per_transaction: 50,
            connection_idle: "3s".into(),
            connect_timeout: "10s".into(),
            allow_addresses: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TlsTable {
    pub(super) ca_file: String,
    pub(super) system_roots: bool,
    pub(super) min_version: String,
    pub(super) post_quantum: bool,
}

impl Default for TlsTable {
    fn default() -> Self {
        Self {
            ca_file: String::new(),
            system_roots: true,
            min_version: "1.2".into(),
            post_quantum: true,
        }
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct MtaStsTable {
    pub(super) mode: String,
    pub(super) report_domains: Vec<String>,
    pub(super) policy_port: u16,
    pub(super) ca_file: String,
    pub(super) fetch_timeout: String,
    pub(super) dns_failure: String,
    pub(super) dns_failure_cap: String,
    pub(super) fetch_failure: String,
    pub(super) refresh_every: String,
}

impl Default for MtaStsTable {
    fn default() -> Self {
        Self {
            mode: "enforce".into(),
            report_domains: Vec::new(),
            policy_port: 443,
            ca_file: String::new(),
            fetch_timeout: "60s".into(),
            dns_failure: "defer".into(),
            dns_failure_cap: "4h".into(),
            fetch_failure: "deliver".into(),
            refresh_every: "1d".into(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteTable {
    pub(super) domains: Vec<String>,
    pub(super) via: Vec<String>,
    #[serde(default = "verify")]
    pub(super) tls: String,
    #[serde(default)]
    pub(super) username: String,
    #[serde(default)]
    pub(super) password_file: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SourceTable {
    pub(super) address: String,
    #[serde(default)]
    pub(super) hostname: String,
}

/// `[[limit]]`; 0 limits nothing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LimitTable {
    pub(super) domains: Vec<String>,
    pub(super) mx: Vec<String>,
    pub(super) connections: u32,
    pub(super) messages_per_minute: u32,
}

fn verify() -> String {
    "verify".into()
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DsnTable {
    pub(super) from: String,
    #[serde(rename = "return")]
    pub(super) returns: String,
    pub(super) rate_per_sender_per_hour: u32,
}

impl Default for DsnTable {
    fn default() -> Self {
        Self { from: String::new(), returns: "headers".into(), rate_per_sender_per_hour: 100 }
    }
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AdminTable {
    pub(super) socket: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SubmitTable {
    pub(super) socket: String,
    pub(super) aliases_file: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LogTable {
    pub(super) format: String,
    pub(super) level: String,
}

impl Default for LogTable {
    fn default() -> Self {
        Self { format: "auto".into(), level: "info".into() }
    }
}
