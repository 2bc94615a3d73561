//! Writing to stdout and showing progress on stderr.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;

/// Prints text. A reader that has gone away (`lacuna show | head`) is no error.
pub fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// A bar on stderr for `steps` steps; hidden where stderr is no terminal.
pub fn progress(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:24.cyan/dim} {pos}/{len} {msg}") {
        bar.set_style(style.progress_chars("━━─"));
    }
    bar
}

/// Columns of text: the first `left` of them flush left, the others flush right; the first row is a heading.
pub fn table(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            line += &if column < left { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") };
        }
        text += line.trim_end();
        text += "\n";
        if i == 0 {
            text += &"─".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1));
            text += "\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let rows = [["a", "n"], ["long", "10"], ["é", "7"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(super::table(&rows, 1), "a      n\n────────\nlong  10\né      7\n");
    }
}
