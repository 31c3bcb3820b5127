//! Words that stand for variants: each list is what the operator may write.

use super::checker::WordList;
use super::{
    BareNewlines, CleartextFallback, DsnReturn, EightBit, IpFamily, ListenerMode, LogFormat,
    LongLines, MinVersion, OnFetchFailure, StsMode, TlsFloor,
};

impl WordList for ListenerMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("relay", Self::Relay),
        ("submission", Self::Submission),
        ("submissions", Self::Submissions),
    ];
}

impl WordList for BareNewlines {
    const WORDS: &'static [(&'static str, Self)] =
        &[("reject", Self::Reject), ("normalize", Self::Normalize)];
}

impl WordList for TlsFloor {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("opportunistic", Self::Opportunistic),
        ("encrypt", Self::Encrypt),
        ("verify", Self::Verify),
    ];
}

impl WordList for CleartextFallback {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("never", Self::Never),
        ("second-attempt", Self::SecondAttempt),
        ("immediate", Self::Immediate),
    ];
}

impl WordList for EightBit {
    const WORDS: &'static [(&'static str, Self)] =
        &[("convert", Self::Convert), ("send", Self::Send)];
}

impl WordList for LongLines {
    const WORDS: &'static [(&'static str, Self)] =
        &[("pass", Self::Pass), ("encode", Self::Encode), ("refuse", Self::Refuse)];
}

impl WordList for IpFamily {
    const WORDS: &'static [(&'static str, Self)] =
        &[("both", Self::Both), ("v4", Self::V4), ("v6", Self::V6)];
}

impl WordList for MinVersion {
    const WORDS: &'static [(&'static str, Self)] = &[("1.2", Self::Tls12), ("1.3", Self::Tls13)];
}

impl WordList for StsMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("enforce", Self::Enforce), ("report", Self::Report), ("off", Self::Off)];
}

impl WordList for OnFetchFailure {
    const WORDS: &'static [(&'static str, Self)] =
        &[("defer", Self::Defer), ("deliver", Self::Deliver)];
}

impl WordList for DsnReturn {
    const WORDS: &'static [(&'static str, Self)] =
        &[("headers", Self::Headers), ("full", Self::Full)];
}

impl WordList for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("text", Self::Text),
        ("json", Self::Json),
        ("journald", Self::Journald),
    ];
}
