//! What a disk may hold after the power went.
//!
//! The model is stricter than the file systems in use. Data is durable when an `fsync` or
//! `fdatasync` of its file has returned that began after the write had ended; a name (created,
//! renamed, removed) when the same holds for a sync of its directory. Of everything else that was
//! begun, any part may be there: [`Loss::All`] drops it whole; [`Loss::Torn`] keeps a random prefix
//! of the changes of names (file systems journal them in order) and a random selection of the 4 KiB
//! pages of data.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::random::Random;
use super::trace::Call;

const PAGE: u64 = 4096;

/// What becomes of changes that were not synced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loss {
    /// None of them is there.
    All,
    /// Some of them are there, some in part.
    Torn,
}

/// From line to line.
#[derive(Clone, Copy, Debug)]
struct Span {
    begun: usize,
    ended: usize,
}

impl Span {
    fn of(call: &Call) -> Self {
        Self { begun: call.begun, ended: call.ended }
    }
}

#[derive(Debug)]
enum Change {
    Write { offset: u64, data: Vec<u8> },
    Truncate(u64),
    Extend(u64),
}

/// A file's content, whatever its names.
#[derive(Debug, Default)]
struct Inode {
    changes: Vec<(Span, Change)>,
    syncs: Vec<Span>,
}

#[derive(Debug)]
enum NameChange {
    Directory(String),
    File(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

impl NameChange {
    /// The path whose directory has to be synced.
    fn path(&self) -> &str {
        match self {
            Self::Directory(path)
            | Self::File(path, _)
            | Self::Rename(_, path, _)
            | Self::Remove(path) => path,
        }
    }
}

/// Everything that happened below one directory.
#[derive(Debug)]
pub struct History {
    root: String,
    inodes: Vec<Inode>,
    names: Vec<(Span, NameChange)>,
    directory_syncs: HashMap<String, Vec<Span>>,
}

/// State needed only while the calls are read.
#[derive(Default)]
struct Reading {
    /// Names as programs see them.
    visible: BTreeMap<String, usize>,
    /// Where the next `write` of a descriptor goes.
    positions: HashMap<i64, u64>,
    sizes: HashMap<usize, u64>,
}

impl History {
    /// Reads all changes below `root`, which was there, empty, at the beginning.
    ///
    /// # Panics
    ///
    /// On a way to change files that it does not know: a model that overlooks writes would prove
    /// nothing.
    pub fn read(root: &Path, calls: &[Call]) -> Self {
        let root = root.to_str().expect("UTF-8").to_owned();
        let mut history =
            Self { root, inodes: Vec::new(), names: Vec::new(), directory_syncs: HashMap::new() };
        let mut reading = Reading::default();
        for call in calls {
            history.take(call, &mut reading);
        }
        history
    }

    fn take(&mut self, call: &Call, reading: &mut Reading) {
        let span = Span::of(call);
        match call.name.as_str() {
            "openat" | "creat" => self.open(call, span, reading),
            "write" | "writev" => {
                let Some((file, inode)) = self.target(call, reading) else { return };
                let position = reading.positions.entry(file).or_default();
                let offset = *position;
                *position += call.data().len() as u64;
                self.write(call, inode, offset, reading);
            }
            "pwrite64" | "pwritev" => {
                let Some((_, inode)) = self.target(call, reading) else { return };
                self.write(call, inode, call.last_number(), reading);
            }
            "lseek" => {
                if let Some((file, _)) = self.target(call, reading) {
                    reading.positions.insert(file, call.returned.unsigned_abs());
                }
            }
            "ftruncate" => {
                let Some((_, inode)) = self.target(call, reading) else { return };
                let size = call.last_number();
                reading.sizes.insert(inode, size);
                self.inodes[inode].changes.push((span, Change::Truncate(size)));
            }
            "fsync" | "fdatasync" => self.sync(call, span, reading),
            "rename" | "renameat" | "renameat2" => self.rename(call, span, reading),
            "unlink" | "unlinkat" | "rmdir" => {
                let Some(path) = self.named(call, 0) else { return };
                reading.visible.remove(&path);
                self.names.push((span, NameChange::Remove(path)));
            }
            "mkdir" | "mkdirat" => {
                let Some(path) = self.named(call, 0) else { return };
                if path != self.root {
                    self.names.push((span, NameChange::Directory(path)));
                }
            }
            "mmap" => self.refuse_shared_map(call),
            // Begins to write back, promises nothing.
            "sync_file_range" => {}
            "fallocate" => self.allocate(call, span, reading),
            "sendto" | "sendmsg" | "recvfrom" | "read" | "readv" => {}
            _ => assert!(!self.touches(call), "a model of it is missing: {call:?}"),
        }
    }

    fn touches(&self, call: &Call) -> bool {
        let below = |path: &str| path.starts_with(&self.root);
        call.files.iter().any(|file| file.path.as_deref().is_some_and(below))
            || (0..call.strings.len()).any(|at| self.named(call, at).is_some())
    }

    /// SQLite maps its WAL index, which it builds anew after a crash; nothing else may be written
    /// through memory.
    fn refuse_shared_map(&self, call: &Call) {
        let writes = call.rest.contains("PROT_WRITE") && call.rest.contains("MAP_SHARED");
        let index = call
            .files
            .iter()
            .any(|file| file.path.as_deref().is_some_and(|path| path.ends_with("-shm")));
        assert!(!writes || index || !self.touches(call), "written through memory: {call:?}");
    }

    /// The path of a string argument, if it is below the root.
    fn named(&self, call: &Call, at: usize) -> Option<String> {
        let text = String::from_utf8(call.strings.get(at)?.clone()).ok()?;
        let base = call.files.get(at).or(call.files.first()).and_then(|file| file.path.clone());
        let path = match base {
            Some(base) if !text.starts_with('/') => format!("{base}/{text}"),
            Some(_) | None => text,
        };
        path.starts_with(&self.root).then_some(path)
    }

    /// Descriptor and inode that the call is about, if it is below the root and has a name.
    fn target(&self, call: &Call, reading: &Reading) -> Option<(i64, usize)> {
        let file = call.files.first()?;
        let path = file.path.as_ref().filter(|path| path.starts_with(&self.root))?;
        reading.visible.get(path).map(|inode| (file.number, *inode))
    }

    fn open(&mut self, call: &Call, span: Span, reading: &mut Reading) {
        let Some(path) = call.files.last().and_then(|file| file.path.clone()) else { return };
        reading.positions.insert(call.returned, 0);
        if !path.starts_with(&self.root) {
            return;
        }
        let creates = call.name == "creat" || call.rest.contains("O_CREAT");
        if creates && !reading.visible.contains_key(&path) {
            self.inodes.push(Inode::default());
            let inode = self.inodes.len() - 1;
            reading.visible.insert(path.clone(), inode);
            self.names.push((span, NameChange::File(path.clone(), inode)));
        }
        let Some(&inode) = reading.visible.get(&path) else { return };
        if call.rest.contains("O_TRUNC") {
            reading.sizes.insert(inode, 0);
            self.inodes[inode].changes.push((span, Change::Truncate(0)));
        }
        if call.rest.contains("O_APPEND") {
            let end = reading.sizes.get(&inode).copied().unwrap_or_default();
            reading.positions.insert(call.returned, end);
        }
    }

    fn write(&mut self, call: &Call, inode: usize, offset: u64, reading: &mut Reading) {
        let data = call.data();
        let size = reading.sizes.entry(inode).or_default();
        *size = (*size).max(offset + data.len() as u64);
        self.inodes[inode].changes.push((Span::of(call), Change::Write { offset, data }));
    }

    /// Space and, in mode 0, zeros up to a size.
    fn allocate(&mut self, call: &Call, span: Span, reading: &mut Reading) {
        let Some((_, inode)) = self.target(call, reading) else { return };
        let numbers: Vec<&str> = call.rest.split(',').map(str::trim).collect();
        if numbers[1].contains("KEEP_SIZE") {
            return;
        }
        assert_eq!(numbers[1], "0", "a model of it is missing: {call:?}");
        let offset: u64 = numbers[2].parse().expect("an offset");
        let end = offset + call.last_number();
        let size = reading.sizes.entry(inode).or_default();
        *size = (*size).max(end);
        self.inodes[inode].changes.push((span, Change::Extend(end)));
    }

    fn sync(&mut self, call: &Call, span: Span, reading: &Reading) {
        let Some(path) = call.files.first().and_then(|file| file.path.clone()) else { return };
        if let Some(&inode) = reading.visible.get(&path) {
            self.inodes[inode].syncs.push(span);
        } else {
            self.directory_syncs.entry(path).or_default().push(span);
        }
    }

    fn rename(&mut self, call: &Call, span: Span, reading: &mut Reading) {
        let (Some(from), Some(to)) = (self.named(call, 0), self.named(call, 1)) else { return };
        let inode = reading.visible.remove(&from).expect("a file that was made here is renamed");
        reading.visible.insert(to.clone(), inode);
        self.names.push((span, NameChange::Rename(from, to, inode)));
    }

    /// Writes to `target` what the disk may hold if the power goes at line `point`.
    pub fn build(&self, point: usize, loss: Loss, random: &mut Random, target: &Path) {
        std::fs::create_dir_all(target).expect("make the image");
        let mut files: BTreeMap<&str, usize> = BTreeMap::new();
        for change in self.names_at(point, loss, random) {
            match change {
                NameChange::Directory(path) => {
                    std::fs::create_dir_all(self.place(path, target)).expect("make a folder");
                }
                NameChange::File(path, inode) => {
                    files.insert(path, *inode);
                }
                NameChange::Rename(from, to, inode) => {
                    // The old name's folder need not have been synced.
                    files.remove(from.as_str());
                    files.insert(to, *inode);
                }
                NameChange::Remove(path) => {
                    files.remove(path.as_str());
                }
            }
        }
        for (path, inode) in files {
            let content = self.inodes[inode].content(point, loss, random);
            let place = self.place(path, target);
            // Its folder may be lost: then so is the file.
            if place.parent().is_some_and(Path::is_dir) {
                std::fs::write(place, content).expect("write a file of the image");
            }
        }
    }

    fn place(&self, path: &str, target: &Path) -> PathBuf {
        let below = path.strip_prefix(&self.root).expect("below the root");
        target.join(below.trim_start_matches('/'))
    }

    fn names_at(&self, point: usize, loss: Loss, random: &mut Random) -> Vec<&NameChange> {
        let begun = self.names.iter().filter(|(span, _)| span.begun <= point);
        let (durable, open): (Vec<_>, Vec<_>) =
            begun.enumerate().partition(|(_, (span, change))| {
                let folder = change.path().rsplit_once('/').map_or("", |(folder, _)| folder);
                self.directory_syncs
                    .get(folder)
                    .is_some_and(|syncs| is_durable(*span, syncs, point))
            });
        let kept = match loss {
            Loss::All => 0,
            Loss::Torn => random.below(open.len() + 1),
        };
        let mut all: Vec<_> = durable.into_iter().chain(open.into_iter().take(kept)).collect();
        all.sort_by_key(|(at, _)| *at);
        all.into_iter().map(|(_, (_, change))| change).collect()
    }
}

fn is_durable(span: Span, syncs: &[Span], point: usize) -> bool {
    syncs.iter().any(|sync| sync.begun >= span.ended && sync.ended <= point)
}

impl Inode {
    fn content(&self, point: usize, loss: Loss, random: &mut Random) -> Vec<u8> {
        let mut content = Vec::new();
        for (span, change) in self.changes.iter().filter(|(span, _)| span.begun <= point) {
            let durable = is_durable(*span, &self.syncs, point);
            match (change, durable, loss) {
                (_, false, Loss::All) => {}
                (Change::Write { offset, data }, true, _) => put(&mut content, *offset, data),
                (Change::Write { offset, data }, false, Loss::Torn) => {
                    put_some_pages(&mut content, *offset, data, random);
                }
                (Change::Truncate(size), _, _) => {
                    if durable || random.coin() {
                        content.resize(usize::try_from(*size).expect("small"), 0);
                    }
                }
                (Change::Extend(size), _, _) => {
                    let size = usize::try_from(*size).expect("small");
                    if size > content.len() && (durable || random.coin()) {
                        content.resize(size, 0);
                    }
                }
            }
        }
        content
    }
}

fn put(content: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let start = usize::try_from(offset).expect("small");
    let end = start + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(data);
}

fn put_some_pages(content: &mut Vec<u8>, offset: u64, data: &[u8], random: &mut Random) {
    let (mut at, mut rest) = (offset, data);
    while !rest.is_empty() {
        let room = usize::try_from(PAGE - at % PAGE).expect("a page");
        let (piece, after) = rest.split_at(room.min(rest.len()));
        if random.coin() {
            put(content, at, piece);
        }
        at += piece.len() as u64;
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::read;
    use super::*;

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    /// `"…"` becomes hexadecimal, and so does `<…>`, as strace writes it.
    fn calls(lines: &[&str]) -> Vec<Call> {
        let line = |line: &&str| {
            let mut out = String::from("7 ");
            let mut rest = *line;
            while let Some(at) = rest.find(['"', '<']) {
                let (open, close) =
                    if rest[at..].starts_with('"') { ('"', '"') } else { ('<', '>') };
                let end = at + 1 + rest[at + 1..].find(close).unwrap();
                out += &format!("{}{open}{}{close}", &rest[..at], hex(&rest[at + 1..end]));
                rest = &rest[end + 1..];
            }
            out + rest
        };
        read(&lines.iter().map(line).collect::<Vec<_>>().join("\n"))
    }

    /// The files after a power cut at `point`, as (name, content).
    fn after(lines: &[&str], point: usize, loss: Loss, seed: u64) -> Vec<(String, String)> {
        let dir = tempfile::tempdir().unwrap();
        let history = History::read(Path::new("/d"), &calls(lines));
        history.build(point, loss, &mut Random::new(seed), dir.path());
        let mut files: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .flatten()
            .map(|file| {
                let content = String::from_utf8(std::fs::read(file.path()).unwrap()).unwrap();
                (file.file_name().into_string().unwrap(), content)
            })
            .collect();
        files.sort();
        files
    }

    fn file(name: &str, content: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), content.to_owned())]
    }

