//! Everything of SMTP that a stranger's octets get to, under libFuzzer: one binary, and
//! `FUZZ_TARGET` says which part.
//!
//! A target is a function of octets that panics when a promise is broken. It does not only look for
//! crashes: what is cut differently must mean the same, what is written again must be read as the
//! same, what is kept must be clean. `.ci/fuzz` builds and runs this; `corpus/TARGET` is kept.

#![no_main]

mod addresses;
mod client;
mod commands;
mod content;
mod doors;
mod mime;
mod server;

// The caller that the tests of the session have; it checks while it plays.
#[path = "../../../crates/smtp/tests/common/mod.rs"]
mod common;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// A target panics when a promise is broken.
type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 10] = [
    ("address", addresses::check),
    ("auth", doors::check_auth),
    ("bdat", content::check_bdat),
    ("client", client::check),
    ("command", commands::check),
    ("data", content::check_data),
    ("mime", mime::check),
    ("proxy", doors::check_proxy),
    ("reply", client::check_reply),
    ("server", server::check),
];

static TARGET: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    let names = TARGETS.map(|(target, _)| target).join(", ");
    found.unwrap_or_else(|| panic!("FUZZ_TARGET is {name:?}; it may be one of {names}")).1
}

fuzz_target!(|data: &[u8]| TARGET.get_or_init(chosen)(data));

/// Takes the first octet, for a choice that the fuzzer makes; 0 when there is none.
fn choice(data: &mut &[u8]) -> u8 {
    data.split_off_first().copied().unwrap_or(0)
}

/// Takes how the rest shall be cut: into pieces of so many octets.
fn piece_size(data: &mut &[u8]) -> usize {
    usize::from(choice(data)) + 1
}
