//! Logging in to a route's server (RFC 4954).
//!
//! The password goes to nobody but a server that has proved who it is: that is checked here once
//! more, whatever the configuration and the admission say. A login that fails is the route's
//! trouble, not the mail's: it waits, and a person is told.

use std::io::{self, Read as _};
use std::time::Duration;

use policy::{Admitted, Proof};
use smtp::sasl_client::{AuthStep, Authentication, Credentials};
use smtp::{RemoteText, Reply, ReplyClass};
use tokio::task::spawn_blocking;

use crate::config::RouteLogin;
use crate::connect::connection::{BrokenConnection, Connection};
use crate::connect::pool::Idle;
use crate::connect::{ConnectCause, ConnectFailure, ConnectStep};
use crate::regular_file;

/// Our choice, as for MAIL: for each reply during AUTH, which RFC 4954 does not name.
const AUTH_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Our choice: octets of a password file that are read. RFC 4616 §2 allows passwords of 255.
const PASSWORD_FILE_OCTETS_MAX: u64 = 4096;

/// Why we are not logged in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    /// The password would go to somebody who has not proved who it is.
    #[error("the server has not proved who it is, so it does not get the password")]
    Unproven,
    /// There is no password.
    #[error("password_file {path}: {error}")]
    PasswordFile {
        /// The path in `route.password_file`.
        path: String,
        /// What is wrong with it.
        #[source]
        error: io::Error,
    },
    /// The server knows no way to log in that we know, too.
    #[error("the server offers neither AUTH PLAIN nor AUTH LOGIN")]
    NotOffered,
    /// The server wants a login, and the route has no user.
    #[error(
        "the server takes mail of users only, and the route has no username and password_file: {reply}"
    )]
    Wanted {
        /// The refusal that says so.
        reply: Reply,
    },
    /// The server does not let us in.
    #[error("the server refused the login of {username}: {reply}")]
    Refused {
        /// Who we said we are.
        username: RemoteText,
        /// What it said to that.
        reply: Reply,
    },
}

impl LoginError {
    /// Does it last until somebody changes something?
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Unproven | Self::PasswordFile { .. } | Self::NotOffered | Self::Wanted { .. } => {
                true
            }
            Self::Refused { reply, .. } => reply.class() == ReplyClass::Permanent,
        }
    }
}

/// Why a connection cannot be used: nobody is logged in on it.
#[derive(Debug)]
pub(crate) enum LoginFailure {
    /// AUTH failed, or could not be tried.
    Login(LoginError),
    /// The connection broke meanwhile.
    Connect(ConnectFailure),
}

impl From<LoginError> for LoginFailure {
    fn from(error: LoginError) -> Self {
        Self::Login(error)
    }
}

/// Logs in over a connection that was just made and admitted.
///
/// # Errors
///
/// [`LoginFailure`].
pub(crate) async fn log_in(
    admitted: &mut Admitted<Idle>,
    login: &RouteLogin,
) -> Result<(), LoginFailure> {
    match admitted.proof() {
        Proof::VerifiedPkix => {}
        Proof::Plain | Proof::Encrypted => return Err(LoginError::Unproven.into()),
    }
    let credentials = credentials(login).await?;
    let idle = admitted.connection_mut();
    let (connection, key) = (&mut idle.connection, idle.slot.key());
    match exchange(connection, &credentials).await {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error.into()),
        Err(broken) => {
            let cause = ConnectCause::Broken { step: ConnectStep::Auth, broken };
            let (host, address) = (key.host.clone(), Some(connection.peer()));
            Err(LoginFailure::Connect(ConnectFailure { host, address, cause }))
        }
    }
}

async fn exchange(
    connection: &mut Connection,
    credentials: &Credentials,
) -> Result<Option<LoginError>, BrokenConnection> {
    let offered = connection.extensions().auth();
    let Some(mut authentication) = Authentication::start(offered, credentials, connection.output())
    else {
        return Ok(Some(LoginError::NotOffered));
    };
    loop {
        connection.send_secret(AUTH_TIMEOUT).await?;
        let reply = connection.reply(AUTH_TIMEOUT).await?;
        authentication = match authentication.on_reply(reply, connection.output()) {
            AuthStep::Await(next) => next,
            AuthStep::Done => return Ok(None),
            AuthStep::Refused(reply) => {
                let username = RemoteText::new(credentials.username());
                return Ok(Some(LoginError::Refused { username, reply }));
            }
        };
    }
}

async fn credentials(login: &RouteLogin) -> Result<Credentials, LoginError> {
    let owned = login.clone();
    let read = spawn_blocking(move || read_credentials(&owned)).await;
    read.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| {
        LoginError::PasswordFile { path: login.password_file.display().to_string(), error }
    })
}

/// Name and password, which is the first line of its file. Blocks.
///
/// # Errors
///
/// What is wrong with the file.
pub(crate) fn read_credentials(login: &RouteLogin) -> io::Result<Credentials> {
    let mut text = String::new();
    let file = regular_file::open(&login.password_file)?;
    file.take(PASSWORD_FILE_OCTETS_MAX).read_to_string(&mut text)?;
    let password = text.lines().next().unwrap_or_default();
    Credentials::new(&login.username, password)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no password in its first line"))
}
