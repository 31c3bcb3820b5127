//! The servers around staunch: where they are and what they are told.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::process::Command;

use world::real::{Knot, Nginx, NginxSite, Postfix, PostfixSetup};
use world::{Identity, Leaf, World};

/// Addresses of this test alone, in a block that hermetic tests do not use.
const fn host(last: u8, port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 25, 0, last), port))
}

/// Takes mail from clients, and is the MX of home.test.
pub(crate) const FRONT: SocketAddr = host(1, 25);
const BACK: SocketAddr = host(3, 25);
const POLICIES: SocketAddr = host(4, 443);
/// The host that unlisted.test's MX record names and its policy does not.
pub(crate) const ROGUE: SocketAddr = host(5, 25);
const DNS: SocketAddr = host(53, 53);

/// What serves during the whole test.
pub(crate) struct Servers {
    dir: PathBuf,
    _knot: Knot,
    _nginx: Nginx,
    _back: Postfix,
}

impl Servers {
    /// Knot, nginx and the back Postfix.
    pub(crate) fn start(world: &World) -> Self {
        let dir = world.dir().join("servers");
        // Postfix's own users have to get in.
        let opened = Command::new("chmod").arg("755").arg(world.dir()).status();
        assert!(opened.is_ok_and(|status| status.success()), "chmod");
        let nginx = Nginx::start(&dir.join("nginx"), POLICIES, &policies(world));
        let knot = Knot::start(&dir.join("knot"), DNS, &zones());
        let mailboxes = dir.join("mailboxes");
        make_mailboxes(&mailboxes);
        let back = start_back(
            &dir.join("back"),
            &mailboxes,
            &world.pki.issue(&Leaf::named("mx.good.test")),
        );
        Self { dir, _knot: knot, _nginx: nginx, _back: back }
    }

    /// `DOMAIN/USER/` are maildirs.
    pub(crate) fn mailboxes(&self) -> PathBuf {
        self.dir.join("mailboxes")
    }

    /// The Postfix that hands everything to staunch, but for its own domain.
    pub(crate) fn start_front(&self, staunch: SocketAddr) -> Postfix {
        let setup = PostfixSetup::new("front.home.test", FRONT)
            .set("relayhost", format!("[{}]:{}", staunch.ip(), staunch.port()))
            .set("virtual_mailbox_domains", "home.test")
            .set("virtual_mailbox_maps", "static:home.test/ann/");
        Postfix::start(&self.dir.join("front"), &with_mailboxes(setup, &self.mailboxes()))
    }

    /// What differs from the world's own configuration.
    pub(crate) fn staunch_configuration(&self) -> String {
        format!(
            r#"
[dns]
servers = ["{DNS}"]
[delivery]
port = 25
[mta_sts]
policy_port = 443
[[route]]
domains = ["home.test"]
via = ["smtp://[front.home.test]:25"]
tls = "opportunistic"
"#
        )
    }
}

fn zones() -> Vec<(&'static str, String)> {
    let zone = |records: String| {
        format!(
            "$TTL 60\n@ SOA ns.infra.test. hostmaster.infra.test. 1 60 60 60 60\n@ NS ns.infra.test.\n{records}"
        )
    };
    let sts = |domain: &str| {
        format!(
            "_mta-sts TXT \"v=STSv1; id=20261122\"\nmta-sts A {}\n@ MX 10 mx.{domain}.\n",
            POLICIES.ip()
        )
    };
    vec![
        ("good.test", zone(format!("{}mx A {}\n", sts("good.test"), BACK.ip()))),
        // Its DNS was taken over: the MX record names a host that the policy does not list.
        ("unlisted.test", zone(format!("{}mx A {}\n", sts("unlisted.test"), ROGUE.ip()))),
        ("home.test", zone(format!("@ MX 10 front.home.test.\nfront A {}\n", FRONT.ip()))),
    ]
}

fn policies(world: &World) -> Vec<NginxSite> {
    let site = |domain: &str, mx: &str| {
        let host = format!("mta-sts.{domain}");
        NginxSite {
            identity: world.pki.issue(&Leaf::named(&host)),
            policy: format!("version: STSv1\r\nmode: enforce\r\nmx: {mx}\r\nmax_age: 86400\r\n"),
            host,
        }
    };
    vec![site("good.test", "mx.good.test"), site("unlisted.test", "mx.elsewhere.test")]
}

fn start_back(dir: &std::path::Path, mailboxes: &std::path::Path, identity: &Identity) -> Postfix {
    let (chain, key) = (mailboxes.join("back.chain.pem"), mailboxes.join("back.key.pem"));
    identity.write_pem(&chain, &key);
    // Listed users exist, everybody else is refused: 550 5.1.1.
    let users = mailboxes.join("users");
    let lines: String = (0..5).map(|n| format!("user{n}@good.test good.test/user{n}/\n")).collect();
    std::fs::write(&users, lines).expect("write users");
    let setup = PostfixSetup::new("mx.good.test", BACK)
        .set("smtpd_tls_security_level", "may")
        .set("smtpd_tls_cert_file", chain.display())
        .set("smtpd_tls_key_file", key.display())
        .set("smtpd_tls_received_header", "yes")
        .set("virtual_mailbox_domains", "good.test")
        .set("virtual_mailbox_maps", format!("texthash:{}", users.display()));
    Postfix::start(dir, &with_mailboxes(setup, mailboxes))
}

pub(crate) fn with_mailboxes(setup: PostfixSetup, mailboxes: &std::path::Path) -> PostfixSetup {
    setup
        .set("virtual_mailbox_base", mailboxes.display())
        .set("virtual_uid_maps", "static:65534")
        .set("virtual_gid_maps", "static:65534")
        .set("virtual_minimum_uid", 100)
}

/// A folder that the delivering user (nobody) may write to.
pub(crate) fn make_mailboxes(dir: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(dir).expect("a folder");
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).expect("root may");
}
