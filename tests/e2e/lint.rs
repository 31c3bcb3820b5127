//! `staunch policy lint`, `lint-record` and `match` help those who publish a policy: what cannot be
//! seen is named, what is missing is said, and each answer has its exit code.

use serde_json::Value;
use world::{Answer, Mode, Relay, Reply, Serve, World};

use crate::harness::PROGRAM;

async fn at_a_shell() -> (World, Relay) {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    (world, relay)
}

/// Exit code, stdout and stderr.
async fn run(relay: &Relay, arguments: &[&str], input: &[u8]) -> (i32, String, String) {
    let output = relay.cli_with(arguments, input).await;
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

async fn json(relay: &Relay, arguments: &[&str], input: &[u8]) -> (i32, Value) {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let (code, out, _) = run(relay, &arguments, input).await;
    (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}")))
}

fn codes(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|problem| problem["code"].as_str().unwrap()).collect()
}

const GOOD: &str = "version: STSv1\nmode: enforce\nmx: *.mx.good.test\nmax_age: 604800\n";

#[tokio::test]
async fn options_may_follow_the_records() {
    let (_world, relay) = at_a_shell().await;
    let (code, answer) = json(&relay, &["policy", "lint-record", "v=STSv1; id=1; id=2"], b"").await;
    assert_eq!((code, answer["id"].as_str()), (0, Some("1")));
    assert_eq!(codes(&answer["warnings"]), ["duplicate_id"]);
    let hyphen = ["policy", "lint-record", "--", "-all", "v=STSv1; id=1"];
    assert_eq!(run(&relay, &hyphen, b"").await.0, 0);
    let (code, _, error) =
        run(&relay, &["policy", "lint-record", "v=STSv1; id=1", "--jsn"], b"").await;
    assert!(code == 64 && error.contains("--json"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_seen_is_named() {
    let (_world, relay) = at_a_shell().await;
    let lint = ["policy", "lint", "-"];
    let body = GOOD.replace("enforce", "enforce\u{200b}");
    let (code, out, _) = run(&relay, &lint, body.as_bytes()).await;
    assert_eq!(code, 1);
    assert!(out.contains("line 2: ") && out.contains("U+200B, zero width space"), "{out}");
    assert!(
        out.ends_with("it is ignored; senders that hold an older one keep it until it expires\n"),
        "{out}"
    );
    let utf_16: Vec<u8> =
        format!("\u{feff}{GOOD}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (code, out, _) = run(&relay, &lint, &utf_16).await;
    assert!(code == 1 && out.contains("UTF-16"), "{out}");
    let (code, out, _) = run(&relay, &lint, b"{\\rtf1 version: STSv1}").await;
    assert!(code == 1 && out.contains("rich text (RTF)"), "{out}");
    let (code, out, _) = run(&relay, &["policy", "lint-record", "v=STSv1;\u{a0}id=1"], b"").await;
    assert!(code == 1 && out.contains("U+00A0, no-break space"), "{out}");
}

#[tokio::test]
async fn a_policy_beside_its_mx_hosts_says_which_it_leaves_out() {
    let (_world, relay) = at_a_shell().await;
    let lint = ["policy", "lint", "-", "--mx", "a.mx.good.test"];
    let (code, answer) = json(&relay, &lint, GOOD.as_bytes()).await;
    assert_eq!((code, &answer["mx_hosts"][0]["pattern"]), (0, &Value::from("*.mx.good.test")));
    let two = [&lint[..], &["--mx", "x-test.mail.protection.outlook.com"]].concat();
    let (code, answer) = json(&relay, &two, GOOD.as_bytes()).await;
    assert_eq!((code, &answer["valid"]), (1, &Value::from(true)));
    assert_eq!(codes(&answer["errors"]), ["mx_not_covered"]);
    let hint = answer["mx_hosts"][1]["hint"].as_str().unwrap();
    assert!(hint.contains("mx: *.mail.protection.outlook.com"), "{hint}");
    let (code, out, _) = run(&relay, &two, GOOD.as_bytes()).await;
    assert!(
        code == 1 && out.contains("MX x-test.mail.protection.outlook.com is not covered"),
        "{out}"
    );
    let (_, answer) = json(&relay, &lint[..3], GOOD.as_bytes()).await;
    assert_eq!(answer["mx_hosts"], Value::Null, "nobody asked");
    assert_eq!(run(&relay, &["policy", "lint", "-", "--mx", "a b"], GOOD.as_bytes()).await.0, 65);
}

#[tokio::test]
async fn a_policy_beside_its_domain_is_compared_with_dns() {
    let (world, relay) = at_a_shell().await;
    world.domain("a.test").mx_names(&[(10, "b.mx.good.test"), (20, "mx.other.test")]);
    world.dns.txt("_mta-sts.a.test", &[&[b"v=STSv1 id=1"]]);
    let lint = ["policy", "lint", "-", "--domain", "a.test"];
    let (code, answer) = json(&relay, &lint, GOOD.as_bytes()).await;
    assert_eq!((code, codes(&answer["errors"])), (1, vec!["mx_not_covered"]));
    assert_eq!(codes(&answer["warnings"]), ["no_record", "not_a_record"]);
    let covered = |at: usize| answer["mx_hosts"][at]["covered"].as_bool();
    assert_eq!((covered(0), covered(1)), (Some(true), Some(false)));
    let (code, _, error) =
        run(&relay, &["policy", "lint", "-", "--domain", "gone.test"], b"").await;
    assert_eq!(code, 68, "{error}");
    world.domain("a.test").mx_answer(Answer::ServFail);
    let (code, _, error) = run(&relay, &lint, GOOD.as_bytes()).await;
    assert_eq!(code, 75, "{error}");
}

#[tokio::test]
async fn a_record_at_a_wrong_name_is_found() {
    let (world, relay) = at_a_shell().await;
    world.domain("a.test").mx_names(&[(10, "b.mx.good.test")]);
    world.dns.txt("_mta-sts.a.test.a.test", &[&[b"v=STSv1; id=1;"]]);
    let (code, answer) =
        json(&relay, &["policy", "lint", "-", "--domain", "a.test"], GOOD.as_bytes()).await;
    assert_eq!((code, codes(&answer["warnings"])), (0, vec!["no_record", "wrong_name"]));
}

#[tokio::test]
async fn without_a_file_the_published_policy_is_looked_at() {
    let (world, relay) = at_a_shell().await;
    let domain = world.domain("a.test");
    domain.mx_names(&[(10, "mx.good.test")]).mta_sts(Mode::Enforce, &["mx.good.test"], 86400);
    let lint = ["policy", "lint", "--domain", "a.test"];
    let (code, answer) = json(&relay, &lint, b"").await;
    assert_eq!((code, &answer["mode"]), (0, &Value::from("enforce")), "{answer}");
    assert_eq!(codes(&answer["warnings"]), ["max_age_below_week"]);
    world.domain("a.test").serve(Serve::Reply(Reply::status(404, "gone")));
    let (code, answer) = json(&relay, &lint, b"").await;
    assert_eq!((code, codes(&answer["errors"])), (1, vec!["policy_fetch_failed"]));
    assert_eq!(run(&relay, &["policy", "lint"], b"").await.0, 64);
}

#[tokio::test]
async fn match_tells_no_from_what_makes_no_sense() {
    let (_world, relay) = at_a_shell().await;
    for (mx, patterns, want) in [
        ("a.b.test", &["*.b.test"][..], 0),
        ("a.b.test", &["*.c.test"], 1),
        ("a.b.c.test", &["*.c.test"], 1),
        ("a.b.test", &["**.b.test"], 65),
        ("a.b.test", &[".b.test", "x.test"], 65),
        ("a b.test", &["*.b.test"], 65),
        ("", &["*.b.test"], 65),
        ("192.0.2.1", &["*.b.test"], 65),
        ("a.b.test", &["**", "*.b.test"], 0),
    ] {
        let mut arguments = vec!["policy", "match", "--mx", mx];
        patterns.iter().for_each(|pattern| arguments.extend(["--pattern", pattern]));
        let (code, answer) = json(&relay, &arguments, b"").await;
        assert_eq!(code, want, "{mx} {patterns:?}: {answer}");
        assert_eq!(answer["match"], Value::from(want == 0), "{mx} {patterns:?}");
        assert_eq!(
            answer["errors"] != Value::from(Vec::<u8>::new()),
            want == 65 || patterns[0] == "**"
        );
    }
    let arguments = ["policy", "match", "--mx", "a.b.c.test", "--pattern", "*.c.test"];
    let (_, out, _) = run(&relay, &arguments, b"").await;
    assert!(out.contains("stands for exactly one label"), "{out}");
}
