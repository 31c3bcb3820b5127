//! What happens to the list of users, and to their passwords.

use std::io;
use std::path::Path;

use crate::auth::users::UsersError;
use crate::facts::facts;

facts! {
    /// A fact about users.
    pub(super) enum AuthFact<'a> {
        /// The list of users was read.
        UsersLoaded { path: &'a Path, users: usize, scram: bool } => info!(
            event = "users_loaded",
            file = %path.display(),
            users,
            scram,
            "users are read"
        ),

        /// Some passwords cost much to check.
        CostlyPasswords { path: &'a Path, users: usize } => warn!(
            event = "config_complaint",
            key = "access.users_file",
            users,
            "{}: these users' passwords take more than some 100 ms of a core to check, four at \
             once: when strangers guess, logins may wait. staunch user passwd makes verifiers \
             that take less", path.display()
        ),

        /// The list of users is open to all.
        UsersExposed { path: &'a Path } => warn!(
            event = "config_complaint",
            key = "access.users_file",
            "{}: everybody on this machine may read or write it: chmod o= it", path.display()
        ),

        /// The list of users has changed, and cannot be used.
        UsersRefused { error: &'a UsersError } => warn!(
            event = "users_refused",
            %error,
            "it is invalid: the old user list stays active"
        ),

        /// Passwords are tried for many users.
        PasswordSpraying => error!(
            event = "alarm",
            reason = "password_spraying",
            "wrong passwords of many users come from many addresses; login_failed in the log has \
             names and addresses"
        ),

        /// The secret behind the salts of unknown names is a new one.
        SaltsRenewed { path: &'a Path, what: &'a str, error: &'a io::Error } => warn!(
            event = "salts_renewed",
            file = %path.display(),
            %error,
            "{what}: salts of names that nobody has are not those of before"
        ),
    }
}
