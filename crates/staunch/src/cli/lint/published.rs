//! What a domain publishes: its MX hosts, the record at `_mta-sts`, and the policy.

use policy::sts::document::DocumentProblem;
use policy::sts::{MxPattern, RecordError, parse_txt, record_lint};
use smtp::HostName;

use super::super::exit::{Exit, Failure};
use crate::cli::admin_client::runtime;
use crate::clock::ClockWatch;
use crate::config::{Config, Loaded};
use crate::dns::{DnsFailure, Freshness, MailHosts, MxTarget, Resolver};
use crate::policies::fetch::{Fetcher, KnownToAnswer};

/// Where the policy comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PublishedSource {
    /// A file, which is at hand.
    File,
    /// The domain's policy host.
    Domain,
}

/// What DNS and, if asked for, the policy host say about a domain.
#[derive(Debug)]
pub(super) struct Publication {
    mx: Vec<HostName>,
    /// Where the domain's aliases end, if it has no MX record.
    canonical: Option<HostName>,
    /// It says that it takes no mail (RFC 7505).
    pub(super) takes_no_mail: bool,
    /// About MX records, and about the TXT record of a domain's own policy.
    pub(super) errors: Vec<DocumentProblem>,
    /// About the TXT record.
    pub(super) warnings: Vec<DocumentProblem>,
    /// The text of the policy, if it was asked for.
    pub(super) policy: Option<Result<Vec<u8>, DocumentProblem>>,
}

impl Publication {
    /// Asks DNS, and the policy host if the policy is to come from there.
    ///
    /// # Errors
    ///
    /// A [`Failure`] when DNS does not answer, or knows no such domain.
    pub(super) fn look_up(
        domain: &HostName,
        loaded: &Loaded,
        source: PublishedSource,
    ) -> Result<Self, Failure> {
        let config = &loaded.config;
        runtime()?.block_on(async {
            let dns = Resolver::new(&config.dns)
                .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
            let hosts = dns.mail_hosts(domain, Freshness::Cached).await.map_err(failure)?;
            let mut found = Self::from_hosts(domain, hosts)?;
            let record = about_record(&dns, domain).await?;
            found.warnings = record.warnings;
            match source {
                // What is published next may come with its record.
                PublishedSource::File => found.warnings.splice(0..0, record.errors).for_each(drop),
                // Without a usable record there is no policy (RFC 8461 §3.1).
                PublishedSource::Domain => found.errors.extend(record.errors),
            }
            found.policy = match source {
                PublishedSource::File => None,
                PublishedSource::Domain => Some(fetch(config, dns, domain).await?),
            };
            Ok(found)
        })
    }

    fn from_hosts(domain: &HostName, hosts: MailHosts) -> Result<Self, Failure> {
        let mut found = Self {
            mx: Vec::new(),
            canonical: None,
            takes_no_mail: false,
            errors: Vec::new(),
            warnings: Vec::new(),
            policy: None,
        };
        match hosts {
            MailHosts::NoSuchDomain => {
                let text = format!("{domain}: there is no such domain in DNS");
                return Err(Failure::new(Exit::NoHost, text));
            }
            MailHosts::NullMx => found.takes_no_mail = true,
            MailHosts::Implicit { name, canonical } => {
                found.mx.push(name);
                found.canonical = canonical;
            }
            MailHosts::Mx(records) => {
                for record in records {
                    match record.name {
                        MxTarget::Host(host) => found.mx.push(host),
                        MxTarget::Invalid(text) => found.errors.push(DocumentProblem {
                            line: None,
                            code: "mx_invalid",
                            text: format!("the MX record names {text}, which is no host name"),
                        }),
                    }
                }
            }
        }
        found.mx.sort();
        Ok(found)
    }

    /// The hosts that mail would go to. Without MX records, of the domain and the end of its
    /// aliases that which the policy lists.
    pub(super) fn hosts(&self, patterns: &[MxPattern]) -> Vec<HostName> {
        let lists = |name: &HostName| patterns.iter().any(|pattern| pattern.matches(name));
        match &self.canonical {
            Some(end) if lists(end) && !self.mx.iter().any(lists) => vec![end.clone()],
            Some(_) | None => self.mx.clone(),
        }
    }
}

fn failure(failure: DnsFailure) -> Failure {
    Failure::new(Exit::TemporaryFailure, failure.to_string())
}

/// What is wrong or odd about the record.
#[derive(Debug, Default)]
struct AboutRecord {
    errors: Vec<DocumentProblem>,
    warnings: Vec<DocumentProblem>,
}

/// And where else it stands if it does not stand where it should.
async fn about_record(dns: &Resolver, domain: &HostName) -> Result<AboutRecord, Failure> {
    let Ok(name) = domain.prepend("_mta-sts") else { return Ok(AboutRecord::default()) };
    let lint = record_lint::lint(&dns.txt_records(&name).await.map_err(failure)?);
    let problem = |finding: record_lint::RecordFinding| DocumentProblem {
        line: None,
        code: finding.code,
        text: format!("TXT {name}: {}", finding.text),
    };
    let is_missing = lint.verdict == Err(RecordError::NoRecord);
    let mut about = AboutRecord {
        errors: lint.errors.into_iter().map(problem).collect(),
        warnings: lint.warnings.into_iter().map(problem).collect(),
    };
    if is_missing {
        about.errors.extend(elsewhere(dns, domain).await.map(|other| DocumentProblem {
            line: None,
            code: "wrong_name",
            text: format!("TXT {other} has a record of MTA-STS, but senders look at {name} only"),
        }));
    }
    Ok(about)
}

/// The names at which people put it by mistake.
async fn elsewhere(dns: &Resolver, domain: &HostName) -> Option<HostName> {
    let doubled = HostName::parse(&format!("_mta-sts.{domain}.{domain}")).ok();
    let others = ["mta-sts", "_mta_sts", "mta_sts"].map(|label| domain.prepend(label).ok());
    for name in [Some(domain.clone()), doubled].into_iter().chain(others).flatten() {
        let records = dns.txt_records(&name).await.unwrap_or_default();
        if parse_txt(&records).is_ok() {
            return Some(name);
        }
    }
    None
}

/// As the daemon fetches it.
async fn fetch(
    config: &Config,
    dns: Resolver,
    domain: &HostName,
) -> Result<Result<Vec<u8>, DocumentProblem>, Failure> {
    let fetcher = Fetcher::new(config, dns, ClockWatch::undoubted())
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    let fetched = fetcher.fetch(domain, KnownToAnswer::Unknown).await;
    Ok(fetched.map(|fetched| fetched.body).map_err(|error| DocumentProblem {
        line: None,
        code: "policy_fetch_failed",
        text: format!("the policy of {domain} cannot be fetched: {error}"),
    }))
}
