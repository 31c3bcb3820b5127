use std::os::unix::fs::PermissionsExt;
use std::pin::pin;

use futures_util::poll;

use super::*;

const CLIENT: ClientPlace = ClientPlace::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
/// Of "abc", the cheapest that there is.
const BCRYPT: &str = "$2b$04$";

const SECRET: SaltSecret = [7; SEED_OCTETS];

fn cheap(password: &str) -> String {
    let hash = bcrypt::hash(password, 4).unwrap();
    assert!(hash.starts_with(BCRYPT));
    hash
}

fn auth(lines: &str) -> (Arc<Auth>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    write(&path, lines);
    (Auth::new(Auth::prepare(Some(&path)).unwrap(), &SECRET), dir)
}

fn write(path: &Path, lines: &str) {
    std::fs::write(path, lines).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

async fn is_welcome(auth: &Auth, name: &str, password: &str) -> bool {
    matches!(auth.check(CLIENT, name, password).await, LoginVerdict::Welcome(_))
}

#[tokio::test]
async fn only_the_right_password_of_a_user_is_welcome_also_a_second_time() {
    let (auth, _dir) = auth(&format!("anna:{}\nbert:{}\n", cheap("a"), cheap("b")));
    for _ in 0..2 {
        for (name, password, want) in
            [("anna", "a", true), ("anna", "b", false), ("bert", "a", false), ("bert", "b", true)]
        {
            assert_eq!(is_welcome(&auth, name, password).await, want, "{name} {password}");
        }
    }
    // A stranger's name is checked against the verifier of anna or bert, and is none of them.
    for password in ["a", "b"] {
        for name in ["carl", "Anna", "", "anna:", "a b"] {
            assert!(!is_welcome(&auth, name, password).await, "{name}");
        }
    }
}

#[tokio::test]
async fn without_users_nobody_is_welcome() {
    let auth = Auth::new(Auth::prepare(None).unwrap(), &SECRET);
    assert_eq!(auth.offered(), Offered::Nothing);
    assert!(!is_welcome(&auth, "anna", "a").await);
    assert!(auth.challenge("anna").is_none());
}

#[tokio::test]
async fn a_changed_file_counts_and_a_broken_one_does_not() {
    let (auth, dir) = auth(&format!("anna:{}\n", cheap("a")));
    let path = dir.path().join("users");
    let LoginVerdict::Welcome(login) = auth.check(CLIENT, "anna", "a").await else { panic!() };
    assert!(auth.is_current(&login));

    write(&path, "anna:broken\n");
    auth.look();
    assert!(is_welcome(&auth, "anna", "a").await);
    std::fs::remove_file(&path).unwrap();
    auth.look();
    assert!(auth.is_current(&login));

    write(&path, &format!("anna:{}\nbert:{}\n", cheap("new"), cheap("b")));
    auth.look();
    assert!(!is_welcome(&auth, "anna", "a").await, "not even remembered");
    assert!(!auth.is_current(&login));
    assert!(is_welcome(&auth, "anna", "new").await);
    assert!(is_welcome(&auth, "bert", "b").await);
}

/// Whether it was the file before or a broken one that was read.
#[tokio::test]
async fn a_look_that_a_reload_overtakes_changes_nothing() {
    let (auth, dir) = auth(&format!("anna:{}\n", cheap("a")));
    let (before, after) = (dir.path().join("users"), dir.path().join("users2"));
    write(&after, &format!("bert:{}\n", cheap("b")));
    for lines in [format!("anna:{}\nx:{}\n", cheap("a"), cheap("x")), "broken".to_owned()] {
        auth.apply(Auth::prepare(Some(&before)).unwrap());
        write(&before, &lines);
        let noticed = auth.notice().expect("it has changed");
        let read = Auth::prepare(Some(&before));
        auth.apply(Auth::prepare(Some(&after)).unwrap());
        auth.follow(&noticed, read);
        assert!(is_welcome(&auth, "bert", "b").await);
        assert!(!is_welcome(&auth, "anna", "a").await);
        assert!(auth.notice().is_none(), "it is looked at what counts");
        write(&before, &format!("anna:{}\n", cheap("a")));
    }
}

#[tokio::test]
async fn whoever_guesses_is_shut_out_even_with_the_right_password() {
    let (auth, _dir) = auth(&format!("anna:{}\n", cheap("a")));
    let mut last = None;
    for n in 0..20 {
        match auth.check(CLIENT, "anna", &format!("guess {n}")).await {
            LoginVerdict::Wrong(penalty) => last = Some(penalty),
            LoginVerdict::ShutOut => break,
            other @ (LoginVerdict::Welcome(_) | LoginVerdict::Busy) => panic!("{other:?}"),
        }
    }
    assert_eq!(last, Some(Penalty::ShutOut));
    assert!(matches!(auth.check(CLIENT, "anna", "a").await, LoginVerdict::ShutOut));
    let elsewhere = ClientPlace::of([192, 0, 2, 2].into());
    assert!(matches!(auth.check(elsewhere, "anna", "a").await, LoginVerdict::Welcome(_)));
}

#[tokio::test]
async fn a_check_that_gets_no_turn_counts_for_an_address_that_was_wrong_before() {
    let (auth, _dir) = auth(&format!("anna:{}\n", cheap("a")));
    let mut permits = Vec::new();
    for _ in 0..4 {
        permits.push(auth.checks.acquire(CheckClaim::Nothing, CLIENT).await);
    }
    let wrong = auth.refuse(CLIENT);
    assert!(matches!(wrong, LoginVerdict::Wrong(_)), "{wrong:?}");
    for _ in 0..8 {
        let busy =
            auth.check_now(CLIENT, Claimed::new("anna"), "a", (Instant::now(), &mut None)).await;
        assert!(matches!(busy, LoginVerdict::Busy), "{busy:?}");
    }
    drop(permits);
    let last = auth.check(CLIENT, "anna", "b").await;
    assert!(matches!(last, LoginVerdict::Wrong(Penalty::ShutOut)), "{last:?}");
}

#[tokio::test]
async fn many_addresses_guess_one_after_the_other_and_the_owner_comes_in_between() {
    let (auth, _dir) = auth(&format!("anna:{}\n", cheap("a")));
    assert!(is_welcome(&auth, "anna", "a").await);
    let mut guesses = tokio::task::JoinSet::new();
    for n in 0..50_u8 {
        let auth = Arc::clone(&auth);
        let from = ClientPlace::of([198, 51, 100, n].into());
        guesses.spawn(async move { auth.check(from, "anna", &format!("guess {n}")).await });
    }
    let first = guesses.join_next().await.unwrap().unwrap();
    assert!(matches!(first, LoginVerdict::Wrong(_)), "{first:?}");
    assert!(is_welcome(&auth, "anna", "a").await);
    assert!(!is_welcome(&auth, "anna", "mistyped").await);
    // However slow this machine is: a few may have had their turns meanwhile, but not all that came
    // first.
    while guesses.try_join_next().is_some() {}
    assert!(guesses.len() > 45, "at a known place the owner does not wait for others' rests");
    // The right password in a guesser's hands waits like any other, although it was right a moment
    // ago.
    let guesser = ClientPlace::of([198, 51, 100, 200].into());
    let mut guessed = pin!(auth.check(guesser, "anna", "a"));
    assert!(poll!(&mut guessed).is_pending());
    let elsewhere = ClientPlace::of([203, 0, 113, 1].into());
    let verdict = auth.check(elsewhere, "anna", "a").await;
    assert!(matches!(verdict, LoginVerdict::Welcome(_)), "{verdict:?}");
    while guesses.try_join_next().is_some() {}
    assert!(guesses.len() > 40, "and elsewhere for two turns");
}

#[tokio::test]
async fn names_and_passwords_are_the_same_however_they_were_typed() {
    let (auth, _dir) = auth(&format!("j\u{fc}rgen:{}\n", cheap("p\u{e4}ss")));
    for (name, password) in [
        ("j\u{fc}rgen", "p\u{e4}ss"),
        ("ju\u{308}rgen", "pa\u{308}ss"),
        ("ju\u{308}rgen", "p\u{e4}ss"),
    ] {
        assert!(is_welcome(&auth, name, password).await, "{name} {password}");
    }
    assert!(!is_welcome(&auth, "j\u{fc}rgen", "pass").await);
}

#[tokio::test]
async fn scram_treats_a_strangers_name_like_a_users() {
    let keys = ScramKeys::new(b"secret", b"0123456789abcdef").to_string();
    let (auth, _dir) = auth(&format!("anna:{keys}\n"));
    assert_eq!(auth.offered(), Offered::Scram);
    let (anna, carl) = (auth.challenge("anna").unwrap(), auth.challenge("carl").unwrap());
    assert_eq!(carl.iterations(), anna.iterations());
    assert_eq!(carl.salt().len(), anna.salt().len());
    assert_eq!(auth.challenge("carl").unwrap().salt(), carl.salt(), "the same each time");
    let (again, _dir) = self::auth(&format!("anna:{keys}\n"));
    assert_eq!(again.challenge("carl").unwrap().salt(), carl.salt(), "also after a restart");
    for challenged in [anna, carl] {
        let (verdict, signature) = auth.prove(CLIENT, challenged, b"message", &[0; 32]).await;
        assert!(matches!(verdict, LoginVerdict::Wrong(_)) && signature.is_empty(), "{verdict:?}");
    }
    assert!(is_welcome(&auth, "anna", "secret").await, "PLAIN works with the same line");
}
