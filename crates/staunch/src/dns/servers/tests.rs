use std::net::Ipv4Addr;

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::{MX, TXT};
use hickory_proto::rr::{RData, Record};
use hickory_proto::serialize::binary::BinEncodable as _;
use tokio::time::timeout;
use world::{NameServer, Over};

use super::*;
use crate::dns::response::FoundRecords;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

fn octets(message: &Message) -> Vec<u8> {
    message.to_bytes().unwrap()
}

fn is_control(query: &Message) -> bool {
    query.queries[0].name().is_root()
}

/// `query` answered with one MX record.
fn good(query: &Message) -> Message {
    let mut reply = NameServer::reply(query);
    let mx = RData::MX(MX::new(1, Name::from_ascii("mx.test.").unwrap()));
    reply.add_answers([Record::from_rdata(query.queries[0].name().clone(), 60, mx)]);
    reply
}

fn coded(query: &Message, code: ResponseCode) -> Vec<u8> {
    let mut reply = NameServer::reply(query);
    reply.metadata.response_code = code;
    octets(&reply)
}

async fn good_server() -> NameServer {
    NameServer::start(|query, _| Some(octets(&good(query)))).await
}

/// Says `code`, and nothing else.
async fn broken_server(code: ResponseCode) -> NameServer {
    NameServer::start(move |query, _| Some(coded(query, code))).await
}

fn servers(all: &[&NameServer]) -> Servers {
    let addresses: Vec<_> = all.iter().map(|server| server.address()).collect();
    Servers::new(&addresses, PATIENCE).unwrap()
}

async fn ask(servers: &Servers) -> Result<FoundRecords, LookUpError> {
    let name = Name::from_ascii("some.name.with.quite.a.number.of.letters.test.").unwrap();
    Ok(servers.ask(&name, RecordType::MX).await?.found.unwrap())
}

/// Waits for what nobody waits for.
async fn examined(servers: &Servers) {
    let examinations = std::mem::take(&mut *servers.examinations.lock().unwrap());
    examinations.join_all().await;
}

fn states(servers: &Servers) -> Vec<StandingState> {
    servers.states().into_iter().map(|server| server.state).collect()
}

#[tokio::test]
async fn an_error_is_the_outcome_only_when_no_server_is_left() {
    use ResponseCode::{FormErr, NotImp, Refused, ServFail, YXDomain};
    let good = good_server().await;
    for code in [ServFail, Refused, NotImp, FormErr, YXDomain] {
        let broken = broken_server(code).await;
        for order in [[&broken, &good], [&good, &broken]] {
            let found = ask(&servers(&order)).await;
            assert!(matches!(found, Ok(FoundRecords::Records(_))), "{code}: {found:?}");
        }
        let other = broken_server(ServFail).await;
        let trouble = ask(&servers(&[&broken, &other])).await.unwrap_err();
        for server in [&broken, &other] {
            assert!(trouble.to_string().contains(&server.address().to_string()), "{trouble}");
        }
        assert_eq!(trouble.kind(), DnsFailureKind::ServFail);
    }
}

/// A lame server's referral and an answer to another question settle nothing either.
#[tokio::test]
async fn an_answer_that_says_nothing_leads_to_the_next_server() {
    let good = good_server().await;
    let odd = NameServer::start(|query, _| {
        let mut reply = NameServer::reply(query);
        let txt = RData::TXT(TXT::new(vec!["x".into()]));
        reply.add_answers([Record::from_rdata(Name::from_ascii("b.test.").unwrap(), 60, txt)]);
        Some(octets(&reply))
    });
    let odd = odd.await;
    assert!(matches!(ask(&servers(&[&odd, &good])).await, Ok(FoundRecords::Records(_))));
    assert!(ask(&servers(&[&odd])).await.is_err());
}

#[tokio::test]
async fn that_there_is_none_ends_the_search() {
    let good = good_server().await;
    let none = broken_server(ResponseCode::NXDomain).await;
    assert!(matches!(ask(&servers(&[&none, &good])).await, Ok(FoundRecords::NoDomain)));
    assert!(good.queries().is_empty());
}

