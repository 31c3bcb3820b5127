//! Which extensions does a server offer, and how long do lines become by them?

use crate::extensions::Extension;
use crate::limits;
use crate::params::is_date_time;
use crate::sasl::Mechanisms;

/// What protects the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionChannel {
    /// Nothing: STARTTLS may be offered, AUTH and REQUIRETLS may not.
    Clear,
    /// TLS, by STARTTLS or from the first octet.
    Tls,
}

/// How much one session may do (RFC 9422); what is not told has no limit worth telling.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OfferedLimits {
    /// `RCPTMAX`: recipients of a message.
    pub rcpt_max: Option<u32>,
    /// `MAILMAX`: transactions of a session.
    pub mail_max: Option<u32>,
}

/// How far ahead FUTURERELEASE reaches (RFC 4865 §3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FutureRelease {
    seconds_max: u64,
    until_max: [u8; Self::UNTIL_OCTETS],
}

impl FutureRelease {
    const UNTIL_OCTETS: usize = "9999-99-99T99:99:99Z".len();

    /// At most `seconds_max` from now, which is `until_max`, in UTC and whole seconds. `None` if
    /// that is not written as `2026-12-24T18:00:00Z`.
    pub fn new(seconds_max: u64, until_max: &str) -> Option<Self> {
        let written = is_date_time(until_max) && until_max.ends_with('Z');
        let until_max = written.then(|| until_max.as_bytes().try_into().ok()).flatten()?;
        Some(Self { seconds_max, until_max })
    }

    /// The longest `HOLDFOR`, in seconds.
    pub const fn seconds_max(self) -> u64 {
        self.seconds_max
    }
}

/// The extensions that a session offers; what is not in it is not understood either.
///
/// ```
/// use smtp::Extension;
/// use smtp::command::Offer;
/// let offer = Offer::new(1000).with(Extension::Pipelining).with_deliver_by(60);
/// assert_eq!(offer.keywords(), ["PIPELINING", "DELIVERBY 60", "SIZE 1000"]);
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offer {
    size_max: u64,
    extensions: u16,
    limits: OfferedLimits,
    future_release: Option<FutureRelease>,
    deliver_by_min: Option<u32>,
    mechanisms: Mechanisms,
}

impl Offer {
    /// SIZE (RFC 1870) alone: messages of at most `size_max` octets.
    pub const fn new(size_max: u64) -> Self {
        Self {
            size_max,
            extensions: 0,
            limits: OfferedLimits { rcpt_max: None, mail_max: None },
            future_release: None,
            deliver_by_min: None,
            mechanisms: Mechanisms::NONE,
        }
    }

    /// Offers one extension more, of those whose keyword has no value.
    #[must_use]
    pub const fn with(self, extension: Extension) -> Self {
        Self { extensions: self.extensions | extension.bit(), ..self }
    }

    /// With LIMITS (RFC 9422), if there is one to tell.
    #[must_use]
    pub const fn with_limits(self, limits: OfferedLimits) -> Self {
        Self { limits, ..self }
    }

    /// With FUTURERELEASE (RFC 4865).
    #[must_use]
    pub const fn with_future_release(self, reach: FutureRelease) -> Self {
        Self { future_release: Some(reach), ..self }
    }

    /// With DELIVERBY (RFC 2852), for times of at least `min_seconds`.
    #[must_use]
    pub const fn with_deliver_by(self, min_seconds: u32) -> Self {
        Self { deliver_by_min: Some(min_seconds), ..self }
    }

    /// With AUTH (RFC 4954), under TLS only, so that no password is ever asked for in the clear.
    #[must_use]
    pub const fn with_auth(self, mechanisms: Mechanisms) -> Self {
        Self { mechanisms, ..self }
    }

