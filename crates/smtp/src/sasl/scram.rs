//! The messages of SCRAM (RFC 5802, RFC 7677), server side, as text. Hashes are made elsewhere.
//!
//! ```text
//! client-first   n,,n=user,r=CLIENT                 gs2 header, bare message
//! server-first   r=CLIENTSERVER,s=salt,i=4096
//! client-final   c=biws,r=CLIENTSERVER,p=proof
//! server-final   v=signature
//! ```

use super::text;
use crate::base64;

/// Octets of a SHA-256 proof.
const PROOF_OCTETS: usize = 32;

/// What the client says about binding the exchange to the TLS connection (RFC 5802 §6).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Binding {
    /// `n`: the client cannot bind.
    Unsupported,
    /// `y`: it could, and believes that we cannot. If we offered a mechanism with it, somebody in
    /// between took that away.
    NotOffered,
    /// `p=NAME`: it did, in this way (RFC 5929, RFC 9266).
    Bound(Box<str>),
}

/// The client's first message.
///
/// ```
/// use smtp::sasl::{Binding, ClientFirst};
/// let first = ClientFirst::parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
/// assert_eq!((first.user(), first.binding()), ("user", &Binding::Unsupported));
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientFirst {
    binding: Binding,
    authorize_as: Option<Box<str>>,
    user: Box<str>,
    nonce: Box<str>,
    gs2_header: Box<str>,
    bare: Box<str>,
}

impl ClientFirst {
    /// Reads `gs2-header client-first-message-bare`. `None` also for a mandatory extension (`m=`),
    /// of which we know none.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let message = std::str::from_utf8(message).ok()?;
        let mut parts = message.splitn(3, ',');
        let (flag, identity, bare) = (parts.next()?, parts.next()?, parts.next()?);
        let binding = match flag {
            "n" => Binding::Unsupported,
            "y" => Binding::NotOffered,
            _ => {
                let name = flag.strip_prefix("p=").filter(|name| !name.is_empty())?;
                let is_name_char = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
                Binding::Bound(name.bytes().all(is_name_char).then(|| name.into())?)
            }
        };
        let authorize_as = match identity {
            "" => None,
            _ => Some(name(identity.strip_prefix("a=")?)?),
        };
        let mut attributes = bare.split(',');
        let user = name(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes.next()?.strip_prefix("r=").filter(|nonce| is_nonce(nonce))?;
        let gs2_header = message.strip_suffix(bare)?;
        Some(Self {
            binding,
            authorize_as,
            user,
            nonce: nonce.into(),
            gs2_header: gs2_header.into(),
            bare: bare.into(),
        })
    }

    /// Is the exchange bound to the TLS connection?
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// Whom the user wants to act for, if not for itself.
    pub fn authorize_as(&self) -> Option<&str> {
        self.authorize_as.as_deref()
    }

    /// Who the client says it is.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Our answer. `nonce` is ours, fresh, and printable without commas.
    pub fn reply(&self, nonce: &str, salt: &[u8], iterations: u32) -> ServerFirst {
        let nonce = format!("{}{nonce}", self.nonce);
        let mut encoded = Vec::new();
        base64::encode(salt, &mut encoded);
        let salt = String::from_utf8_lossy(&encoded);
        ServerFirst { message: format!("r={nonce},s={salt},i={iterations}"), nonce }
    }

    /// What the client's final message must repeat: its header, so that nobody could change it on
    /// the way, and `data` of the TLS connection if it is [`Binding::Bound`].
    pub fn channel_binding(&self, data: &[u8]) -> Vec<u8> {
        let data = match self.binding {
            Binding::Bound(_) => data,
            Binding::Unsupported | Binding::NotOffered => b"",
        };
        [self.gs2_header.as_bytes(), data].concat()
    }
}

/// Our first message: both nonces, salt and iterations.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerFirst {
    message: String,
    nonce: String,
}

impl ServerFirst {
    /// As it is sent.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Is `last` an answer to this very message?
    pub fn is_answered_by(&self, last: &ClientFinal) -> bool {
        *self.nonce == *last.nonce
    }

    /// The text that both sides sign: all that was said (RFC 5802 §3, AuthMessage).
    pub fn auth_message(&self, first: &ClientFirst, last: &ClientFinal) -> String {
        format!("{},{},{}", first.bare, self.message, last.without_proof)
    }
}

/// The client's last message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientFinal {
    channel_binding: Vec<u8>,
    nonce: Box<str>,
    proof: [u8; PROOF_OCTETS],
    without_proof: Box<str>,
}

impl ClientFinal {
    /// Reads `client-final-message` of RFC 5802 §7, its parts in base64.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let message = std::str::from_utf8(message).ok()?;
        let (without_proof, proof) = message.rsplit_once(",p=")?;
        let mut attributes = without_proof.split(',');
        let channel_binding = attributes.next()?.strip_prefix("c=")?;
        let nonce = attributes.next()?.strip_prefix("r=").filter(|nonce| is_nonce(nonce))?;
        Some(Self {
            channel_binding: base64::decode(channel_binding.as_bytes())?,
            nonce: nonce.into(),
            proof: base64::decode(proof.as_bytes())?.try_into().ok()?,
            without_proof: without_proof.into(),
        })
    }

    /// To be compared with [`ClientFirst::channel_binding`].
    pub fn channel_binding(&self) -> &[u8] {
        &self.channel_binding
    }

    /// ClientKey XOR ClientSignature (RFC 5802 §3), which proves that the password is known.
    pub fn proof(&self) -> &[u8; PROOF_OCTETS] {
        &self.proof
    }
}

