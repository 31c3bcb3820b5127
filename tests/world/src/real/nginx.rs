//! nginx as the HTTPS host of policies.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{make_public_dir, run, stop_by_pid_file};
use crate::pki::Identity;

/// One virtual host.
#[derive(Debug)]
pub struct Site {
    /// Its name, `mta-sts.example.test`.
    pub host: String,
    /// Its certificate.
    pub identity: Identity,
    /// What is at `/.well-known/mta-sts.txt`.
    pub policy: String,
}

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    pid_file: PathBuf,
    access_log: PathBuf,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        stop_by_pid_file(&self.pid_file);
    }
}

impl Nginx {
    /// Serves `sites` over TLS on `address`; nginx returns when its sockets are open.
    pub fn start(dir: &Path, address: SocketAddr, sites: &[Site]) -> Self {
        make_public_dir(dir);
        let (pid_file, access_log) = (dir.join("nginx.pid"), dir.join("access.log"));
        let mut config = format!(
            "pid {pid};\nerror_log {dir}/error.log;\nworker_processes 1;\nevents {{}}\nhttp {{\n\
             access_log {log};\ndefault_type text/plain;\n",
            pid = pid_file.display(),
            dir = dir.display(),
            log = access_log.display()
        );
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            config += &format!("{kind}_temp_path {}/{kind};\n", dir.display());
        }
        for site in sites {
            let root = dir.join(&site.host);
            make_public_dir(&root.join(".well-known"));
            std::fs::write(root.join(".well-known/mta-sts.txt"), &site.policy)
                .expect("write a policy");
            let (chain, key) = (root.join("chain.pem"), root.join("key.pem"));
            site.identity.write_pem(&chain, &key);
            config += &format!(
                "server {{ listen {address} ssl; server_name {host}; root {root};\n\
                 ssl_certificate {chain}; ssl_certificate_key {key}; }}\n",
                host = site.host,
                root = root.display(),
                chain = chain.display(),
                key = key.display()
            );
        }
        config += "}\n";
        let config_file = dir.join("nginx.conf");
        std::fs::write(&config_file, config).expect("write nginx.conf");
        run(Command::new("nginx")
            .arg("-p")
            .arg(dir)
            .arg("-c")
            .arg(&config_file)
            .arg("-e")
            .arg(dir.join("start.log")));
        Self { pid_file, access_log }
    }

    /// The requests so far, in nginx's usual form.
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(&self.access_log).unwrap_or_default()
    }
}