#[tokio::test]
async fn a_silent_server_costs_a_head_start_and_no_more() {
    let good = good_server().await;
    let silent = NameServer::start(|_, _| None).await;
    let found = timeout(PATIENCE / 2, ask(&servers(&[&silent, &good]))).await.unwrap();
    assert!(matches!(found, Ok(FoundRecords::Records(_))));
}

#[tokio::test]
async fn a_server_is_left_out_only_if_it_fails_the_control_question_too() {
    let good = good_server().await;
    let for_some = NameServer::start(|query, _| {
        let code = if is_control(query) { ResponseCode::NoError } else { ResponseCode::ServFail };
        Some(coded(query, code))
    });
    let for_some = for_some.await;
    let kept = servers(&[&for_some, &good]);
    ask(&kept).await.unwrap();
    examined(&kept).await;
    assert_eq!(states(&kept), [StandingState::InUse, StandingState::InUse]);
    assert!(for_some.queries().read(|all| all.iter().any(|(query, _)| is_control(query))));

    let for_all = broken_server(ResponseCode::Refused).await;
    let one_less = servers(&[&for_all, &good]);
    ask(&one_less).await.unwrap();
    examined(&one_less).await;
    assert_eq!(states(&one_less), [StandingState::Out, StandingState::InUse]);
    assert_eq!(one_less.states()[0].fault.as_deref(), Some("response code Query Refused"));
    let before = for_all.queries().len();
    ask(&one_less).await.unwrap();
    assert_eq!(for_all.queries().len(), before, "it is not asked any more");
}

#[tokio::test]
async fn an_answer_waits_for_no_examination_of_another_server() {
    let good = good_server().await;
    let half = NameServer::start(|query, _| {
        (!is_control(query)).then(|| coded(query, ResponseCode::ServFail))
    });
    let half = half.await;
    let servers = servers(&[&half, &good]);
    timeout(PATIENCE / 2, ask(&servers)).await.unwrap().unwrap();
    assert_eq!(states(&servers), [StandingState::InUse, StandingState::InUse]);
    examined(&servers).await;
    assert_eq!(states(&servers), [StandingState::Out, StandingState::InUse]);
}

/// Its silence is examined while nobody waits for it.
#[tokio::test]
async fn a_server_that_is_silent_for_the_control_question_too_is_left_out() {
    let works = good_server().await;
    let silent = NameServer::start(|_, _| None).await;
    let for_one = NameServer::start(|query, _| is_control(query).then(|| octets(&good(query))));
    let for_one = for_one.await;
    for (late, state) in [(&silent, StandingState::Out), (&for_one, StandingState::InUse)] {
        let servers = servers(&[late, &works]);
        ask(&servers).await.unwrap();
        examined(&servers).await;
        assert_eq!(states(&servers), [state, StandingState::InUse]);
    }
}

/// RFC 6891 §7: whoever does not know EDNS says FORMERR; others say NOTIMP, or BADVERS.
#[tokio::test]
async fn a_server_without_edns_is_asked_without_and_that_is_remembered() {
    for code in [ResponseCode::FormErr, ResponseCode::NotImp] {
        let old = NameServer::start(move |query, _| {
            Some(if query.edns.is_some() { coded(query, code) } else { octets(&good(query)) })
        });
        let old = old.await;
        let servers = servers(&[&old]);
        for _ in 0..2 {
            assert!(matches!(ask(&servers).await, Ok(FoundRecords::Records(_))), "{code}");
        }
        let with_edns: Vec<bool> =
            old.queries().read(|all| all.iter().map(|(query, _)| query.edns.is_some()).collect());
        assert_eq!(with_edns, [true, false, false], "{code}");
        assert!(!servers.states()[0].edns);
    }
}

#[tokio::test]
async fn a_server_that_is_broken_anyhow_is_no_server_without_edns() {
    let broken = broken_server(ResponseCode::FormErr).await;
    let servers = servers(&[&broken]);
    assert_eq!(ask(&servers).await.unwrap_err().kind(), DnsFailureKind::Other);
    assert!(servers.states()[0].edns);
}

