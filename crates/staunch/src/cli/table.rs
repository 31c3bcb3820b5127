//! Aligned columns for lists of any length.

use std::io::{self, Write};

/// Rows looked at before the first is printed. Later ones keep these widths, so that a list of a
/// million lines neither waits for its last one nor is held in memory.
const LOOK_AHEAD: usize = 200;

/// A table that is printed as it comes.
#[derive(Debug)]
pub(super) struct TextTable {
    widths: Vec<usize>,
    waiting: Vec<Vec<String>>,
    is_printing: bool,
}

impl TextTable {
    /// A table with these headings.
    pub(super) fn new(headings: &[&str]) -> Self {
        let mut table =
            Self { widths: vec![0; headings.len()], waiting: Vec::new(), is_printing: false };
        table.keep(headings.iter().map(|heading| (*heading).to_owned()).collect());
        table
    }

    fn keep(&mut self, row: Vec<String>) {
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
        self.waiting.push(row);
    }

    /// Adds a row.
    ///
    /// # Errors
    ///
    /// Of writing.
    pub(super) fn row(&mut self, out: &mut dyn Write, row: Vec<String>) -> io::Result<()> {
        if self.is_printing {
            return self.print(out, &row);
        }
        self.keep(row);
        if self.waiting.len() > LOOK_AHEAD { self.flush(out) } else { Ok(()) }
    }

    /// Prints what waits; without any row nothing at all.
    ///
    /// # Errors
    ///
    /// Of writing.
    pub(super) fn finish(mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.waiting.len() > 1 { self.flush(out) } else { Ok(()) }
    }

    fn flush(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.is_printing = true;
        for row in std::mem::take(&mut self.waiting) {
            self.print(out, &row)?;
        }
        Ok(())
    }

    fn print(&self, out: &mut dyn Write, row: &[String]) -> io::Result<()> {
        let cells = row.iter().zip(&self.widths).map(|(cell, &width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_was_seen_before_printing() {
        let mut out = Vec::new();
        let mut table = TextTable::new(&["A", "B"]);
        for index in 0..=LOOK_AHEAD {
            table.row(&mut out, vec![format!("{index}"), "b".into()]).unwrap();
        }
        table.row(&mut out, vec!["a wide one".into(), String::new()]).unwrap();
        table.finish(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines[1], lines[LOOK_AHEAD + 1]), ("A    B", "0    b", "200  b"));
        assert_eq!(lines[LOOK_AHEAD + 2], "a wide one");
    }

    #[test]
    fn an_empty_table_says_nothing() {
        let mut out = Vec::new();
        TextTable::new(&["A"]).finish(&mut out).unwrap();
        assert!(out.is_empty());
    }
}
