//! The files that a configuration names, and in which of them something else stands than before.
//!
//! A reload reads them all again, and names those that were replaced: that is what it was ordered
//! for. Only a keyed hash of each is kept, since there are keys and passwords among them.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::control::api::ReadFile;
use crate::regular_file;

/// Octets of a file that are looked at. Our choice: as many as the largest users file has.
const OCTETS_MAX: u64 = 16 << 20;

/// What stood in them at the last look.
#[derive(Clone, Debug)]
pub(crate) struct NamedFiles {
    hasher: RandomState,
    /// None: it could not be read.
    hashes: BTreeMap<PathBuf, Option<u64>>,
}

impl NamedFiles {
    /// Those of `config`. Blocks.
    pub(crate) fn of(config: &Config) -> Self {
        Self::hashed(RandomState::new(), config)
    }

    /// Looks at those of `config` now, and names those that have changed since this look. Blocks.
    pub(crate) fn look_again(&self, config: &Config) -> (Self, Vec<ReadFile>) {
        let now = Self::hashed(self.hasher.clone(), config);
        let has_changed = |path: &Path| match (self.hashes.get(path), now.hashes.get(path)) {
            (Some(before), Some(now)) => before != now,
            // Another key names it now, or did: that is a change of its own.
            (_, _) => false,
        };
        let mut changed: Vec<ReadFile> = Vec::new();
        for (key, path) in named(config) {
            let shown = path.display().to_string();
            if has_changed(path) && changed.iter().all(|file| file.path != shown) {
                changed.push(ReadFile { key, path: shown });
            }
        }
        (now, changed)
    }

    fn hashed(hasher: RandomState, config: &Config) -> Self {
        let hash = |path: &Path| {
            let mut octets = Vec::new();
            let file = regular_file::open(path).ok()?;
            file.take(OCTETS_MAX).read_to_end(&mut octets).ok()?;
            Some(hasher.hash_one(octets))
        };
        let hashes = named(config).into_iter().map(|(_, path)| (path.to_owned(), hash(path)));
        let hashes = hashes.collect();
        Self { hasher, hashes }
    }
}

/// Each with the key that names it.
fn named(config: &Config) -> Vec<(String, &Path)> {
    let mut all = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        all.push((format!("listener[{index}].tls_certificate"), tls.certificate.as_path()));
        all.push((format!("listener[{index}].tls_key"), tls.key.as_path()));
    }
    for (index, route) in config.routes.iter().enumerate() {
        let Some(login) = &route.login else { continue };
        all.push((format!("route[{index}].password_file"), login.password_file.as_path()));
    }
    let single = [
        ("access.users_file", config.users_file()),
        ("submit.aliases_file", config.submit.aliases_file.as_deref()),
        ("tls.ca_file", config.tls.ca_file.as_deref()),
        ("mta_sts.ca_file", config.mta_sts.ca_file.as_deref()),
    ];
    all.extend(single.into_iter().filter_map(|(key, path)| Some((key.to_owned(), path?))));
    all
}