#[tokio::test]
async fn an_answer_longer_than_announced_is_fetched_over_tcp() {
    let long = NameServer::start(|query, over| {
        let mut reply = good(query);
        let owner = query.queries[0].name().clone();
        let txt = RData::TXT(TXT::new(vec!["x".repeat(250); 8]));
        reply.add_answers([Record::from_rdata(owner, 60, txt)]);
        assert!(octets(&reply).len() > UDP_PAYLOAD.into() && matches!(over, Over::Udp | Over::Tcp));
        Some(octets(&reply))
    });
    let long = long.await;
    assert!(matches!(ask(&servers(&[&long])).await, Ok(FoundRecords::Records(_))));
    assert_eq!((long.asked(Over::Udp), long.asked(Over::Tcp)), (1, 1));
}

fn truncated(query: &Message) -> Vec<u8> {
    let mut reply = NameServer::reply(query);
    reply.metadata.truncation = true;
    octets(&reply)
}

/// Nobody listens on TCP, or whoever does hangs up: that stops no other mail.
#[tokio::test]
async fn a_truncated_answer_that_tcp_does_not_bring_is_that_name_s_trouble() {
    let no_tcp = NameServer::start_without_tcp(|query, _| Some(truncated(query))).await;
    let hangs_up =
        NameServer::start(|query, over| (over == Over::Udp).then(|| truncated(query))).await;
    for server in [&no_tcp, &hangs_up] {
        let trouble = ask(&servers(&[server])).await.unwrap_err();
        assert_eq!(trouble.kind(), DnsFailureKind::Other, "{trouble}");
        let good = good_server().await;
        ask(&servers(&[server, &good])).await.unwrap();
    }
}

#[tokio::test]
async fn no_server_is_reachable_only_if_none_says_anything() {
    // Nothing may be sent there without asking the system first.
    let nowhere = SocketAddr::from((Ipv4Addr::BROADCAST, 53));
    let alone = Servers::new(&[nowhere], PATIENCE).unwrap();
    assert_eq!(ask(&alone).await.unwrap_err().kind(), DnsFailureKind::Unreachable);
    let silent_but_there = NameServer::start(|query, _| Some(truncated(query))).await;
    let two = Servers::new(&[nowhere, silent_but_there.address()], PATIENCE).unwrap();
    assert_eq!(ask(&two).await.unwrap_err().kind(), DnsFailureKind::Other);
}

#[tokio::test]
async fn off_this_machine_the_case_of_the_letters_must_come_back_or_tcp_decides() {
    let lower = |query: &Message| {
        let mut reply = good(query);
        for question in &mut reply.queries {
            question.set_name(question.name().to_lowercase());
        }
        octets(&reply)
    };
    let forgetful = NameServer::start(move |query, over| match over {
        Over::Udp => Some(lower(query)),
        Over::Tcp => Some(octets(&good(query))),
    });
    let (echoing, forgetful) = (good_server().await, forgetful.await);
    for (server, over_tcp) in [(&echoing, 0), (&forgetful, 1)] {
        let mixing = Servers::with_case(&[server.address()], PATIENCE, |_| Case::Random).unwrap();
        assert!(matches!(ask(&mixing).await, Ok(FoundRecords::Records(_))));
        assert_eq!((server.asked(Over::Udp), server.asked(Over::Tcp)), (1, over_tcp));
        let name = server.queries().read(|all| all[0].0.queries[0].name().to_ascii());
        assert_ne!(name, name.to_lowercase(), "one of so many letters is a capital");
    }
    let forged = NameServer::start_without_tcp(move |query, _| Some(lower(query))).await;
    let mixing = Servers::with_case(&[forged.address()], PATIENCE, |_| Case::Random).unwrap();
    assert!(ask(&mixing).await.is_err(), "what may be forged is not believed");
}

#[tokio::test]
async fn letters_are_mixed_for_all_servers_but_those_of_this_machine() {
    let addresses = ["127.0.0.1:53", "[::1]:53", "192.0.2.1:53", "[2001:db8::1]:53"];
    let addresses = addresses.map(|text| text.parse().unwrap());
    let servers = Servers::new(&addresses, PATIENCE).unwrap();
    let cases: Vec<Case> = servers.shared.all.iter().map(|server| server.case).collect();
    assert_eq!(cases, [Case::Kept, Case::Kept, Case::Random, Case::Random]);
}
