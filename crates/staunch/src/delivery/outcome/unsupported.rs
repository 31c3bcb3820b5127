//! Messages that not every host takes as they are.

use smtp::Domain;
use smtp::mime::{ConversionRefused, LINE_OCTETS_MAX};

use crate::telemetry::{Problem, Reason};

/// Why a host does not take a message in the form that it has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unsupported {
    /// The message has eight bits, and would have to be converted: other hosts come first.
    EightBit,
    /// The message would have to be converted, and cannot be.
    Conversion(ConversionRefused),
    /// The message has lines that not every host takes, and the operator wants none of them sent
    /// (`delivery.long_lines`).
    LongLines,
    /// An address or the header has UTF-8, and the host does not know SMTPUTF8.
    SmtpUtf8,
    /// The message is to be returned by a certain time, and the host would not see to that.
    DeliverBy,
}

impl Unsupported {
    /// In words.
    pub(super) fn problem(self, mx: &Domain) -> Problem {
        match self {
            Self::EightBit => {
                Problem::new(Reason::ConversionRefused, &format!("{mx} takes no octets above 127"))
            }
            Self::Conversion(refused) => Problem::new(
                Reason::ConversionRefused,
                &format!(
                    "{mx} takes no octets above 127, and the message cannot be converted: {refused}"
                ),
            ),
            Self::LongLines => Problem::new(
                Reason::LineTooLong,
                &format!("the message has a line of more than {LINE_OCTETS_MAX} octets"),
            ),
            Self::SmtpUtf8 => Problem::new(
                Reason::SmtpUtf8Unsupported,
                &format!("{mx} does not support SMTPUTF8, which an address or the header needs"),
            ),
            Self::DeliverBy => Problem::new(
                Reason::DeliverByUnsupported,
                &format!("{mx} does not promise to deliver or return the message in time"),
            ),
        }
    }
}
