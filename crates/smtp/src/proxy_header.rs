//! What does the proxy in front of us say about its client? (PROXY protocol, versions 1 and 2, as
//! HAProxy's `proxy-protocol.txt` has them.)
//!
//! The header is believed by those who may believe the proxy, and is read by no one else: whether
//! one is expected is known before the first octet, and then there is no connection without it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// §2.1: a line of version 1 with its CRLF.
pub const V1_OCTETS_MAX: usize = 107;
/// §2.2: a header of version 2. Addresses need 232 octets, TLVs a few hundred, or thousands with
/// the certificate of a TLS client (§2.2.7).
pub const V2_OCTETS_MAX: usize = V2_FIXED_OCTETS + 0xffff;

/// §2.2: the twelve octets that version 2 begins with.
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// §2.2: signature, version and command, family, length.
const V2_FIXED_OCTETS: usize = 16;
const V1_SIGNATURE: &[u8] = b"PROXY ";

/// How far the header has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeaderProgress {
    /// Its beginning; never more than [`V2_OCTETS_MAX`] octets are asked for.
    NeedMore,
    /// The header is complete, and what follows is the client's.
    Done {
        /// Where the connection came from, as the proxy says.
        header: ProxyHeader,
        /// How many octets of the input it is.
        used: usize,
    },
    /// It is no header. The connection must be closed (§2).
    Invalid,
}

/// What a header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyHeader {
    /// Nothing: the proxy speaks for itself (LOCAL), or does not know (UNKNOWN, UNSPEC).
    Local,
    /// The client came by TCP.
    Tcp {
        /// The client's address and port.
        source: SocketAddr,
        /// What it connected to.
        destination: SocketAddr,
    },
    /// The client came by a Unix socket of the proxy's host.
    Unix,
}

/// Reads the header that `input` begins with.
///
/// ```
/// use smtp::proxy_header::{ProxyHeader, HeaderProgress, parse};
/// let input = b"PROXY TCP4 192.0.2.1 198.51.100.1 5000 25\r\nEHLO";
/// let HeaderProgress::Done { header, used } = parse(input) else { panic!() };
/// let ProxyHeader::Tcp { source, .. } = header else { panic!() };
/// assert_eq!((source.to_string().as_str(), &input[used..]), ("192.0.2.1:5000", &b"EHLO"[..]));
/// assert_eq!(parse(b"PRO"), HeaderProgress::NeedMore);
/// assert_eq!(parse(b"EHLO"), HeaderProgress::Invalid);
/// ```
pub fn parse(input: &[u8]) -> HeaderProgress {
    if agrees(input, V1_SIGNATURE) {
        parse_v1(input)
    } else if agrees(input, V2_SIGNATURE) {
        parse_v2(input)
    } else {
        HeaderProgress::Invalid
    }
}

/// Is `input` the beginning of `signature`, or that of `input`?
fn agrees(input: &[u8], signature: &[u8]) -> bool {
    input.iter().zip(signature).all(|(a, b)| a == b)
}

fn parse_v1(input: &[u8]) -> HeaderProgress {
    let front = input.get(..V1_OCTETS_MAX).unwrap_or(input);
    let Some(end) = memchr::memmem::find(front, b"\r\n") else {
        let is_whole = input.len() >= V1_OCTETS_MAX;
        return if is_whole { HeaderProgress::Invalid } else { HeaderProgress::NeedMore };
    };
    match front.get(..end).and_then(parse_v1_line) {
        Some(header) => HeaderProgress::Done { header, used: end + 2 },
        None => HeaderProgress::Invalid,
    }
}

