//! MTA-STS (RFC 8461), sending side: the record, the policy file, matching and keeping.
//!
//! Depends on nothing of ours but the host name type and [`smtp::RemoteText`].

pub mod advice;
pub mod cache;
pub mod coverage;
pub mod document;
mod legible;
mod meant;
pub mod mx_pattern;
pub mod record;
pub mod record_lint;

pub use cache::CachedPolicy;
pub use document::{Invalid, Mode, Policy};
pub use mx_pattern::{MxPattern, PatternError};
pub use record::{Id, RecordError, parse_txt};
