//! Every size, count and time of SMTP that somebody else's behaviour is measured by.
//!
//! Sizes are octets. Where RFC 5321 names a minimum that must be supported, ours is that or more;
//! where it names a maximum that may be sent, ours is that or less.

use std::time::Duration;

use crate::params::{ENVELOPE_ID_CHARS_MAX, ORIGINAL_RECIPIENT_CHARS_MAX};

// ---- sizes (RFC 5321 §4.5.3.1)

/// RFC 5321 §4.5.3.1.4: a command line with its CRLF, as far as every server takes it.
pub const COMMAND_LINE_OCTETS: usize = 512;
/// Our choice: the longest line of MAIL and RCPT that is accepted, with its CRLF, before extensions
/// make it longer.
pub const PATH_LINE_ACCEPTED_OCTETS: usize = 2048;
/// RFC 1870 §3: what SIZE adds to the MAIL line.
pub const SIZE_ALLOWANCE_OCTETS: usize = 26;
/// RFC 6152 §3: what BODY adds to the MAIL line.
pub const BODY_ALLOWANCE_OCTETS: usize = 17;
/// RFC 6531 §3.1: what SMTPUTF8 adds to the MAIL and RCPT lines.
pub const SMTPUTF8_ALLOWANCE_OCTETS: usize = 10;
/// RFC 3461 §4: what RET and ENVID add to the MAIL line, each character of the id encoded.
pub const DSN_MAIL_ALLOWANCE_OCTETS: usize = " RET=FULL ENVID=".len() + 3 * ENVELOPE_ID_CHARS_MAX;
/// RFC 3461 §4: what NOTIFY and ORCPT add to the RCPT line.
pub const DSN_RCPT_ALLOWANCE_OCTETS: usize =
    " NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=".len() + ORIGINAL_RECIPIENT_CHARS_MAX;
/// RFC 8689 §2: what REQUIRETLS adds to the MAIL line.
pub const REQUIRETLS_ALLOWANCE_OCTETS: usize = 11;
/// RFC 4954 §3: what AUTH adds to the MAIL line.
pub const AUTH_ALLOWANCE_OCTETS: usize = 500;
/// RFC 2852 §3: what BY adds to the MAIL line.
pub const DELIVERBY_ALLOWANCE_OCTETS: usize = 17;
/// RFC 6710 §3: what MT-PRIORITY adds to the MAIL line.
pub const PRIORITY_ALLOWANCE_OCTETS: usize = 15;
/// RFC 4865 §3: what HOLDFOR or HOLDUNTIL adds to the MAIL line; ours is the longest date-time.
pub const FUTURERELEASE_ALLOWANCE_OCTETS: usize =
    " HOLDUNTIL=9999-99-99T99:99:99.999999999+99:99".len();
/// RFC 4954 §4: a line of an AUTH dialogue, with its CRLF.
pub const AUTH_LINE_OCTETS: usize = 12_288;
/// RFC 5321 §4.5.3.1.5: a reply line with its CRLF.
pub const REPLY_LINE_OCTETS: usize = 512;
/// Our choice: the longest path that is accepted, with its angle brackets and a source route. RFC
/// 5321 §4.5.3.1.3 has everybody take 256.
pub const PATH_ACCEPTED_OCTETS: usize = 1024;
/// RFC 5321 §4.5.3.1.6: a line of content with its CRLF, as far as every peer takes it.
pub const CONTENT_LINE_OCTETS: usize = 1000;
/// Our choice: the longest content line that is accepted, without its CRLF. Signed mail with longer
/// lines than [`CONTENT_LINE_OCTETS`] exists, and folding it would break it; beyond this it is an
/// attack.
pub const CONTENT_LINE_ACCEPTED_OCTETS: usize = 64 * 1024;
/// RFC 5321 §4.5.3.1.7: the least message size that must be accepted.
pub const MESSAGE_OCTETS_MIN: u64 = 64 * 1024;

// ---- counts

/// RFC 5321 §4.5.3.1.8: the least number of recipients that must be accepted.
pub const RECIPIENTS_MIN: usize = 100;
/// RFC 5321 §6.3: a message with more Received fields than this is in a loop.
pub const RECEIVED_FIELDS_MAX: u32 = 100;

// ---- waits of the client (RFC 5321 §4.5.3.2)

/// RFC 5321 §4.5.3.2.1: for the greeting.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Our choice, as for MAIL: for the reply to EHLO, HELO and STARTTLS, which RFC 5321 does not name.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// RFC 5321 §4.5.3.2.2: for the reply to MAIL.
pub const MAIL_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// RFC 5321 §4.5.3.2.3: for the reply to RCPT.
pub const RCPT_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// RFC 5321 §4.5.3.2.4: for the 354 that answers DATA.
pub const DATA_INITIATION_TIMEOUT: Duration = Duration::from_secs(2 * 60);
/// RFC 5321 §4.5.3.2.5: for each write of content to be taken.
pub const DATA_BLOCK_TIMEOUT: Duration = Duration::from_secs(3 * 60);
/// RFC 5321 §4.5.3.2.6: for the reply to the final dot. Shorter waits make duplicates.
pub const DATA_TERMINATION_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Our choice: for the reply to RSET and QUIT. Nothing is lost when it does not come.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);

// ---- waits of the server

/// RFC 5321 §4.5.3.2.7: for the next command or piece of content.
pub const SERVER_IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5321 §4.5.3.2: the least that each wait must last.
    #[test]
    fn cl_12_no_wait_is_shorter_than_the_rfc_wants() {
        let waits = [
            ("greeting, §4.5.3.2.1", GREETING_TIMEOUT, 5),
            ("EHLO and STARTTLS, as MAIL", HELLO_TIMEOUT, 5),
            ("MAIL, §4.5.3.2.2", MAIL_TIMEOUT, 5),
            ("RCPT, §4.5.3.2.3", RCPT_TIMEOUT, 5),
            ("DATA, §4.5.3.2.4", DATA_INITIATION_TIMEOUT, 2),
            ("block of content, §4.5.3.2.5", DATA_BLOCK_TIMEOUT, 3),
            ("final dot, §4.5.3.2.6", DATA_TERMINATION_TIMEOUT, 10),
            ("server, §4.5.3.2.7", SERVER_IDLE_TIMEOUT, 5),
        ];
        for (what, wait, minutes) in waits {
            assert!(wait >= Duration::from_secs(minutes * 60), "{what}: {wait:?}");
        }
        // Nothing of a mail hangs on it, but a place for other mail does.
        assert!(FAREWELL_TIMEOUT < MAIL_TIMEOUT);
    }
}
