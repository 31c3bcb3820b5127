//! What clients ask for beside an address, row by row: the parameters of MAIL and RCPT.

use world::{Client, World, message, stuff};

use crate::harness::{PROGRAM, on_stage};
use crate::submission::{BCRYPT, IMPLICIT, Office, RELAY, STARTTLS};

/// MAIL with these parameters, each in a transaction of its own.
async fn mail_codes(client: &mut Client, cases: &[(&str, u16)]) {
    for (parameters, code) in cases {
        client.expect(&format!("MAIL FROM:<anna@client.test> {parameters}"), *code).await;
        client.expect("RSET", 250).await;
    }
}

/// DATA and its content, which must be taken.
async fn send(client: &mut Client, to: &str) -> String {
    client.expect("DATA", 354).await;
    client.send(&stuff(&message("anna@client.test", to, "parameters"))).await.unwrap();
    let reply = client.reply().await.unwrap();
    assert_eq!(reply.code, 250, "{reply:?}");
    reply.text().rsplit(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn ext_11_no_message_has_more_recipients_than_the_announced_limit() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[limits]\nrecipients = 2").await;
    let mut client = relay.client().await;
    assert_eq!(client.keyword("LIMITS"), Some("RCPTMAX=2"));
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    for (recipient, code) in [("a", 250), ("b", 250), ("c", 452)] {
        client.expect(&format!("RCPT TO:<{recipient}@ext11.test>"), code).await;
    }
}

#[tokio::test]
async fn ext_12_users_may_have_mail_sent_later() {
    let office = Office::open(&[("anna", BCRYPT)], "").await;
    let mx = office.world.mx("mx.ext12.test").await;
    office.world.domain("ext12.test").mx(&[(10, &mx)]);
    let mut client = office.user(IMPLICIT, "anna", "secret").await;
    client.ehlo().await.unwrap();
    let reach = client.keyword("FUTURERELEASE").unwrap().to_owned();
    assert!(reach.starts_with("2592000 2") && reach.ends_with('Z'), "{reach}");
    mail_codes(
        &mut client,
        &[
            ("HOLDFOR=2592000", 250),
            ("HOLDFOR=2592001", 501),
            ("HOLDFOR=0", 501),
            ("HOLDFOR=-1", 501),
            ("HOLDUNTIL=2999-01-01T00:00:00Z", 501),
            ("HOLDUNTIL=2999-13-01T00:00:00Z", 501),
            ("HOLDUNTIL=tomorrow", 501),
            ("HOLDFOR=5 HOLDUNTIL=2026-01-01T00:00:00Z", 501),
        ],
    )
    .await;
    client.expect("MAIL FROM:<anna@client.test> HOLDFOR=86400", 250).await;
    client.expect("RCPT TO:<later@ext12.test>", 250).await;
    send(&mut client, "later@ext12.test").await;
    // A time that is over is no reason to wait.
    client.expect("MAIL FROM:<anna@client.test> HOLDUNTIL=2020-01-01T00:00:00+01:00", 250).await;
    client.expect("RCPT TO:<now@ext12.test>", 250).await;
    send(&mut client, "now@ext12.test").await;
    assert_eq!(mx.message().await.to, ["now@ext12.test"]);
    let row = office.relay.queued("later@ext12.test").await.expect("it waits");
    assert_eq!(row["attempts"], 0);
    let waits = |from: &str, to: &str| {
        let at = |field: &str| row[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        (at(to).duration_since(at(from)).as_secs() + 1800) / 3600
    };
    assert_eq!(waits("arrived_at", "next_attempt_at"), 24);
    assert_eq!(waits("next_attempt_at", "expires_at"), 5 * 24, "its life begins then");

    let mut relayed = Client::hello(office.relay.listener_at(RELAY)).await.unwrap();
    assert_eq!(relayed.keyword("FUTURERELEASE"), None);
    mail_codes(&mut relayed, &[("HOLDFOR=60", 555)]).await;
}

#[test]
fn ext_13_a_deadline_is_far_enough_or_refused() {
    on_stage(|stage| async move {
        let mut client = stage.relay.client().await;
        assert_eq!(client.keyword("DELIVERBY"), Some("60"));
        mail_codes(
            &mut client,
            &[
                ("BY=60;R", 250),
                ("BY=3600;rt", 250),
                ("BY=-5;N", 250),
                ("BY=59;R", 501),
                ("BY=0;R", 501),
                ("BY=100", 501),
                ("BY=1234567890;N", 501),
                ("BY=60;R BY=60;R", 501),
            ],
        )
        .await;
    });
}

#[tokio::test]
async fn ext_14_only_clients_that_the_operator_trusts_say_what_goes_first() {
    let office = Office::open(&[("anna", BCRYPT)], "networks = [\"127.0.0.1/32\"]").await;
    let relay = office.relay.listener_at(RELAY);
    let mut trusted = Client::hello(relay).await.unwrap();
    assert_eq!(trusted.keyword("MT-PRIORITY"), Some(""));
    let cases = [("MT-PRIORITY=9", 250), ("MT-PRIORITY=-9", 250), ("mt-priority=0", 250)];
    mail_codes(&mut trusted, &cases).await;
    let cases = [("MT-PRIORITY=10", 501), ("MT-PRIORITY=+1", 501), ("MT-PRIORITY=", 501)];
    mail_codes(&mut trusted, &cases).await;
    let mut user = office.user(IMPLICIT, "anna", "secret").await;
    assert_eq!(user.keyword("MT-PRIORITY"), None);
    mail_codes(&mut user, &[("MT-PRIORITY=9", 555)]).await;
}

#[test]
fn dsn_01_parameters_are_understood_in_any_case_and_bad_ones_refused() {
    on_stage(|stage| async move {
        let mut client = stage.relay.client().await;
        assert_eq!(client.keyword("DSN"), Some(""));
        let long = format!("ENVID={}", "x".repeat(101));
        mail_codes(
            &mut client,
            &[
                ("RET=FULL ENVID=QQ314159", 250),
                ("ret=hdrs", 250),
                ("RET=SOME", 501),
                ("RET", 501),
                ("RET=FULL RET=HDRS", 501),
                ("ENVID=a=b", 501),
                (&long, 501),
                ("NOTIFY=NEVER", 555),
            ],
        )
        .await;
        client.expect("MAIL FROM:<a@client.test>", 250).await;
        for (parameters, code) in [
            ("NOTIFY=NEVER", 250),
            ("notify=success,Failure,DELAY", 250),
            ("NOTIFY=NEVER,FAILURE", 501),
            ("NOTIFY=SOMETIMES", 501),
            ("NOTIFY=", 501),
            ("ORCPT=rfc822;a+2Bb@x.test NOTIFY=FAILURE", 250),
            ("ORCPT=rfc822", 501),
            ("ORCPT=rfc822;a+2bb@x.test", 501),
            ("ORCPT=rfc822;a ORCPT=rfc822;b", 501),
            ("RET=FULL", 555),
        ] {
            client.expect(&format!("RCPT TO:<b@dsn01.test> {parameters}"), code).await;
        }
    });
}

#[test]
fn dsn_02_xtext_comes_back_as_it_came() {
    on_stage(|stage| async move {
        let mx = stage.world.mx("mx.dsn02.test").await;
        stage.world.domain("dsn02.test").mx(&[(10, &mx)]);
        mx.script(|script| script.offer(&["DSN"]));
        let mut client = stage.relay.client().await;
        client.expect("MAIL FROM:<a@client.test> ENVID=QQ+2B31+3D4+20x", 250).await;
        client.expect("RCPT TO:<b@dsn02.test> ORCPT=rfc822;a+2Bb+3D@x.test", 250).await;
        send(&mut client, "b@dsn02.test").await;
        let received = mx.message().await;
        assert!(received.parameters.contains("ENVID=QQ+2B31+3D4+20x"), "{received:?}");
        assert!(
            received.rcpt_parameters[0].contains("ORCPT=rfc822;a+2Bb+3D@x.test"),
            "{received:?}"
        );
    });
}

#[tokio::test]
async fn rtls_14_users_may_ask_for_tls_all_the_way_where_it_is_offered() {
    let office = Office::open(&[("anna", BCRYPT)], "").await;
    let cases = [("REQUIRETLS", 250), ("REQUIRETLS=1", 501)];
    let mut user = office.user(STARTTLS, "anna", "secret").await;
    user.ehlo().await.unwrap();
    assert_eq!(user.keyword("REQUIRETLS"), Some(""));
    mail_codes(&mut user, &cases).await;
    // Of the two listeners for submission this one does not offer it.
    let mut user = office.user(IMPLICIT, "anna", "secret").await;
    mail_codes(&mut user, &[("REQUIRETLS", 555)]).await;
}
