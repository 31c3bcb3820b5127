//! Rows out of the pages of a damaged database file, without SQLite: it gives up a page, and all
//! below it, for one octet.
//!
//! The format is that of "Database File Format" (sqlite.org/fileformat2.html). What is found here
//! has proved nothing yet: whoever uses it compares its checksum.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A value of a row, as it lies in the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Integer(i64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

/// A row that was found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Carved {
    pub(crate) rowid: i64,
    pub(crate) values: Vec<Value>,
    pub(crate) found: Certainty,
}

/// How sure it is that the row was there when the file was damaged, and had not been deleted
/// before.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Certainty {
    /// A page in use lists it.
    Listed,
    /// It lies on a page whose list is damaged, or that may not be in use: it may have been
    /// deleted.
    Lying,
}

/// The type octet of a page with rows of a table (1.6), and of one with the numbers of other pages.
const LEAF: u8 = 0x0d;
const INTERIOR: u8 = 0x05;
const HEADER: usize = 100;
/// Our choice: no row of ours has more; what says so is none.
const COLUMNS_MAX: usize = 64;
/// Our choice: our largest is a body of 64 KiB.
const PAYLOAD_MAX: usize = 128 * 1024;

/// A database file by its pages.
#[derive(Debug)]
pub(crate) struct Pages {
    file: File,
    size: usize,
    count: u32,
    /// `None`: the list cannot be followed to its end.
    free: Option<BTreeSet<u32>>,
    /// Pages of tables that may be searched, with the number of their columns.
    ours: BTreeMap<u32, usize>,
}

impl Pages {
    /// The file, whose log has been copied into it. `searched` are the tables with the number of
    /// their columns, on whose damaged pages rows are looked for that no list names. Only rows with
    /// so many columns are taken: where strangers write octet by octet, as in bodies, others would
    /// be rows of their making.
    pub(crate) fn open(
        file: File,
        page_size: usize,
        searched: &[(&str, usize)],
    ) -> io::Result<Self> {
        let octets = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let count = u32::try_from(octets / page_size).unwrap_or(u32::MAX);
        let mut pages = Self { file, size: page_size, count, free: None, ours: BTreeMap::new() };
        pages.free = pages.free_list();
        let mut roots = Vec::new();
        pages.table_roots(1, 0, &mut roots);
        for (name, root) in roots {
            if let Some((_, columns)) = searched.iter().find(|(table, _)| *table == name) {
                pages.note_tree(root, *columns);
            }
        }
        Ok(pages)
    }

    /// Nothing that is found is certain.
    pub(crate) fn doubt_all(&mut self) {
        self.free = None;
    }

    /// Calls `take` with each row on any page that may be in use.
    pub(crate) fn each_row(&self, mut take: impl FnMut(Carved)) {
        for number in 1..=self.count {
            if self.free.as_ref().is_some_and(|free| free.contains(&number)) {
                continue;
            }
            let Some(page) = self.page(number) else { continue };
            let ours = self.ours.get(&number);
            match (page.get(start_of(number)), ours) {
                (Some(&LEAF), _) => self.listed(number, &page, &mut take),
                (Some(&INTERIOR), _) | (_, None) => {}
                (_, Some(columns)) => self.lying(&page, *columns, &mut take),
            }
        }
    }

    fn page(&self, number: u32) -> Option<Vec<u8>> {
        let index = u64::from(number.checked_sub(1)?);
        let mut page = vec![0; self.size];
        let at = index.checked_mul(u64::try_from(self.size).ok()?)?;
        self.file.read_exact_at(&mut page, at).ok()?;
        Some(page)
    }

    /// 1.5: trunk pages, each with the number of the next one and of leaves.
    fn free_list(&self) -> Option<BTreeSet<u32>> {
        let first = self.page(1)?;
        // A first page that is none says nothing of free pages. At 28: the number of pages.
        if !first.starts_with(b"SQLite format 3\0") || number_at(&first, 28)? != self.count {
            return None;
        }
        let mut free = BTreeSet::new();
        let mut trunk = number_at(&first, 32)?;
        while trunk != 0 {
            if !free.insert(trunk) {
                return None;
            }
            let page = self.page(trunk)?;
            let leaves = usize::try_from(number_at(&page, 4)?).ok()?;
            for leaf in 0..leaves {
                let number = number_at(&page, leaf.checked_mul(4)?.checked_add(8)?)?;
                if number == 0 || number > self.count || !free.insert(number) {
                    return None;
                }
            }
            trunk = number_at(&page, 0)?;
        }
        let count = usize::try_from(number_at(&first, 36)?).ok()?;
        (count == free.len()).then_some(free)
    }

