//! The users file: who may submit mail, one `name:verifier` a line.
//!
//! It is read strictly, since a line that is passed over is a person who cannot send mail and
//! nobody knows why. Empty lines and lines that begin with `#` are comments.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smtp::RemoteText;

use super::prepared;
use super::verifier::Verifier;
use crate::regular_file;

/// Octets of a user name: as long as an address can be (RFC 5321 §4.5.3.1.3).
pub(crate) const NAME_OCTETS_MAX: usize = 254;
/// Octets of the file: some ten thousand users.
const FILE_OCTETS_MAX: u64 = 16 << 20;
/// Everybody may read it.
const MODE_OTHERS: u32 = 0o007;

/// The name of a user: not empty, one line, without a colon; prepared, so that it has the same
/// octets however it was typed.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct UserName(Arc<str>);

impl UserName {
    /// Is it a name that can stand in the file?
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("the name is empty");
        }
        if text.len() > NAME_OCTETS_MAX {
            return Err("the name is longer than 254 octets");
        }
        if text.contains(|c: char| c == ':' || c.is_control() || c.is_whitespace()) {
            return Err("the name has a colon, a blank or a control character");
        }
        let text = prepared::name(text).ok_or(
            "the name has a character that is not for names, or mixes directions of writing (RFC 8265)",
        )?;
        if text.starts_with('#') {
            return Err("the name begins with #, which begins a comment");
        }
        if text.contains(':') || text.len() > NAME_OCTETS_MAX {
            return Err("the name, in its prepared form, has a colon or more than 254 octets");
        }
        Ok(Self(text.into()))
    }

    /// As it is compared.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Inert: a name that a client claims is a stranger's text like any other.
impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RemoteText::new(&self.0).fmt(f)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A users file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsersError {
    /// Nobody was added yet.
    #[error("{}: is not there; `staunch user add NAME` makes it", path.display())]
    Missing {
        /// Path of the users file that is missing.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Path of the users file that cannot be read.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line makes no sense.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// Path of the users file that has the line.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The system has none.
    #[error("the system gives no randomness")]
    NoRandomness,
}

/// What tells one state of the file from another, without reading it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Of the file as it is now; none if there is none.
    pub(super) fn now(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }
}

/// Everybody who may log in, as of one state of the file.
#[derive(Debug, Default)]
pub(crate) struct Users {
    by_name: HashMap<UserName, Arc<Verifier>>,
    /// In the order of the file: whom a stranger's name is checked against.
    verifiers: Vec<Arc<Verifier>>,
    /// Can everybody log in by SCRAM?
    ///
    /// A client chooses its mechanism before it says a name, and the strongest that is offered; if
    /// that fails, it does not try another one. So SCRAM is offered only when it works for every
    /// user.
    pub(super) all_have_scram: bool,
    /// Of the file that was read.
    pub(super) stamp: Option<Stamp>,
    /// May everybody on this machine read it?
    pub(super) is_exposed: bool,
}

impl Users {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// [`UsersError`] for the first thing that is wrong.
    pub(crate) fn read(path: &Path) -> Result<Self, UsersError> {
        let io = |source| UsersError::Io { path: path.to_owned(), source };
        let mut file = regular_file::open(path).map_err(|error| {
            let is_missing = error.kind() == ErrorKind::NotFound;
            if is_missing { UsersError::Missing { path: path.to_owned() } } else { io(error) }
        })?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.size() > FILE_OCTETS_MAX {
            return Err(io(ErrorKind::FileTooLarge.into()));
        }
        let mut text = String::new();
        file.by_ref().take(FILE_OCTETS_MAX).read_to_string(&mut text).map_err(io)?;
        let mut users = Self::parse(&text).map_err(|(line, reason)| UsersError::Line {
            path: path.to_owned(),
            line,
            reason,
        })?;
        users.stamp = Some(Stamp::of(&metadata));
        users.is_exposed = metadata.mode() & MODE_OTHERS != 0;
        Ok(users)
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut users = Self::default();
        let mut lines_of = HashMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let Some((name, verifier)) =
                parse_line(line).map_err(|reason| (number, reason.into()))?
            else {
                continue;
            };
            match lines_of.entry(name.clone()) {
                Entry::Occupied(first) => {
                    let first: &usize = first.get();
                    return Err((number, format!("{name} already used in line {first}")));
                }
                Entry::Vacant(free) => free.insert(number),
            };
            let verifier = Arc::new(verifier);
            users.verifiers.push(Arc::clone(&verifier));
            users.by_name.insert(name, verifier);
        }
        let is_scram = |verifier: &Arc<Verifier>| matches!(**verifier, Verifier::Scram(_));
        users.all_have_scram = !users.verifiers.is_empty() && users.verifiers.iter().all(is_scram);
        Ok(users)
    }

    /// The verifier of a user.
    pub(super) fn get(&self, name: &UserName) -> Option<&Arc<Verifier>> {
        self.by_name.get(name)
    }

    /// Somebody's verifier, the same for the same `number`; none if there are no users.
    pub(super) fn any(&self, number: u64) -> Option<&Arc<Verifier>> {
        let count = u64::try_from(self.verifiers.len()).ok().filter(|count| *count > 0)?;
        self.verifiers.get(usize::try_from(number % count).ok()?)
    }

    /// Everybody with the form of the verifier, by name.
    pub(crate) fn list(&self) -> impl Iterator<Item = (&UserName, &'static str)> {
        let mut names: Vec<_> = self.by_name.iter().collect();
        names.sort_unstable_by_key(|(name, _)| *name);
        names.into_iter().map(|(name, verifier)| (name, verifier.kind()))
    }

    /// May `name` log in by SCRAM?
    pub(crate) fn has_scram(&self, name: &UserName) -> bool {
        matches!(self.by_name.get(name).map(Arc::as_ref), Some(Verifier::Scram(_)))
    }

    /// How many verifiers take a core for so long that logins wait for one another.
    pub(super) fn costly(&self) -> usize {
        self.verifiers.iter().filter(|verifier| verifier.is_costly()).count()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }
}

