//! Other people's servers as MX hosts: each takes each kind of message over verified TLS, and keeps
//! it unchanged.
//!
//! OpenSMTPD alone is spoken to in clear: the process of Debian 12's version that has the key and
//! OpenSSL 3 do not fit together, so that it answers every ClientHello (of any client, TLS 1.2 or
//! 1.3, RSA or ECDSA) with an internal_error.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;
use tokio::time::Instant;
use world::real::{Postfix, PostfixSetup, process};
use world::{KeyFiles, Mode, World};

use crate::mail::{Kind, Mail};
use crate::{LOOK_AGAIN, PROGRESS, UNPACKED, files_in};

const SENDER: &str = "ann@client.test";
/// What servers put on top of what they keep.
const ON_TOP: [&str; 6] =
    ["Return-Path", "X-Original-To", "Delivered-To", "Envelope-to", "Delivery-date", "Received"];

/// Where a server is and what it may use.
pub(crate) struct Place {
    /// Its name is `mx.NAME.test`, its domain `NAME.test`.
    name: &'static str,
    pub(crate) address: SocketAddr,
    identity: KeyFiles,
    policy: Policy,
    /// Everybody may write here.
    pub(crate) dir: PathBuf,
}

/// What the domain asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Policy {
    /// This very host, verified.
    Enforce,
    Absent,
}

impl Place {
    pub(crate) async fn prepare(world: &World, name: &'static str, policy: Policy) -> Self {
        let (domain, host) = (format!("{name}.test"), format!("mx.{name}.test"));
        let address = world.free_address().await;
        let std::net::IpAddr::V4(ip) = address.ip() else { panic!("{address} is IPv4") };
        world.dns.a(&host, ip);
        let domain = world.domain(&domain);
        domain.mx_names(&[(10, &host)]);
        if policy == Policy::Enforce {
            domain.mta_sts(Mode::Enforce, &[&host], 86400);
        }
        let dir = world.dir().join(name);
        world::real::make_public_dir(&dir);
        set_mode(&dir, 0o1777);
        let identity = world.key_files(&host);
        set_mode(&identity.key, 0o644);
        Self { name, address, identity, policy, dir }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, text).expect("write a configuration");
        path
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).expect("we are root");
}

/// A server in the foreground, ended with its value.
pub(crate) struct Foreground(Child);

impl Foreground {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            process::terminate(pid);
        }
        // It is gone or a zombie.
        let _ = self.0.wait();
    }
}

fn postfix(place: &Place) -> Postfix {
    let users = format!("static:{}/box/", place.name);
    let setup = PostfixSetup::new(&format!("mx.{}.test", place.name), place.address)
        .set("smtpd_tls_security_level", "encrypt")
        .set("smtpd_tls_cert_file", place.identity.certificate.display())
        .set("smtpd_tls_key_file", place.identity.key.display())
        .set("virtual_mailbox_domains", format!("{}.test", place.name))
        .set("virtual_mailbox_maps", users)
        .set("virtual_mailbox_base", place.dir.display())
        .set("virtual_uid_maps", "static:65534")
        .set("virtual_gid_maps", "static:65534");
    let mailboxes = place.dir.join(place.name);
    std::fs::create_dir(&mailboxes).expect("a folder");
    set_mode(&mailboxes, 0o777);
    Postfix::start(&place.dir.join("instance"), &setup)
}

pub(crate) fn exim(place: &Place) -> Foreground {
    let spool = place.dir.join("spool");
    std::fs::create_dir(&spool).expect("a folder");
    set_mode(&spool, 0o777);
    let mailbox = place.dir.join(place.name);
    std::fs::create_dir(&mailbox).expect("a folder");
    set_mode(&mailbox, 0o777);
    let config = place.write(
        "exim.conf",
        &format!(
            "exim_path = {UNPACKED}/exim/usr/sbin/exim4\nprimary_hostname = mx.{name}.test\n\
             spool_directory = {spool}\nlog_file_path = {spool}/%slog\nkeep_environment =\n\
             daemon_smtp_ports = {port}\nlocal_interfaces = {ip}\nhost_lookup =\nnever_users =\n\
             message_size_limit = 64M\ntls_certificate = {certificate}\ntls_privatekey = {key}\n\
             deliver_drop_privilege\nacl_smtp_rcpt = over_tls\nacl_smtp_data = over_tls\n\
             begin acl\nover_tls:\n  deny !encrypted = *\n  accept\n\
             begin routers\nkeep:\n  driver = accept\n  transport = keep\n\
             begin transports\nkeep:\n  driver = appendfile\n  directory = {mailbox}/box\n\
             \x20 create_directory\n  maildir_format\n",
            name = place.name,
            spool = spool.display(),
            port = place.address.port(),
            ip = place.address.ip(),
            certificate = place.identity.certificate.display(),
            key = place.identity.key.display(),
            mailbox = mailbox.display(),
        ),
    );
    Foreground::start(
        Command::new(format!("{UNPACKED}/exim/usr/sbin/exim4")).arg("-C").arg(config).arg("-bdf"),
    )
}

