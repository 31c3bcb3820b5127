//! The daemon and its command line: the only crate with tokio, sockets, a clock and TOML.
//!
//! A wing knows only those that stand below it; `docs/architecture.md` is the map, and a test reads
//! the imports.

mod cli;
mod daemon;

mod accept;
mod control;

mod queue;

mod delivery;

mod connect;
mod policies;

mod dns;
mod message;
mod telemetry;

mod auth;
mod config;

mod budget;
mod clock;
mod facts;
mod inert_json;
mod likeness;
mod lock;
mod lru_map;
mod place;
mod regular_file;
mod reloadable;
mod schedule;
mod socket_file;

use std::ffi::OsString;
use std::process::ExitCode;

/// The whole program: the daemon and every command. `arguments` begin with the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    cli::main(arguments)
}
