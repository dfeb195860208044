//! Where results go: data to standard output, everything else to standard error.
//!
//! Invariant: no ANSI codes on standard output, but for clearing the screen of a
//! terminal under `--watch`; `-o json` prints the
//! API's object unchanged, with `\uXXXX` for what could move the cursor, hide text or
//! turn its direction.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::CliError;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table for people.
    Table,
    /// The API's object, indented.
    Json,
    /// One object per line.
    Jsonl,
    /// Only names or ids, one per line.
    Name,
}

/// A result that can be shown as a table.
pub(crate) trait Rows: DeserializeOwned {
    /// The column heads.
    const HEADS: &'static [&'static str];
    /// The cells of one row.
    fn cells(&self) -> Vec<String>;
    /// What `-o name` prints.
    fn name(&self) -> String;
}

/// Writes results.
pub(crate) struct Output {
    format: Format,
    out: Box<dyn Write>,
    terminal: bool,
}

impl Output {
    /// Writes to standard output.
    pub(crate) fn stdout(format: Format) -> Self {
        Self { format, out: Box::new(std::io::stdout()), terminal: std::io::stdout().is_terminal() }
    }

    /// How results are printed.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Prints a list as the API gave it: an object with `items`.
    pub(crate) fn list<T: Rows>(&mut self, page: &Value) -> Result<(), CliError> {
        let items = page.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        match self.format {
            Format::Json => self.json(page),
            Format::Jsonl => items.iter().try_for_each(|item| self.json_line(item)),
            Format::Name | Format::Table => {
                let rows = items.into_iter().map(typed).collect::<Result<Vec<T>, _>>()?;
                match self.format {
                    Format::Name => rows.iter().try_for_each(|row| self.line(&row.name())),
                    _ => self.table(T::HEADS, rows.iter().map(Rows::cells)),
                }
            }
        }
    }

    /// Prints one object; `text` makes its picture for people.
    pub(crate) fn object<T, N, F>(&mut self, value: &Value, name: N, text: F) -> Result<(), CliError>
    where
        T: DeserializeOwned,
        N: FnOnce(&T) -> String,
        F: FnOnce(&T) -> String,
    {
        match self.format {
            Format::Json => self.json(value),
            Format::Jsonl => self.json_line(value),
            Format::Name => {
                let name = name(&typed(value.clone())?);
                self.line(&name)
            }
            Format::Table => {
                let text = text(&typed(value.clone())?);
                self.raw(&text)
            }
        }
    }

    /// Prints a table.
    pub(crate) fn table(
        &mut self,
        heads: &[&str],
        rows: impl IntoIterator<Item = Vec<String>>,
    ) -> Result<(), CliError> {
        let text = table(heads, rows);
        self.raw(&text)
    }

    /// Prints a line.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), CliError> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Prints an object on one line.
    pub(crate) fn json_line(&mut self, value: &Value) -> Result<(), CliError> {
        self.line(&plain_json(&value.to_string()))
    }

    /// Begins a redraw: on a terminal the screen is cleared, elsewhere a line
    /// parts one state from the next.
    pub(crate) fn redraw(&mut self) -> Result<(), CliError> {
        if self.terminal && self.format == Format::Table {
            write!(self.out, "\x1b[2J\x1b[H")?;
        } else if self.format == Format::Table {
            writeln!(self.out)?;
        }
        Ok(())
    }

    /// Flushes what a pipe may have kept.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        Ok(self.out.flush()?)
    }

    fn json(&mut self, value: &Value) -> Result<(), CliError> {
        self.line(&plain_json(&format!("{value:#}")))
    }

    fn raw(&mut self, text: &str) -> Result<(), CliError> {
        self.line(text.trim_end())
    }
}

/// Reads a value the controller sent as its type.
pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, CliError> {
    serde_json::from_value(value).map_err(|error| {
        CliError::failed("cannot read the controller's answer", error.to_string())
            .next("is the controller of another version? osmoda version; osmoda status -o json")
    })
}

/// Renders a table without borders, as `kubectl` users expect.
pub(crate) fn table(heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads.iter().map(|head| head.to_uppercase()).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
    }
    // comfy-table pads every cell on both sides; the left pad of the first
    // column and the blanks at line ends would break `cut` and diffs.
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned() + "\n").collect()
}

/// Names, versions and messages come from other machines: a control character
/// in them could move the cursor or retitle the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// JSON that says the same and deceives no terminal. Such characters stand in its
/// texts alone, where an escape means the character itself.
fn plain_json(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if (c.is_control() && c != '\n') || is_deceiving(c) {
            plain.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Invisible, turning or line-breaking characters, and tags.
const fn is_deceiving(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `-` for what is not known.
pub(crate) fn or_dash<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Prints a note for people: to standard error, so that pipes stay clean.
pub(crate) fn note(text: &str) -> Result<(), CliError> {
    Ok(writeln!(std::io::stderr(), "{text}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_plain_text_and_says_the_same() {
        let value = serde_json::json!({ "é": "a\u{202e}b\u{200b}\u{9b}31m\u{7f}\u{e0041}\n日" });
        for text in [plain_json(&value.to_string()), plain_json(&format!("{value:#}"))] {
            assert!(text.contains("a\\u202eb\\u200b\\u009b31m\\u007f\\udb40\\udc41\\n日"), "{text}");
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
    }

    #[test]
    fn tables_are_plain_text() {
        let text = table(&["name", "state"], [vec!["a\x1b[31m".to_owned(), "ok".to_owned()]]);
        assert_eq!(text, "NAME    STATE\na\u{fffd}[31m  ok\n");
        assert!(!text.contains('\x1b'));
    }
}