/// A line's user; none for a comment.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn parse_line(line: &str) -> Result<Option<(UserName, Verifier)>, &'static str> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, verifier) = line.split_once(':').ok_or("not name:verifier")?;
    Ok(Some((UserName::parse(name)?, Verifier::parse(verifier)?)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const BCRYPT: &str = "$2b$04$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i";
    const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==\
        $WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwfE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn lines_are_users_or_comments_or_errors_with_a_number() {
        let good = format!("# users\n\nanna@example.net:{BCRYPT}\nbackup-job:{SCRAM}\n");
        let users = Users::parse(&good).unwrap();
        assert_eq!(users.len(), 2);
        assert!(users.get(&UserName::parse("backup-job").unwrap()).is_some());
        assert!(users.get(&UserName::parse("Backup-Job").unwrap()).is_none(), "names are exact");
        let cases = [
            (format!("a:{BCRYPT}\nb\n"), 2, "not name:verifier"),
            (format!("a:{BCRYPT}\n#\na:{BCRYPT}\n"), 3, "a already used in line 1"),
            (format!(":{BCRYPT}\n"), 1, "the name is empty"),
            (format!("a b:{BCRYPT}\n"), 1, "the name has a colon, a blank or a control character"),
            (" # no comment\n".to_owned(), 1, "not name:verifier"),
            ("a:hunter2\n".to_owned(), 1, "not a verifier: $argon2id$…, $2b$… or SCRAM-SHA-256$…"),
            (format!("a:{BCRYPT} \n"), 1, "not a bcrypt hash"),
        ];
        for (text, line, reason) in cases {
            assert_eq!(Users::parse(&text).unwrap_err(), (line, reason.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn a_name_is_the_same_however_it_was_typed() {
        let users = Users::parse(&format!("ju\u{308}rgen@x.test:{BCRYPT}\n")).unwrap();
        assert!(users.get(&UserName::parse("j\u{fc}rgen@x.test").unwrap()).is_some());
        let twice = format!("ju\u{308}rgen:{BCRYPT}\nj\u{fc}rgen:{BCRYPT}\n");
        assert_eq!(Users::parse(&twice).unwrap_err().1, "j\u{fc}rgen already used in line 1");
        for name in ["a\u{200b}b", "a\u{fb01}", "\u{5d0}a", "\u{ff1a}", "\u{ff03}a"] {
            assert!(UserName::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn scram_is_for_all_or_for_none() {
        for (text, want) in [
            (String::new(), false),
            (format!("a:{SCRAM}\nb:{SCRAM}\n"), true),
            (format!("a:{SCRAM}\nb:{BCRYPT}\n"), false),
        ] {
            assert_eq!(Users::parse(&text).unwrap().all_have_scram, want, "{text}");
        }
    }

    #[test]
    fn a_file_that_everybody_reads_is_noticed_and_a_change_shows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        assert!(matches!(Users::read(&path), Err(UsersError::Missing { .. })));
        for (mode, want) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
            std::fs::write(&path, format!("a:{BCRYPT}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(Users::read(&path).unwrap().is_exposed, want, "{mode:o}");
        }
        let before = Users::read(&path).unwrap().stamp;
        assert_eq!(before, Stamp::now(&path));
        std::fs::write(&path, format!("b:{BCRYPT}\nc:{BCRYPT}\n")).unwrap();
        assert_ne!(before, Stamp::now(&path));
        std::fs::write(&path, "a:secret\n").unwrap();
        let error = Users::read(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:1: ", path.display())), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