    /// What of it is offered on such a connection.
    #[must_use]
    pub(crate) const fn on(self, channel: SessionChannel) -> Self {
        let Self { extensions, .. } = self;
        match channel {
            SessionChannel::Clear => Self {
                extensions: extensions & !Extension::RequireTls.bit(),
                mechanisms: Mechanisms::NONE,
                ..self
            },
            SessionChannel::Tls => {
                Self { extensions: extensions & !Extension::Starttls.bit(), ..self }
            }
        }
    }

    /// Does the offer have this extension?
    pub const fn has(self, extension: Extension) -> bool {
        self.extensions & extension.bit() != 0
    }

    /// The largest message, in octets.
    pub const fn size_max(self) -> u64 {
        self.size_max
    }

    /// How far ahead mail may be held, if at all.
    pub const fn future_release(self) -> Option<FutureRelease> {
        self.future_release
    }

    /// The shortest time of DELIVERBY in seconds, if that is offered.
    pub const fn deliver_by_min(self) -> Option<u32> {
        self.deliver_by_min
    }

    /// The mechanisms of AUTH.
    pub const fn mechanisms(self) -> Mechanisms {
        self.mechanisms
    }

    /// The lines of the reply to EHLO, below the first.
    pub fn keywords(self) -> Vec<String> {
        let offered = Extension::ALL.into_iter().filter(|extension| self.has(*extension));
        let mut keywords: Vec<_> = offered.map(|c| c.keyword().to_owned()).collect();
        if !self.mechanisms.is_empty() {
            keywords.push(format!("AUTH {}", self.mechanisms));
        }
        let OfferedLimits { rcpt_max, mail_max } = self.limits;
        let told = [("MAILMAX", mail_max), ("RCPTMAX", rcpt_max)];
        let words: String =
            told.iter().filter_map(|(name, max)| max.map(|max| format!(" {name}={max}"))).collect();
        if !words.is_empty() {
            keywords.push(format!("LIMITS{words}"));
        }
        if let Some(FutureRelease { seconds_max, until_max }) = self.future_release {
            let until = String::from_utf8_lossy(&until_max);
            keywords.push(format!("FUTURERELEASE {seconds_max} {until}"));
        }
        match self.deliver_by_min {
            Some(0) => keywords.push("DELIVERBY".to_owned()),
            Some(min) => keywords.push(format!("DELIVERBY {min}")),
            None => {}
        }
        keywords.push(format!("SIZE {}", self.size_max));
        keywords
    }

    /// The longest line, with its CRLF, that the command with this verb may have.
    pub(crate) fn line_octets(self, verb: &[u8]) -> usize {
        let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
        match () {
            () if is("MAIL") => {
                let extensions = [
                    (true, limits::SIZE_ALLOWANCE_OCTETS),
                    (self.has(Extension::EightBitMime), limits::BODY_ALLOWANCE_OCTETS),
                    (self.has(Extension::SmtpUtf8), limits::SMTPUTF8_ALLOWANCE_OCTETS),
                    (self.has(Extension::Dsn), limits::DSN_MAIL_ALLOWANCE_OCTETS),
                    (self.has(Extension::RequireTls), limits::REQUIRETLS_ALLOWANCE_OCTETS),
                    (!self.mechanisms.is_empty(), limits::AUTH_ALLOWANCE_OCTETS),
                    (self.future_release.is_some(), limits::FUTURERELEASE_ALLOWANCE_OCTETS),
                    (self.deliver_by_min.is_some(), limits::DELIVERBY_ALLOWANCE_OCTETS),
                    (self.has(Extension::MtPriority), limits::PRIORITY_ALLOWANCE_OCTETS),
                ];
                limits::PATH_LINE_ACCEPTED_OCTETS + sum_of_offered(&extensions)
            }
            () if is("RCPT") => {
                let extensions = [
                    (self.has(Extension::SmtpUtf8), limits::SMTPUTF8_ALLOWANCE_OCTETS),
                    (self.has(Extension::Dsn), limits::DSN_RCPT_ALLOWANCE_OCTETS),
                ];
                limits::PATH_LINE_ACCEPTED_OCTETS + sum_of_offered(&extensions)
            }
            () if is("AUTH") && !self.mechanisms.is_empty() => limits::AUTH_LINE_OCTETS,
            () => limits::COMMAND_LINE_OCTETS,
        }
    }

