//! Which command may stand where, and what it changes.

use super::{
    AddressCharset, BAD_SEQUENCE, Client, Framing, Part, Phase, Protocol, Question, ServerStep,
    ServerTransaction, Session, SessionAccess, User,
};
use crate::address::AddressError;
use crate::command::{ClientName, Command, CommandError, Mail, PathError, Rcpt, SessionChannel};
use crate::data::Fault;
use crate::extensions::Extension;
use crate::response::Response;
use crate::sasl::{Mechanism, Mechanisms, Secret};
use crate::status::Status;

const OK: Response = Response::fixed(250, Status::success(0, 0), "Ok");

impl Session {
    pub(super) fn command<'i>(&mut self, command: Command) -> Option<ServerStep<'i>> {
        match command {
            Command::Ehlo(name) => self.greeted(Protocol::Esmtp, name),
            Command::Helo(name) => self.greeted(Protocol::Smtp, name),
            Command::StartTls => self.start_tls(),
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial),
            Command::Mail(mail) => self.mail(mail),
            Command::Rcpt(rcpt) => self.rcpt(rcpt),
            Command::Data => self.data(),
            Command::Bdat { octets, last } => {
                self.bdat(octets, if last { Part::Last } else { Part::More })
            }
            Command::Rset => {
                self.say(&OK);
                self.reset()
            }
            Command::Noop => self.answer(&OK),
            Command::Help => self.help(),
            Command::Vrfy => self.answer(&Response::fixed(
                252,
                Status::success(0, 0),
                "Send some mail, I will try my best",
            )),
            Command::Quit => {
                self.close(&Response::fixed(221, Status::success(0, 0), "Bye"));
                Some(ServerStep::Close)
            }
        }
    }

    fn answer<'i>(&mut self, response: &Response) -> Option<ServerStep<'i>> {
        self.say(response);
        None
    }

    fn greeted<'i>(&mut self, protocol: Protocol, name: ClientName) -> Option<ServerStep<'i>> {
        let mut text = self.settings.hostname.to_string();
        if protocol == Protocol::Esmtp {
            let offer = match self.user {
                User::Unknown => self.settings.offer,
                // RFC 4954 §4: a second AUTH is refused, so it is not offered.
                User::Authenticated => self.settings.offer.with_auth(Mechanisms::NONE),
            };
            for keyword in offer.keywords() {
                text.push('\n');
                text.push_str(&keyword);
            }
        }
        self.client = Some(Client { protocol, name });
        self.say(&Response::plain(250, text));
        self.reset()
    }

    fn start_tls<'i>(&mut self) -> Option<ServerStep<'i>> {
        if self.settings.channel == SessionChannel::Tls {
            return self.out_of_order("TLS is in use already");
        }
        if !self.settings.offer.has(Extension::Starttls) {
            return self.command_failed(CommandError::NotOffered);
        }
        let question = Question::StartTls(self.output.len());
        self.say(&Response::fixed(220, Status::success(0, 0), "Ready to start TLS"));
        self.ask(question, ServerStep::StartTls)
    }

    fn auth<'i>(
        &mut self,
        mechanism: Mechanism,
        initial: Option<Secret>,
    ) -> Option<ServerStep<'i>> {
        if self.client.is_none() {
            return self.out_of_order("EHLO first");
        }
        if self.user == User::Authenticated {
            return self.out_of_order("Already authenticated");
        }
        if !matches!(self.transaction, ServerTransaction::None) {
            return self.out_of_order("Not during a mail transaction");
        }
        self.ask(Question::Authenticate, ServerStep::Authenticate { mechanism, initial })
    }

    fn mail<'i>(&mut self, mail: Mail) -> Option<ServerStep<'i>> {
        if self.client.is_none() {
            return self.out_of_order("EHLO first");
        }
        if self.settings.access == SessionAccess::Users && self.user == User::Unknown {
            // RFC 3207 §4, RFC 4954 §6.
            let text = if self.needs_tls() { "STARTTLS first" } else { "Authentication required" };
            self.refuse_unasked(&Response::fixed(530, Status::permanent(7, 0), text));
            return None;
        }
        if !matches!(self.transaction, ServerTransaction::None) {
            return self.out_of_order("Sender already given");
        }
        // RFC 1870 §6.1: no need to wait for the content.
        if mail.size.is_some_and(|size| size > self.settings.offer.size_max()) {
            self.refuse_command(&Fault::TooLarge.response());
            return Some(ServerStep::Refused(Fault::TooLarge));
        }
        let charset = if mail.smtp_utf8 { AddressCharset::Utf8 } else { AddressCharset::Ascii };
        self.ask(Question::Sender(charset), ServerStep::Sender(mail))
    }

    fn rcpt<'i>(&mut self, rcpt: Rcpt) -> Option<ServerStep<'i>> {
        match self.transaction {
            ServerTransaction::None => self.out_of_order("MAIL first"),
            ServerTransaction::Chunks(_) => self.out_of_order("The message has begun"),
            ServerTransaction::Sender(AddressCharset::Ascii)
            | ServerTransaction::Recipients(AddressCharset::Ascii)
                if rcpt.needs_smtp_utf8() =>
            {
                let path = PathError::Address(AddressError::NotAscii);
                self.command_failed(CommandError::Recipient(path))
            }
            ServerTransaction::Sender(_) | ServerTransaction::Recipients(_) => {
                self.ask(Question::Recipient, ServerStep::Recipient(rcpt))
            }
        }
    }

    pub(super) fn recipient_accepted(&mut self) {
        if let ServerTransaction::Sender(charset) = self.transaction {
            self.transaction = ServerTransaction::Recipients(charset);
        }
    }

    fn data<'i>(&mut self) -> Option<ServerStep<'i>> {
        match self.transaction {
            ServerTransaction::None => self.out_of_order("MAIL first"),
            ServerTransaction::Sender(_) => self.out_of_order("No valid recipient"),
            ServerTransaction::Recipients(_) => {
                self.ask(Question::Begin(Framing::Dots), ServerStep::Begin)
            }
            // RFC 3030 §2: the two are not mixed.
            ServerTransaction::Chunks(_) => self.out_of_order("BDAT began the message"),
        }
    }

    /// Octets that are refused are read all the same: else they would be taken for commands.
    fn bdat<'i>(&mut self, octets: u64, part: Part) -> Option<ServerStep<'i>> {
        let refusal = match self.transaction {
            _ if !self.settings.offer.has(Extension::Chunking) => {
                CommandError::NotOffered.response()
            }
            ServerTransaction::None => Response::fixed(503, BAD_SEQUENCE, "MAIL first"),
            ServerTransaction::Sender(_) => {
                Response::fixed(503, BAD_SEQUENCE, "No valid recipient")
            }
            ServerTransaction::Recipients(_) => {
                return self.ask(Question::Begin(Framing::Octets(octets, part)), ServerStep::Begin);
            }
            ServerTransaction::Chunks(_) => {
                self.phase = Phase::Chunk(octets, part);
                return None;
            }
        };
        self.refusals.push(refusal.clone());
        self.drain_chunk(octets, refusal);
        None
    }

    fn help<'i>(&mut self) -> Option<ServerStep<'i>> {
        let offer = self.settings.offer;
        let mut verbs = "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT".to_owned();
        let offered = [
            (offer.has(Extension::Chunking), " BDAT"),
            (offer.has(Extension::Starttls), " STARTTLS"),
            (!offer.mechanisms().is_empty(), " AUTH"),
        ];
        verbs.extend(offered.into_iter().filter(|(is, _)| *is).map(|(_, verb)| verb));
        verbs.push_str("\nSee RFC 5321");
        self.answer(&Response::new(214, Status::success(0, 0), verbs))
    }

    fn ask<'i>(&mut self, question: Question, step: ServerStep<'i>) -> Option<ServerStep<'i>> {
        self.question = Some(question);
        Some(step)
    }

    fn reset<'i>(&mut self) -> Option<ServerStep<'i>> {
        match std::mem::replace(&mut self.transaction, ServerTransaction::None) {
            ServerTransaction::None => None,
            ServerTransaction::Sender(_)
            | ServerTransaction::Recipients(_)
            | ServerTransaction::Chunks(_) => Some(ServerStep::Reset),
        }
    }

    fn out_of_order<'i>(&mut self, text: &'static str) -> Option<ServerStep<'i>> {
        self.refuse_unasked(&Response::fixed(503, BAD_SEQUENCE, text));
        None
    }
}
