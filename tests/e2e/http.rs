//! What a policy host may answer (RFC 8461 §3.2, §3.3), row by row of
//! `tests/data/vectors/http.tsv`.
//!
//! Each domain announces an enforce policy that does not list its MX. If the answer is used, the
//! mail waits because of the MX; if not, it waits because of the fetch: a policy was announced, so
//! the first failure is no reason yet to go without one.

use std::time::Duration;

use world::{Domain, Handshake, Leaf, Mode, Reply, Serve, Site, World, policy_text};

use crate::harness::{Stage, on_stage, vectors};

/// What the rows ask for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expected {
    Used,
    NotUsed,
}

fn expected(id: &str) -> Expected {
    let rows = vectors("http.tsv");
    let row = rows.iter().find(|row| row[0] == id).unwrap_or_else(|| panic!("no row {id}"));
    match row[2].split([' ', ';', ',']).next().unwrap() {
        "use" => Expected::Used,
        "reject" | "fetch-error" => Expected::NotUsed,
        other => panic!("{id}: what is {other}?"),
    }
}

fn row(id: &'static str) {
    on_stage(|stage| async move {
        let name = format!("{id}.http.test").to_ascii_lowercase();
        let mx = stage.world.mx(&format!("mx.{name}")).await;
        let domain = stage.world.domain(&name);
        domain.mx(&[(10, &mx)]).new_id();
        set_up(id, &stage.world, domain);
        let recipient = domain.address("user");
        let message = stage.relay.submit("sender@client.test", &[&recipient], id).await;

        let deferred = stage.relay.event("deferred").with("recipient", &recipient).await;
        let reason = match expected(id) {
            Expected::Used => "mx_not_listed",
            Expected::NotUsed => "policy_fetch_failed",
        };
        assert_eq!(deferred.text("reason").as_deref(), Some(reason));
        assert_eq!(mx.connections(), 0);
        check_requests(id, stage, domain);
        stage.discard(&message).await;
    });
}

/// A policy that is good in itself.
fn policy() -> String {
    policy_text(Mode::Enforce, &["mx.listed.test"], 86400)
}

/// The host of one row.
fn set_up(id: &str, world: &World, domain: Domain<'_>) {
    let host = domain.policy_host();
    let parent = host.trim_start_matches("mta-sts.");
    let good = || Leaf::named(&host);
    let reply = |reply: Reply| Serve::Reply(reply);
    let typed = |value: &str| Serve::Reply(Reply::ok(policy()).content_type(Some(value)));
    let status = |code: u16| Serve::Reply(Reply::status(code, policy()));
    let moved = |code: u16| {
        reply(Reply::status(code, policy()).header("Location", &format!("https://{host}/x")))
    };
    let (leaf, serve) = match id {
        "H001" => (good(), typed("text/plain")),
        "H002" => (good(), typed("TEXT/PLAIN")),
        "H003" => (good(), typed("TeXT/PlAiN")),
        "H006" => (good(), typed("text/plain ; charset=UTF-8")),
        "H009" => (good(), reply(Reply::ok(policy()).content_type(None))),
        "H010" => (good(), typed("text/html")),
        "H011" => (good(), typed("text/json")),
        "H015" => (good(), typed("application/octet-stream")),
        "H016" => (good(), typed("application/octet-stream+text/plain")),
        "H017" => (good(), typed("application/json+text/plain")),
        "H020" => (good(), status(203)),
        "H021" => (good(), status(204)),
        "H022" => (good(), status(206)),
        "H023" => (good(), moved(301)),
        "H024" => (good(), moved(302)),
        "H026" => (good(), moved(308)),
        "H027" => (good(), status(304)),
        "H029" => (good(), status(404)),
        "H030" => (good(), status(410)),
        "H031" => (good(), status(500)),
        "H034" | "H035" | "H057" | "H056" => (good(), typed("text/plain")),
        "H036" => (good(), Serve::Silent),
        "H040" => (good(), reply(Reply { chunked: true, ..Reply::ok(oversized(65_537)) })),
        "H041" => (good(), reply(Reply::ok(oversized(131_193)))),
        "H044" => (good(), reply(Reply::ok(policy()).header("Content-Encoding", "gzip"))),
        "H047" => (Leaf::named(&format!("*.{parent}")), typed("text/plain")),
        "H049" => (good().common_name_only(), typed("text/plain")),
        "H050" => (Leaf::named(parent), typed("text/plain")),
        "H052" => (Leaf::named("mta-sts.other.test"), typed("text/plain")),
        "H053" => (good().expired(), typed("text/plain")),
        "H054" => (good().self_signed(), typed("text/plain")),
        "H055" => (good().not_yet_valid(), typed("text/plain")),
        other => panic!("no host for row {other}"),
    };
    let handshake = if id == "H056" { Handshake::Tls11Only } else { Handshake::Good };
    domain.site(Site { identity: world.pki.issue(&leaf), handshake, serve });
    match id {
        "H034" => world.dns.set(&host, world::RecordType::A, world::Answer::ServFail),
        // Nothing listens on the port for HTTPS; whatever may be on port 80 is never asked.
        "H035" | "H057" => {
            domain.policy_host_down();
        }
        _ => {}
    }
}

/// A valid policy made long by lines that say nothing.
fn oversized(length: usize) -> String {
    let mut body = policy();
    while body.len() < length {
        let line = (length - body.len()).min(500);
        body += &format!("x: {}\r\n", "a".repeat(line.saturating_sub(5)));
    }
    body.truncate(length);
    body
}

