//! AUTH: the mechanisms' messages between the session and `auth`, and what becomes of a wrong
//! login.

use aws_lc_rs::rand;
use smtp::sasl::{
    Binding, ClientFinal, ClientFirst, LOGIN_NAME_PROMPT, LOGIN_PASSWORD_PROMPT, Mechanism,
    Mechanisms, Plain, Secret, parse_login, server_final,
};
use smtp::server::Session;
use smtp::{Response, Status};
use tokio::time::sleep;

use super::arrival::ClientArrival;
use super::dialogue::{Dialogue, Exchange};
use super::peer::TlsFacts;
use super::refusal::ClientRefusal;
use crate::accept::facts::AcceptFact;
use crate::accept::handler::SmtpHandler;
use crate::auth::{Auth, LoginVerdict, Offered, Penalty};

/// Random octets of a nonce, which makes each exchange another one (RFC 5802 §5.1).
const NONCE_OCTETS: usize = 18;
/// The only binding that we have (RFC 9266).
const TLS_EXPORTER: &str = "tls-exporter";

/// What to say to a message of the client.
enum LoginStep {
    Challenge(Vec<u8>, Dialogue),
    End {
        user: Box<str>,
        verdict: LoginVerdict,
    },
    /// It is no message of this mechanism.
    Malformed,
}

/// What can be offered on this connection, if users may log in at this listener.
pub(super) fn mechanisms(auth: &Auth, arrival: &ClientArrival) -> Mechanisms {
    let passwords = Mechanisms::NONE.with(Mechanism::Plain).with(Mechanism::Login);
    match auth.offered() {
        Offered::Nothing => Mechanisms::NONE,
        Offered::Passwords => passwords,
        Offered::Scram if exporter(arrival).is_some() => {
            passwords.with(Mechanism::ScramSha256).with(Mechanism::ScramSha256Plus)
        }
        Offered::Scram => passwords.with(Mechanism::ScramSha256),
    }
}

fn exporter(arrival: &ClientArrival) -> Option<&[u8; 32]> {
    arrival.tls.as_ref().and_then(|TlsFacts { exporter, .. }| exporter.as_ref())
}

impl SmtpHandler {
    /// AUTH came: uses its initial response, or prompts for the first message.
    pub(super) async fn authenticate(
        &mut self,
        session: &mut Session,
        mechanism: Mechanism,
        initial: Option<Secret>,
    ) {
        let (dialogue, prompt) = match mechanism {
            Mechanism::Plain => (Dialogue::Plain, b"".as_slice()),
            Mechanism::Login => (Dialogue::LoginName, LOGIN_NAME_PROMPT),
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => {
                (Dialogue::ScramFirst(mechanism), b"".as_slice())
            }
        };
        match initial {
            Some(message) => self.turn(session, dialogue, &message).await,
            None => {
                session.challenge(prompt);
                self.dialogue = Some(dialogue);
            }
        }
    }

    /// The client's next message of a login, decoded from base64.
    pub(super) async fn respond(&mut self, session: &mut Session, message: &[u8]) {
        match self.dialogue.take() {
            Some(dialogue) => self.turn(session, dialogue, message).await,
            None => session.refuse(&malformed()),
        }
    }

    async fn turn(&mut self, session: &mut Session, dialogue: Dialogue, message: &[u8]) {
        let turn = match dialogue {
            Dialogue::Plain => self.plain(message).await,
            Dialogue::LoginName => match parse_login(message) {
                Some(name) => LoginStep::Challenge(
                    LOGIN_PASSWORD_PROMPT.into(),
                    Dialogue::LoginPassword(name),
                ),
                None => LoginStep::Malformed,
            },
            Dialogue::LoginPassword(name) => match parse_login(message) {
                Some(password) => self.check(name, &password).await,
                None => LoginStep::Malformed,
            },
            Dialogue::ScramFirst(mechanism) => self.scram_first(mechanism, message),
            Dialogue::ScramLast(exchange) => self.scram_last(*exchange, message).await,
            Dialogue::ScramEnd(login) if message.is_empty() => LoginStep::End {
                user: login.name.as_str().into(),
                verdict: LoginVerdict::Welcome(login),
            },
            Dialogue::ScramEnd(_) => LoginStep::Malformed,
        };
        match turn {
            LoginStep::Challenge(challenge, next) => {
                session.challenge(&challenge);
                self.dialogue = Some(next);
            }
            LoginStep::End { user, verdict } => self.end_login(session, &user, verdict).await,
            LoginStep::Malformed => session.refuse(&malformed()),
        }
    }

    /// The client goes on without an answer. A client that has seen a salt and proves nothing has
    /// tried a name, which counts as any other try: otherwise names could be looked through
    /// without the throttle.
    pub(super) fn abandon_login(&mut self) {
        match self.dialogue.take() {
            Some(Dialogue::ScramLast(_)) => {
                let _counted = self.auth().refuse(self.place());
            }
            Some(
                Dialogue::Plain
                | Dialogue::LoginName
                | Dialogue::LoginPassword(_)
                | Dialogue::ScramFirst(_)
                | Dialogue::ScramEnd(_),
            )
            | None => {}
        }
    }

