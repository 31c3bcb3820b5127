//! Are the files that a configuration names what they should be?

use std::io;
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::getuid;
use rustls_pki_types::pem;

use crate::accept::identity;
use crate::auth::users::Users;
use crate::config::{ConfigError, ConfigProblem, Loaded};
use crate::connect::login::read_credentials;
use crate::daemon::start_findings::{CheckUser, StartFindings};
use crate::regular_file;

/// What becomes of a listener whose certificate cannot be used.
const NO_TLS: &str = "until then the daemon starts without TLS on this listener";
/// What becomes of a route whose password cannot be read.
const NO_LOGIN: &str =
    "; until then the daemon starts, mail for this route waits, and no reload is accepted";

/// Are the files that values name there, readable and what they should be?
///
/// For those who go on to use them; whoever only looks for the daemon's socket need not be able
/// to read them.
///
/// # Errors
///
/// [`ConfigError`] that names key and file.
pub(crate) fn check_files(loaded: &Loaded) -> Result<(), ConfigError> {
    let mut problems = trust_problems(loaded);
    problems.extend(users_problem(loaded));
    problems.extend(identity_problems(loaded).into_iter().map(|(_, problem)| problem));
    problems.extend(login_problems(loaded));
    if problems.is_empty() { Ok(()) } else { Err(ConfigError(problems)) }
}

/// As [`check_files`], of whom to believe in TLS alone: for a look at other hosts.
///
/// # Errors
///
/// [`ConfigError`] that names key and file.
pub(crate) fn check_trust(loaded: &Loaded) -> Result<(), ConfigError> {
    let problems = trust_problems(loaded);
    if problems.is_empty() { Ok(()) } else { Err(ConfigError(problems)) }
}

/// As [`check_files`], for a start: a listener whose certificate cannot be read offers no
/// TLS, which is no reason to take no mail at all.
///
/// # Errors
///
/// [`ConfigError`] that names key and file.
pub(crate) fn check_files_to_run(loaded: &Loaded) -> Result<(), ConfigError> {
    let mut problems = trust_problems(loaded);
    problems.extend(users_problem(loaded));
    if problems.is_empty() { Ok(()) } else { Err(ConfigError(problems)) }
}

/// The same as a start finds it, with the consequences of what it tolerates. What `user` may not
/// read, the daemon perhaps may.
pub(crate) fn look(loaded: &Loaded, user: CheckUser) -> StartFindings {
    let mut found = StartFindings::default();
    for mut problem in trust_problems(loaded).into_iter().chain(users_problem(loaded)) {
        if may_be_readable(&problem, user) {
            problem.reason += &cannot_tell();
            found.tolerated.push(problem);
        } else {
            found.fatal.push(problem);
        }
    }
    let listeners = &loaded.config.listeners;
    let identities = identity_problems(loaded).into_iter().map(|(index, problem)| {
        let is_for_users =
            listeners.get(index).is_some_and(|listener| listener.mode.is_for_users());
        let nobody = if is_for_users { ", so that nobody can log in there" } else { "" };
        (format!("; {NO_TLS}{nobody}, and no reload is accepted"), problem)
    });
    let logins = login_problems(loaded).into_iter().map(|problem| (NO_LOGIN.to_owned(), problem));
    found.tolerated.extend(identities.chain(logins).map(|(effect, mut problem)| {
        let is_known = !may_be_readable(&problem, user);
        problem.reason += &if is_known { effect } else { cannot_tell() };
        problem
    }));
    found
}

/// Is this only about what this user may not?
fn may_be_readable(problem: &ConfigProblem, user: CheckUser) -> bool {
    user.is_another() && problem.reason.contains(&io::Error::from(Errno::ACCESS).to_string())
}

fn cannot_tell() -> String {
    let uid = getuid().as_raw();
    format!("; whether the user of the daemon may read it cannot be seen by user id {uid}")
}

fn trust_problems(loaded: &Loaded) -> Vec<ConfigProblem> {
    let named = [
        ("tls.ca_file", &loaded.config.tls.ca_file),
        ("mta_sts.ca_file", &loaded.config.mta_sts.ca_file),
    ];
    named
        .into_iter()
        .filter_map(|(key, path)| path.as_ref().map(|path| (key, path)))
        .filter_map(|(key, path)| check_certificates(path).err().map(|reason| (key, path, reason)))
        .map(|(key, path, reason)| {
            loaded.problem(key, format!("{:?}: {reason}", path.display().to_string()))
        })
        .collect()
}

/// What no start could use as `data_dir`.
pub(crate) fn data_dir_problem(loaded: &Loaded) -> Option<ConfigProblem> {
    let existing = loaded.config.data_dir.ancestors().find(|path| path.exists())?;
    let reason = format!("{}: is not a directory", existing.display());
    (!existing.is_dir()).then(|| loaded.problem("data_dir", reason))
}

