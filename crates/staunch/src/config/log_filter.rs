//! What of the log is written: the grammar of `log.level`.

use tracing_subscriber::EnvFilter;

/// Whose events count at the configured level; other crates' only as warnings.
pub(crate) const OWN_TARGET: &str = "staunch";
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Reads a level, or a list of directives like `info,staunch::dns=debug`.
///
/// A level by itself is for staunch's own events: what libraries do is of interest only when
/// something is wrong, or when they are named.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn log_filter(text: &str) -> Result<EnvFilter, String> {
    let mut directives = Vec::new();
    for part in text.split(',').map(str::trim) {
        if LEVELS.contains(&part) {
            directives.push(format!("{OWN_TARGET}={part}"));
        } else if part.contains('=') {
            directives.push(part.to_owned());
        } else {
            // A word that is no level would be taken for a target, and silence all others.
            let levels = LEVELS.join(", ");
            return Err(format!("not {levels}, or of one part like staunch::dns=debug"));
        }
    }
    let others = if text == "error" { "error" } else { "warn" };
    EnvFilter::try_new(format!("{others},{}", directives.join(",")))
        .map_err(|error| error.to_string())
}