    /// Names and roots of the tables that the schema lists (2.6), on the pages below `number`.
    fn table_roots(&self, number: u32, depth: u8, roots: &mut Vec<(String, u32)>) {
        let Some(page) = self.page(number) else { return };
        if page.get(start_of(number)) == Some(&INTERIOR) && depth < DEPTH_MAX {
            for child in self.children(number, &page) {
                self.table_roots(child, depth + 1, roots);
            }
        }
        for row in self.cells(number, &page).into_iter().flatten() {
            if let [Value::Text(kind), Value::Text(name), _, Value::Integer(root), ..] =
                row.values.as_slice()
                && kind == b"table"
                && let Ok(root) = u32::try_from(*root)
            {
                roots.push((String::from_utf8_lossy(name).into_owned(), root));
            }
        }
    }

    /// Notes the pages of a tree, as far as it can be followed.
    fn note_tree(&mut self, root: u32, columns: usize) {
        let mut left = vec![root];
        while let Some(number) = left.pop() {
            if number == 0 || number > self.count || self.ours.insert(number, columns).is_some() {
                continue;
            }
            if let Some(page) = self.page(number)
                && page.get(start_of(number)) == Some(&INTERIOR)
            {
                left.extend(self.children(number, &page));
            }
        }
    }

    fn children(&self, number: u32, page: &[u8]) -> Vec<u32> {
        let start = start_of(number);
        let pointers = cell_pointers(page, start, INTERIOR_CELLS);
        let below = pointers.filter_map(|at| number_at(page, at?));
        below.chain(number_at(page, start + 8)).collect()
    }

    /// The rows that a page lists; `None` for one that does not read.
    fn cells(&self, number: u32, page: &[u8]) -> Vec<Option<Carved>> {
        let start = start_of(number);
        if page.get(start) != Some(&LEAF) {
            return Vec::new();
        }
        let found = if self.free.is_some() { Certainty::Listed } else { Certainty::Lying };
        cell_pointers(page, start, LEAF_CELLS).map(|at| self.row(page, at?, found)).collect()
    }

    fn listed(&self, number: u32, page: &[u8], take: &mut impl FnMut(Carved)) {
        let cells = self.cells(number, page);
        let is_whole = cells.iter().all(Option::is_some);
        let rows: Vec<Carved> = cells.into_iter().flatten().collect();
        // All rows of a page are of one table: a pointer that leads elsewhere leads into what may
        // be a body.
        let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
        rows.iter().for_each(|row| *seen.entry(row.values.len()).or_default() += 1);
        let most = seen.into_iter().max_by_key(|(_, times)| *times).map(|(columns, _)| columns);
        let rows = rows.into_iter().filter(|row| Some(row.values.len()) == most);
        rows.for_each(&mut *take);
        let is_whole = is_whole && self.adds_up(page, start_of(number)) == Some(true);
        if let Some(columns) = self.ours.get(&number).filter(|_| !is_whole) {
            self.lying(page, *columns, take);
        }
    }

    /// Are the cells of a page, its free blocks and its fragments all there is behind the place
    /// where cells begin (1.6)? If its header lies about their number, they are not.
    fn adds_up(&self, page: &[u8], start: usize) -> Option<bool> {
        let first = usize::from(short(page.get(start + 5..)?)?);
        let mut octets = usize::from(*page.get(start + 7)?);
        for at in cell_pointers(page, start, LEAF_CELLS) {
            octets = octets.checked_add(self.cell_octets(page.get(at?..)?)?)?;
        }
        let mut block = usize::from(short(page.get(start + 1..)?)?);
        // Each block is behind the one before, so this ends.
        while block != 0 {
            octets = octets.checked_add(usize::from(short(page.get(block + 2..)?)?))?;
            let next = usize::from(short(page.get(block..)?)?);
            if next != 0 && next <= block {
                return Some(false);
            }
            block = next;
        }
        Some(first.checked_add(octets)? == self.size)
    }

    /// Of a cell on its page.
    fn cell_octets(&self, cell: &[u8]) -> Option<usize> {
        let mut rest = cell;
        let length = usize::try_from(varint(&mut rest)?).ok()?;
        varint(&mut rest)?;
        let here = self.octets_here(length);
        let overflow = if here < length { 4 } else { 0 };
        Some((cell.len() - rest.len() + here + overflow).max(4))
    }

    /// Octets of a payload that are on the page of its cell.
    fn octets_here(&self, length: usize) -> usize {
        let (most, least) = (self.size - 35, (self.size - 12) * 32 / 255 - 23);
        if length <= most {
            return length;
        }
        let here = least + (length - least) % (self.size - 4);
        if here <= most { here } else { least }
    }

    /// Whatever looks like a row.
    fn lying(&self, page: &[u8], columns: usize, take: &mut impl FnMut(Carved)) {
        let rows = (0..page.len()).filter_map(|at| self.row(page, at, Certainty::Lying));
        rows.filter(|row| row.values.len() == columns).for_each(take);
    }

