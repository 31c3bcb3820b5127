//! The configuration: what the operator writes (`File`) and what the daemon runs on ([`Config`]).
//!
//! Only this module knows TOML. `File` mirrors the text and may be nonsense; [`Config`] is built by
//! [`load()`] alone and is valid by construction, so no other module checks it again. Fields are
//! named as the keys, so `delivery.connect_timeout` in a file is `config.delivery.connect_timeout`
//! here.
//!
//! Not here: opening, binding or resolving anything that a value names; whether the files are what
//! they should be is looked at in `daemon::check_files`.

mod access;
mod alias_ends;
mod aliases;
mod aliases_file;
mod check;
mod checker;
mod error;
mod file;
mod hostname;
mod later;
mod layer;
mod listed;
mod listener;
mod load;
mod local;
mod log_filter;
mod not_toml;
mod outbound;
mod pattern;
mod prefix;
mod settings;
mod show;
mod strict;
mod surroundings;
mod units;

pub(crate) use access::{Senders, key as mailbox_key};
pub(crate) use error::{ConfigError, ConfigProblem};
pub(crate) use hostname::Hostname;
pub(crate) use listener::{
    BareNewlines, ClientInReceived, ListenAddress, Listener, ListenerMode, MissingHeaders,
    TlsIdentity,
};
pub(crate) use load::{Loaded, load};
pub(crate) use local::AliasLookup;
pub(crate) use log_filter::{OWN_TARGET, log_filter};
pub(crate) use pattern::{DomainPattern, most_specific};
pub(crate) use prefix::Prefix;
pub(crate) use settings::{
    Admin, CleartextFallback, Config, DelayWarning, Delivery, Dns, DsnReturn, DsnSettings,
    EightBit, IpFamily, Limit, Limits, Log, LogFormat, LongLines, MinVersion, MtaSts,
    OnFetchFailure, Route, RouteLogin, Source, StsMode, Tls, TlsFloor, Via, ViaLookup, ViaScheme,
};
pub(crate) use show::ShownConfig;
pub(crate) use surroundings::Surroundings;
pub(crate) use units::duration;

#[cfg(test)]
mod tests;
