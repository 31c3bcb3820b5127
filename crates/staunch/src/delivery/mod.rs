//! One attempt to deliver: what is asked of its connection, which hosts there are, what is sent,
//! what came of it.

pub(crate) mod attempt;
pub(crate) mod facts;
pub(crate) mod hosts;
pub(crate) mod listening;
pub(crate) mod open;
pub(crate) mod outbound;
pub(crate) mod outcome;
pub(crate) mod plan;
pub(crate) mod rendition;
pub(crate) mod requirement;
pub(crate) mod route;
pub(crate) mod transmit;
pub(crate) mod underway;
pub(crate) mod yielding;