fn opensmtpd(place: &Place) -> Foreground {
    let mailbox = place.dir.join(place.name);
    std::fs::create_dir(&mailbox).expect("a folder");
    set_mode(&mailbox, 0o777);
    let config = place.write(
        "smtpd.conf",
        &format!(
            "smtp max-message-size \"64M\"\ntable users {{ \"@\" = \"nobody\" }}\n\
             listen on {ip} port {port} hostname mx.{name}.test\n\
             action \"keep\" maildir \"{mailbox}/box\" virtual <users>\n\
             match from any for domain \"{name}.test\" action \"keep\"\n",
            ip = place.address.ip(),
            port = place.address.port(),
            name = place.name,
            mailbox = mailbox.display(),
        ),
    );
    let program = format!("{UNPACKED}/opensmtpd/usr/sbin/smtpd");
    Foreground::start(Command::new(program).arg("-d").arg("-f").arg(config))
}

fn aiosmtpd(place: &Place) -> Foreground {
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/clients/receive.py");
    Foreground::start(
        Command::new("/usr/bin/python3")
            .arg(script)
            .args([place.address.ip().to_string(), place.address.port().to_string()])
            .args([&place.identity.certificate, &place.identity.key])
            .arg(place.dir.join(place.name)),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_delivered_is_kept_unchanged_by_every_server() {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    world::real::make_public_dir(world.dir());
    let relay = world.relay("").await;
    let mails = Kind::ALL.map(|kind| Mail::write(kind, world.dir()));
    let places = [
        Place::prepare(&world, "postfix", Policy::Enforce).await,
        Place::prepare(&world, "exim", Policy::Enforce).await,
        Place::prepare(&world, "opensmtpd", Policy::Absent).await,
        Place::prepare(&world, "aiosmtpd", Policy::Enforce).await,
    ];
    let [for_postfix, for_exim, for_opensmtpd, for_aiosmtpd] = &places;
    let _servers =
        (postfix(for_postfix), exim(for_exim), opensmtpd(for_opensmtpd), aiosmtpd(for_aiosmtpd));
    for place in &places {
        wait_for_listener(place).await;
        for mail in &mails {
            let recipient = format!("bob.{:?}@{}.test", mail.kind, place.name);
            let reply = relay.submit_content(SENDER, &[&recipient], &mail.content).await;
            assert_eq!(reply.code, 250, "{reply:?}");
            let event = relay.event("delivered").with("recipient", &recipient).await;
            let policy = if place.policy == Policy::Enforce { "sts" } else { "none" };
            assert_eq!(event.text("policy").as_deref(), Some(policy), "{event:?}");
        }
        for (mail, kept) in mails.iter().zip(kept(place, &mails).await) {
            mail.assert_unchanged(&kept, &ON_TOP, place.name);
        }
    }
}

pub(crate) async fn wait_for_listener(place: &Place) {
    let since = Instant::now();
    while TcpStream::connect(place.address).await.is_err() {
        assert!(since.elapsed() < PROGRESS, "{} does not listen", place.name);
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What the server wrote of each mail, with the line ends that it came with.
async fn kept(place: &Place, mails: &[Mail]) -> Vec<Vec<u8>> {
    let since = Instant::now();
    loop {
        let files = files_in(&place.dir.join(place.name));
        let texts: Vec<Vec<u8>> =
            files.iter().filter_map(|file| std::fs::read(file).ok()).collect();
        let found: Vec<Vec<u8>> = mails
            .iter()
            .filter_map(|mail| texts.iter().find(|text| mail.is_in(text)))
            .map(|text| with_crlf(text))
            .collect();
        if found.len() == mails.len() {
            assert_eq!(files.len(), mails.len(), "{} has copies", place.name);
            return found;
        }
        assert!(since.elapsed() < PROGRESS, "{} has {} messages", place.name, files.len());
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn with_crlf(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 32);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let bare = line.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        out.extend_from_slice(bare.unwrap_or(line));
        if bare.is_some() {
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}
