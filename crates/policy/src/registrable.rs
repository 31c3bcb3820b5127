//! Who could have registered this name? Names of one owner count once, however many there are.

use smtp::HostName;

/// The registrable domain of `name` by the Public Suffix List, its private part included:
/// `example.co.uk` for `mx.a.example.co.uk`. Below no known suffix the last two labels; a name that
/// is itself a suffix, or a single label, is its own.
///
/// ```
/// use policy::registrable_domain;
/// use smtp::HostName;
/// let name = HostName::parse("mta-sts.mail.example.co.uk")?;
/// assert_eq!(registrable_domain(&name).as_str(), "example.co.uk");
/// # Ok::<(), smtp::HostNameError>(())
/// ```
pub fn registrable_domain(name: &HostName) -> HostName {
    // The list knows U-labels and A-labels; for an unknown last label its rule is `*`.
    let Some(found) = psl::domain_str(name.as_str()) else { return name.clone() };
    let mut domain = name.clone();
    // Cut by labels and not parsed again: what stands in a name is a name.
    while domain.as_str().len() > found.len() {
        let Some(parent) = domain.parent() else { break };
        domain = parent;
    }
    domain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_has_one_domain_and_an_unknown_suffix_is_one_label() {
        let cases = [
            ("example.com", "example.com"),
            ("a.b.example.com", "example.com"),
            ("mx.example.co.uk", "example.co.uk"),
            ("co.uk", "co.uk"),
            ("com", "com"),
            ("localhost", "localhost"),
            // Not on the list at all.
            ("victim.test", "victim.test"),
            ("a.b.victim.test", "victim.test"),
            ("xn--4dbrk0ce.test", "xn--4dbrk0ce.test"),
            ("a.xn--4dbrk0ce.test", "xn--4dbrk0ce.test"),
            ("a.b.xn--zckzah", "b.xn--zckzah"),
            ("_mta-sts.a.test", "a.test"),
            // Suffixes in A-labels: Israel's from right to left, and a second level in China.
            ("a.b.xn--4dbrk0ce", "b.xn--4dbrk0ce"),
            ("a.b.xn--55qx5d.cn", "b.xn--55qx5d.cn"),
            // A wildcard, its exception, and the private part of the list.
            ("a.b.c.ck", "b.c.ck"),
            ("a.www.ck", "www.ck"),
            ("a.someone.github.io", "someone.github.io"),
        ];
        for (name, want) in cases {
            let name = HostName::parse(name).unwrap();
            assert_eq!(registrable_domain(&name).as_str(), want, "{name}");
        }
    }
}
