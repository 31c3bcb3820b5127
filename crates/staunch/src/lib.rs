//! The daemon and its command line: the only crate with tokio, sockets, a clock and TOML.
//!
//! The modules stand in the order in which mail flows; `docs/architecture.md` is the map.

mod accept;
mod addresses;
mod admin;
mod attempt;
mod cli;
mod clock;
mod config;
mod connect;
mod connection;
mod explain;
mod fetch;
mod outcome;
mod policy_store;
mod pool;
mod queue;
mod requirement;
mod resolve;
mod route;
mod schedule;
mod telemetry;
mod tls;
mod transmit;
