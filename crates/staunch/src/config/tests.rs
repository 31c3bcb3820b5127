//! Whole configurations: what is refused with which words, and which of several voices counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::file::File;
use super::{
    BareNewlines, Config, ConfigError, Loaded, OnFetchFailure, StsMode, Surroundings, TlsFloor,
    ViaLookup, load,
};

const ANNOTATED: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/staunch.toml"));

/// A machine with these variables and no configuration of its own.
fn machine(variables: &[(&str, &str)]) -> Surroundings {
    let mut all = BTreeMap::from([("HOME".into(), "/home/relay".into())]);
    all.extend(variables.iter().map(|(name, value)| (name.into(), value.into())));
    Surroundings {
        variables: all,
        host_name: "relay.example.net".into(),
        system_file: "/nonexistent/staunch.toml".into(),
    }
}

fn with_document(text: &str) -> Result<Loaded, ConfigError> {
    load(None, &machine(&[("STAUNCH_CONFIG_TOML", text)]))
}

fn uncommented() -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    ANNOTATED.lines().map(uncomment).collect()
}

/// `section.key` for all keys of `table`, sorted.
fn keys(table: &toml::Table) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (section, value) in table {
        keys.insert(section.clone());
        for key in value.as_table().into_iter().flat_map(toml::Table::keys) {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

#[test]
fn the_annotated_file_says_what_the_code_does() {
    let text = uncommented();
    let file: File = toml::from_str(&text).unwrap();
    let defaults = File::default();
    let exempt = File {
        hostname: defaults.hostname.clone(),
        data_dir: defaults.data_dir.clone(),
        listener: Vec::new(),
        route: Vec::new(),
        source: Vec::new(),
        limit: Vec::new(),
        ..file
    };
    assert_eq!(exempt, defaults, "values in config/staunch.toml");

    let table: toml::Table = toml::from_str(&text).unwrap();
    let mut want = toml::Table::try_from(&defaults).unwrap();
    for lists in ["listener", "route", "source", "limit"] {
        want.insert(lists.into(), table[lists].clone());
    }
    assert_eq!(keys(&table), keys(&want), "keys in config/staunch.toml");

    with_document(&text).unwrap();
    with_document(ANNOTATED).unwrap();
}

#[test]
fn without_any_file_the_relay_listens_on_loopback_only() {
    let Loaded { config, files, .. } = load(None, &machine(&[])).unwrap();
    let Config { listeners, data_dir, admin, .. } = &config;
    let addresses: Vec<String> = listeners.iter().map(|l| l.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:2525", "[::1]:2525"]);
    assert!(listeners.iter().all(|listener| listener.is_default));
    assert_eq!(data_dir, Path::new("/home/relay/.local/state/staunch"));
    assert_eq!(admin.socket, data_dir.join("admin.sock"));
    assert_eq!(config.submit.socket, data_dir.join("submit.sock"));
    assert_eq!(config.hostname.to_string(), "relay.example.net");
    assert_eq!(config.origin.to_string(), "relay.example.net");
    assert_eq!(config.dsn.from.as_str(), "mailer-daemon@relay.example.net");
    assert_eq!(config.limits.queue_messages, None);
    assert_eq!(config.limits.client_timeout, smtp::limits::SERVER_IDLE_TIMEOUT);
    assert!(files.is_empty());
}

#[test]
fn directories_come_from_the_service_manager_first() {
    /// Variables, data directory, socket.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let cases: &[Case<'_>] = &[
        (&[("XDG_STATE_HOME", "/x")], "/x/staunch", "/x/staunch/admin.sock"),
        (&[("STATE_DIRECTORY", "/s:/t"), ("XDG_STATE_HOME", "/x")], "/s", "/s/admin.sock"),
        (&[("STATE_DIRECTORY", "/s"), ("RUNTIME_DIRECTORY", "/r:/q")], "/s", "/r/admin.sock"),
        (
            &[("STATE_DIRECTORY", "")],
            "/home/relay/.local/state/staunch",
            "/home/relay/.local/state/staunch/admin.sock",
        ),
        (&[("STAUNCH__DATA_DIR", "/d"), ("STATE_DIRECTORY", "/s")], "/d", "/d/admin.sock"),
    ];
    for (variables, data_dir, socket) in cases {
        let config = load(None, &machine(variables)).unwrap().config;
        assert_eq!(config.data_dir, Path::new(data_dir), "{variables:?}");
        assert_eq!(config.admin.socket, Path::new(socket), "{variables:?}");
    }
}

/// A document, and what is said of it behind the document's name.
const REFUSED: &[(&str, &str)] = &[
    ("origin = \"a b\"", "1: origin: \"a b\": a character that is not allowed in a host name"),
    ("hostname = \"a b\"", "1: hostname: \"a b\": a character that is not allowed in a host name"),
    (
        "hostnam = \"a\"",
        "1: hostnam: unknown key; did you mean hostname? known here: hostname, origin, data_dir, shutdown_grace, access, aliases, limits, dns, delivery, tls, mta_sts, dsn, admin, submit, log, listener, route, source, limit",
    ),
    (
        "\n[access]\nnetwork = []",
        "3: access.network: unknown key; did you mean networks? known here: networks, open_relay_acknowledged, users_file, sender_must_match_user, deny_recipients, deny_senders",
    ),
    ("[admin]\nlistn = \"127.0.0.1:8025\"", "2: admin.listn: unknown key; known here: socket"),
    (
        "[admin]\nlisten = \"127.0.0.1:8025\"",
        "2: admin.listen: \"127.0.0.1:8025\": not in this version, where it is always \"\"",
    ),
    (
        "[dane]\nmode = \"enforce\"",
        "2: dane.mode: \"enforce\": not in this version, where it is always \"off\"",
    ),
    (
        "[[listener]]\naddress = \"127.0.0.1:1\"\nrequire_tls = true",
        "3: listener[0].require_tls: REQUIRETLS is offered under TLS only: set tls_certificate and tls_key",
    ),
    (
        "[[listener]]\naddress = \"127.0.0.1:1\"\nhide_client = true",
        "3: listener[0].hide_client: only for users who have logged in: not in mode \"relay\"",
    ),
    ("[access]\nusers_file = \"users\"", "2: access.users_file: \"users\": not an absolute path"),
    (
        "[access]\ndeny_recipients = [\"a.example\", \"@b.example\"]",
        "2: access.deny_recipients: \"@b.example\": a domain is written without @: b.example",
    ),
    (
        "[access]\ndeny_senders = [\"-\"]",
        "2: access.deny_senders: \"-\": a character that is not allowed in a host name",
    ),
    ("[aliases]\nroot = \"ops\"", "2: aliases.root: \"ops\": no local part and domain"),
    ("[aliases]\n\"a b\" = \"ops@example.net\"", "2: aliases.a b: not a local name like root"),
    (
        "[aliases]\nroot = \"ops@[192.0.2.1]\"",
        "2: aliases.root: \"ops@[192.0.2.1]\": address literals are not relayed to: write a domain",
    ),
    (
        "[aliases]\nROOT = \"ops@example.net\"\nroot = \"ops@example.net\"",
        "3: aliases.root: stands there twice, in another case",
    ),
    ("[[rule]]\ndomains = [\"a.example\"]", "1: rule: not in this version"),
    (
        "[dane]\nmod = 1",
        "1: dane: unknown key; known here: hostname, origin, data_dir, shutdown_grace, access, aliases, limits, dns, delivery, tls, mta_sts, dsn, admin, submit, log, listener, route, source, limit",
    ),
    (
        "[delivery]\nport = \"25\"",
        "2: delivery.port: \"25\" is text; wanted is a whole number from 0 to 65535",
    ),
    (
        "[delivery]\nport = 70000",
        "2: delivery.port: 70000; wanted is a whole number from 0 to 65535",
    ),
    ("[delivery]\nport = 0", "2: delivery.port: 0: not in 1 to 65535"),
    (
        "networks = [\"192.0.2.0/24\"]",
        "1: networks: unknown key; it stands in another section: access.networks",
    ),
    (
        "[listener]\naddress = \"127.0.0.1:1\"",
        "1: listener: one table; several can be there, so it is written [[listener]]",
    ),
    (
        "[[listener]]\naddress = 5",
        "2: listener[0].address: 5; wanted is text in quotes, with its unit where it has one, as \"30s\" or \"64KiB\"",
    ),
    (
        "shutdown_grace = 30",
        "1: shutdown_grace: 30; wanted is text in quotes, with its unit where it has one, as \"30s\" or \"64KiB\"",
    ),
    (
        "[tls]\nsystem_roots = \"yes\"",
        "2: tls.system_roots: \"yes\" is text; wanted is true or false, without quotes",
    ),
    ("[delivery]\nretry = []", "2: delivery.retry: at least one wait is needed"),
    (
        "[delivery]\nretry = [\n\"5m\",\n\"5x\"]",
        "2: delivery.retry: \"5x\": not a duration like \"90s\" (units: ms, s, m, h, d)",
    ),
    (
        "[delivery]\nretry = \"5m\"",
        "2: delivery.retry: \"5m\" is text; wanted is a list in brackets, as [\"a\", \"b\"]",
    ),
    ("[delivery]\nlifetime = \"0s\"", "2: delivery.lifetime: \"0s\": not in 1s to 365d"),
    ("[delivery]\nconnections = 0", "2: delivery.connections: 0: not in 1 to 1000000"),
    (
        "[delivery]\ntls = \"dane\"",
        "2: delivery.tls: \"dane\": not one of: opportunistic, encrypt, verify",
    ),
    (
        "[delivery]\nallow_addresses = [\"10.1.0.0/8\"]",
        "2: delivery.allow_addresses: \"10.1.0.0/8\": bits are set beyond the length; write 10.0.0.0/8",
    ),
    (
        "[limits]\nmessage_size = \"50MB\"",
        "2: limits.message_size: \"50MB\": not a size like \"64KiB\" (units: B, KiB, MiB, GiB, TiB)",
    ),
    ("[limits]\nrecipients = -1", "2: limits.recipients: -1; wanted is a whole number, 0 or more"),
    (
        "[access]\nnetworks = [\"0.0.0.0/0\"]",
        "2: access.networks: \"0.0.0.0/0\": shorter than /8, so that strangers may relay; if that is meant, set access.open_relay_acknowledged = true",
    ),
    (
        "[access]\nnetworks = [\"2001::/16\"]",
        "2: access.networks: \"2001::/16\": shorter than /32, so that strangers may relay; if that is meant, set access.open_relay_acknowledged = true",
    ),
    ("[aliases]\npostmaster = \"ops\"", "2: aliases.postmaster: \"ops\": no local part and domain"),
    (
        "[dns]\ndnssec = \"validate\"",
        "2: dns.dnssec: \"validate\": this version does not use DNSSEC: the only value is \"off\"",
    ),
    (
        "[dns]\nservers = [\"localhost\"]",
        "2: dns.servers: \"localhost\": not an address like 127.0.0.1, 127.0.0.1:53 or [::1]:53",
    ),
    ("[tls]\nca_file = \"ca.pem\"", "2: tls.ca_file: \"ca.pem\": not an absolute path"),
    (
        "[tls]\nsystem_roots = false",
        "2: tls.system_roots: false: then tls.ca_file has to name CA certificates",
    ),
    (
        "[mta_sts]\nreport_domains = [\"a.*.b\"]",
        "2: mta_sts.report_domains: \"a.*.b\": a character that is not allowed in a host name",
    ),
    (
        "[mta_sts]\nreport_domains = [\"*.b\", \"*.B.\"]",
        "2: mta_sts.report_domains: \"*.b\": stands there twice",
    ),
    (
        "[log]\nlevel = \"loud\"",
        "2: log.level: \"loud\": not error, warn, info, debug, trace, or of one part like staunch::dns=debug",
    ),
    ("[[listener]]\nmode = \"relay\"", "1: listener[0]: address is missing"),
    (
        "[[listener]]\naddress = \"unix:smtp.sock\"",
        "2: listener[0].address: \"unix:smtp.sock\": not an absolute path behind unix:",
    ),
    (
        "[[listener]]\naddress = \"unix:/run/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012\"",
        "2: listener[0].address: \"unix:/run/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012\": longer than 107 bytes, which a socket's name ends at",
    ),
    (
        "[[listener]]\naddress = \"systemd:a:b\"",
        "2: listener[0].address: \"systemd:a:b\": not a name as in FileDescriptorName= of a socket unit",
    ),
    (
        "[[listener]]\naddress = \"unix:/run/a\"\nproxy_protocol_from = [\"127.0.0.1\"]",
        "3: listener[0].proxy_protocol_from: clients of a unix socket have no address that could be listed here",
    ),
    (
        "[[listener]]\naddress = \"127.0.0.1:1\"\ntls_certificate = \"/c.pem\"",
        "1: listener[0].tls_key: tls_certificate needs its key: set this, too",
    ),
    (
        "[admin]\nsocket = \"/a\"\n[submit]\nsocket = \"/a\"",
        "4: submit.socket: \"/a\": is admin.socket, too",
    ),
    (
        "[submit]\nsocket = \"/a\"\n[[listener]]\naddress = \"unix:/a\"",
        "4: listener[0].address: \"unix:/a\": is admin.socket or submit.socket, too",
    ),
    ("[submit]\nsocket = \"s\"", "2: submit.socket: \"s\": not an absolute path"),
    (
        "[[listener]]\naddress = \"localhost:25\"",
        "2: listener[0].address: \"localhost:25\": not an address and port like 127.0.0.1:2525 or [::1]:2525, and not unix:/PATH or systemd:NAME",
    ),
    (
        "[[listener]]\naddress = \"127.0.0.1:1\"\nmode = \"submission\"",
        "3: listener[0].mode: mode \"submission\" needs a certificate, since nobody may log in without TLS: set tls_certificate and tls_key",
    ),
    (
        "[[listener]]\naddress = \"127.0.0.1:1\"\n[[listener]]\naddress = \"127.0.0.1:1\"",
        "4: listener[1].address: \"127.0.0.1:1\": listened on twice",
    ),
    (
        "[[listener]]\naddress = \"0.0.0.0:25\"\n[[listener]]\naddress = \"127.0.0.1:25\"",
        "4: listener[1].address: \"127.0.0.1:25\": overlaps 0.0.0.0:25, and the system lets only one of them listen",
    ),
    (
        "[[route]]\ndomains = []\nvia = [\"smtp://a.example\"]",
        "2: route[0].domains: at least one is needed",
    ),
    (
        "[[route]]\ndomains = [\"a.example\"]\nvia = [\"lmtp://unix:/b\"]",
        "3: route[0].via: \"lmtp://unix:/b\": this version does not speak lmtp",
    ),
    (
        "[[route]]\ndomains = [\"a.example\"]\nvia = [\"smtp://[10.0.0.1]\"]",
        "3: route[0].via: an address has no name to verify: write the host's name, \
         or tls = \"encrypt\" or \"opportunistic\"",
    ),
    (
        "[[route]]\ndomains = [\"a.example\"]\nvia = [\"smtp://u:p@b.example\"]",
        "3: route[0].via: a user or password is not part of it: write username, and the password into password_file",
    ),
    (
        "[[route]]\ndomains = [\"a.example\"]\nvia = [\"smtp://b.example\"]\nusername = \"u\"",
        "1: route[0].password_file: username needs one",
    ),
    (
        "[[route]]\ndomains = [\"a.example\"]\nvia = [\"smtp://b.example\"]\ntls = \"encrypt\"\n\
         username = \"u\"\npassword_file = \"/p\"",
        "4: route[0].tls: \"encrypt\": credentials are given to an authenticated server only: \
         leave tls = \"verify\"",
    ),
    ("[[source]]\naddress = \"\"", "2: source[0].address: \"\": not an address"),
    ("[[source]]\naddress = \"::\"", "2: source[0].address: \"::\": nobody can connect from it"),
    (
        "[[source]]\naddress = \"192.0.2.1\"\n[[source]]\naddress = \"192.0.2.1\"",
        "4: source[1].address: \"192.0.2.1\": stands there twice",
    ),
    ("[[limit]]\nconnections = 1", "1: limit[0]: needs either domains or mx, and not both"),
    (
        "[[limit]]\nmx = [\"*\"]",
        "1: limit[0]: needs connections or messages_per_minute: both are 0",
    ),
    (
        "[[limit]]\nmx = [\"a.example\"]\nconnections = 1\n\
         [[limit]]\nmx = [\"a.example\"]\nconnections = 2",
        "5: limit[1].mx: \"a.example\": is in limit[0].mx, too, and nothing decides between the two: take it out of one",
    ),
    (
        "[[route]]\ndomains = [\"a.example\"]\nvia = [\"smtp://[b.example]:x\"]",
        "3: route[0].via: \"smtp://[b.example]:x\": not a port",
    ),
    ("hostname = \"a\"\nhostname = \"b\"", "2: hostname: stands there twice: take one of them out"),
    ("hostname = \"a", "1: not TOML: the \" at the end of the text is missing"),
];

#[test]
fn a_bad_document_is_refused_with_line_key_and_reason() {
    for (text, want) in REFUSED {
        let error = with_document(text).expect_err(text).to_string();
        assert_eq!(error, format!("STAUNCH_CONFIG_TOML:{want}"), "{text}");
    }
}

#[test]
fn switching_off_what_there_is_none_of_is_no_mistake() {
    let text = "origin = ''\n[dns]\ndnssec = \"off\"\ntrust_ad_from = [\"127.0.0.0/8\",\"::1/128\"]\n\
        trust_anchor = \"\"\n[dane]\nmode = \"off\"\n[tls_rpt]\nenabled = \"off\"\n\
        [[listener]]\naddress = \"127.0.0.1:1\"\nrequire_tls = false\nproxy_protocol_from = []\n\
        [limits]\nmessages_per_client_per_minute = 0\n[history]\npolicies = \"0s\"";
    let config = with_document(text).unwrap().config;
    assert_eq!(config.listeners.len(), 1);
    let variables =
        [("STAUNCH__DANE__MODE", "off"), ("STAUNCH__DNS__TRUST_AD_FROM", "127.0.0.0/8,::1/128")];
    load(None, &machine(&variables)).unwrap();
}

#[test]
fn no_key_is_both_of_this_version_and_of_a_later_one() {
    let file = toml::Table::try_from(File::default()).unwrap();
    for (path, _) in super::later::LATER {
        let known = match path.split_once('.') {
            Some((section, key)) => file.get(section).is_some_and(|at| at.get(key).is_some()),
            None => file.contains_key(*path),
        };
        assert!(!known, "{path}");
    }
}

#[test]
fn what_sets_nothing_and_what_everybody_may_read_is_complained_about() {
    use std::os::unix::fs::PermissionsExt as _;
    let said = |variables: &[(&str, &str)]| {
        let complaints = load(None, &machine(variables)).unwrap().complaints();
        complaints.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let before = said(&[]);
    let with = said(&[("STAUNCH_HOSTNAME", "a.example"), ("STAUNCH_CONFIG", "")]);
    let want = "STAUNCH_HOSTNAME: nothing reads this variable; did you mean STAUNCH__HOSTNAME?";
    assert_eq!(with, [before.clone(), vec![want.to_owned()]].concat());

    let password = tempfile::NamedTempFile::new().unwrap();
    let route = format!(
        "[[route]]\ndomains = [\"*\"]\nvia = [\"smtp://[a.example]:25\"]\ntls = \"verify\"\n\
         username = \"me\"\npassword_file = {:?}\n",
        password.path()
    );
    let with_mode = |mode| {
        password.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        said(&[("STAUNCH_CONFIG_TOML", &route)])
    };
    assert_eq!(with_mode(0o640), before);
    let exposed = with_mode(0o644);
    assert!(exposed.last().unwrap().contains("route[0].password_file: "), "{exposed:?}");
    assert!(exposed.last().unwrap().ends_with("chmod o= it"), "{exposed:?}");
}

#[test]
fn every_mistake_is_named_in_the_order_of_lines() {
    let document = "hostnam = \"a\"\n[delivery]\nport = \"25\"\nconections = 7\n[limits]\nbar = 1\n\
                    [[listener]]\naddress = \"127.0.0.1:1\"\nmod = \"relay\"\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    let said = |document: &str| {
        std::fs::write(file.path(), document).unwrap();
        let refused = load(Some(file.path()), &Surroundings::default()).unwrap_err();
        let line = |problem: &super::ConfigProblem| {
            let line = problem.place.rsplit_once(':').unwrap_or_default().1.to_owned();
            format!("{line} {}", problem.key)
        };
        refused.0.iter().map(line).collect::<Vec<_>>()
    };
    let want = [
        "1 hostnam",
        "3 delivery.port",
        "4 delivery.conections",
        "6 limits.bar",
        "9 listener[0].mod",
    ];
    assert_eq!(said(document), want);
    let values = "hostname = \"a b\"\ndata_dir = \"/tmp\"\n[delivery]\nport = 0\nlifetime = \"0s\"\n[limits]\nmemory = \"1\"\n";
    assert_eq!(
        said(values),
        ["1 hostname", "4 delivery.port", "5 delivery.lifetime", "7 limits.memory"]
    );
}

#[test]
fn a_bad_variable_is_refused_by_its_name() {
    let cases = [
        (
            "STAUNCH__DANE__MODE",
            "enforce",
            "STAUNCH__DANE__MODE: dane.mode: \"enforce\": not in this version, where it is always \"off\"",
        ),
        ("STAUNCH__RULE", "/x", "STAUNCH__RULE: rule: not in this version"),
        (
            "STAUNCH__DELIVERY__PROT",
            "1",
            "STAUNCH__DELIVERY__PROT: delivery.prot: unknown key; did you mean port? known here: allow_addresses, bounce_lifetime, cleartext_fallback, connect_timeout, connection_idle, connections, connections_per_domain, connections_per_host, connections_per_site, delay_notice_after, delay_notice_after_policy, eightbit, ip, lifetime, long_lines, messages_per_connection, port, recipients_per_transaction, retry, tls",
        ),
        ("STAUNCH__DELIVERY", "1", "STAUNCH__DELIVERY: delivery: \"1\": a section, not a key"),
        (
            "STAUNCH__DELIVERY__PORT",
            "smtp",
            "STAUNCH__DELIVERY__PORT: delivery.port: \"smtp\": not a whole number",
        ),
        (
            "STAUNCH__DELIVERY__PORT",
            "70000",
            "STAUNCH__DELIVERY__PORT: delivery.port: 70000; wanted is a whole number from 0 to 65535",
        ),
        (
            "STAUNCH__DELIVERY__RETRY",
            "5m,,1h",
            "STAUNCH__DELIVERY__RETRY: delivery.retry: \"\": not a duration like \"90s\" (units: ms, s, m, h, d)",
        ),
        (
            "STAUNCH__TLS__SYSTEM_ROOTS",
            "yes",
            "STAUNCH__TLS__SYSTEM_ROOTS: tls.system_roots: \"yes\": neither true nor false",
        ),
        (
            "STAUNCH__LISTENER__0__ADDRESS",
            "a",
            "STAUNCH__LISTENER__0__ADDRESS: listener.0.address: [[...]] tables are written into STAUNCH_CONFIG_TOML, as a TOML document",
        ),
        (
            "RUNTIME_DIRECTORY",
            "relative",
            "default: $RUNTIME_DIRECTORY: admin.socket: \"relative/admin.sock\": not an absolute path\n\
             default: $RUNTIME_DIRECTORY: submit.socket: \"relative/submit.sock\": not an absolute path",
        ),
    ];
    for (name, value, want) in cases {
        let error = load(None, &machine(&[(name, value)])).expect_err(name).to_string();
        assert_eq!(error, want);
    }
}

#[test]
fn variables_are_strings_numbers_and_lists_as_the_key_asks() {
    let variables = [
        ("STAUNCH__HOSTNAME", "0012.example"),
        ("STAUNCH__DELIVERY__PORT", "2526"),
        ("STAUNCH__DELIVERY__RETRY", "1s, 2s"),
        ("STAUNCH__ACCESS__NETWORKS", "10.0.0.0/8,::1"),
        ("STAUNCH__TLS__POST_QUANTUM", "false"),
        ("STAUNCH__LIMITS__MEMORY", ""),
        ("STAUNCHLY", "unrelated"),
    ];
    let config = load(None, &machine(&variables)).unwrap().config;
    assert_eq!(config.hostname.to_string(), "0012.example");
    assert_eq!(config.delivery.port, 2526);
    assert_eq!(
        config.delivery.retry.iter().map(std::time::Duration::as_secs).collect::<Vec<_>>(),
        [1, 2]
    );
    let networks: Vec<String> = config.access.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "::1/128"]);
    assert!(!config.tls.post_quantum);
    assert_eq!(config.limits.memory, 64 << 20);
}

