//! What one response says about the name that was asked.

use std::time::Duration;

use hickory_net::{DnsError, NetError, NoRecords};
use hickory_proto::op::{DnsResponse, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, RecordType};

use super::trouble::LookUpError;

/// Our choice: an answer is asked for anew after an hour, even if its TTL is longer.
pub(super) const TTL_MAX: Duration = Duration::from_secs(60 * 60);
/// RFC 2308 §5 allows hours; ours is short, because "no policy" and "no host" matter.
pub(super) const TTL_NEGATIVE_MAX: Duration = Duration::from_secs(5 * 60);
/// For a denial that names no time (RFC 2308 §5 would not keep it).
const TTL_NEGATIVE_UNSAID: Duration = Duration::from_secs(60);
/// Aliases followed. Ours; unbound follows 11.
pub(super) const ALIASES_MAX: usize = 16;

/// What an answer says about the name and the type asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum FoundRecords {
    /// Records of the type asked for; at least one.
    Records(Box<[RData]>),
    /// The name exists, records of this type do not.
    NoData,
    /// The name does not exist.
    NoDomain,
}

/// What one response brings.
#[derive(Debug)]
pub(super) struct ResponseStep {
    /// None: the aliases lead to `name`, and the response says nothing about it.
    pub(super) found: Option<FoundRecords>,
    pub(super) name: Name,
    pub(super) ttl: Duration,
}

impl ResponseStep {
    /// Reads what a server said to a question.
    pub(super) fn of(
        said: Result<DnsResponse, NetError>,
        asked: &Name,
        kind: RecordType,
    ) -> Result<Self, LookUpError> {
        match said {
            Ok(response) => Self::read(&response, asked, kind),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let (found, ttl) = (denial(&none)?, negative_ttl(none.negative_ttl, TTL_MAX));
                Ok(Self { found: Some(found), name: asked.clone(), ttl })
            }
            Err(error) => Err(LookUpError::of(error)),
        }
    }

    fn read(response: &DnsResponse, asked: &Name, kind: RecordType) -> Result<Self, LookUpError> {
        if !matches!(response.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return Err(LookUpError::Code(response.response_code));
        }
        let mut name = asked.clone();
        let mut ttl = TTL_MAX;
        for _ in 0..ALIASES_MAX {
            let records: Vec<_> = response
                .answers
                .iter()
                .filter(|record| record.name == name && record.data.record_type() == kind)
                .collect();
            if !records.is_empty() {
                let seconds = records.iter().map(|record| record.ttl).min().unwrap_or(0);
                let found = FoundRecords::Records(records.iter().map(|r| r.data.clone()).collect());
                let ttl = ttl.min(Duration::from_secs(seconds.into()));
                return Ok(Self { found: Some(found), name, ttl });
            }
            let alias = response.answers.iter().find_map(|record| {
                let RData::CNAME(CNAME(target)) = &record.data else { return None };
                (record.name == name).then_some((target, record.ttl))
            });
            let Some((next, seconds)) = alias else {
                return Self::end(response, asked, name, ttl);
            };
            name = next.clone();
            ttl = ttl.min(Duration::from_secs(seconds.into()));
        }
        Err(LookUpError::Answer("the aliases do not end".to_owned()))
    }

    /// The answer section says no more about `name`.
    fn end(
        response: &DnsResponse,
        asked: &Name,
        name: Name,
        ttl: Duration,
    ) -> Result<Self, LookUpError> {
        // RFC 6604 §3: the code is about the end of the chain.
        if response.response_code == ResponseCode::NXDomain {
            let ttl = negative_ttl(response.negative_ttl(), ttl);
            return Ok(Self { found: Some(FoundRecords::NoDomain), name, ttl });
        }
        if name == *asked {
            return Err(LookUpError::Answer("the answer is about something else".to_owned()));
        }
        Ok(Self { found: None, name, ttl })
    }
}

/// What a negative answer denies. RFC 2308 §2.2: one with name servers but no SOA is a referral,
/// which a server that recurses for us has no business to give.
fn denial(none: &NoRecords) -> Result<FoundRecords, LookUpError> {
    if none.response_code == ResponseCode::NXDomain {
        return Ok(FoundRecords::NoDomain);
    }
    if none.response_code != ResponseCode::NoError {
        return Err(LookUpError::Code(none.response_code));
    }
    if none.soa.is_none() && none.ns.is_some() {
        return Err(LookUpError::Answer("a referral instead of an answer".to_owned()));
    }
    Ok(FoundRecords::NoData)
}

