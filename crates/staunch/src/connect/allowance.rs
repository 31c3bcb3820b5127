//! How much more does a host take in this session? (RFC 9422)

use std::collections::BTreeSet;

use smtp::{Domain, HostLimits};

/// What a session has used of what its host takes, beside transactions.
#[derive(Debug, Default)]
pub(crate) struct Used {
    /// Recipient domains, where the host counts them.
    domains: BTreeSet<Domain>,
}

/// Has the host had as many transactions as it announced?
pub(crate) fn is_up(limits: HostLimits, transactions: usize) -> bool {
    limits.mail_max.is_some_and(|max| transactions >= size(max.get()))
}

impl Used {
    /// Those of `recipients` that fit into one more transaction: an index for each, in order.
    pub(crate) fn fitting<'d>(
        &mut self,
        limits: HostLimits,
        recipients: impl Iterator<Item = (usize, &'d Domain)>,
    ) -> Vec<usize> {
        let most = limits.rcpt_max.map_or(usize::MAX, |max| size(max.get()));
        let fitting = recipients.filter(|(_, domain)| {
            let Some(max) = limits.rcpt_domain_max else { return true };
            if !self.domains.contains(*domain) && self.domains.len() < size(max.get()) {
                self.domains.insert((*domain).clone());
            }
            self.domains.contains(*domain)
        });
        fitting.map(|(index, _)| index).take(most).collect()
    }
}

fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use smtp::{Extensions, HostName, Reply};

    use super::*;

    #[test]
    fn a_session_takes_what_was_announced_and_no_more() {
        type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a [usize]]);
        let cases: &[Case<'_>] = &[
            ("HELP", &["a", "b", "a"], &[&[0, 1, 2]]),
            ("LIMITS RCPTMAX=2", &["a", "b", "a"], &[&[0, 1], &[2]]),
            ("LIMITS RCPTDOMAINMAX=1", &["a", "b", "a"], &[&[0, 2], &[]]),
            ("LIMITS RCPTDOMAINMAX=2 RCPTMAX=1", &["a", "b", "c"], &[&[0], &[1], &[]]),
        ];
        for (line, domains, want) in cases {
            let reply = Reply::parse(format!("250-mx\r\n250 {line}\r\n").as_bytes()).unwrap();
            let limits = Extensions::from_reply(&reply).limits();
            let domains: Vec<Domain> = domains
                .iter()
                .map(|name| Domain::Name(HostName::parse(&format!("{name}.test")).unwrap()))
                .collect();
            let mut used = Used::default();
            let mut left: Vec<usize> = (0..domains.len()).collect();
            for want in *want {
                let begun = used.fitting(limits, left.iter().map(|&at| (at, &domains[at])));
                assert_eq!(begun, *want, "{line}");
                left.retain(|at| !begun.contains(at));
            }
        }
    }

    #[test]
    fn the_last_transaction_is_the_one_that_was_announced() {
        let reply = Reply::parse(b"250-mx\r\n250 LIMITS MAILMAX=2\r\n").unwrap();
        let limits = Extensions::from_reply(&reply).limits();
        assert_eq!([0, 1, 2, 3].map(|count| is_up(limits, count)), [false, false, true, true]);
        assert!(!is_up(HostLimits::default(), usize::MAX));
    }
}
