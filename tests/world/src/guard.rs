//! Nothing of a world outlives the test process, not even when it is killed: a shell that holds the
//! other end of a pipe ends the daemons and removes the directory.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

use crate::log::lock;

/// Reads `+PID` and `-PID`; at the end of its input kills the PIDs left and removes the directory.
const SCRIPT: &str = r#"
pids=" "
while read -r sign pid; do
    case $sign in
        +) pids="$pids$pid " ;;
        -) pids="${pids%% $pid *} ${pids#* $pid }" ;;
    esac
done
[ "$pids" = " " ] || kill -9 $pids 2>/dev/null
rm -rf "$1"
"#;

/// The shell that cleans up.
#[derive(Debug)]
pub(crate) struct Guard {
    shell: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Guard {
    /// Takes charge of `dir`.
    pub(crate) fn start(dir: &Path) -> Self {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "guard"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Out of reach of a Ctrl-C on the terminal.
            .process_group(0)
            .spawn()
            .expect("/bin/sh");
        let pipe = Mutex::new(shell.stdin.take());
        Self { shell, pipe }
    }

    /// This process shall not outlive us.
    pub(crate) fn watch(&self, pid: u32) {
        self.tell('+', pid);
    }

    /// This process has ended; its number may be somebody else's soon.
    pub(crate) fn forget(&self, pid: u32) {
        self.tell('-', pid);
    }

    fn tell(&self, sign: char, pid: u32) {
        if let Some(pipe) = lock(&self.pipe).as_mut() {
            writeln!(pipe, "{sign} {pid}").expect("the guard listens");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(lock(&self.pipe).take());
        let _ = self.shell.wait();
    }
}
