//! One attempt to deliver: what is asked of its connection, which hosts there are, what is sent, what came of it.

pub(crate) mod listening;
pub(crate) mod log;
pub(crate) mod outbound;
pub(crate) mod underway;
pub(crate) mod yielding;
