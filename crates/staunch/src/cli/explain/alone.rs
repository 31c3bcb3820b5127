//! The walk of `staunch explain` where no daemon runs.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::cli::exit::{Exit, Failure};
use crate::clock;
use crate::config::Config;
use crate::control::api::Explanation;
use crate::control::explain::{self, BadQuestion, ExplainQuestion};
use crate::daemon::{RunError, assemble, replaced};

/// The walk without a daemon: with what the data directory remembers, if nobody else works in it.
///
/// # Errors
///
/// [`RunError`] when it cannot be begun.
pub(super) async fn walk(
    config: &Config,
    question: ExplainQuestion,
) -> Result<Explanation, AloneError> {
    let stored = config.data_dir.join("queue.db").exists();
    let at_home = stored.then(|| spool::Spool::open(&config.data_dir, spool::Options::default()));
    let (spool, scratch) = match at_home {
        Some(Ok(spool)) => {
            replaced::leave_for_the_daemon(&spool).map_err(RunError::from)?;
            (spool, None)
        }
        Some(Err(_)) | None => {
            let scratch = scratch_dir().map_err(RunError::from)?;
            let spool = spool::Spool::open(&scratch, spool::Options::default());
            (spool.map_err(RunError::from)?, Some(scratch))
        }
    };
    let (_config, config) = watch::channel(Arc::new(config.clone()));
    let (handle, _events) = assemble(config, spool)?;
    let mut answer = explain::walk(&handle, question).await;
    handle.spool.close();
    if let Some(scratch) = scratch {
        if let Ok(answer) = &mut answer {
            // That of the scratch directory is nobody's.
            answer.queue = None;
        }
        // Nobody misses it; what is left is for whoever cleans the directory of temporary files.
        let _removed = std::fs::remove_dir_all(scratch);
    }
    Ok(answer?)
}

/// A directory for nobody else, in one where everybody may write: it must not have been there.
fn scratch_dir() -> Result<PathBuf, spool::OpenError> {
    let name = format!("staunch-explain-{}-{}", std::process::id(), clock::now().as_nanosecond());
    let path = std::env::temp_dir().join(name);
    match DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(spool::OpenError::Io { path, source }),
    }
}

/// Why there is no answer without a daemon.
#[derive(Debug, thiserror::Error)]
pub(super) enum AloneError {
    /// The walk could not be begun.
    #[error(transparent)]
    Run(#[from] RunError),
    /// It was not worth beginning.
    #[error(transparent)]
    Question(#[from] BadQuestion),
}

impl From<AloneError> for Failure {
    fn from(error: AloneError) -> Self {
        match error {
            AloneError::Run(error) => error.into(),
            AloneError::Question(error) => Self::new(Exit::BadInput, error.to_string()),
        }
    }
}
