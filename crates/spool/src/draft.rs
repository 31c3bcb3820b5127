//! From arriving bytes to a body that a commit can name.
//!
//! A small body stays in memory and becomes a row in the commit itself. A large one is written to
//! `tmp/` while it arrives; [`Draft::seal`] syncs it, moves it to its final name and syncs the
//! directory, so a committed row never names a file that a crash can take away. Whatever is dropped
//! before its commit removes its own file; what a crash leaves is removed at the next start.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::layout::{Layout, create_file, sync_dir};
use crate::message::BodyBytes;
use crate::vitals::Vitals;
use crate::{MessageId, StoreError, checksum};

/// Octets of the largest body that is kept in the database by default. Our choice: above it, the
/// two copies, into the log and from there into the table, weigh more than a file's two syncs.
pub const INLINE_BODY_MAX: usize = 64 * 1024;

/// What drafts need of the store.
#[derive(Debug)]
pub(crate) struct BodyDirectory {
    pub(crate) layout: Layout,
    pub(crate) vitals: Arc<Vitals>,
    inline_body_max: usize,
    /// Ids of body files that no row names yet; the sweep for orphans leaves them alone.
    unnamed: Mutex<HashSet<MessageId>>,
}

impl BodyDirectory {
    pub(crate) fn new(layout: Layout, vitals: Arc<Vitals>, inline_body_max: usize) -> Self {
        Self { layout, vitals, inline_body_max, unnamed: Mutex::default() }
    }

    pub(crate) fn is_unnamed(&self, id: MessageId) -> bool {
        self.unnamed.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }
}

/// A message that is arriving.
#[derive(Debug)]
pub struct Draft {
    id: MessageId,
    size: u64,
    crc: u32,
    bodies_dir: Arc<BodyDirectory>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Memory(Vec<u8>),
    Disk { file: File, guard: OrphanGuard },
}

impl Draft {
    pub(crate) fn new(id: MessageId, bodies_dir: Arc<BodyDirectory>) -> Self {
        Self { id, size: 0, crc: 0, bodies_dir, content: Content::Memory(Vec::new()) }
    }

    /// The id the message will have.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Octets written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Octets it holds in memory: none once it has gone to disk.
    pub fn memory(&self) -> usize {
        match &self.content {
            Content::Memory(buffer) => buffer.capacity(),
            Content::Disk { .. } => 0,
        }
    }

    /// Appends. Goes to disk by itself above the limit for small bodies; then it blocks as a file
    /// does.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`] and [`StoreError::Io`] of the file; drop the draft then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if let Content::Memory(buffer) = &self.content
            && buffer.len().saturating_add(bytes.len()) > self.bodies_dir.inline_body_max
        {
            self.spill()?;
        }
        match &mut self.content {
            Content::Memory(buffer) => buffer.extend_from_slice(bytes),
            Content::Disk { file, .. } => {
                file.write_all(bytes).map_err(|e| StoreError::io("writing a body", e))?;
            }
        }
        self.crc = checksum::add(self.crc, bytes);
        self.size = self.size.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Moves to disk at once, because memory is short. Does nothing the second time.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`] and [`StoreError::Io`] of the file; drop the draft then.
    pub fn spill(&mut self) -> Result<(), StoreError> {
        let Content::Memory(buffer) = &self.content else { return Ok(()) };
        self.bodies_dir.vitals.alive()?;
        let path = self.bodies_dir.layout.draft(self.id);
        let failed = |e| StoreError::io("writing a body", e);
        let mut file = create_file(&path).map_err(failed)?;
        let guard = OrphanGuard::new(self.id, path, Arc::clone(&self.bodies_dir));
        file.write_all(buffer).map_err(failed)?;
        self.content = Content::Disk { file, guard };
        Ok(())
    }

    /// Ends the body. A large one is durable under its final name afterwards; blocks for two syncs.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`]; [`StoreError::Poisoned`] if a sync failed, now or before.
    pub fn seal(self) -> Result<Sealed, StoreError> {
        self.bodies_dir.vitals.alive()?;
        let Self { id, size, crc, bodies_dir, content } = self;
        let body = match content {
            Content::Memory(buffer) => SealedBody::Memory(BodyBytes::new(buffer)),
            Content::Disk { file, guard } => {
                synced(&bodies_dir, file.sync_all())?;
                drop(file);
                let last = bodies_dir.layout.body(id);
                if let Some(path) = guard.lock_path().as_mut() {
                    fs::rename(&*path, &last).map_err(|e| StoreError::io("naming a body", e))?;
                    *path = last;
                }
                synced(&bodies_dir, sync_dir(&bodies_dir.layout.shelf(id.low_byte())))?;
                SealedBody::File(Arc::new(guard))
            }
        };
        Ok(Sealed { id, size, crc, body })
    }
}

/// A full disk can show at the sync; any other failure of one is poison.
fn synced(bodies_dir: &BodyDirectory, result: std::io::Result<()>) -> Result<(), StoreError> {
    match result.map_err(|error| StoreError::io("syncing a body", error)) {
        Ok(()) => Ok(()),
        Err(StoreError::Full) => Err(StoreError::Full),
        Err(_) => {
            bodies_dir.vitals.poison();
            Err(StoreError::Poisoned)
        }
    }
}

/// A finished body that waits for its commit. Dropping it instead removes its file.
#[derive(Debug)]
pub struct Sealed {
    id: MessageId,
    size: u64,
    crc: u32,
    body: SealedBody,
}

#[derive(Debug)]
pub(crate) enum SealedBody {
    Memory(BodyBytes),
    File(Arc<OrphanGuard>),
}

impl Sealed {
    /// The id the message will have.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Octets of the body.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The body, if it is in memory: it need not be read back for the first attempt.
    pub fn bytes(&self) -> Option<BodyBytes> {
        match &self.body {
            SealedBody::Memory(bytes) => Some(bytes.clone()),
            SealedBody::File(_) => None,
        }
    }

    /// CRC-32C of the body.
    pub(crate) fn crc(&self) -> u32 {
        self.crc
    }

    pub(crate) fn body(&self) -> &SealedBody {
        &self.body
    }

    /// The file's guard, to be told once a row names the file.
    pub(crate) fn guard(&self) -> Option<Arc<OrphanGuard>> {
        match &self.body {
            SealedBody::Memory(_) => None,
            SealedBody::File(guard) => Some(Arc::clone(guard)),
        }
    }
}

/// Removes a body file that no row names, when it is dropped.
#[derive(Debug)]
pub(crate) struct OrphanGuard {
    id: MessageId,
    bodies_dir: Arc<BodyDirectory>,
    /// `None` once a row names the file.
    path: Mutex<Option<PathBuf>>,
}

impl OrphanGuard {
    fn new(id: MessageId, path: PathBuf, bodies_dir: Arc<BodyDirectory>) -> Self {
        bodies_dir.unnamed.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        Self { id, bodies_dir, path: Mutex::new(Some(path)) }
    }

    /// A row names the file now: it stays.
    pub(crate) fn keep(&self) {
        self.lock_path().take();
    }

    fn lock_path(&self) -> std::sync::MutexGuard<'_, Option<PathBuf>> {
        self.path.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OrphanGuard {
    fn drop(&mut self) {
        // After a failed sync nobody knows whether the row is there; the next start will.
        if self.bodies_dir.vitals.alive().is_ok()
            && let Some(path) = self.lock_path().take()
        {
            // If it stays, the next start removes it.
            let _ = fs::remove_file(path);
        }
        let unnamed = &self.bodies_dir.unnamed;
        unnamed.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