    /// The row of the cell at this place.
    fn row(&self, page: &[u8], at: usize, found: Certainty) -> Option<Carved> {
        let mut cell = page.get(at..)?;
        let length =
            usize::try_from(varint(&mut cell)?).ok().filter(|length| *length <= PAYLOAD_MAX)?;
        let rowid = varint(&mut cell)?;
        // Before it is followed through other pages: most of what lies about is none.
        let (_, octets) = types(cell)?;
        if octets != length {
            return None;
        }
        let payload = self.payload(cell, length)?;
        Some(Carved { rowid, values: record(&payload)?, found })
    }

    /// The payload that begins in the cell, and goes on elsewhere if it is long (1.6).
    fn payload(&self, cell: &[u8], length: usize) -> Option<Vec<u8>> {
        let here = self.octets_here(length);
        let mut payload = cell.get(..here)?.to_vec();
        if here == length {
            return Some(payload);
        }
        let mut next = number_at(cell, here)?;
        while payload.len() < length {
            let page = self.page(next)?;
            let more = (length - payload.len()).min(self.size - 4);
            payload.extend_from_slice(page.get(4..4 + more)?);
            next = number_at(&page, 0)?;
        }
        Some(payload)
    }
}

/// Deeper than any tree of a file of this size.
const DEPTH_MAX: u8 = 20;
/// Octets of the header of a page, behind which are the places of its cells.
const LEAF_CELLS: usize = 8;
const INTERIOR_CELLS: usize = 12;

fn start_of(number: u32) -> usize {
    if number == 1 { HEADER } else { 0 }
}

/// Where the cells of a page are; `None` where the list itself has left the page.
fn cell_pointers(
    page: &[u8],
    start: usize,
    header: usize,
) -> impl Iterator<Item = Option<usize>> + '_ {
    let cells = page.get(start + 3..).and_then(short).unwrap_or_default();
    (0..usize::from(cells))
        .map(move |cell| page.get(start + header + 2 * cell..).and_then(short).map(usize::from))
}

/// 2.1: the types of the values that follow them, and the octets of all.
fn types(payload: &[u8]) -> Option<(Vec<i64>, usize)> {
    let mut rest = payload;
    let length = usize::try_from(varint(&mut rest)?).ok()?;
    let read = payload.len() - rest.len();
    let mut rest = rest.get(..length.checked_sub(read)?)?;
    let (mut kinds, mut octets) = (Vec::new(), length);
    while !rest.is_empty() {
        if kinds.len() >= COLUMNS_MAX {
            return None;
        }
        let kind = varint(&mut rest)?;
        octets = octets.checked_add(octets_of(kind)?)?;
        kinds.push(kind);
    }
    Some((kinds, octets))
}

fn octets_of(kind: i64) -> Option<usize> {
    match kind {
        0 | 8 | 9 => Some(0),
        1..=6 => [1, 2, 3, 4, 6, 8].get(usize::try_from(kind - 1).ok()?).copied(),
        12.. => usize::try_from((kind - 12) / 2).ok(),
        // 7 is a floating point number, which none of ours is; 10 and 11 are nothing.
        _ => None,
    }
}

fn record(payload: &[u8]) -> Option<Vec<Value>> {
    let (kinds, _) = types(payload)?;
    let mut length = payload;
    let mut values = payload.get(usize::try_from(varint(&mut length)?).ok()?..)?;
    kinds.into_iter().map(|kind| value(kind, &mut values)).collect()
}

fn value(kind: i64, values: &mut &[u8]) -> Option<Value> {
    let (octets, rest) = values.split_at_checked(octets_of(kind)?)?;
    *values = rest;
    Some(match kind {
        0 => Value::Null,
        8 => Value::Integer(0),
        9 => Value::Integer(1),
        1..=6 => {
            let sign = octets.first().map_or(0, |first| if *first > 0x7f { -1 } else { 0 });
            Value::Integer(octets.iter().fold(sign, |sum, octet| sum << 8 | i64::from(*octet)))
        }
        _ if kind % 2 == 0 => Value::Blob(octets.to_vec()),
        _ => Value::Text(octets.to_vec()),
    })
}

/// 1.6: up to nine octets, the highest bit of the first eight says that more follow.
fn varint(octets: &mut &[u8]) -> Option<i64> {
    let mut number: u64 = 0;
    for place in 0..9 {
        let (octet, rest) = octets.split_first()?;
        *octets = rest;
        if place == 8 {
            return Some((number << 8 | u64::from(*octet)).cast_signed());
        }
        number = number << 7 | u64::from(octet & 0x7f);
        if octet & 0x80 == 0 {
            break;
        }
    }
    Some(number.cast_signed())
}