/// Why the exchange fails, in the words of RFC 5802 §7. Which of user and password is wrong, nobody
/// is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ScramFailure {
    /// The proof is wrong, or there is no such user.
    InvalidProof,
    /// The client's header or the TLS connection is not what the client saw.
    ChannelBindingsDontMatch,
    /// The client could have bound the exchange, and was told that we cannot.
    ServerDoesSupportChannelBinding,
    /// A kind of binding that we do not have.
    UnsupportedChannelBindingType,
    /// What RFC 5802 has no word for.
    OtherError,
}

impl ScramFailure {
    const fn word(self) -> &'static str {
        match self {
            Self::InvalidProof => "invalid-proof",
            Self::ChannelBindingsDontMatch => "channel-bindings-dont-match",
            Self::ServerDoesSupportChannelBinding => "server-does-support-channel-binding",
            Self::UnsupportedChannelBindingType => "unsupported-channel-binding-type",
            Self::OtherError => "other-error",
        }
    }
}

/// Our last message: the proof that we know the user, or why not.
pub fn server_final(result: Result<&[u8], ScramFailure>) -> String {
    match result {
        Ok(signature) => {
            let mut encoded = Vec::new();
            base64::encode(signature, &mut encoded);
            format!("v={}", String::from_utf8_lossy(&encoded))
        }
        Err(failure) => format!("e={}", failure.word()),
    }
}

/// RFC 5802 §5.1, saslname: `=2C` is a comma, `=3D` an equals sign, and there are no others.
fn name(written: &str) -> Option<Box<str>> {
    let mut parts = written.split('=');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (escaped, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (None, Some(rest)) => ('=', rest),
            (None, None) => return None,
        };
        name.push(escaped);
        name.push_str(rest);
    }
    text(name.as_bytes())
}

fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'!'..=b'+' | b'-'..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677 §3.
    #[test]
    fn the_rfcs_exchange_is_reproduced() {
        let first = ClientFirst::parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        let salt = base64::decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let reply = first.reply("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", &salt, 4096);
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let server_first = format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        assert_eq!(reply.message(), server_first);

        let text = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let last = ClientFinal::parse(text.as_bytes()).unwrap();
        assert_eq!(last.channel_binding(), first.channel_binding(b"not bound"));
        assert!(reply.is_answered_by(&last));
        let signed = format!("n=user,r=rOprNGfwEbeRWgbNEkqO,{server_first},c=biws,r={nonce}");
        assert_eq!(reply.auth_message(&first, &last), signed);

        let other = ClientFinal::parse(text.replace("r=rO", "r=rX").as_bytes()).unwrap();
        assert!(!reply.is_answered_by(&other), "another exchange's nonce");
    }

    #[test]
    fn first_messages_are_read_or_refused() {
        let cases = [
            ("n,,n=user,r=abc", Some(("user", None))),
            ("y,a=other,n=user,r=abc,x=ignored", Some(("user", Some("other")))),
            ("n,,n=a=2Cb=3Dc,r=abc", Some(("a,b=c", None))),
            ("p=tls-exporter,,n=\u{fc},r=abc", Some(("\u{fc}", None))),
            ("n,,n=a=2cb,r=abc", None),
            ("n,,n=a=,r=abc", None),
            ("n,,n=,r=abc", None),
            ("n,,n=user,r=", None),
            ("n,,n=user,r=a b", None),
            ("n,,m=x,n=user,r=abc", None),
            ("n,,n=user", None),
            ("n,b=x,n=user,r=abc", None),
            ("p=,,n=user,r=abc", None),
            ("x,,n=user,r=abc", None),
            ("", None),
        ];
        for (message, want) in cases {
            let got = ClientFirst::parse(message.as_bytes());
            let got = got.as_ref().map(|first| (first.user(), first.authorize_as()));
            assert_eq!(got, want, "{message:?}");
        }
    }

    #[test]
    fn a_bound_exchange_repeats_header_and_binding() {
        let first = ClientFirst::parse(b"p=tls-exporter,a=z,n=user,r=abc").unwrap();
        assert_eq!(first.binding(), &Binding::Bound("tls-exporter".into()));
        assert_eq!(first.channel_binding(b"\x01\x02"), b"p=tls-exporter,a=z,\x01\x02");
    }

    #[test]
    fn last_messages_need_a_proof_of_full_length() {
        let proof = "A".repeat(43);
        for (message, valid) in [
            (format!("c=biws,r=abc,p={proof}="), true),
            (format!("c=biws,r=abc,x=y,p={proof}="), true),
            ("c=biws,r=abc,p=AAAA".to_owned(), false),
            (format!("c=biws,r=abc,p={proof}"), false),
            (format!("c=*,r=abc,p={proof}="), false),
            (format!("r=abc,p={proof}="), false),
            ("c=biws,r=abc".to_owned(), false),
        ] {
            assert_eq!(ClientFinal::parse(message.as_bytes()).is_some(), valid, "{message}");
        }
        assert_eq!(server_final(Ok(b"abc")), "v=YWJj");
        assert_eq!(server_final(Err(ScramFailure::InvalidProof)), "e=invalid-proof");
    }
}