    async fn plain(&self, message: &[u8]) -> LoginStep {
        match Plain::parse(message) {
            // Nobody may act for others here.
            Some(plain) if plain.authorize_as().is_some_and(|other| other != plain.user()) => {
                let verdict = self.auth().refuse(self.place());
                LoginStep::End { user: plain.user().into(), verdict }
            }
            Some(plain) => self.check(plain.user().into(), plain.password()).await,
            None => LoginStep::Malformed,
        }
    }

    async fn check(&self, user: Box<str>, password: &str) -> LoginStep {
        let verdict = self.auth().check(self.place(), &user, password).await;
        LoginStep::End { user, verdict }
    }

    fn scram_first(&self, mechanism: Mechanism, message: &[u8]) -> LoginStep {
        let Some(first) = ClientFirst::parse(message) else { return LoginStep::Malformed };
        let refused = |user: &str| LoginStep::End {
            user: user.into(),
            verdict: self.auth().refuse(self.place()),
        };
        let may_go_on = self.is_bound_as_offered(mechanism, first.binding())
            && first.authorize_as().is_none_or(|other| other == first.user());
        let mut nonce = [0; NONCE_OCTETS];
        if !may_go_on || rand::fill(&mut nonce).is_err() {
            return refused(first.user());
        }
        let Some(challenged) = self.auth().challenge(first.user()) else {
            return refused(first.user());
        };
        // Letters and digits need no look at what a nonce may have in it.
        let nonce: String = nonce.iter().map(|octet| format!("{octet:02x}")).collect();
        let reply = first.reply(&nonce, challenged.salt(), challenged.iterations());
        let challenge = reply.message().into();
        LoginStep::Challenge(
            challenge,
            Dialogue::ScramLast(Box::new(Exchange { first, reply, challenged })),
        )
    }

    /// RFC 5802 §6: a client that could bind its login to the connection and believes that we
    /// cannot, although we said so, was lied to by somebody in between.
    fn is_bound_as_offered(&self, mechanism: Mechanism, binding: &Binding) -> bool {
        let can_bind = exporter(&self.arrival).is_some();
        match (mechanism, binding) {
            (Mechanism::ScramSha256Plus, Binding::Bound(kind)) => {
                can_bind && kind.as_ref() == TLS_EXPORTER
            }
            (Mechanism::ScramSha256, Binding::Unsupported) => true,
            (Mechanism::ScramSha256, Binding::NotOffered) => !can_bind,
            (
                Mechanism::Plain
                | Mechanism::Login
                | Mechanism::ScramSha256
                | Mechanism::ScramSha256Plus,
                Binding::Bound(_) | Binding::Unsupported | Binding::NotOffered,
            ) => false,
        }
    }

    async fn scram_last(&self, exchange: Exchange, message: &[u8]) -> LoginStep {
        let Exchange { first, reply, challenged } = exchange;
        let user = first.user().into();
        let Some(last) = ClientFinal::parse(message) else {
            return LoginStep::End { user, verdict: self.auth().refuse(self.place()) };
        };
        let exporter = exporter(&self.arrival).map_or(&[][..], |exporter| exporter);
        if last.channel_binding() != first.channel_binding(exporter) || !reply.is_answered_by(&last)
        {
            return LoginStep::End { user, verdict: self.auth().refuse(self.place()) };
        }
        let signed = reply.auth_message(&first, &last);
        let place = self.place();
        match self.auth().prove(place, challenged, signed.as_bytes(), last.proof()).await {
            (LoginVerdict::Welcome(login), signature) => {
                let proof = server_final(Ok(&signature));
                LoginStep::Challenge(proof.into(), Dialogue::ScramEnd(login))
            }
            (
                verdict @ (LoginVerdict::Wrong(_) | LoginVerdict::ShutOut | LoginVerdict::Busy),
                _,
            ) => LoginStep::End { user, verdict },
        }
    }

    async fn end_login(&mut self, session: &mut Session, user: &str, verdict: LoginVerdict) {
        let refusal = match verdict {
            LoginVerdict::Welcome(login) => {
                self.login = Some(login);
                session.authenticated();
                return;
            }
            LoginVerdict::Wrong(Penalty::Wait(wait)) => {
                sleep(wait).await;
                ClientRefusal::LoginFailed
            }
            LoginVerdict::Wrong(Penalty::ShutOut) | LoginVerdict::ShutOut => {
                ClientRefusal::TooManyLogins
            }
            LoginVerdict::Busy => ClientRefusal::LoginBusy,
        };
        let response = refusal.response();
        AcceptFact::LoginFailed {
            reason: refusal.reason(),
            user,
            peer: self.arrival.peer,
            response: &response,
        }
        .tell();
        if refusal == ClientRefusal::TooManyLogins {
            session.close(&response);
        } else {
            session.refuse(&response);
        }
    }
}

fn malformed() -> Response {
    Response::new(501, Status::permanent(5, 2), "This is no message of the mechanism")
}
