//! What salts are made up from, for names that nobody has.
//!
//! It outlives the process: a salt that changes with a restart while others stay tells that nobody
//! has the name. Without its file there is another one, and mail goes on.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aws_lc_rs::rand;

use super::edit;
use super::users::UsersError;
use crate::auth::facts::AuthFact;

/// Octets of the secret that makes up salts for names that nobody has.
pub(super) const SEED_OCTETS: usize = 32;

/// Below the data directory.
const FILE: &str = "salts.key";
/// For its owner alone: who has it can tell what is made up.
const MODE: u32 = 0o600;

/// One octet more than there should be, which is enough to see that it is damaged.
const READ_MAX: u64 = 33;

pub(crate) type SaltSecret = [u8; SEED_OCTETS];

/// The one of `data_dir`, which is made if there is none that can be used. Blocks.
///
/// # Errors
///
/// [`UsersError::NoRandomness`].
pub(crate) fn of(data_dir: &Path) -> Result<SaltSecret, UsersError> {
    let path = data_dir.join(FILE);
    match read(&path) {
        Ok(secret) => return Ok(secret),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => tell_renewed(&path, "it cannot be used", &error),
    }
    let mut secret = SaltSecret::default();
    rand::fill(&mut secret).map_err(|_| UsersError::NoRandomness)?;
    let kept = File::open(data_dir).and_then(|folder| {
        edit::replace(&path, &secret, (None, folder.metadata()?.gid(), MODE))?;
        folder.sync_all()
    });
    if let Err(error) = kept {
        tell_renewed(&path, "it cannot be written, and the next start makes another one", &error);
    }
    Ok(secret)
}

fn read(path: &Path) -> io::Result<SaltSecret> {
    let mut secret = Vec::new();
    File::open(path)?.take(READ_MAX).read_to_end(&mut secret)?;
    let secret =
        SaltSecret::try_from(secret).map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
    // What a file system may leave of a file: everybody knows that one.
    if secret == SaltSecret::default() {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(secret)
}

fn tell_renewed(path: &Path, what: &str, error: &io::Error) {
    AuthFact::SaltsRenewed { path, what, error }.tell();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_outlives_the_process_and_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = of(dir.path()).unwrap();
        assert_ne!(first, SaltSecret::default());
        assert_eq!(of(dir.path()).unwrap(), first);
        let metadata = std::fs::metadata(dir.path().join(FILE)).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_damaged_one_is_made_anew_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut before = of(dir.path()).unwrap();
        for damaged in [&[][..], &[7; 31], &[7; 33], &[0; 32]] {
            std::fs::write(&path, damaged).unwrap();
            // As a run leaves it that was killed while it wrote.
            std::fs::write(path.with_file_name("salts.key.new"), "half").unwrap();
            let now = of(dir.path()).unwrap();
            assert_ne!(now, before, "{damaged:?}");
            assert_eq!(of(dir.path()).unwrap(), now, "{damaged:?}");
            before = now;
        }
    }

    #[test]
    fn where_it_cannot_be_kept_there_is_one_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert_ne!(of(&missing).unwrap(), SaltSecret::default());
        std::fs::create_dir(dir.path().join(FILE)).unwrap();
        assert_ne!(of(dir.path()).unwrap(), of(dir.path()).unwrap());
    }
}
