//! The test vectors in `tests/data/vectors`: one TSV a topic, every row of which a test must use.

/// One line: its id, and the cells after it as they stand in the file.
pub(crate) struct VectorRow {
    pub(crate) id: String,
    pub(crate) cells: Vec<String>,
}

pub(crate) fn rows(file: &str) -> Vec<VectorRow> {
    let path = format!("{}/../../tests/data/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let rows: Vec<VectorRow> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut cells = line.split('\t').map(str::to_owned);
            VectorRow { id: cells.next().unwrap(), cells: cells.collect() }
        })
        .collect();
    assert!(rows.len() > 10, "{file} is cut off");
    rows
}

/// Undoes the C escapes `\n \r \t \\ \xHH` of a cell.
pub(crate) fn unescape(cell: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = cell.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => panic!("unknown escape {other:?} in {cell:?}"),
        });
    }
    out
}
