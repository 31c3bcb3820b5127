//! Submission: people and programs log in, in every way that is offered, and nobody else gets
//! through.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use world::{Binding, Client, Relay, Trust, World};

use crate::harness::PROGRAM;

/// A world with a daemon that has two listeners for submission, and users.
pub(crate) struct Office {
    pub(crate) world: World,
    pub(crate) relay: Relay,
    pub(crate) users: PathBuf,
}

/// The name in the listeners' certificate.
pub(crate) const NAME: &str = "relay.test";
pub(crate) const STARTTLS: usize = 0;
pub(crate) const IMPLICIT: usize = 1;
pub(crate) const RELAY: usize = 2;

impl Office {
    /// With users by name and verifier, and more keys of `[access]`.
    pub(crate) async fn open(users: &[(&str, &str)], access: &str) -> Self {
        let world = World::start(PROGRAM).await;
        let keys = world.key_files(NAME).toml();
        let file = world.dir().join("users");
        write_users(&file, users);
        let overlay = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"submission\"\nrequire_tls = true\n{keys}\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"submissions\"\nhide_client = true\n{keys}\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\nrequire_tls = true\n{keys}\n\
             [access]\nusers_file = \"{}\"\n{access}\n",
            file.display()
        );
        let relay = world.relay(&overlay).await;
        Self { world, relay, users: file }
    }

    /// A session of one kind of TLS, after EHLO.
    pub(crate) async fn client(&self, listener: usize) -> Client {
        self.client_with(listener, &Trust::in_ca(&self.world.pki)).await
    }

    pub(crate) async fn client_with(&self, listener: usize, trust: &Trust) -> Client {
        let address = self.relay.listener_at(listener);
        if listener == IMPLICIT {
            let client = Client::dial(address).await.unwrap();
            client.secure(trust, NAME).await.unwrap().greeted().await.unwrap()
        } else {
            let client = Client::hello(address).await.unwrap();
            client.starttls(trust, NAME).await.unwrap()
        }
    }

    /// The same, logged in.
    pub(crate) async fn user(&self, listener: usize, user: &str, password: &str) -> Client {
        let mut client = self.client(listener).await;
        let reply = client.auth_plain(user, password).await.unwrap();
        assert_eq!(reply.code, 235, "{reply:?}");
        client
    }
}

