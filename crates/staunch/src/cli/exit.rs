//! How a command ends: the codes of sysexits(3) that scripts may rely on.

use std::io;
use std::process::ExitCode;

use crate::daemon::RunError;
use crate::daemon::setup::SetupError;

/// What the exit code says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    /// Done, and where it is a question: yes.
    Ok,
    /// The answer is "no": errors were found, nothing matches, mail would wait.
    No,
    /// The command line makes no sense.
    Usage,
    /// What was given to work on makes no sense.
    BadInput,
    /// An input file cannot be read.
    NoInput,
    /// There is no such recipient.
    NoUser,
    /// There is no such recipient's host.
    NoHost,
    /// The daemon is not reachable, or does not do this.
    Unavailable,
    /// It may work later.
    TemporaryFailure,
    /// Not for whoever asks.
    NoPermission,
    /// The configuration is wrong.
    Config,
}

impl Exit {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::No => 1,
            Self::Usage => 64,
            Self::BadInput => 65,
            Self::NoInput => 66,
            Self::NoUser => 67,
            Self::NoHost => 68,
            Self::Unavailable => 69,
            Self::TemporaryFailure => 75,
            Self::NoPermission => 77,
            Self::Config => 78,
        }
    }

    /// The same for `main`.
    pub(crate) fn code(self) -> ExitCode {
        ExitCode::from(self.number())
    }
}

/// The answer to a question, where "no" is a result and not a failure.
impl From<bool> for Exit {
    fn from(yes: bool) -> Self {
        if yes { Self::Ok } else { Self::No }
    }
}

/// Why a command did not do what it should: a code, and what to say on stderr.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Failure {
    pub(super) exit: Exit,
    pub(super) text: String,
}

impl Failure {
    /// `text` names the key, file, step or host at fault.
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }
}

/// Of writing to stdout, the only output that commands have.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // `staunch queue list | head` is no failure worth a word.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Ok, "");
        }
        Self::new(Exit::TemporaryFailure, format!("stdout: {error}"))
    }
}

/// Of the daemon: 78 for what only another configuration heals.
impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let exit = match &error {
            RunError::Setup(
                SetupError::Dns(_)
                | SetupError::Tls(_)
                | SetupError::Fetch(_)
                | SetupError::Users(_),
            ) => Exit::Config,
            RunError::Setup(SetupError::Bind(_))
            | RunError::Open(_)
            | RunError::Store(_)
            | RunError::Admin(_)
            | RunError::Signals(_)
            | RunError::Poisoned => Exit::TemporaryFailure,
        };
        Self::new(exit, error.to_string())
    }
}
