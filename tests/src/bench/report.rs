//! What a benchmark prints.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::Row;
use super::machine::{load, machine};

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table for people, when all is measured.
    Table,
    /// One JSON object a line, as soon as it is measured.
    Json,
}

/// What only some benchmarks take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// A folder to measure on instead of the built-in data (`broker`).
    pub data: Option<PathBuf>,
    /// Draw figures instead of measuring (`broker`).
    pub figures: bool,
}

/// Collects rows.
#[derive(Debug)]
pub struct Report {
    options: Options,
    format: Format,
    rows: Vec<Row>,
    notes: Vec<String>,
    load_before: String,
}

impl Report {
    /// An empty one.
    pub fn new(format: Format) -> Self {
        let options = Options::default();
        Self { options, format, rows: Vec::new(), notes: Vec::new(), load_before: load() }
    }

    /// The same for a benchmark that was given options.
    #[must_use]
    pub fn with(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// What the benchmark was given.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn row(&mut self, row: Row) -> anyhow::Result<()> {
        if self.format == Format::Json {
            let line = serde_json::to_string(&row).context("a row is no JSON")?;
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}").context("standard output is closed")?;
        }
        self.rows.push(row);
        Ok(())
    }

    /// Says what is going on; on standard error, so that rows stay readable for programs.
    pub fn progress(&self, text: impl AsRef<str>) {
        eprintln!("  ...   {}", text.as_ref());
    }

    /// Says under the table what a reader of the figures must know, such as what was left out and
    /// why.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Prints the table and the notes; whether every gate holds.
    pub fn finish(mut self) -> bool {
        self.note(format!(
            "{}; load average {} before, {} after",
            machine(),
            self.load_before,
            load()
        ));
        let missed = self.rows.iter().filter(|row| row.met == Some(false)).count();
        let gates = self.rows.iter().filter(|row| row.met.is_some()).count();
        if gates > 0 {
            self.note(format!("{} of {gates} targets met", gates - missed));
        }
        match self.format {
            Format::Table if self.rows.is_empty() => println!("{}", self.notes.join("\n")),
            Format::Table => println!("{}\n{}", table(&self.rows), self.notes.join("\n")),
            // Standard output is for rows.
            Format::Json => self.notes.iter().for_each(|note| eprintln!("  note  {note}")),
        }
        missed == 0
    }
}

/// Rows under their headings, numbers to the right; a case is named once.
fn table(rows: &[Row]) -> String {
    let mut cells = vec![
        ["case", "metric", "value", "unit", "baseline", "", "ratio", "target", ""]
            .map(str::to_owned),
    ];
    let mut above = "";
    cells.extend(rows.iter().map(|row| {
        let number = |value: Option<f64>| value.map_or_else(String::new, number);
        let same = std::mem::replace(&mut above, &row.case) == row.case;
        [
            if same { String::new() } else { row.case.clone() },
            row.metric.clone(),
            number(Some(row.value)),
            row.unit.to_owned(),
            number(row.baseline_value),
            row.baseline.clone().unwrap_or_default(),
            number(row.ratio),
            row.target.map_or_else(String::new, |target| target.to_string()),
            match row.met {
                Some(true) => "met".to_owned(),
                Some(false) => "MISSED".to_owned(),
                None => String::new(),
            },
        ]
    }));
    let mut text = String::new();
    let to_the_right = [2, 4, 6];
    for line in &cells {
        let mut written = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = cells.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
            if to_the_right.contains(&column) {
                written.push_str(&format!("{cell:>width$}  "));
            } else {
                written.push_str(&format!("{cell:<width$}  "));
            }
        }
        text.push_str(written.trim_end());
        text.push('\n');
    }
    text
}

/// Three digits that matter; whole numbers without a point.
fn number(value: f64) -> String {
    match value.abs() {
        size if size.fract() == 0.0 => format!("{value}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Bound;
    use super::*;

    #[test]
    fn the_table_lines_up() {
        let rows = [
            Row::new("m", "16 MiB", "downtime", 78.0, "ms")
                .against("bare CRIU", 39.0)
                .must(Bound::Ratio(2.5)),
            Row::new("m", "16 MiB", "bytes sent", 30.25, "MiB"),
            Row::new("m", "512 MiB", "bytes lost", 0.0, "MiB"),
            Row::new("m", "é", "x", 0.1234, "ms").must(Bound::Value(0.1)),
        ];
        assert_eq!(
            table(&rows),
            "\
case     metric      value  unit  baseline             ratio  target\n\
16 MiB   downtime       78  ms          39  bare CRIU      2  ratio <= 2.5  met\n\
\x20        bytes sent   30.2  MiB\n\
512 MiB  bytes lost      0  MiB\n\
é        x           0.123  ms                                value <= 0.1  MISSED\n"
        );
    }

    #[test]
    fn a_missed_gate_fails_the_report() {
        let mut report = Report::new(Format::Table);
        report.row(Row::new("m", "a", "x", 1.0, "ms").must(Bound::Value(2.0))).unwrap();
        report.row(Row::new("m", "a", "y", 1.0, "ms")).unwrap();
        assert!(report.finish());
        let mut report = Report::new(Format::Table);
        report.row(Row::new("m", "a", "x", 3.0, "ms").must(Bound::Value(2.0))).unwrap();
        assert!(!report.finish());
    }
}
