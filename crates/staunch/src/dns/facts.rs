//! What becomes of the name servers.

use std::fmt::Display;

use hickory_proto::rr::RecordType;
use smtp::HostName;

use crate::facts::facts;

facts! {
    /// A fact about name servers.
    pub(super) enum DnsFact<'a> {
        /// What DNS says, not counting what is kept of it.
        Answered { name: &'a HostName, kind: RecordType, answer: &'a dyn Display } => debug!(
            event = "dns_answer",
            domain = %name,
            query = %kind,
            "{answer}"
        ),

        /// A name server is not asked for now.
        ResolverOut { server: &'a dyn Display, fault: &'a str } => error!(
            event = "alarm",
            reason = "resolver_out",
            %server,
            "the name server does not answer a plain question ({fault}): the others are asked"
        ),

        /// A name server that was out is asked again.
        ResolverBack { server: &'a dyn Display } => info!(
            event = "resolver_back",
            %server,
            "the name server answers again"
        ),
    }
}
