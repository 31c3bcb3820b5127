//! What we make of the system's trust anchors.

use crate::facts::facts;

facts! {
    /// A fact about trust anchors.
    pub(super) enum ConnectFact<'a> {
        /// A file of them cannot be read.
        AnchorsUnreadable { error: &'a rustls_native_certs::Error } => warn!(
            event = "trust_anchors",
            %error,
            "some of the system's trust anchors are unreadable"
        ),

        /// Some of them are no certificates that could be an anchor.
        AnchorsUnusable { bad: usize } => warn!(
            event = "trust_anchors",
            bad,
            "some of the system's trust anchors are unusable"
        ),
    }
}