fn parse_v1_line(line: &[u8]) -> Option<ProxyHeader> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ').skip(1);
    let family = words.next()?;
    // §2.1: whatever stands behind it is ignored.
    if family == "UNKNOWN" {
        return Some(ProxyHeader::Local);
    }
    let (from, to) = (words.next()?, words.next()?);
    let (from, to): (IpAddr, IpAddr) = match family {
        "TCP4" => (from.parse::<Ipv4Addr>().ok()?.into(), to.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => (from.parse::<Ipv6Addr>().ok()?.into(), to.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    let source = SocketAddr::new(from, port(words.next()?)?);
    let destination = SocketAddr::new(to, port(words.next()?)?);
    words.next().is_none().then_some(ProxyHeader::Tcp { source, destination })
}

/// §2.1: digits without leading zeros.
fn port(word: &str) -> Option<u16> {
    let written = word == "0" || word.starts_with(|c: char| matches!(c, '1'..='9'));
    written.then(|| word.parse().ok()).flatten()
}

fn parse_v2(input: &[u8]) -> HeaderProgress {
    let Some(fixed) = input.first_chunk::<V2_FIXED_OCTETS>() else {
        return HeaderProgress::NeedMore;
    };
    let [.., command, family, high, low] = *fixed;
    let used = V2_FIXED_OCTETS + usize::from(u16::from_be_bytes([high, low]));
    let Some(body) = input.get(V2_FIXED_OCTETS..used) else { return HeaderProgress::NeedMore };
    match parse_v2_body(command, family, body) {
        Some(header) => HeaderProgress::Done { header, used },
        None => HeaderProgress::Invalid,
    }
}

/// Addresses stand in front of `body`; the TLVs behind them tell nothing that is needed here.
fn parse_v2_body(command: u8, family: u8, body: &[u8]) -> Option<ProxyHeader> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    match (command, family) {
        // §2.2: of a LOCAL header nothing but the length counts.
        (LOCAL, _) | (PROXY, 0x00) => Some(ProxyHeader::Local),
        (PROXY, 0x11) => {
            let (from, to, ports) = addresses::<4>(body)?;
            Some(tcp(Ipv4Addr::from(from).into(), Ipv4Addr::from(to).into(), ports))
        }
        (PROXY, 0x21) => {
            let (from, to, ports) = addresses::<16>(body)?;
            Some(tcp(Ipv6Addr::from(from).into(), Ipv6Addr::from(to).into(), ports))
        }
        (PROXY, 0x31) => {
            const UNIX_ADDRESSES_OCTETS: usize = 2 * 108;
            (body.len() >= UNIX_ADDRESSES_OCTETS).then_some(ProxyHeader::Unix)
        }
        // Datagrams, and what is not assigned.
        _ => None,
    }
}

/// Source, destination, and the ports of both.
fn addresses<const N: usize>(body: &[u8]) -> Option<([u8; N], [u8; N], [u8; 4])> {
    let (from, rest) = body.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    Some((*from, *to, *rest.first_chunk::<4>()?))
}

fn tcp(from: IpAddr, to: IpAddr, [a, b, c, d]: [u8; 4]) -> ProxyHeader {
    ProxyHeader::Tcp {
        source: SocketAddr::new(from, u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(to, u16::from_be_bytes([c, d])),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(input: &[u8]) -> String {
        match parse(input) {
            HeaderProgress::NeedMore => "more".to_owned(),
            HeaderProgress::Invalid => "invalid".to_owned(),
            HeaderProgress::Done { header: ProxyHeader::Tcp { source, destination }, used } => {
                format!("{source} {destination} +{}", input.len() - used)
            }
            HeaderProgress::Done { header, used } => format!("{header:?} +{}", input.len() - used),
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, body].concat()
    }

    #[test]
    fn lines_of_version_1_are_literal() {
        let v6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = format!("PROXY UNKNOWN {v6} {v6} 65535 65535\r\n");
        assert_eq!(longest.len(), V1_OCTETS_MAX);
        let too_long = longest.replace("UNKNOWN", "UNKNOWN ");
        let cases = [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 5000 25\r\nX", "192.0.2.1:5000 198.51.100.1:25 +1"),
            ("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", "[2001:db8::1]:0 [::1]:65535 +0"),
            ("PROXY UNKNOWN\r\n", "Local +0"),
            ("PROXY UNKNOWN whatever\r\n", "Local +0"),
            (longest.as_str(), "Local +0"),
            (too_long.as_str(), "invalid"),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 5000 25", "more"),
            ("P", "more"),
            ("", "more"),
            ("proxy TCP4", "invalid"),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 5000\r\n", "invalid"),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 5000 25 1\r\n", "invalid"),
            ("PROXY TCP4 192.0.2.1  198.51.100.1 5000 25\r\n", "invalid"),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 05000 25\r\n", "invalid"),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 +1 25\r\n", "invalid"),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 65536 25\r\n", "invalid"),
            ("PROXY TCP4 192.0.2.01 198.51.100.1 1 25\r\n", "invalid"),
            ("PROXY TCP4 ::1 ::1 1 25\r\n", "invalid"),
            ("PROXY UDP4 192.0.2.1 198.51.100.1 1 25\r\n", "invalid"),
            ("PROXY \r\n", "invalid"),
        ];
        for (input, want) in cases {
            assert_eq!(shown(input.as_bytes()), want, "{input:?}");
        }
    }

    #[test]
    fn version_2_has_addresses_and_skips_the_rest() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0x13, 0x88, 0, 25];
        let v6 = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]; 2].concat();
        let v6 = [&v6[..], &[0x13, 0x88, 0, 25]].concat();
        let tlv = [&v4[..], b"\x03\x00\x04crc!"].concat();
        let huge = vec![0; V2_OCTETS_MAX - V2_FIXED_OCTETS];
        let cases = [
            (v2(0x21, 0x11, &v4), "192.0.2.1:5000 198.51.100.1:25 +0"),
            (v2(0x21, 0x11, &tlv), "192.0.2.1:5000 198.51.100.1:25 +0"),
            ([&v2(0x21, 0x11, &v4)[..], b"EHLO"].concat(), "192.0.2.1:5000 198.51.100.1:25 +4"),
            (v2(0x21, 0x21, &v6), "[2001:db8::1]:5000 [2001:db8::1]:25 +0"),
            (v2(0x21, 0x31, &[0; 216]), "Unix +0"),
            (v2(0x21, 0x31, &[0; 215]), "invalid"),
            (v2(0x20, 0x00, &[]), "Local +0"),
            (v2(0x20, 0x11, &[1]), "Local +0"),
            (v2(0x21, 0x00, &[1, 2, 3]), "Local +0"),
            (v2(0x21, 0x00, &huge), "Local +0"),
            (v2(0x21, 0x11, &v4[..11]), "invalid"),
            (v2(0x21, 0x12, &v4), "invalid"),
            (v2(0x22, 0x11, &v4), "invalid"),
            (v2(0x11, 0x11, &v4), "invalid"),
        ];
        for (input, want) in cases {
            assert_eq!(shown(&input), want, "{}", input.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_is_decided_stays_decided_and_no_more_is_asked_for_than_needed(
            tail in proptest::collection::vec(any::<u8>(), 0..300),
            front in 0_usize..4,
        ) {
            let fronts: [&[u8]; 4] = [b"", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 ", b"PROXY UNKNOWN", V2_SIGNATURE];
            let input = [fronts[front], &tail].concat();
            let whole = parse(&input);
            for end in 0..input.len() {
                let decided = parse(&input[..end]);
                prop_assert!(decided == HeaderProgress::NeedMore || decided == whole);
            }
            if let HeaderProgress::Done { used, .. } = whole {
                prop_assert!(used <= input.len());
                prop_assert_eq!(parse(&input[..used - 1]), HeaderProgress::NeedMore);
            }
        }
    }
}
