//! Who runs this: the name that goes into the envelope where nobody says another.
//!
//! `/etc/passwd` is read as text. Whoever is known elsewhere only (LDAP) has a name in the
//! environment; a static binary could not ask for more. Nobody is believed for it: the daemon notes
//! the real uid.

use smtp::{Domain, Mailbox};

/// A user of this machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct LocalUser {
    pub(super) login: String,
    pub(super) full_name: Option<String>,
}

impl LocalUser {
    /// The user of this process.
    pub(super) fn of_process(origin: &Domain) -> Self {
        let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
        let named = ["LOGNAME", "USER"].into_iter().find_map(|name| std::env::var(name).ok());
        let uid = rustix::process::getuid().as_raw();
        Self::find(uid, &String::from_utf8_lossy(&passwd), named, origin)
    }

    fn find(uid: u32, passwd: &str, named: Option<String>, origin: &Domain) -> Self {
        let is_mailbox = |login: &str| Mailbox::parse(&format!("{login}@{origin}")).is_ok();
        let entry = passwd.lines().find_map(|line| of_line(line, uid));
        let named = named.map(|login| Self { login, full_name: None });
        entry
            .or(named)
            .filter(|user| is_mailbox(&user.login))
            .unwrap_or_else(|| Self { login: format!("uid-{uid}"), full_name: None })
    }
}

/// The user of this number, if it is that of `name:password:uid:gid:gecos:…` (passwd(5)).
fn of_line(line: &str, uid: u32) -> Option<LocalUser> {
    let mut parts = line.split(':');
    let (login, uid_there, gecos) = (parts.next()?, parts.nth(1)?, parts.nth(1)?);
    if uid_there.parse() != Ok(uid) {
        return None;
    }
    // The first part is the name, in which `&` stands for the login with a capital.
    let mut letters = login.chars();
    let capital = letters.next().into_iter().flat_map(char::to_uppercase);
    let login_in_name: String = capital.chain(letters).collect();
    let name = gecos.split(',').next().unwrap_or_default().replace('&', &login_in_name);
    let is_name = !name.trim().is_empty() && !name.contains(char::is_control);
    Some(LocalUser { login: login.to_owned(), full_name: is_name.then_some(name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_name_whatever_the_machine_knows() {
        let origin = Domain::Name(smtp::HostName::parse("host.example").unwrap());
        let passwd = "# x\nroot:x:0:0:root:/root:/bin/sh\nann:x:7:7:& Doe,Room 1,,:/:/bin/sh\n\
                      mail:x:8:8::/:/bin/sh\nbad name:x:9:9:x:/:/x\n";
        let cases = [
            (0, None, "root", Some("root")),
            (7, Some("eve"), "ann", Some("Ann Doe")),
            (8, None, "mail", None),
            (10, Some("eve"), "eve", None),
            (10, Some("e v e"), "uid-10", None),
            (10, None, "uid-10", None),
            (9, None, "uid-9", None),
        ];
        for (uid, named, login, full_name) in cases {
            let user = LocalUser::find(uid, passwd, named.map(str::to_owned), &origin);
            let full_name = full_name.map(str::to_owned);
            assert_eq!(user, LocalUser { login: login.to_owned(), full_name }, "{uid}");
        }
    }
}
