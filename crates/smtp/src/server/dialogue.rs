//! The dialogue of AUTH (RFC 4954 §4): challenges out, responses in, all in base64.

use super::lines::Line;
use super::{Phase, Question, ServerStep, Session};
use crate::base64;
use crate::command::CommandError;
use crate::limits::AUTH_LINE_OCTETS;
use crate::response::Response;
use crate::status::Status;

impl Session {
    /// Asks the client that authenticates for more; what it says comes as
    /// [`ServerStep::AuthResponse`].
    pub fn challenge(&mut self, challenge: &[u8]) {
        if self.question == Some(Question::Authenticate) {
            self.question = None;
            self.phase = Phase::Dialogue;
            self.output.extend_from_slice(b"334 ");
            base64::encode(challenge, &mut self.output);
            self.output.extend_from_slice(b"\r\n");
        }
    }

    /// The client is who it says it is.
    pub fn authenticated(&mut self) {
        if self.question == Some(Question::Authenticate) {
            self.accept();
        }
    }

    pub(super) fn next_response<'i>(&mut self, input: &mut &'i [u8]) -> ServerStep<'i> {
        let line = match self.next_line(input, AUTH_LINE_OCTETS) {
            Line::Whole(line) => line,
            Line::Open => return ServerStep::Input,
            Line::TooLong => {
                self.phase = Phase::SkippingResponse;
                return self.skip_to_line_end(input).unwrap_or_else(|| self.response_too_long());
            }
            Line::BareLf => {
                let step = self.end_dialogue(&CommandError::BareLf.response());
                self.phase = Phase::Closed;
                return step;
            }
        };
        self.note_hidden("(a message of AUTH)");
        if line.len() + 2 > AUTH_LINE_OCTETS {
            return self.response_too_long();
        }
        self.phase = Phase::Commands;
        if line == b"*" {
            return self.end_dialogue(&Response::fixed(
                501,
                Status::permanent(7, 0),
                "Authentication cancelled",
            ));
        }
        match base64::decode(line) {
            Some(response) => {
                self.question = Some(Question::Authenticate);
                ServerStep::AuthResponse(response.into())
            }
            None => self.end_dialogue(&CommandError::Base64.response()),
        }
    }

    pub(super) fn response_too_long<'i>(&mut self) -> ServerStep<'i> {
        self.phase = Phase::Commands;
        let status = Status::permanent(5, 6);
        self.end_dialogue(&Response::fixed(500, status, "Authentication line too long"))
    }

    fn end_dialogue<'i>(&mut self, response: &Response) -> ServerStep<'i> {
        self.refuse_unasked(response);
        ServerStep::AuthEnded
    }
}
