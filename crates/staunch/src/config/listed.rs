//! Words that stand for variants: each list is what the operator may write.

use super::checker::Listed;
use super::{
    BareNewline, CleartextFallback, DsnReturn, EightBit, IpFamily, ListenerMode, LogFormat,
    LongLines, MinVersion, OnFailure, StsMode, TlsFloor,
};

impl Listed for ListenerMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("relay", Self::Relay),
        ("submission", Self::Submission),
        ("submissions", Self::Submissions),
    ];
}

impl Listed for BareNewline {
    const WORDS: &'static [(&'static str, Self)] =
        &[("reject", Self::Reject), ("normalize", Self::Normalize)];
}

impl Listed for TlsFloor {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("opportunistic", Self::Opportunistic),
        ("encrypt", Self::Encrypt),
        ("verify", Self::Verify),
    ];
}

impl Listed for CleartextFallback {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("never", Self::Never),
        ("second-attempt", Self::SecondAttempt),
        ("immediate", Self::Immediate),
    ];
}

impl Listed for EightBit {
    const WORDS: &'static [(&'static str, Self)] =
        &[("convert", Self::Convert), ("send", Self::Send)];
}

impl Listed for LongLines {
    const WORDS: &'static [(&'static str, Self)] =
        &[("pass", Self::Pass), ("encode", Self::Encode), ("refuse", Self::Refuse)];
}

impl Listed for IpFamily {
    const WORDS: &'static [(&'static str, Self)] =
        &[("both", Self::Both), ("v4", Self::V4), ("v6", Self::V6)];
}

impl Listed for MinVersion {
    const WORDS: &'static [(&'static str, Self)] = &[("1.2", Self::Tls12), ("1.3", Self::Tls13)];
}

impl Listed for StsMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("enforce", Self::Enforce), ("report", Self::Report), ("off", Self::Off)];
}

impl Listed for OnFailure {
    const WORDS: &'static [(&'static str, Self)] =
        &[("defer", Self::Defer), ("deliver", Self::Deliver)];
}

impl Listed for DsnReturn {
    const WORDS: &'static [(&'static str, Self)] =
        &[("headers", Self::Headers), ("full", Self::Full)];
}

impl Listed for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("text", Self::Text),
        ("json", Self::Json),
        ("journald", Self::Journald),
    ];
}
