//! Conversations by row: one test for each requirement of `docs/rfc-coverage.md`, named by its row.

mod client;
mod client_answers;
mod client_tls;
mod client_transaction;
mod extensions;
mod extensions_envelope;
mod mail;
mod notices;
mod parameters;
mod require_tls;
mod server;
mod session;
mod session_extensions;
