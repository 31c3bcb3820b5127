//! Why a configuration that is valid in itself cannot be put to work on this machine: the same at
//! start and at a reload.

use crate::accept::BindError;
use crate::auth::users::UsersError;
use crate::connect::tls::TlsSetupError;
use crate::dns::DnsSetupError;
use crate::policies::fetch::ClientSetupError;

/// What could not be made of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// There is no resolver.
    #[error(transparent)]
    Dns(#[from] DnsSetupError),
    /// TLS towards hosts cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// Policies cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] ClientSetupError),
    /// The users cannot be read.
    #[error("access.users_file: {0}")]
    Users(#[from] UsersError),
    /// A listener cannot have its address.
    #[error(transparent)]
    Bind(#[from] BindError),
}

impl SetupError {
    /// The key or section that it is about.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Dns(_) => "dns",
            Self::Tls(_) => "tls",
            Self::Fetch(_) => "mta_sts.ca_file",
            Self::Users(_) => "access.users_file",
            Self::Bind(_) => "listener",
        }
    }
}