/// What the host must have seen, and what not.
fn check_requests(id: &str, stage: &Stage, domain: Domain<'_>) {
    let host = domain.policy_host();
    let reached = match id {
        "H034" | "H035" | "H049" | "H050" | "H052" | "H053" | "H054" | "H055" | "H056" | "H057" => {
            0
        }
        _ => 1,
    };
    assert_eq!(domain.policy_requests(), reached, "each redirect or retry would be a request");
    stage.world.policies.requests().read(|all| {
        for request in all.iter().filter(|request| request.sni == host) {
            assert_eq!(request.line, "GET /.well-known/mta-sts.txt HTTP/1.1");
            assert_eq!(request.header("host"), Some(host.as_str()));
            let encoding = request.header("accept-encoding");
            assert!(matches!(encoding, None | Some("identity")), "{encoding:?}");
            for conditional in ["if-none-match", "if-modified-since", "cookie", "range"] {
                assert_eq!(request.header(conditional), None);
            }
        }
    });
}

macro_rules! rows {
    ($($id:ident)*) => {
        $(#[test] #[expect(non_snake_case, reason = "named as in the file")] fn $id() { row(stringify!($id)); })*

        /// H045 has a test of its own below.
        #[test]
        fn every_row_of_the_file_has_a_test() {
            let mut tested = vec![$(stringify!($id)),*];
            tested.push("H045");
            tested.sort_unstable();
            let mut rows: Vec<String> = vectors("http.tsv").iter().map(|row| row[0].clone()).collect();
            rows.sort_unstable();
            assert_eq!(tested, rows);
        }
    };
}

rows! {
    H001 H002 H003 H006 H009 H010 H011 H015 H016 H017 H020 H021 H022 H023 H024 H026 H027 H029 H030
    H031 H034 H035 H036 H040 H041 H044 H047 H049 H050 H052 H053 H054 H055 H056 H057
}

/// H045: HTTP caching plays no part (RFC 8461 §3.3): a refresh asks again, unconditionally.
#[test]
fn a_refresh_ignores_http_caching() {
    on_stage(|stage| async move {
        let name = "h045.http.test";
        let mx = stage.world.mx("mx.h045.http.test").await;
        let domain = stage.world.domain(name);
        let cached = Reply::ok(policy_text(Mode::Enforce, &[mx.host()], 86400))
            .header("Cache-Control", "max-age=86400")
            .header("ETag", "\"one\"");
        domain.mx(&[(10, &mx)]).new_id().serve(Serve::Reply(cached));
        let recipient = domain.address("user");
        stage.relay.submit("sender@client.test", &[&recipient], name).await;
        mx.message().await;

        let output = stage.relay.cli(&["policy", "refresh", name]).await;
        assert!(output.status.success(), "{output:?}");
        stage.world.policies.wait_requests(&domain.policy_host(), 2).await;
        let conditions = |all: &[world::HttpRequest]| {
            let to_host = all.iter().filter(|request| request.sni == domain.policy_host());
            to_host.filter(|request| request.header("if-none-match").is_some()).count()
        };
        assert_eq!(stage.world.policies.requests().read(conditions), 0);
    });
}

/// The time limit is one for the whole fetch, not for each byte (RFC 8461 §3.3).
#[test]
fn a_dripping_host_meets_the_overall_limit() {
    on_stage(|stage| async move {
        let mx = stage.world.mx("mx.drip.http.test").await;
        let domain = stage.world.domain("drip.http.test");
        let drip = Serve::Drip(Reply::ok(policy()), Duration::from_millis(50));
        domain.mx(&[(10, &mx)]).new_id().serve(drip);
        let recipient = domain.address("user");
        let message = stage.relay.submit("sender@client.test", &[&recipient], "drip").await;
        let deferred = stage.relay.event("deferred").with("recipient", &recipient).await;
        assert_eq!(deferred.text("reason").as_deref(), Some("policy_fetch_failed"));
        stage.discard(&message).await;
    });
}

/// A body cut short is no body (checklist HTTP-11): the line that is missing may be the one that
/// counts.
#[test]
fn a_truncated_body_is_not_used() {
    on_stage(|stage| async move {
        let mx = stage.world.mx("mx.cut.http.test").await;
        let domain = stage.world.domain("cut.http.test");
        let cut = Reply { declared_length: Some(1000), ..Reply::ok(policy()) };
        domain.mx(&[(10, &mx)]).new_id().serve(Serve::Reply(cut));
        let recipient = domain.address("user");
        let message = stage.relay.submit("sender@client.test", &[&recipient], "cut").await;
        let deferred = stage.relay.event("deferred").with("recipient", &recipient).await;
        assert_eq!(deferred.text("reason").as_deref(), Some("policy_fetch_failed"));
        stage.discard(&message).await;
    });
}

/// 65,536 bytes are allowed (RFC 8461 §3.3); one more is row H040.
#[test]
fn a_body_of_64_kib_is_used() {
    on_stage(|stage| async move {
        let mx = stage.world.mx("mx.full.http.test").await;
        let domain = stage.world.domain("full.http.test");
        domain.mx(&[(10, &mx)]).new_id().policy_body(&oversized(65_536));
        let recipient = domain.address("user");
        let message = stage.relay.submit("sender@client.test", &[&recipient], "full").await;
        let deferred = stage.relay.event("deferred").with("recipient", &recipient).await;
        assert_eq!(deferred.text("reason").as_deref(), Some("mx_not_listed"));
        stage.discard(&message).await;
    });
}