fn short(octets: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(octets.get(..2)?.try_into().ok()?))
}

fn number_at(octets: &[u8], at: usize) -> Option<u32> {
    let octets = octets.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(octets.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, params};

    use super::*;

    /// A table with rows of all kinds and sizes, and what is in it.
    fn table(dir: &std::path::Path) -> (std::path::PathBuf, Vec<(i64, Vec<Value>)>) {
        let path = dir.join("some.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA page_size = 4096; CREATE TABLE t (a, b, c)").unwrap();
        let mut rows = Vec::new();
        for number in 0..300_i64 {
            let wide = [0, 1, -1, 127, -128, 40_000, -9_000_000, 1 << 40, i64::MIN];
            let wide = wide[usize::try_from(number).unwrap() % wide.len()];
            let blob = vec![
                u8::try_from(number % 251).unwrap();
                usize::try_from(number % 40 * 60).unwrap()
            ];
            let rowid = number * 1_000_003;
            db.execute(
                "INSERT INTO t (rowid, a, b, c) VALUES (?1, ?2, NULL, ?3)",
                params![rowid, wide, blob],
            )
            .unwrap();
            rows.push((rowid, vec![Value::Integer(wide), Value::Null, Value::Blob(blob)]));
        }
        db.execute("DELETE FROM t WHERE rowid >= 200 * 1000003", []).unwrap();
        rows.truncate(200);
        (path, rows)
    }

    fn carve(path: &std::path::Path) -> Vec<Carved> {
        let mut found = Vec::new();
        let pages = Pages::open(File::open(path).unwrap(), 4096, &[("t", 3)]).unwrap();
        pages.each_row(|row| found.push(row));
        // Not the schema's.
        found.retain(|row| row.values.len() == 3);
        found.sort_by_key(|row| (row.rowid, row.found));
        found
    }

    #[test]
    fn every_row_is_read_as_it_was_written_and_none_that_was_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rows) = table(dir.path());
        let found = carve(&path);
        assert!(found.iter().all(|row| row.found == Certainty::Listed));
        let found: Vec<_> = found.into_iter().map(|row| (row.rowid, row.values)).collect();
        assert_eq!(found, rows);
    }

    #[test]
    fn a_leaf_that_is_none_any_more_hides_no_row_but_what_it_has_is_not_certain() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rows) = table(dir.path());
        let whole = std::fs::read(&path).unwrap();
        let leaves = (1..whole.len() / 4096).filter(|page| whole[page * 4096] == LEAF);
        let mut count = 0;
        for number in leaves {
            let mut damaged = whole.clone();
            damaged[number * 4096] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            let found = carve(&path);
            let keys: BTreeSet<i64> = found.iter().map(|row| row.rowid).collect();
            assert!(rows.iter().all(|(rowid, _)| keys.contains(rowid)), "page {number}");
            count += usize::from(found.iter().any(|row| row.found == Certainty::Lying));
        }
        assert!(count > 10, "{count}");
    }

    /// Whoever writes a body writes octets into the file.
    #[test]
    fn what_looks_like_a_row_in_the_middle_of_a_value_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("CREATE TABLE t (a, b, c); CREATE TABLE bodies (b)").unwrap();
        // Length 7, key 99, a record of three integers of one octet.
        let forged = [7, 99, 4, 1, 1, 1, 1, 2, 3].repeat(300);
        db.execute("INSERT INTO bodies VALUES (?1)", [&forged]).unwrap();
        db.execute("INSERT INTO bodies VALUES (?1)", [&forged.repeat(5)]).unwrap();
        db.execute("INSERT INTO t VALUES (1, 2, 3)", []).unwrap();
        drop(db);
        let whole = std::fs::read(&path).unwrap();
        for number in 1..whole.len() / 4096 {
            for offset in [0, 4, 8, 9, 10, 11] {
                let mut damaged = whole.clone();
                damaged[number * 4096 + offset] ^= 0x12;
                std::fs::write(&path, &damaged).unwrap();
                assert!(
                    carve(&path).iter().all(|row| row.rowid != 99),
                    "page {number}, octet {offset}"
                );
            }
        }
    }

    #[test]
    fn nothing_that_stands_in_a_file_ends_badly() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = table(dir.path());
        let whole = std::fs::read(&path).unwrap();
        let mut state: u32 = 1;
        for _ in 0..50 {
            let mut damaged = whole.clone();
            for _ in 0..200 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = usize::try_from(state >> 8).unwrap() % damaged.len();
                damaged[at] = u8::try_from(state & 0xff).unwrap();
            }
            std::fs::write(&path, &damaged).unwrap();
            let _ = carve(&path);
        }
    }
}
