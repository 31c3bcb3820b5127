//! Other people's software, started by hand on loopback: Debian's Postfix, Knot and nginx.
//!
//! Needs root (ports below 1024, Postfix's users) and the packages that `.ci/run` installs. Nothing
//! here runs as a service; what a value of these types started ends when it is dropped.

mod knot;
mod nginx;
mod postfix;
pub mod process;

pub use knot::Knot;
pub use nginx::{Nginx, Site as NginxSite};
pub use postfix::{Postfix, PostfixSetup};
pub use process::Usage;

use std::path::Path;
use std::process::Command;

/// Runs `command` to its end.
///
/// # Panics
///
/// If it fails, with what it printed.
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Ends the process whose number stands in `pid_file`, and waits until it is gone.
pub(crate) fn stop_by_pid_file(pid_file: &Path) {
    let Ok(text) = std::fs::read_to_string(pid_file) else { return };
    let Ok(pid) = text.trim().parse::<i32>() else { return };
    process::terminate(pid);
}

/// Makes a folder that services under other users can enter.
pub fn make_public_dir(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
