//! Blocks of addresses, `192.0.2.0/24`.

use std::fmt;
use std::net::IpAddr;

/// What all IPv4-mapped IPv6 addresses have in common (RFC 4291 §2.5.5.2): `::ffff:0:0/96`.
const MAPPED_BITS: u8 = 96;

/// An address block: all addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is not a prefix.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum PrefixError {
    /// Neither `address/length` nor an address.
    #[error("not an address block like 192.0.2.0/24 or 2001:db8::/32")]
    Malformed,
    /// Longer than the address.
    #[error("the length is over {0}")]
    TooLong(u8),
    /// The operator may have meant the address, or the block: neither is guessed.
    #[error("bits are set beyond the length; write {0}")]
    HostBits(Prefix),
    /// Nothing is ever in it, since such addresses count as the IPv4 addresses that they are.
    #[error("IPv4 addresses are not matched in this form; write {0}")]
    Mapped(Prefix),
}

impl Prefix {
    /// Parses `address/length`, or an address, which stands for itself alone.
    ///
    /// # Errors
    ///
    /// [`PrefixError`], with what to write instead where that is clear.
    pub(crate) fn parse(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Malformed)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => bits,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| PrefixError::Malformed)?
            }
            Some(_) => return Err(PrefixError::Malformed),
        };
        if length > bits {
            return Err(PrefixError::TooLong(bits));
        }
        if let (IpAddr::V6(v6), Some(length)) = (address, length.checked_sub(MAPPED_BITS))
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            return Err(PrefixError::Mapped(Self { address: mask(v4.into(), length), length }));
        }
        let masked = Self { address: mask(address, length), length };
        if masked.address == address { Ok(masked) } else { Err(PrefixError::HostBits(masked)) }
    }

    /// Is `ip` in this block? An IPv4-mapped IPv6 address counts as the IPv4 address it is.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.address.is_ipv4() && mask(ip, self.length) == self.address
    }

    /// The address that begins the block.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits are fixed.
    pub(crate) fn length(&self) -> u8 {
        self.length
    }
}

fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let free = 32_u32.saturating_sub(length.into());
            let keep = u32::MAX.checked_shl(free).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & keep).into())
        }
        IpAddr::V6(v6) => {
            let free = 128_u32.saturating_sub(length.into());
            let keep = u128::MAX.checked_shl(free).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & keep).into())
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_read_exactly_or_refused() {
        let v4 = Prefix { address: IpAddr::from([10, 0, 0, 0]), length: 8 };
        let host = Prefix { address: IpAddr::from([192, 0, 2, 7]), length: 32 };
        let all = Prefix { address: IpAddr::from([0, 0, 0, 0]), length: 0 };
        let cases = [
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("192.0.2.7", Ok("192.0.2.7/32")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("::1/128", Ok("::1/128")),
            ("2001:db8::", Ok("2001:db8::/128")),
            ("::/0", Ok("::/0")),
            ("10.1.2.3/8", Err(PrefixError::HostBits(v4))),
            ("10.0.0.0/33", Err(PrefixError::TooLong(32))),
            ("::ffff:10.0.0.0/104", Err(PrefixError::Mapped(v4))),
            ("::ffff:10.1.2.3/104", Err(PrefixError::Mapped(v4))),
            ("::ffff:a00:0/104", Err(PrefixError::Mapped(v4))),
            ("::ffff:192.0.2.7", Err(PrefixError::Mapped(host))),
            ("::ffff:0:0/96", Err(PrefixError::Mapped(all))),
            ("::/96", Ok("::/96")),
            ("::/129", Err(PrefixError::TooLong(128))),
            ("10.0.0.0/", Err(PrefixError::Malformed)),
            ("10.0.0.0/+8", Err(PrefixError::Malformed)),
            ("10.0.0.0/999", Err(PrefixError::Malformed)),
            ("10.0.0/8", Err(PrefixError::Malformed)),
            ("localhost", Err(PrefixError::Malformed)),
            ("", Err(PrefixError::Malformed)),
        ];
        for (text, want) in cases {
            assert_eq!(
                Prefix::parse(text).map(|p| p.to_string()),
                want.map(str::to_owned),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_prefix_contains_its_block_and_nothing_else() {
        let cases = [
            ("127.0.0.0/8", "127.255.0.1", true),
            ("127.0.0.0/8", "128.0.0.1", false),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("0.0.0.0/0", "::1", false),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("::/0", "2001:db9::", true),
        ];
        for (prefix, ip, want) in cases {
            let contains = Prefix::parse(prefix).unwrap().contains(ip.parse().unwrap());
            assert_eq!(contains, want, "{prefix} {ip}");
        }
    }
}
