//! What protects a delivery, as decisions: MTA-STS (RFC 8461), REQUIRETLS (RFC 8689), certificates
//! (RFC 9525), local floors.
//!
//! Small enough to be audited in an afternoon, and the only code that has to be: nothing outside
//! this crate can make an [`AuthorizedMx`] or an [`Admitted`] connection, and the rest of the
//! program accepts nothing else. There is no I/O and no clock; time is an argument, and every byte
//! that comes in is taken to be hostile: bounded, never a panic.
//!
//! In reading order, which is the order of one delivery:
//!
//! 1. [`sts::record`], [`sts::document`], [`sts::mx_pattern`]: what a domain published.
//! 2. [`sts::cache`]: which policy holds today, also when it cannot be fetched any more; by which
//!    time, [`clock`].
//! 3. [`Requirement`]: what domain, operator and sender ask for together. It can only grow.
//! 4. [`authorize`]: may this MX be used? The only constructor of [`AuthorizedMx`].
//! 5. [`Observed`]: what the connection showed.
//! 6. [`AuthorizedMx::admit`]: may mail go over it? The only constructor of [`Admitted`].
//!
//! Not here: look-ups and fetches, connections, retry times (all in `staunch`).

pub mod clock;
pub mod sts;

mod admit;
mod authorize;
mod certificate;
mod chain;
mod observed;
mod registrable;
mod requirement;
#[cfg(test)]
mod test_ca;
#[cfg(test)]
mod vectors;

pub use admit::{Admitted, Denied, Proof};
pub use authorize::{AuthorizedMx, Finding, Located, NamedBy, Refusal, authorize};
pub use certificate::{BadRoot, Distrust, Roots, TlsFailure};
pub use chain::Chain;
pub use observed::{Observed, ObservedTls, TlsVersion};
pub use registrable::registrable_domain;
pub use requirement::{
    Asked, Channel, Effect, Floor, Identity, Origin, PatternSet, Published, RequireTls, Requirement,
};