/// May this user work in `data_dir`? The nearest folder above that there is must let us make the
/// others. The daemon may run as another user, or find a directory that systemd makes for it.
pub(crate) fn data_dir_complaint(loaded: &Loaded) -> Option<ConfigProblem> {
    let existing = loaded.config.data_dir.ancestors().find(|path| path.is_dir())?;
    let reason = format!(
        "{}: user id {} may not write there, which the user of the daemon has to",
        existing.display(),
        getuid().as_raw()
    );
    let may_write = access(existing, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    (!may_write).then(|| loaded.problem("data_dir", reason))
}

fn users_problem(loaded: &Loaded) -> Option<ConfigProblem> {
    let error = Users::read(loaded.config.users_file()?).err()?;
    Some(loaded.problem("access.users_file", error.to_string()))
}

/// Each with the index of its listener.
fn identity_problems(loaded: &Loaded) -> Vec<(usize, ConfigProblem)> {
    let listeners = loaded.config.listeners.iter().enumerate();
    listeners
        .filter_map(|(index, listener)| {
            let error = identity::load(listener.tls.as_ref()?).err()?;
            let key = format!("listener[{index}].{}", error.part.key());
            Some((index, loaded.problem(&key, error.to_string())))
        })
        .collect()
}

fn login_problems(loaded: &Loaded) -> Vec<ConfigProblem> {
    let routes = loaded.config.routes.iter().enumerate();
    routes
        .filter_map(|(index, route)| {
            let login = route.login.as_ref()?;
            let error = read_credentials(login).err()?;
            let shown = login.password_file.display().to_string();
            let key = format!("route[{index}].password_file");
            Some(loaded.problem(&key, format!("{shown:?}: {error}")))
        })
        .collect()
}

fn check_certificates(path: &Path) -> Result<(), String> {
    let in_words = |error: pem::Error| {
        if let pem::Error::Io(error) = error { error.to_string() } else { error.to_string() }
    };
    let certificates = regular_file::certificates(path).map_err(in_words)?;
    let mut count = 0;
    for certificate in certificates {
        certificate.map_err(|error| error.to_string())?;
        count += 1;
    }
    if count == 0 { Err("no certificate in PEM form in it".into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ListenerMode, Surroundings, load};

    fn with_document(text: &str) -> Loaded {
        let variables = [("HOME", "/home/relay"), ("STAUNCH_CONFIG_TOML", text)];
        let surroundings = Surroundings {
            variables: variables.map(|(name, value)| (name.into(), value.into())).into(),
            host_name: "relay.example.net".into(),
            system_file: "/nonexistent/staunch.toml".into(),
        };
        load(None, &surroundings).unwrap()
    }

    #[test]
    fn a_data_dir_that_cannot_be_one_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let said = |path: &str| {
            let loaded = with_document(&format!("data_dir = {path:?}"));
            data_dir_problem(&loaded).map(|problem| format!("{}: {}", problem.key, problem.reason))
        };
        let path = file.path().to_str().unwrap();
        assert_eq!(said(path), Some(format!("data_dir: {path}: is not a directory")));
        assert_eq!(said(&format!("{path}/below")), said(path));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(said(dir.path().join("new/deep").to_str().unwrap()), None);
    }

    #[test]
    fn files_that_values_name_are_looked_at_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let loaded = with_document(&format!("[tls]\nca_file = {:?}", path.to_str().unwrap()));
        let complaint = |text: Option<&str>| {
            text.inspect(|text| std::fs::write(&path, text).unwrap());
            check_files(&loaded).unwrap_err().to_string()
        };
        let start = format!("STAUNCH_CONFIG_TOML:2: tls.ca_file: {:?}: ", path.to_str().unwrap());
        assert!(complaint(None).starts_with(&start));
        assert_eq!(complaint(Some("nothing")), format!("{start}no certificate in PEM form in it"));
    }

    #[test]
    fn a_certificate_that_cannot_be_read_is_a_mistake_but_no_reason_not_to_start() {
        let text = "[[listener]]\naddress = \"unix:/run/staunch/smtp.sock\"\nmode = \"submissions\"\n\
            tls_certificate = \"/nonexistent/c.pem\"\ntls_key = \"/nonexistent/k.pem\"\n[access]\nusers_file = \"\"";
        let loaded = with_document(text);
        let [listener] = loaded.config.listeners.as_slice() else { panic!("one listener") };
        assert_eq!(listener.mode, ListenerMode::Submissions);
        assert_eq!(
            check_files(&loaded).unwrap_err().to_string(),
            "STAUNCH_CONFIG_TOML:4: listener[0].tls_certificate: \"/nonexistent/c.pem\": No such file \
             or directory (os error 2); staunch must be able to read it as the user that it runs as"
        );
        check_files_to_run(&loaded).unwrap();
    }

    #[test]
    fn the_users_file_is_read_where_a_listener_is_for_users_and_may_be_missing_elsewhere() {
        let listeners = |mode: &str| {
            format!(
                "[[listener]]\naddress = \"127.0.0.1:1\"\nmode = \"{mode}\"\ntls_certificate = \"/c.pem\"\n\
                 tls_key = \"/k.pem\"\n[access]\nusers_file = \"/nowhere/users\""
            )
        };
        for (mode, is_for_users) in [("relay", false), ("submission", true), ("submissions", true)]
        {
            let loaded = with_document(&listeners(mode));
            assert_eq!(loaded.config.users_file().is_some(), is_for_users, "{mode}");
            let problems = check_files(&loaded).unwrap_err().to_string();
            assert_eq!(problems.contains("staunch user add"), is_for_users, "{problems}");
        }
    }
}
