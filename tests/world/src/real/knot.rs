//! Knot DNS as an authoritative server.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::make_public_dir;

/// A running knotd.
#[derive(Debug)]
pub struct Knot(Child);

impl Drop for Knot {
    fn drop(&mut self) {
        super::process::terminate(i32::try_from(self.0.id()).expect("a pid"));
        let _ = self.0.wait();
    }
}

impl Knot {
    /// Serves `zones` (name without final dot, zone file) on `address`, UDP and TCP, and returns
    /// when it does.
    pub fn start(dir: &Path, address: SocketAddr, zones: &[(&str, String)]) -> Self {
        make_public_dir(dir);
        let mut config = format!(
            "server:\n    listen: {ip}@{port}\n    rundir: {dir}\n    user: root:root\n\
             database:\n    storage: {dir}\nlog:\n  - target: stdout\n    any: info\nzone:\n",
            ip = address.ip(),
            port = address.port(),
            dir = dir.display()
        );
        for (name, text) in zones {
            let file = dir.join(format!("{name}.zone"));
            std::fs::write(&file, text).expect("write a zone");
            config += &format!("  - domain: {name}\n    file: {}\n", file.display());
        }
        let config_file = dir.join("knot.conf");
        std::fs::write(&config_file, config).expect("write knot.conf");
        let mut child = Command::new("knotd")
            .arg("-c")
            .arg(&config_file)
            .stdout(Stdio::piped())
            .spawn()
            .expect("knotd is installed");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut so_far = String::new();
        while !so_far.contains("server started") {
            let more = output.read_line(&mut so_far).expect("knotd prints text");
            assert!(more > 0, "knotd ended:\n{so_far}");
        }
        // Somebody has to read what it goes on printing.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self(child)
    }
}