#[test]
fn everything_wrong_is_said_at_once() {
    let error =
        with_document("[delivery]\nport = 0\nip = \"v5\"\n[log]\nformat = \"xml\"").unwrap_err();
    let lines: Vec<String> = error.0.iter().map(|problem| problem.place.clone()).collect();
    assert_eq!(lines, ["STAUNCH_CONFIG_TOML:2", "STAUNCH_CONFIG_TOML:3", "STAUNCH_CONFIG_TOML:5"]);
}

#[test]
fn later_voices_replace_keys_and_tables_of_lists_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    write(
        "relay",
        "[delivery]\nport = 1\nip = \"v4\"\nconnections = 7\n\
         [[listener]]\naddress = \"127.0.0.1:1\"\nbare_newline = \"normalize\"\n",
    );
    write("conf.d/20.toml", "[delivery]\nport = 3\n[[listener]]\naddress = \"127.0.0.1:3\"\n");
    write("conf.d/10.toml", "[delivery]\nport = 2\n[[listener]]\naddress = \"127.0.0.1:2\"\n");
    write("conf.d/30.toml.bak", "nonsense");
    let variables = [
        ("STAUNCH__DELIVERY__CONNECTIONS", "9"),
        ("STAUNCH_CONFIG_TOML", "[[listener]]\naddress = \"127.0.0.1:4\"\n"),
    ];
    let file = dir.path().join("relay");
    let loaded = load(Some(&file), &machine(&variables)).unwrap();
    let config = &loaded.config;
    assert_eq!((config.delivery.port, config.delivery.connections), (3, 9));
    let addresses: Vec<String> = config.listeners.iter().map(|l| l.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"]);
    assert_eq!(config.listeners[0].bare_newline, BareNewlines::Normalize);
    assert!(!config.listeners[0].is_default);
    assert_eq!(loaded.files.len(), 3);

    let shown = loaded.shown.to_string();
    let dir = dir.path().display();
    let sources = [
        ("port = 3", format!("{dir}/conf.d/20.toml:2")),
        ("connections = 9", "STAUNCH__DELIVERY__CONNECTIONS".to_owned()),
        ("ip = \"v4\"", format!("{dir}/relay:3")),
        ("address = \"127.0.0.1:4\"", "STAUNCH_CONFIG_TOML:2".to_owned()),
        ("lifetime = \"5d\"", "default".to_owned()),
        ("hostname = \"relay.example.net\"", "default: the system's".to_owned()),
    ];
    for (value, source) in sources {
        let found = shown.lines().find(|line| line.starts_with(value)).unwrap();
        assert!(found.ends_with(&format!("# {source}")), "{found}");
    }
    let json = loaded.shown.to_json();
    assert_eq!(json["delivery.port"]["value"], 3);
    assert_eq!(json["listener[3].address"]["source"], "STAUNCH_CONFIG_TOML:2");
    assert_eq!(json["delivery.retry"]["value"][0], "5m");
    let again = with_document(&shown).unwrap();
    assert_eq!(
        format!("{:?}", again.config),
        format!("{:?}", loaded.config),
        "it can be read again"
    );
}