fn negative_ttl(said: Option<u32>, chain: Duration) -> Duration {
    said.map_or(TTL_NEGATIVE_UNSAID, |ttl| Duration::from_secs(ttl.into()))
        .min(TTL_NEGATIVE_MAX)
        .min(chain)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, OpCode, Query};
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, MX};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn alias(from: &str, to: &str, ttl: u32) -> Record {
        Record::from_rdata(name(from), ttl, RData::CNAME(CNAME(name(to))))
    }

    fn mx(owner: &str, ttl: u32) -> Record {
        Record::from_rdata(name(owner), ttl, RData::MX(MX::new(1, name("mx.test."))))
    }

    fn a(owner: &str) -> Record {
        Record::from_rdata(name(owner), 60, RData::A(A::new(8, 8, 8, 8)))
    }

    /// What the answer to "MX a.test." with these records brings, in words.
    fn read(code: ResponseCode, answers: Vec<Record>) -> String {
        let mut message = Message::response(1, OpCode::Query);
        message.add_query(Query::query(name("a.test."), RecordType::MX));
        message.metadata.response_code = code;
        message.add_answers(answers);
        let response = DnsResponse::from_message(message).unwrap();
        match ResponseStep::read(&response, &name("a.test."), RecordType::MX) {
            Ok(ResponseStep { found: None, name, ttl }) => format!("ask {name} {ttl:?}"),
            Ok(ResponseStep { found: Some(FoundRecords::Records(records)), name, ttl }) => {
                format!("{} at {name} {ttl:?}", records.len())
            }
            Ok(ResponseStep { found: Some(found), name, .. }) => format!("{found:?} at {name}"),
            Err(trouble) => trouble.to_string(),
        }
    }

    #[test]
    fn an_answer_is_believed_only_along_the_chain_from_the_name_asked() {
        use ResponseCode::{NXDomain, NoError};
        let loops = || vec![alias("a.test.", "b.test.", 60), alias("b.test.", "a.test.", 60)];
        let unending: Vec<_> = (0..20)
            .map(|i| {
                let from = if i == 0 { "a.test.".to_owned() } else { format!("a{i}.test.") };
                alias(&from, &format!("a{}.test.", i + 1), 60)
            })
            .collect();
        let cases = [
            (NoError, vec![mx("a.test.", 60), mx("A.TEST.", 30)], "2 at a.test. 30s"),
            (NoError, vec![mx("a.test.", 4_000_000)], "1 at a.test. 3600s"),
            (NoError, vec![mx("b.test.", 60), alias("a.test.", "b.test.", 5)], "1 at b.test. 5s"),
            (NoError, vec![alias("a.test.", "b.test.", 5)], "ask b.test. 5s"),
            (NXDomain, vec![alias("a.test.", "b.test.", 5)], "NoDomain at b.test."),
            (NoError, vec![mx("evil.test.", 60)], "the answer is about something else"),
            (NoError, vec![a("a.test.")], "the answer is about something else"),
            (NoError, loops(), "the aliases do not end"),
            (NoError, unending, "the aliases do not end"),
            (ResponseCode::YXDomain, vec![a("a.test.")], "response code Name should not exist"),
        ];
        for (code, answers, want) in cases {
            assert_eq!(read(code, answers.clone()), want, "{code} {answers:?}");
        }
    }

    #[test]
    fn a_denial_is_kept_as_long_as_it_says_but_not_long() {
        let cases = [
            (Some(0), TTL_MAX, 0),
            (Some(60), TTL_MAX, 60),
            (Some(86_400), TTL_MAX, 300),
            (None, TTL_MAX, 60),
            (Some(60), Duration::from_secs(5), 5),
        ];
        for (said, chain, want) in cases {
            assert_eq!(negative_ttl(said, chain).as_secs(), want, "{said:?} {chain:?}");
        }
    }

    #[test]
    fn a_referral_or_an_odd_code_denies_nothing() {
        let none = |code| NoRecords::new(Query::query(name("a.test."), RecordType::MX), code);
        assert!(matches!(denial(&none(ResponseCode::NoError)), Ok(FoundRecords::NoData)));
        assert!(matches!(denial(&none(ResponseCode::NXDomain)), Ok(FoundRecords::NoDomain)));
        assert!(denial(&none(ResponseCode::YXRRSet)).is_err());
        let mut referral = none(ResponseCode::NoError);
        referral.ns = Some([].into());
        assert!(denial(&referral).is_err());
    }
}
