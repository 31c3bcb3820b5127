//! The daemon and its command line: the only crate with tokio, sockets, a clock and TOML.
//!
//! The modules stand in the order in which mail flows; `docs/architecture.md` is the map.

mod accept;
mod auth;
mod budget;
mod cli;
mod clock;
mod config;
mod connect;
mod control;
mod daemon;
mod delivery;
mod descriptors;
mod dns;
mod inert_json;
mod live;
mod message;
mod pinned;
mod place;
mod policies;
mod queue;
mod recent;
mod regular_file;
mod reload;
mod replaced;
mod schedule;
mod setup;
mod socket_file;
mod telemetry;

use std::ffi::OsString;
use std::process::ExitCode;

/// The whole program: the daemon and every command. `arguments` begin with the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    cli::main(arguments)
}
