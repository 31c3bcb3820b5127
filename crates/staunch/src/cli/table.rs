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
    /// Columns of the terminal, where lines are cut.
    cut_at: Option<usize>,
    /// The first column of numbers, which end below each other.
    numbers_from: usize,
}

impl TextTable {
    /// A table with these headings.
    pub(super) fn new(headings: &[&str]) -> Self {
        let mut table = Self {
            widths: vec![0; headings.len()],
            waiting: Vec::new(),
            is_printing: false,
            cut_at: None,
            numbers_from: usize::MAX,
        };
        table.keep(headings.iter().map(|heading| (*heading).to_owned()).collect());
        table
    }

    /// Lines end where the terminal does; what is cut off is marked.
    pub(super) fn cut_at(self, cut_at: Option<usize>) -> Self {
        Self { cut_at, ..self }
    }

    /// From this column on there are only numbers.
    pub(super) fn numbers_from(self, numbers_from: usize) -> Self {
        Self { numbers_from, ..self }
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
        let cells = row.iter().zip(&self.widths).enumerate().map(|(column, (cell, &width))| {
            if column < self.numbers_from {
                format!("{cell:width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let line = line.trim_end();
        match self.cut_at.filter(|most| line.chars().count() > *most) {
            Some(most) => {
                let front: String = line.chars().take(most.saturating_sub(1)).collect();
                writeln!(out, "{front}\u{2026}")
            }
            None => writeln!(out, "{line}"),
        }
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
    fn on_a_terminal_lines_end_where_it_does() {
        let mut out = Vec::new();
        let mut table = TextTable::new(&["A", "B"]).cut_at(Some(8));
        table.row(&mut out, vec!["short".into(), "b".into()]).unwrap();
        table.row(&mut out, vec!["short".into(), "long".into()]).unwrap();
        table.finish(&mut out).unwrap();
        let want = "A      B\nshort  b\nshort  \u{2026}\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }

    #[test]
    fn an_empty_table_says_nothing() {
        let mut out = Vec::new();
        TextTable::new(&["A"]).finish(&mut out).unwrap();
        assert!(out.is_empty());
    }
}
