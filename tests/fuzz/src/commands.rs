//! One command line.

use smtp::command::{BodyKind, Brackets, Command, Mail, Rcpt, Recipient};

use crate::common::full_offer;

/// What is understood is understood in the same way when it is written again as we would.
pub fn check(line: &[u8]) {
    let offer = full_offer();
    match Command::parse(line, offer) {
        Err(error) => {
            let response = error.response().to_string();
            assert!(response.is_ascii() && response.ends_with("\r\n"));
        }
        Ok(mut command) => {
            // We write the brackets that some clients leave out.
            match &mut command {
                Command::Mail(mail) => mail.brackets = Brackets::Written,
                Command::Rcpt(rcpt) => rcpt.brackets = Brackets::Written,
                _ => {}
            }
            let written = match &command {
                Command::Mail(mail) => written_mail(mail),
                Command::Rcpt(rcpt) => written_rcpt(rcpt),
                Command::Bdat { octets, last } => {
                    format!("BDAT {octets}{}", if *last { " LAST" } else { "" })
                }
                _ => return,
            };
            assert_eq!(
                Command::parse(written.as_bytes(), offer).as_ref(),
                Ok(&command),
                "{written}"
            );
        }
    }
}

fn written_mail(mail: &Mail) -> String {
    let mut line = format!("MAIL FROM:<{}>", mail.sender);
    let mut add = |keyword: &str, value: Option<String>| {
        if let Some(value) = value {
            line.push_str(&format!(" {keyword}={value}"));
        }
    };
    add("SIZE", mail.size.map(|size| size.to_string()));
    add(
        "BODY",
        mail.body.map(|body| match body {
            BodyKind::SevenBit => "7BIT".to_owned(),
            BodyKind::EightBitMime => "8BITMIME".to_owned(),
        }),
    );
    add("RET", mail.ret.map(|ret| ret.to_string()));
    add("ENVID", mail.envelope_id.as_ref().map(ToString::to_string));
    add("BY", mail.deliver_by.map(|by| by.to_string()));
    add("MT-PRIORITY", mail.priority.map(|priority| priority.to_string()));
    add("AUTH", mail.auth.then(|| "<>".to_owned()));
    if let Some(hold) = &mail.hold {
        add(hold.keyword(), Some(hold.to_string()));
    }
    for (keyword, is_set) in [(" SMTPUTF8", mail.smtp_utf8), (" REQUIRETLS", mail.require_tls)] {
        line.push_str(if is_set { keyword } else { "" });
    }
    line
}

fn written_rcpt(rcpt: &Rcpt) -> String {
    let address = match &rcpt.recipient {
        Recipient::Mailbox(mailbox) => mailbox.as_str(),
        Recipient::Postmaster => "Postmaster",
    };
    let mut line = format!("RCPT TO:<{address}>");
    if let Some(notify) = rcpt.notify {
        line.push_str(&format!(" NOTIFY={notify}"));
    }
    if let Some(original) = &rcpt.original {
        line.push_str(&format!(" ORCPT={original}"));
    }
    line
}
