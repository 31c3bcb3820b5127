//! Which pages of an SQLite file a row needs: the way from the root of its table, and those that it
//! goes on in.
//!
//! Of a whole file, as "Database File Format" (sqlite.org/fileformat2.html) describes it; panics on
//! any other.

use std::collections::{BTreeMap, BTreeSet};

const SIZE: usize = 4096;
const HEADER: usize = 100;

/// A value of a row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Field {
    /// Or the key of the row, which is not stored twice.
    Null,
    /// Of any width.
    Integer(i64),
    /// A text or a blob.
    Octets(Vec<u8>),
}

impl Field {
    /// The text.
    pub fn text(&self) -> String {
        let Self::Octets(octets) = self else { panic!("no text: {self:?}") };
        String::from_utf8(octets.clone()).expect("a text")
    }

    /// The number.
    pub fn number(&self) -> i64 {
        let Self::Integer(number) = self else { panic!("no number: {self:?}") };
        *number
    }
}

/// A row and the pages that it needs, counted from 1.
#[derive(Clone, Debug)]
pub struct Row {
    /// Without the schema's.
    pub pages: BTreeSet<usize>,
    /// In the order of the columns.
    pub fields: Vec<Field>,
}

/// All rows of one file.
#[derive(Debug)]
pub struct Map {
    /// By table and key.
    pub tables: BTreeMap<String, BTreeMap<i64, Row>>,
    /// Those that everything needs.
    pub schema: BTreeSet<usize>,
}

impl Map {
    /// Reads a file that nobody has open, without a log.
    pub fn of(file: &[u8]) -> Self {
        let reader = Reader(file);
        let mut schema = BTreeMap::new();
        reader.walk(1, &BTreeSet::new(), &mut schema);
        let pages = schema.values().flat_map(|row| row.pages.iter().copied()).chain([1]).collect();
        let mut tables = BTreeMap::new();
        for row in schema.values() {
            let [kind, name, _, root, ..] = row.fields.as_slice() else { continue };
            // Those without a key of their own are trees of another kind.
            let root = usize::try_from(root.number()).expect("a page");
            if kind.text() == "table" && matches!(reader.kind(root), 0x05 | 0x0d) {
                let mut rows = BTreeMap::new();
                reader.walk(root, &BTreeSet::new(), &mut rows);
                tables.insert(name.text(), rows);
            }
        }
        Self { tables, schema: pages }
    }

    /// The rows of a table.
    pub fn table(&self, name: &str) -> &BTreeMap<i64, Row> {
        self.tables.get(name).unwrap_or_else(|| panic!("a table {name}"))
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn page(&self, number: usize) -> &[u8] {
        &self.0[(number - 1) * SIZE..number * SIZE]
    }

    fn start(number: usize) -> usize {
        if number == 1 { HEADER } else { 0 }
    }

    fn kind(&self, number: usize) -> u8 {
        self.page(number)[Self::start(number)]
    }

    fn walk(&self, number: usize, above: &BTreeSet<usize>, rows: &mut BTreeMap<i64, Row>) {
        let (page, start) = (self.page(number), Self::start(number));
        let mut way = above.clone();
        way.insert(number);
        let is_leaf = page[start] == 0x0d;
        let cells = usize::from(u16::from_be_bytes([page[start + 3], page[start + 4]]));
        let first = start + if is_leaf { 8 } else { 12 };
        for cell in 0..cells {
            let at = first + 2 * cell;
            let at = usize::from(u16::from_be_bytes([page[at], page[at + 1]]));
            if is_leaf {
                let (key, row) = self.row(&page[at..], way.clone());
                rows.insert(key, row);
            } else {
                self.walk(four(page, at), &way, rows);
            }
        }
        if !is_leaf {
            self.walk(four(page, start + 8), &way, rows);
        }
    }

    fn row(&self, mut cell: &[u8], mut pages: BTreeSet<usize>) -> (i64, Row) {
        let length = usize::try_from(varint(&mut cell)).expect("a length");
        let key = varint(&mut cell);
        let (most, least) = (SIZE - 35, (SIZE - 12) * 32 / 255 - 23);
        let here = match least + length.saturating_sub(least) % (SIZE - 4) {
            _ if length <= most => length,
            here if here <= most => here,
            _ => least,
        };
        let mut payload = cell[..here].to_vec();
        let mut next = if here < length { four(cell, here) } else { 0 };
        while payload.len() < length {
            pages.insert(next);
            let page = self.page(next);
            payload.extend_from_slice(&page[4..(4 + length - payload.len()).min(SIZE)]);
            next = four(page, 0);
        }
        (key, Row { pages, fields: fields(&payload) })
    }
}

fn four(octets: &[u8], at: usize) -> usize {
    let octets = octets[at..at + 4].try_into().expect("four octets");
    usize::try_from(u32::from_be_bytes(octets)).expect("a page")
}

fn varint(octets: &mut &[u8]) -> i64 {
    let mut number = 0_u64;
    for place in 0.. {
        let (octet, rest) = octets.split_first().expect("a number");
        *octets = rest;
        if place == 8 {
            return (number << 8 | u64::from(*octet)).cast_signed();
        }
        number = number << 7 | u64::from(octet & 0x7f);
        if octet & 0x80 == 0 {
            break;
        }
    }
    number.cast_signed()
}

fn fields(payload: &[u8]) -> Vec<Field> {
    let mut types = payload;
    let length = usize::try_from(varint(&mut types)).expect("a length");
    let read = payload.len() - types.len();
    let (mut types, mut values) = (&types[..length - read], &payload[length..]);
    let mut fields = Vec::new();
    while !types.is_empty() {
        let kind = varint(&mut types);
        let octets = match kind {
            1..=4 => usize::try_from(kind).expect("small"),
            5 => 6,
            6 => 8,
            12.. => usize::try_from((kind - 12) / 2).expect("a length"),
            _ => 0,
        };
        let (value, rest) = values.split_at(octets);
        values = rest;
        fields.push(match kind {
            0 => Field::Null,
            8 | 9 => Field::Integer(kind - 8),
            12.. => Field::Octets(value.to_vec()),
            _ => {
                let sign = if value[0] > 0x7f { -1 } else { 0 };
                Field::Integer(value.iter().fold(sign, |sum, octet| sum << 8 | i64::from(*octet)))
            }
        });
    }
    fields
}
