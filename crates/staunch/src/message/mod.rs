//! A message in memory: whom it is for, who handed it in, its body and what is known of that.

mod body;
mod facts;
mod submitter;
mod work;

pub(crate) use body::{Body, HotBody};
pub(crate) use facts::{Facts, facts_of};
pub(crate) use submitter::Submitter;
pub(crate) use work::{Removals, Rest, Target, Work, needs_utf8, require_tls};
