//! The configuration of a command.

use super::arguments::CommandSettings;
use super::exit::{Exit, Failure};
use crate::config::{self, Loaded, Surroundings};

/// Reads it as the command line says.
///
/// # Errors
///
/// [`Exit::Config`] with all that is wrong.
pub(super) fn load(settings: &CommandSettings) -> Result<Loaded, Failure> {
    let surroundings = Surroundings::of_process();
    config::load(settings.config.as_deref(), &surroundings)
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))
}