#[test]
fn the_named_file_must_exist_and_every_layer_is_read_strictly() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.toml");
    let error = load(Some(&missing), &machine(&[])).unwrap_err().to_string();
    assert_eq!(error, format!("{}: No such file or directory (os error 2)", missing.display()));

    let file = dir.path().join("a.toml");
    std::fs::write(&file, "[delivery]\nport = \"x\"\n").unwrap();
    let hidden = [("STAUNCH__DELIVERY__PORT", "25"), ("STAUNCH_CONFIG", file.to_str().unwrap())];
    let error = load(None, &machine(&hidden)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}:2: delivery.port: ", file.display())), "{error}");

    let system = Surroundings { system_file: file, ..machine(&[]) };
    assert!(load(None, &system).is_err());
}

#[test]
fn what_will_cost_mail_is_complained_about() {
    let cases = [
        ("hostname = \"relay.example.net\"", None),
        (
            "hostname = \"relay\"",
            Some(
                "STAUNCH_CONFIG_TOML:1: hostname: \"relay\" has no dot: not a name that others can look up; EHLO will use an address literal, which many refuse",
            ),
        ),
        (
            "hostname = \"192.0.2.1\"",
            Some(
                "STAUNCH_CONFIG_TOML:1: hostname: \"[192.0.2.1]\" is an address, not a name; EHLO will use an address literal, which many refuse",
            ),
        ),
        (
            "hostname = \"relay.example.net\"\n[[listener]]\naddress = \"127.0.0.1:1\"\nmode = \"submissions\"\n\
             tls_certificate = \"/c.pem\"\ntls_key = \"/k.pem\"\n[access]\nusers_file = \"\"",
            Some(
                "STAUNCH_CONFIG_TOML:4: listener[0].mode: needs users who may log in: set access.users_file",
            ),
        ),
    ];
    for (text, want) in cases {
        let complaints = with_document(text).unwrap().complaints();
        assert_eq!(complaints.first().map(ToString::to_string).as_deref(), want);
    }
    let nameless = Surroundings { host_name: "!".into(), ..machine(&[]) };
    assert_eq!(load(None, &nameless).unwrap().config.hostname.to_string(), "localhost");
}

