//! `staunch run`: the daemon.

use std::time::Duration;

use super::arguments::CommandSettings;
use super::exit::{Exit, Failure};
use crate::accept::Inherited;
use crate::config::{ConfigError, Loaded, log_filter};
use crate::daemon::check_files::check_files_to_run;
use crate::daemon::facts::DaemonFact;
use crate::daemon::reload::ConfigOrigin;
use crate::daemon::{self, descriptors};
use crate::telemetry;

/// Threads that wait for the disk at once; further work for it queues. Our choice: more than a disk
/// does side by side. Each costs about a megabyte, and a thousand clients whose messages go to disk
/// would start hundreds.
const BLOCKING_THREADS_MAX: usize = 32;
/// How long such a thread is waited for at the end. Our choice: nothing that anybody was promised
/// hangs on it, and a disk that does not answer must not keep the process.
const LAST_FILES: Duration = Duration::from_secs(1);

pub(super) fn run(loaded: Loaded, settings: &CommandSettings) -> Result<Exit, Failure> {
    let level = settings.log_level.as_deref();
    if let Some(Err(reason)) = level.map(log_filter) {
        return Err(Failure::new(Exit::Usage, format!("--log-level: {reason}")));
    }
    let bad_config = |error: ConfigError| Failure::new(Exit::Config, error.to_string());
    check_files_to_run(&loaded).map_err(bad_config)?;
    let loaded = loaded.with_aliases().map_err(bad_config)?;
    let (log, log_end) = telemetry::start(&loaded.config.log, level)
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    for complaint in loaded.complaints() {
        DaemonFact::ConfigComplaint { complaint: &complaint }.tell();
    }
    // Before there are threads, which the environment must not change under.
    let origin = ConfigOrigin { file: settings.config.clone(), log };
    let inherited = Inherited::from_environment();
    descriptors::raise(&loaded.config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .map_err(|error| Failure::new(Exit::TemporaryFailure, format!("runtime: {error}")))?;
    let result = runtime.block_on(daemon::run(loaded, origin, inherited));
    runtime.shutdown_timeout(LAST_FILES);
    // The last lines.
    drop(log_end);
    result?;
    Ok(Exit::Ok)
}
