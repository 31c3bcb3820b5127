//! A whole session on the accepting side.

use smtp::command::SessionChannel;
use smtp::data::Newlines;
use smtp::server::{SessionAccess, SessionSettings};

use crate::common::{Transcript, play, relay};
use crate::{choice, piece_size};

/// However the octets come, the transcript is the same; the caller checks what it keeps.
pub fn check(mut data: &[u8]) {
    let kind = choice(&mut data);
    let piece = piece_size(&mut data);
    let is = |bit: u8| kind & 1 << bit != 0;
    let settings = SessionSettings {
        channel: if is(0) { SessionChannel::Tls } else { SessionChannel::Clear },
        access: if is(1) { SessionAccess::Users } else { SessionAccess::Anyone },
        newlines: if is(2) { Newlines::Normalize } else { Newlines::Strict },
        ..relay()
    };
    let whole = play(settings.clone(), data, usize::MAX);
    assert_eq!(play(settings.clone(), data, piece), whole);
    let ends = whole.events.iter().filter(|event| *event == "end").count();
    assert_eq!(whole.contents().len(), ends);
    check_order(&settings, &whole);
}

/// Nobody gets further than the settings allow.
fn check_order(settings: &SessionSettings, transcript: &Transcript) {
    let users_only = settings.access == SessionAccess::Users;
    let mut in_tls = settings.channel == SessionChannel::Tls;
    let mut is_user = false;
    let answers = transcript.answers();
    for event in &transcript.events {
        match event.split(' ').next() {
            Some("tls") => (in_tls, is_user) = (true, false),
            Some("auth") => {
                assert!(in_tls, "no password in the clear");
                is_user = answers.iter().any(|answer| answer == "235 2.7.0");
            }
            Some("sender") => assert!(!users_only || in_tls && is_user, "MAIL before AUTH"),
            _ => {}
        }
    }
    let accepted = answers.iter().filter(|answer| *answer == "235 2.7.0").count();
    assert!(accepted == 0 || transcript.events.iter().any(|event| event.starts_with("auth")));
}