#[test]
fn the_deployments_configure_what_they_need_and_no_more() {
    let container =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/container.toml"));
    let loaded = with_document(container).unwrap();
    assert!(loaded.config.access.networks.is_empty());
    let complaints: Vec<String> = loaded.complaints().iter().map(ToString::to_string).collect();
    assert_eq!(complaints, ["STAUNCH_CONFIG_TOML:13: access.networks: is empty: nobody may relay"]);

    let system =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/conf.d/50-system.toml"));
    let config = with_document(system).unwrap().config;
    assert_eq!(config.data_dir, Path::new("/var/lib/staunch"));
    assert_eq!(config.admin.socket, Path::new("/run/staunch/admin.sock"));
    assert_eq!(config.submit.socket, Path::new("/run/staunch/submit.sock"));
}

#[test]
fn routes_and_report_domains_mean_what_they_say() {
    let text = "[mta_sts]\nreport_domains = [\"*.slow.example\"]\nfetch_failure = \"defer\"\n\
        [[route]]\ndomains = [\"a.example\"]\nvia = [\"smtp://[B.example]:587\", \"smtps://c.example\"]\n\
        [[route]]\ndomains = [\"*.a.example\"]\nvia = [\"smtp://[d.example]\"]\ntls = \"encrypt\"";
    let config = with_document(text).unwrap().config;
    let [first, second] = config.routes.as_slice() else { panic!("two routes") };
    let shown: Vec<String> = first.via.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["smtp://[b.example]:587", "smtps://c.example:465"]);
    assert_eq!(first.via[1].lookup, ViaLookup::Mx);
    assert_eq!((first.tls, second.tls), (TlsFloor::Verify, TlsFloor::Encrypt));
    assert_eq!(config.mta_sts.fetch_failure, OnFetchFailure::Defer);
    let mode = |domain| config.mta_sts.mode_for(&smtp::HostName::parse(domain).unwrap());
    assert_eq!((mode("x.slow.example"), mode("slow.example")), (StsMode::Report, StsMode::Enforce));

    let tie = text.replace("*.a.example", "A.example.");
    let error = with_document(&tie).unwrap_err().to_string();
    assert_eq!(
        error,
        "STAUNCH_CONFIG_TOML:8: route[1].domains: \"a.example\": is in route[0].domains, too, and nothing decides between the two: take it out of one"
    );
}
