//! What a reload has done is said in words: a line for each listener, table and file.

use world::{Leaf, World};

use crate::harness::PROGRAM;

#[tokio::test]
async fn each_listener_and_each_file_that_is_another_now_is_named_once() {
    let world = World::start(PROGRAM).await;
    let (files, password) = (world.key_files("relay.test"), world.dir().join("password"));
    std::fs::write(&password, "one\n").unwrap();
    let route = format!(
        "[[route]]\ndomains = [\"far.test\"]\nvia = [\"smtp://[smart.test]:25\"]\nusername = \"u\"\n\
         password_file = \"{}\"\n",
        password.display()
    );
    let first = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{}", files.toml());
    let relay = world.relay(&format!("{first}{route}")).await;
    let reload = async || {
        let output = relay.cli(&["reload"]).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(reload().await, "nothing has changed\n");

    let unix = world.dir().join("smtp.sock");
    let second = format!("[[listener]]\naddress = \"unix:{}\"\n", unix.display());
    relay.configure(&format!(
        "{second}{first}bare_newline = \"normalize\"\n{route}tls = \"verify\"\n"
    ));
    let said = reload().await;
    let opened = format!("opened: listener unix:{}\n", unix.display());
    assert_eq!(said, format!("{opened}changed: listener 127.0.0.1:0: bare_newline\n"));

    // Only what stands in them is another: no key is.
    std::fs::write(&password, "two\n").unwrap();
    files.replace(&world.pki.issue(&Leaf::named("relay.test")));
    relay.configure(&format!("{first}bare_newline = \"normalize\"\n{route}"));
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let want = format!(
        "closed: listener unix:{}\n\
         read again: {certificate} (listener[0].tls_certificate)\n\
         read again: {key} (listener[0].tls_key)\n\
         read again: {} (route[0].password_file)\n",
        unix.display(),
        password.display()
    );
    assert_eq!(reload().await, want);
    let logged = relay.event("config_reloaded").times(3).await.pop().unwrap();
    assert!(logged.text("read_again").unwrap().ends_with("password"), "{logged:?}");
    assert_eq!(reload().await, "nothing has changed\n");
}
