//! What a look at the machine finds before a daemon is started there (`staunch config check`).

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::getuid;

use crate::config::ConfigProblem;

/// Two kinds of problems, by what a start makes of them.
#[derive(Debug, Default)]
pub(crate) struct StartFindings {
    /// The daemon would not start.
    pub(crate) fatal: Vec<ConfigProblem>,
    /// It starts; each says what does not work then.
    pub(crate) tolerated: Vec<ConfigProblem>,
}

impl StartFindings {
    /// Takes those of another look.
    pub(crate) fn add(&mut self, others: Self) {
        self.fatal.extend(others.fatal);
        self.tolerated.extend(others.tolerated);
    }
}

/// Who looks: what this user may not do, the daemon perhaps may, and the other way round.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CheckUser {
    /// The user whose `data_dir` it is, or would be.
    Daemon,
    /// Another one than the owner of `data_dir`.
    Other {
        /// The user id of that owner.
        owner: u32,
    },
}

impl CheckUser {
    /// This process, by whom `data_dir` belongs to.
    pub(crate) fn of(data_dir: &Path) -> Self {
        match std::fs::metadata(data_dir).map(|found| found.uid()) {
            Ok(owner) if owner != getuid().as_raw() => Self::Other { owner },
            Ok(_) | Err(_) => Self::Daemon,
        }
    }

    /// Does the daemon run as another user?
    pub(crate) fn is_another(self) -> bool {
        match self {
            Self::Daemon => false,
            Self::Other { .. } => true,
        }
    }
}

/// The daemon that has these data and runs already.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum RunningDaemon {
    /// None answers.
    None,
    /// It listens at these addresses.
    Listening(Vec<SocketAddr>),
    /// One may run, but cannot be asked, for this reason.
    Unknown(String),
}