    #[test]
    fn only_what_was_synced_is_sure_to_be_there() {
        let lines = [
            r#"openat(AT_FDCWD</>, "/d/a", O_RDWR|O_CREAT, 0644) = 3</d/a>"#,
            r#"write(3</d/a>, "one", 3) = 3"#,
            r#"fdatasync(3</d/a>) = 0"#,
            r#"fsync(4</d>) = 0"#,
            r#"write(3</d/a>, "two", 3) = 3"#,
            r#"rename("/d/a", "/d/b") = 0"#,
            r#"fsync(4</d>) = 0"#,
            r#"fsync(3</d/b>) = 0"#,
            r#"ftruncate(3</d/b>, 1) = 0"#,
            r#"unlink("/d/b") = 0"#,
            r#"fsync(4</d>) = 0"#,
        ];
        let want = [
            (2, vec![], "a synced file without a synced name is lost"),
            (3, file("a", "one"), "now its name is safe"),
            (5, file("a", "one"), "neither the second write nor the new name is"),
            (6, file("b", "one"), "a synced name does not bring data along"),
            (7, file("b", "onetwo"), "both are synced"),
            (9, file("b", "onetwo"), "truncation and removal are not"),
            (10, vec![], "the removal is"),
        ];
        for (point, files, why) in want {
            assert_eq!(after(&lines, point, Loss::All, 0), files, "{why}");
        }
    }

    #[test]
    fn what_was_not_synced_may_be_there_in_any_part() {
        let page = "x".repeat(4096);
        let write = format!(r#"write(3</d/a>, "{page}{page}", 8192) = 8192"#);
        let lines = [
            r#"openat(AT_FDCWD</>, "/d/a", O_RDWR|O_CREAT, 0644) = 3</d/a>"#,
            r#"fsync(4</d>) = 0"#,
            write.as_str(),
        ];
        let zeros = "\0".repeat(4096);
        let possible =
            [String::new(), page.clone(), format!("{zeros}{page}"), format!("{page}{page}")];
        let seen: std::collections::BTreeSet<_> =
            (0..64).map(|seed| after(&lines, 2, Loss::Torn, seed).remove(0).1).collect();
        assert_eq!(seen, possible.into_iter().collect());
    }

    #[test]
    fn a_write_that_the_model_would_overlook_is_refused() {
        let lines = [
            r#"openat(AT_FDCWD</>, "/d/a", O_RDWR|O_CREAT, 0644) = 3</d/a>"#,
            r#"mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 3</d/a>, 0) = 7"#,
        ];
        let read = || History::read(Path::new("/d"), &calls(&lines));
        assert!(std::panic::catch_unwind(read).is_err());
    }
}