    /// The longest line, with its CRLF, that any command may have.
    pub(crate) fn line_octets_max(self) -> usize {
        ["MAIL", "RCPT", "AUTH"]
            .map(|verb| self.line_octets(verb.as_bytes()))
            .into_iter()
            .max()
            .unwrap_or(0)
    }
}

fn sum_of_offered(allowances: &[(bool, usize)]) -> usize {
    allowances.iter().filter(|(offered, _)| *offered).map(|(_, octets)| octets).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasl::Mechanism;

    fn everything() -> Offer {
        let reach = FutureRelease::new(604_800, "2026-12-24T18:00:00Z").unwrap();
        let mechanisms = Mechanisms::NONE.with(Mechanism::Plain).with(Mechanism::Login);
        Extension::ALL
            .into_iter()
            .fold(Offer::new(1000), Offer::with)
            .with_limits(OfferedLimits { rcpt_max: Some(100), mail_max: Some(5) })
            .with_future_release(reach)
            .with_deliver_by(0)
            .with(Extension::MtPriority)
            .with_auth(mechanisms)
    }

    #[test]
    fn what_depends_on_tls_is_offered_where_it_may_be() {
        let always =
            ["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "SMTPUTF8", "DSN"];
        let values = [
            "LIMITS MAILMAX=5 RCPTMAX=100",
            "FUTURERELEASE 604800 2026-12-24T18:00:00Z",
            "DELIVERBY",
            "SIZE 1000",
        ];
        let clear = [&always[..], &["STARTTLS", "MT-PRIORITY"], &values].concat();
        let tls =
            [&always[..], &["REQUIRETLS", "MT-PRIORITY", "AUTH PLAIN LOGIN"], &values].concat();
        assert_eq!(everything().on(SessionChannel::Clear).keywords(), clear);
        assert_eq!(everything().on(SessionChannel::Tls).keywords(), tls);
        assert_eq!(Offer::new(7).keywords(), ["SIZE 7"]);
    }

    #[test]
    fn each_extension_makes_its_lines_longer_and_no_others() {
        let cases = [
            (Offer::new(1), [2074, 2048, 512, 512]),
            (Offer::new(1).with(Extension::EightBitMime), [2091, 2048, 512, 512]),
            (Offer::new(1).with(Extension::SmtpUtf8), [2084, 2058, 512, 512]),
            (Offer::new(1).with(Extension::Dsn), [2390, 2584, 512, 512]),
            (Offer::new(1).with(Extension::RequireTls), [2085, 2048, 512, 512]),
            (
                Offer::new(1).with_auth(Mechanisms::NONE.with(Mechanism::Plain)),
                [2574, 2048, 12_288, 512],
            ),
            (Offer::new(1).with_deliver_by(1), [2091, 2048, 512, 512]),
            (Offer::new(1).with(Extension::MtPriority), [2089, 2048, 512, 512]),
        ];
        for (offer, want) in cases {
            let got =
                ["mail", "RCPT", "AUTH", "BDAT"].map(|verb| offer.line_octets(verb.as_bytes()));
            assert_eq!(got, want, "{:?}", offer.keywords());
        }
    }

    #[test]
    fn a_reach_is_told_in_utc() {
        for (until, valid) in [
            ("2026-12-24T18:00:00Z", true),
            ("2026-12-24T18:00:00z", false),
            ("2026-12-24T18:00:00.5Z", false),
            ("2026-12-24T18:00:00+00:00", false),
        ] {
            assert_eq!(FutureRelease::new(1, until).is_some(), valid, "{until}");
        }
    }
}
