//! Aligned columns for lists of any length.

use std::io::{self, Write};

use anstyle::Style;

/// Rows looked at before the first is printed. Later ones keep these widths, so that a list of a
/// million lines neither waits for its last one nor is held in memory.
const LOOK_AHEAD: usize = 200;
/// Between columns.
const GAP: &str = "  ";

/// The style of a cell, by the heading of its column.
pub(super) type CellStyle = fn(&str, &str) -> Style;

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
    headings: Vec<String>,
    /// Where colours are shown.
    style: Option<CellStyle>,
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
            headings: headings.iter().map(|heading| (*heading).to_owned()).collect(),
            style: None,
        };
        table.keep(table.headings.clone());
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

    /// Cells have this style, and headings are bold.
    pub(super) fn styled(self, style: Option<CellStyle>) -> Self {
        Self { style, ..self }
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
            return self.print(out, &row, self.style);
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
        let mut rows = std::mem::take(&mut self.waiting).into_iter();
        let heading: Option<CellStyle> = self.style.map(|_| bold as CellStyle);
        rows.next().map_or(Ok(()), |row| self.print(out, &row, heading))?;
        rows.try_for_each(|row| self.print(out, &row, self.style))
    }

    fn print(
        &self,
        out: &mut dyn Write,
        row: &[String],
        style: Option<CellStyle>,
    ) -> io::Result<()> {
        let cells = row.iter().zip(&self.widths).enumerate().map(|(column, (cell, &width))| {
            if column < self.numbers_from {
                format!("{cell:width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        let line = cells.collect::<Vec<_>>().join(GAP);
        let line = line.trim_end();
        let line = match self.cut_at.filter(|most| line.chars().count() > *most) {
            Some(most) => {
                let front: String = line.chars().take(most.saturating_sub(1)).collect();
                format!("{front}\u{2026}")
            }
            None => line.to_owned(),
        };
        match style {
            Some(style) => writeln!(out, "{}", self.in_style(&line, row, style)),
            None => writeln!(out, "{line}"),
        }
    }

    /// The line with codes around each cell, or what is left of it.
    fn in_style(&self, line: &str, row: &[String], style: CellStyle) -> String {
        let mut left = line.chars();
        let mut styled = String::new();
        for ((cell, heading), &width) in row.iter().zip(&self.headings).zip(&self.widths) {
            let style = style(heading, cell);
            let piece: String = left.by_ref().take(width).collect();
            let gap: String = left.by_ref().take(GAP.len()).collect();
            styled.push_str(&format!("{style}{piece}{style:#}{gap}"));
        }
        styled.extend(left);
        styled
    }
}

fn bold(_heading: &str, _cell: &str) -> Style {
    Style::new().bold()
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
    fn styles_change_no_width_and_end_where_a_line_is_cut() {
        fn style(heading: &str, cell: &str) -> Style {
            match (heading, cell) {
                ("B", "held") => Style::new().underline(),
                _ => Style::new(),
            }
        }
        let mut out = Vec::new();
        let mut table = TextTable::new(&["A", "B"]).cut_at(Some(8)).styled(Some(style));
        table.row(&mut out, vec!["held".into(), "held".into()]).unwrap();
        table.row(&mut out, vec!["x".into(), "free".into()]).unwrap();
        table.finish(&mut out).unwrap();
        let want = "\u{1b}[1mA   \u{1b}[0m  \u{1b}[1mB\u{1b}[0m\n\
                    held  \u{1b}[4mh\u{2026}\u{1b}[0m\n\
                    x     f\u{2026}\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }

    #[test]
    fn an_empty_table_says_nothing() {
        let mut out = Vec::new();
        TextTable::new(&["A"]).finish(&mut out).unwrap();
        assert!(out.is_empty());
    }
}
