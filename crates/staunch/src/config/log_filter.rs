//! What of the log is written: the grammar of `log.level`.

use tracing_subscriber::filter::{ParseError, Targets};

/// Whose events count at the configured level; other crates' only as warnings.
pub(crate) const OWN_TARGET: &str = "staunch";
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
/// The parts of staunch that events come from, as `staunch::dns`.
const PARTS: [&str; 10] = [
    "accept", "auth", "clock", "connect", "control", "daemon", "delivery", "dns", "policies",
    "queue",
];

/// Reads a level, or a list of directives like `info,staunch::dns=debug`.
///
/// A level by itself is for staunch's own events: what libraries do is of interest only when
/// something is wrong, or when they are named.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn log_filter(text: &str) -> Result<Targets, String> {
    let mut directives = Vec::new();
    for part in text.split(',').map(str::trim) {
        if LEVELS.contains(&part) {
            directives.push(format!("{OWN_TARGET}={part}"));
        } else if let Some((target, _)) = part.split_once('=') {
            if PARTS.contains(&target) {
                return Err(format!("{target} is a part of staunch: write {OWN_TARGET}::{part}"));
            }
            // A part that is not there says nothing: it was misspelt, had another name once, or is
            // a file of a part, whose lines are those of the part.
            let named = target.strip_prefix("staunch::");
            if let Some(named) = named.filter(|named| !PARTS.contains(named)) {
                let parts = PARTS.join(", ");
                return Err(format!("staunch has no part {named:?}; its parts are {parts}"));
            }
            directives.push(part.to_owned());
        } else {
            // A word that is no level would be taken for a target, and silence all others.
            let levels = LEVELS.join(", ");
            return Err(format!("not {levels}, or of one part like staunch::dns=debug"));
        }
    }
    // Details of one part are no reason to be silent about the others.
    if !directives.iter().any(|directive| directive.starts_with(&format!("{OWN_TARGET}="))) {
        directives.push(format!("{OWN_TARGET}=info"));
    }
    let others = if text == "error" { "error" } else { "warn" };
    format!("{others},{}", directives.join(","))
        .parse()
        .map_err(|error: ParseError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_module_and_what_is_none_is_refused() {
        let root = include_str!("../lib.rs");
        for part in PARTS {
            assert!(root.contains(&format!("\nmod {part};\n")), "{part}");
        }
        for good in ["info,staunch::dns=debug,hickory_net=debug", "warn,staunch::connect=debug"] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        let dns = log_filter("staunch::dns=debug").unwrap();
        assert!(dns.would_enable("staunch::queue", &tracing::Level::INFO));
        assert!(log_filter("info,queue=debug").unwrap_err().ends_with("staunch::queue=debug"));
        for bad in ["resolve", "cli", "queue::settle"] {
            let refused = log_filter(&format!("staunch::{bad}=debug")).unwrap_err();
            let want = format!("staunch has no part {bad:?}; its parts are ");
            assert!(refused.starts_with(&want), "{refused}");
        }
    }
}