pub(crate) fn write_users(file: &std::path::Path, users: &[(&str, &str)]) {
    use std::os::unix::fs::PermissionsExt as _;
    let lines: String =
        users.iter().map(|(name, verifier)| format!("{name}:{verifier}\n")).collect();
    let new = file.with_extension("new");
    std::fs::write(&new, lines).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// Of "secret", cheap to check.
pub(crate) const BCRYPT: &str = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";
pub(crate) const ARGON2: &str = "$argon2id$v=19$m=19456,t=2,p=1$H3b1ZaJ5R3xGhbPc5og3rA$sNkaQXtGiLynPj9wZUxLzyUstOyL6q099oNrwPyltH8";
pub(crate) const SCRAM: &str = "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$bpSY5Ze9NUH+I35LC3gVq+DpBfK46iXBxvhAKqVu9pE=:VpYlBuxyzeCI1KnctrefdljpB1mk3Gp7sBI/t11+NkQ=";

/// Runs `staunch user …` with this on stdin.
async fn user_command(relay: &Relay, arguments: &[&str], input: &str) -> (i32, String, String) {
    let arguments: Vec<&str> = ["user"].into_iter().chain(arguments.iter().copied()).collect();
    let output = relay.cli_with(&arguments, input.as_bytes()).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn every_mechanism_works_over_both_kinds_of_tls() {
    let users = [("anna@client.test", SCRAM), ("printer", SCRAM)];
    let office = Office::open(&users, "").await;
    for listener in [STARTTLS, IMPLICIT] {
        let mut client = office.client(listener).await;
        assert_eq!(client.keyword("AUTH"), Some("SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"));
        assert_eq!(client.auth_plain("anna@client.test", "secret").await.unwrap().code, 235);
        client.expect("MAIL FROM:<anna@client.test>", 250).await;

        let mut client = office.client(listener).await;
        assert_eq!(client.auth_login("printer", "secret").await.unwrap().code, 235);
        client.expect("MAIL FROM:<anna@client.test>", 250).await;

        let mut client = office.client(listener).await;
        assert_eq!(client.auth_scram("anna@client.test", "secret").await.unwrap().code, 235);
        client.expect("MAIL FROM:<anna@client.test>", 250).await;

        let mut client = office.client(listener).await;
        let reply = client.auth_scram_plus(Binding::Exporter, "printer", "secret").await.unwrap();
        assert_eq!(reply.code, 235, "{reply:?}");
        client.expect("MAIL FROM:<anna@client.test>", 250).await;
    }
    // TLS 1.2 has no exporter that could be bound to.
    let tls12 = Trust::in_ca_tls12(&office.world.pki);
    let mut client = office.client_with(IMPLICIT, &tls12).await;
    assert_eq!(client.keyword("AUTH"), Some("SCRAM-SHA-256 PLAIN LOGIN"));
    assert_eq!(client.auth_scram("printer", "secret").await.unwrap().code, 235);
}

#[tokio::test]
async fn scram_is_not_offered_while_a_user_could_not_use_it() {
    let office = Office::open(&[("anna", SCRAM), ("bert", ARGON2), ("carl", BCRYPT)], "").await;
    for (user, mechanism) in [("anna", "PLAIN"), ("bert", "PLAIN"), ("carl", "PLAIN LOGIN")] {
        let mut client = office.client(IMPLICIT).await;
        let offered = client.keyword("AUTH").unwrap();
        assert_eq!(offered, "PLAIN LOGIN");
        assert!(offered.starts_with(mechanism));
        assert_eq!(client.auth_plain(user, "secret").await.unwrap().code, 235, "{user}");
    }
    let mut client = office.client(IMPLICIT).await;
    assert_eq!(client.auth_scram("anna", "secret").await.unwrap().code, 504);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_get_the_same_answer_and_send_nothing() {
    let office = Office::open(&[("anna", SCRAM)], "").await;
    let mut answers = Vec::new();
    for (user, password) in [("anna", "wrong"), ("nobody\u{1b}[2J", "secret")] {
        let mut client = office.client(STARTTLS).await;
        answers.push(client.auth_plain(user, password).await.unwrap());
        client.expect("MAIL FROM:<anna@client.test>", 530).await;
        let mut client = office.client(STARTTLS).await;
        answers.push(client.auth_scram(user, password).await.unwrap());
        client.expect("MAIL FROM:<anna@client.test>", 530).await;
    }
    assert_eq!(answers[0].code, 535);
    assert!(answers[0].text().starts_with("5.7.8 "), "{answers:?}");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let failures = office.relay.event("login_failed").times(4).await;
    let users: Vec<_> = failures.iter().filter_map(|event| event.text("user")).collect();
    assert_eq!(users, ["anna", "anna", "nobody\\u{1b}[2J", "nobody\\u{1b}[2J"], "inert");
}

/// What a stranger is told to salt the password of `user` with.
async fn salt(office: &Office, user: &str) -> String {
    let mut client = office.client(STARTTLS).await;
    let first = STANDARD.encode(format!("n,,n={user},r=abcdef"));
    let reply = client.expect(&format!("AUTH SCRAM-SHA-256 {first}"), 334).await;
    let challenge = String::from_utf8(STANDARD.decode(reply.text()).unwrap()).unwrap();
    challenge.split(',').find_map(|part| part.strip_prefix("s=")).unwrap().to_owned()
}

#[tokio::test]
async fn salts_do_not_change_with_a_restart_whether_anybody_has_the_name_or_not() {
    let mut office = Office::open(&[("anna", SCRAM)], "").await;
    let salts = async |office: &Office| [salt(office, "anna").await, salt(office, "carl").await];
    let before = salts(&office).await;
    office.relay.stop().await;
    office.relay.start_again().await;
    assert_eq!(salts(&office).await, before);
}

#[tokio::test]
async fn nobody_logs_in_without_tls() {
    let office = Office::open(&[("anna", BCRYPT)], "").await;
    let mut client = Client::hello(office.relay.listener_at(STARTTLS)).await.unwrap();
    assert_eq!((client.keyword("AUTH"), client.keyword("STARTTLS")), (None, Some("")));
    assert_eq!(client.auth_plain("anna", "secret").await.unwrap().code, 538);
    let reply = client.expect("MAIL FROM:<anna@client.test>", 530).await;
    assert!(reply.text().starts_with("5.7.0 "), "{reply:?}");
    office.relay.event("rejected").with("reason", "auth_required").times(2).await;
    assert_eq!(
        office.relay.event("login_failed").count(),
        0,
        "the password was not even looked at"
    );
}

#[tokio::test]
async fn users_send_from_their_own_address_only_where_that_is_asked() {
    let more = "[access]\nsender_must_match_user = true";
    let users = [("anna@client.test", BCRYPT), ("printer", BCRYPT)];
    let office = Office::open(&users, "").await;
    let mut client = office.user(STARTTLS, "anna@client.test", "secret").await;
    client.expect("MAIL FROM:<bert@client.test>", 250).await;
    client.expect("RSET", 250).await;
    office.relay.configure(more);
    office.relay.signal(rustix::process::Signal::HUP);
    office.relay.event("config_reloaded").await;
    // The open session is bound, too.
    let reply = client.expect("MAIL FROM:<bert@client.test>", 553).await;
    assert!(reply.text().starts_with("5.7.1 "), "{reply:?}");
    client.expect("MAIL FROM:<anna@CLIENT.test>", 250).await;
    client.expect("RSET", 250).await;
    client.expect("MAIL FROM:<>", 250).await;
    let mut client = office.user(IMPLICIT, "printer", "secret").await;
    client.expect("MAIL FROM:<printer@client.test>", 553).await;
    client.expect("MAIL FROM:<printer@relay.test>", 250).await;
}

#[tokio::test]
async fn a_changed_users_file_counts_at_once_and_a_broken_one_does_not() {
    let office = Office::open(&[("anna", BCRYPT), ("bert", BCRYPT)], "").await;
    let mut anna = office.user(STARTTLS, "anna", "secret").await;
    let mut bert = office.user(IMPLICIT, "bert", "secret").await;
    std::fs::write(&office.users, "anna:damaged\n").unwrap();
    let refused = office.relay.event("users_refused").await;
    assert!(refused.text("error").unwrap().contains("users:1: "), "{refused:?}");
    anna.expect("MAIL FROM:<anna@client.test>", 250).await;
    anna.expect("RSET", 250).await;

    let mark = office.relay.mark();
    write_users(&office.users, &[("bert", BCRYPT), ("carl", BCRYPT)]);
    office.relay.event("users_loaded").after(mark).with("users", 2).await;
    let reply = anna.expect("MAIL FROM:<anna@client.test>", 530).await;
    assert!(reply.text().starts_with("5.7.0 "), "{reply:?}");
    bert.expect("MAIL FROM:<bert@client.test>", 250).await;
    office.user(STARTTLS, "carl", "secret").await;
    let mut client = office.client(STARTTLS).await;
    assert_eq!(client.auth_plain("anna", "secret").await.unwrap().code, 535);
}

/// A user that was removed sends nothing more, also not by a transaction that has begun.
#[tokio::test]
async fn what_a_removed_user_has_begun_is_not_taken() {
    let office = Office::open(&[("anna", BCRYPT), ("bert", BCRYPT)], "").await;
    let mut begun = Vec::new();
    for _ in 0..3 {
        let mut client = office.user(STARTTLS, "anna", "secret").await;
        client.expect("MAIL FROM:<anna@client.test>", 250).await;
        client.expect("RCPT TO:<b@far.test>", 250).await;
        begun.push(client);
    }
    let [before_data, in_data, in_chunks] = begun.as_mut_slice() else { panic!("three") };
    in_data.expect("DATA", 354).await;
    in_data.send(b"Subject: half\r\n\r\n").await.unwrap();
    assert_eq!(in_chunks.bdat(b"Subject: half\r\n", false).await.unwrap().code, 250);

    let mark = office.relay.mark();
    write_users(&office.users, &[("bert", BCRYPT)]);
    office.relay.event("users_loaded").after(mark).with("users", 1).await;
    before_data.expect("DATA", 530).await;
    in_data.expect("whole\r\n.", 530).await;
    assert_eq!(in_chunks.bdat(b"\r\nwhole\r\n", true).await.unwrap().code, 530);
    assert_eq!(office.relay.event("accepted").count(), 0);
}

#[tokio::test]
async fn a_users_file_that_everybody_reads_is_complained_about() {
    use std::os::unix::fs::PermissionsExt as _;
    let office = Office::open(&[("anna", BCRYPT)], "").await;
    let complaint = office.relay.event("config_complaint").with("key", "access.users_file");
    assert_eq!(complaint.count(), 0);
    std::fs::set_permissions(&office.users, std::fs::Permissions::from_mode(0o644)).unwrap();
    complaint.await;
    office.user(STARTTLS, "anna", "secret").await;
}

#[tokio::test]
async fn users_are_added_changed_and_removed_by_command() {
    let office = Office::open(&[], "").await;
    let relay = &office.relay;
    let (code, out, err) = user_command(relay, &["add", "anna@client.test"], "first\n").await;
    assert_eq!((code, out.as_str()), (0, "added: anna@client.test\n"), "{err}");
    relay.event("users_loaded").with("users", 1).await;
    office.user(IMPLICIT, "anna@client.test", "first").await;

    let (code, ..) = user_command(relay, &["add", "anna@client.test"], "other\n").await;
    assert_eq!(code, 65, "it is there already");
    let mark = relay.mark();
    let (code, out, _) =
        user_command(relay, &["passwd", "anna@client.test", "--scram", "--json"], "second").await;
    assert_eq!((code, out.trim()), (0, r#"{"change":"changed","name":"anna@client.test"}"#));
    relay.event("users_loaded").after(mark).with("scram", true).await;
    let mut client = office.client(IMPLICIT).await;
    assert_eq!(client.auth_scram("anna@client.test", "second").await.unwrap().code, 235);

    // Else SCRAM would not be offered to anybody any more.
    let (code, ..) = user_command(relay, &["passwd", "anna@client.test"], "third").await;
    assert_eq!(code, 0);
    let (code, out, _) = user_command(relay, &["list", "--json"], "").await;
    assert_eq!(
        (code, out.trim()),
        (0, r#"{"name":"anna@client.test","verifier":"scram-sha-256"}"#)
    );
    let mark = relay.mark();
    let (code, ..) = user_command(relay, &["remove", "anna@client.test"], "").await;
    assert_eq!(code, 0);
    relay.event("users_loaded").after(mark).with("users", 0).await;
    let (code, ..) = user_command(relay, &["passwd", "anna@client.test"], "x\n").await;
    assert_eq!(code, 65, "there is none");
    for (input, name) in [("\n", "bert"), ("x\u{7}y\n", "bert"), ("good\n", "a:b")] {
        assert_eq!(user_command(relay, &["add", name], input).await.0, 65, "{input:?} {name}");
    }
}

#[tokio::test]
async fn whoever_goes_on_guessing_is_sent_away() {
    let office = Office::open(&[("anna", BCRYPT)], "networks = []").await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(office.client(IMPLICIT).await);
    }
    // All at once, since each wrong answer waits longer than the one before.
    let guess = |(number, mut client): (usize, Client)| async move {
        client.auth_plain("anna", &format!("guess{number}")).await.map(|reply| reply.code)
    };
    let mut guesses: FuturesUnordered<_> = clients.into_iter().enumerate().map(guess).collect();
    loop {
        match guesses.next().await.expect("one is sent away") {
            Ok(421) => break,
            other => assert_eq!(other, Ok(535)),
        }
    }
    let mut late = Client::dial(office.relay.listener_at(STARTTLS)).await.unwrap();
    let reply = late.reply().await.unwrap();
    assert_eq!(reply.code, 421, "{reply:?}");
    assert!(late.is_closed().await);
}

/// A challenge says something about a name, so that looking at many is guessing, too.
#[tokio::test]
async fn a_challenge_that_nobody_answers_is_a_wrong_login() {
    let office = Office::open(&[("anna", SCRAM)], "networks = []").await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        let mut client = office.client(IMPLICIT).await;
        client.expect("AUTH SCRAM-SHA-256 biwsbj1hbm5hLHI9YWJjZGVm", 334).await;
        clients.push(client);
    }
    // Neither half is enough to be shut out.
    for client in clients.iter_mut().step_by(2) {
        client.expect("*", 501).await;
    }
    drop(clients);
    let shut_out = async {
        loop {
            let mut late = Client::dial(office.relay.listener_at(STARTTLS)).await.unwrap();
            if late.reply().await.unwrap().code == 421 {
                return;
            }
        }
    };
    tokio::time::timeout(world::log::LIMIT, shut_out).await.expect("it is shut out");
}
