//! `staunch queue backup` and `restore`: at the files of the data directory, whether a daemon runs
//! or not.

use std::io::{self, Write as _, stdout};

use serde_json::json;
use spool::{Copied, CopiedPolicies, CopyError, OpenError};

use super::arguments::OtherDirectory;
use super::exit::{Exit, Failure};
use super::output;
use crate::config::Loaded;

pub(super) fn backup(command: &OtherDirectory, loaded: &Loaded) -> Result<Exit, Failure> {
    let parent = command.dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.exists()) {
        let text = format!("{}: is not there; the copy is made in it", parent.display());
        return Err(Failure::new(Exit::Usage, text));
    }
    let Copied { messages, files, linked, policies } =
        spool::backup(&loaded.config.data_dir, &command.dir).map_err(failure)?;
    let mut out = stdout().lock();
    if command.json.json {
        let policies = policies == CopiedPolicies::Whole;
        let done = json!({
            "messages": messages, "bodies": files, "linked": linked, "policies": policies,
        });
        output::json(&mut out, &done)?;
    } else {
        let dir = command.dir.display();
        writeln!(
            out,
            "{messages} messages copied to {dir}, {files} large bodies, {linked} of them by link"
        )?;
    }
    if policies == CopiedPolicies::LeftOut {
        let text = "policies.db is damaged and is not in the copy; policies are fetched again";
        return Err(Failure::new(Exit::No, text));
    }
    Ok(Exit::Ok)
}

pub(super) fn restore(command: &OtherDirectory, loaded: &Loaded) -> Result<Exit, Failure> {
    let data_dir = &loaded.config.data_dir;
    let restored = spool::restore(&command.dir, data_dir).map_err(failure)?;
    let mut out = stdout().lock();
    if command.json.json {
        let done = json!({ "bodies": restored.copied.files, "kept": restored.kept });
        output::json(&mut out, &done)?;
    } else {
        let (data_dir, dir) = (data_dir.display(), command.dir.display());
        writeln!(out, "{data_dir} has the queue of {dir}; start the daemon")?;
        if let Some(kept) = &restored.kept {
            writeln!(out, "what was there before is in {}", kept.display())?;
        }
    }
    Ok(Exit::Ok)
}

/// What the error is to a script.
pub(super) fn failure(error: CopyError) -> Failure {
    let exit = match &error {
        CopyError::NotEmpty { .. } | CopyError::Inside { .. } => Exit::Usage,
        CopyError::Read { .. }
        | CopyError::Unfinished { .. }
        | CopyError::Log { .. }
        | CopyError::Busy { .. }
        | CopyError::Journal { .. } => Exit::TemporaryFailure,
        CopyError::Kind { .. } | CopyError::NoQueue { .. } => Exit::NoInput,
        CopyError::Open(
            OpenError::Foreign { .. }
            | OpenError::Newer { .. }
            | OpenError::Shape { .. }
            | OpenError::Log { .. },
        ) => Exit::BadInput,
        CopyError::Open(OpenError::Io { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            Exit::NoPermission
        }
        CopyError::Open(OpenError::Owner { .. }) => Exit::NoPermission,
        CopyError::Open(
            OpenError::Io { .. }
            | OpenError::Database { .. }
            | OpenError::Locked { .. }
            | OpenError::LogInUse { .. }
            | OpenError::Unfinished { .. },
        ) => Exit::TemporaryFailure,
    };
    let is_running = matches!(error, CopyError::Open(OpenError::Locked { .. }));
    let cure = if is_running { "; stop the daemon first" } else { "" };
    Failure::new(exit, format!("{error}{cure}"))
}
