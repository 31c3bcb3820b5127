//! What the configuration takes from the process and the machine, as a value: so that reading a
//! configuration is a function of its arguments.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::{ConfigProblem, hostname};

/// Environment, host name and the place of the system's configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// All environment variables, also those that are not ours.
    pub(crate) variables: BTreeMap<OsString, OsString>,
    /// This system's name, completed as far as that goes without NSS.
    pub(crate) host_name: String,
    /// Read when nobody names a file, if it exists.
    pub(crate) system_file: PathBuf,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn of_process() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let uname = rustix::system::uname();
        let node_name = uname.nodename().to_string_lossy();
        Self {
            variables: std::env::vars_os().collect(),
            host_name: hostname::of_system(
                &node_name,
                &read("/etc/hosts"),
                &read("/etc/resolv.conf"),
            ),
            system_file: PathBuf::from("/etc/staunch/staunch.toml"),
        }
    }

    /// The value of a variable; an empty one counts as unset.
    ///
    /// # Errors
    ///
    /// A [`ConfigProblem`] that names the variable, if its value is not UTF-8.
    pub(super) fn get(&self, name: &str) -> Result<Option<&str>, ConfigProblem> {
        let Some(value) = self.variables.get(&OsString::from(name)) else { return Ok(None) };
        let text = value.to_str().ok_or_else(|| not_utf8(name))?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

/// What is said of a variable that is no text.
pub(super) fn not_utf8(name: &str) -> ConfigProblem {
    ConfigProblem { place: name.to_owned(), key: String::new(), reason: "not UTF-8".into() }
}
