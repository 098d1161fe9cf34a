//! What commands print: tables to a terminal, tab-separated lines to a pipe, JSON when asked for. Columns and fields have
//! the same names in all three. Nothing that came from elsewhere reaches a terminal with its control characters.

use std::io::{IsTerminal as _, Write as _};

use clap::{CommandFactory as _, ValueEnum};
use serde_json::{Map, Value, json};

use crate::clock::{Millis, rfc3339};
use crate::config::show_size;

/// How results look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One line of names, then one line per row.
    Tsv,
    /// An array for `list`, an object for `show`.
    Json,
}

/// The newest so many rows of a list, unless its `--limit` says otherwise.
pub(crate) const ROWS: u32 = 100;

/// How to print.
#[derive(Clone, Debug)]
pub(crate) struct Printer {
    pub(crate) format: Format,
    pub(crate) quiet: bool,
    pub(crate) colour: bool,
    /// The options that name the place of this command line.
    place: String,
}

impl Printer {
    /// The format asked for, else a table to a terminal and TSV to a pipe.
    pub(crate) fn new(wanted: Option<Format>, quiet: bool, no_color: bool, place: String) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let format = wanted.unwrap_or(if terminal { Format::Table } else { Format::Tsv });
        let colour = terminal && !no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Printer {
            format,
            quiet,
            colour,
            place,
        }
    }

    /// Prints rows.
    pub(crate) fn list(&self, list: &List) {
        match self.format {
            Format::Json => out(&pretty(&Value::Array(list.rows.iter().map(|row| list.object(row)).collect()))),
            Format::Tsv => out(&list.tsv()),
            Format::Table if list.rows.is_empty() => self.note(list.empty),
            Format::Table => out(&list.table(self.colour)),
        }
    }

    /// Prints objects that are not rows of a table.
    pub(crate) fn list_of(&self, objects: Vec<Value>) {
        out(&pretty(&Value::Array(objects)));
    }

    /// Prints one object; `text` is its form for people.
    pub(crate) fn show(&self, object: &Value, text: &str) {
        match self.format {
            Format::Json => out(&pretty(object)),
            Format::Tsv => out(&one_row(object)),
            Format::Table => out(text),
        }
    }

    /// Says what was done; programs get the object.
    pub(crate) fn done(&self, object: &Value, text: &str) {
        if self.format == Format::Json {
            out(&pretty(object));
        } else if !self.quiet {
            out(text);
        }
    }

    /// Says that there are more rows than the list has.
    pub(crate) fn note_more(&self) {
        self.note(&format!("note: the newest {ROWS}; --limit N shows more"));
    }

    /// A remark beside the result.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && !text.is_empty() {
            // Nobody may be listening.
            let _ = writeln!(std::io::stderr(), "{}", plain(&self.placed(text)));
        }
    }

    /// The text with the options that name this place in the commands that it suggests: pasted as they are, they work.
    pub(crate) fn placed(&self, text: &str) -> String {
        if self.place.is_empty() {
            return text.to_owned();
        }
        let grammar = super::Cli::command();
        let mut pieces = text.split("as2gate ");
        let mut placed = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let verb = piece
                .split(|c: char| !c.is_ascii_lowercase() && c != '-')
                .next()
                .unwrap_or_default();
            let is_command = grammar.find_subcommand(verb).is_some();
            placed.push_str("as2gate");
            placed.push_str(if is_command { &self.place } else { "" });
            placed.push(' ');
            placed.push_str(piece);
        }
        placed
    }
}

/// Writes to standard output; a reader that has gone away ends the program quietly.
pub(crate) fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let line_end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    if write!(stdout, "{text}{line_end}").and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn one_row(object: &Value) -> String {
    let Some(fields) = object.as_object() else { return raw(object) };
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    let values: Vec<String> = fields.values().map(raw).collect();
    format!("{}\n{}\n", names.join("\t"), values.join("\t"))
}

/// A value in a TSV cell.
fn raw(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text
            .replace('\\', "\\\\")
            .replace('\t', "\\t")
            .replace('\n', "\\n")
            .replace('\r', "\\r"),
        Value::Array(list) => list.iter().map(|value| inner(value, " ")).collect::<Vec<_>>().join(","),
        Value::Object(_) => inner(value, ","),
        other => other.to_string(),
    }
}

/// What stands inside of a cell: `name=value`, with this between the fields.
fn inner(value: &Value, between: &str) -> String {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name}={}", inner(value, " ")));
            fields.collect::<Vec<_>>().join(between)
        }
        Value::Array(list) => list.iter().map(|value| inner(value, " ")).collect::<Vec<_>>().join(" "),
        other => raw(other),
    }
}

/// One cell: for people and for programs.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    shown: String,
    value: Value,
}

impl Cell {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        let shown = if text.is_empty() { "–".to_owned() } else { text.clone() };
        Cell {
            shown,
            value: Value::String(text),
        }
    }

    /// A text with a shorter form for people.
    pub(crate) fn short(shown: impl Into<String>, value: impl Into<Value>) -> Self {
        Cell {
            shown: shown.into(),
            value: value.into(),
        }
    }

    pub(crate) fn number(number: u64) -> Self {
        Cell {
            shown: number.to_string(),
            value: json!(number),
        }
    }

    pub(crate) fn size(bytes: u64) -> Self {
        Cell {
            shown: show_size(bytes),
            value: json!(bytes),
        }
    }

    pub(crate) fn flag(flag: bool) -> Self {
        Cell {
            shown: if flag { "yes" } else { "no" }.to_owned(),
            value: json!(flag),
        }
    }

    pub(crate) fn names(names: &[String]) -> Self {
        let shown = if names.is_empty() { "–".to_owned() } else { names.join(", ") };
        Cell {
            shown,
            value: json!(names),
        }
    }

    /// How long ago; whole seconds for programs.
    pub(crate) fn age(at: Millis, now: Millis) -> Self {
        let seconds = (now - at).max(0) / 1000;
        Cell {
            shown: age(seconds),
            value: json!(seconds),
        }
    }

    pub(crate) fn time(at: Option<Millis>, now: Millis) -> Self {
        match at {
            Some(at) => Cell {
                shown: local(at, now),
                value: json!(rfc3339(at)),
            },
            None => Cell {
                shown: "–".to_owned(),
                value: Value::Null,
            },
        }
    }
}

/// One column; without a head it is for programs only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) head: &'static str,
}

/// Rows to print.
#[derive(Clone, Debug)]
pub(crate) struct List {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
    /// What to say when there are no rows.
    empty: &'static str,
}

impl List {
    pub(crate) fn new(columns: &[(&'static str, &'static str)], empty: &'static str) -> Self {
        List {
            columns: columns.iter().map(|(name, head)| Column { name, head }).collect(),
            rows: Vec::new(),
            empty,
        }
    }

    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn object(&self, row: &[Cell]) -> Value {
        let fields = self
            .columns
            .iter()
            .zip(row)
            .map(|(column, cell)| (column.name.to_owned(), cell.value.clone()));
        Value::Object(fields.collect::<Map<_, _>>())
    }

    pub(super) fn tsv(&self) -> String {
        let mut text = self.columns.iter().map(|column| column.name).collect::<Vec<_>>().join("\t");
        text.push('\n');
        for row in &self.rows {
            text.push_str(&row.iter().map(|cell| raw(&cell.value)).collect::<Vec<_>>().join("\t"));
            text.push('\n');
        }
        text
    }

    fn table(&self, colour: bool) -> String {
        let shown: Vec<usize> = (0..self.columns.len()).filter(|at| !self.columns[*at].head.is_empty()).collect();
        let cell = |row: &[Cell], at: usize| plain(&row[at].shown);
        let width = |at: usize| {
            let cells = self.rows.iter().map(|row| cell(row, at).chars().count());
            cells.chain([self.columns[at].head.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = shown.iter().map(|at| width(*at)).collect();
        let mut text = String::new();
        let heads = shown.iter().map(|at| (self.columns[*at].head.to_owned(), None));
        push_line(&mut text, heads.zip(&widths));
        for row in &self.rows {
            let cells = shown.iter().map(|at| {
                let tone = (colour && self.columns[*at].name == "state")
                    .then(|| tone(&row[*at].shown))
                    .flatten();
                (cell(row, *at), tone)
            });
            push_line(&mut text, cells.zip(&widths));
        }
        text
    }
}

fn push_line<'a>(text: &mut String, cells: impl Iterator<Item = ((String, Option<&'static str>), &'a usize)>) {
    let mut line = String::new();
    for ((cell, tone), width) in cells {
        let pad = " ".repeat(width.saturating_sub(cell.chars().count()) + 2);
        match tone {
            Some(tone) => line.push_str(&format!("\x1b[{tone}m{cell}\x1b[0m{pad}")),
            None => line.push_str(&format!("{cell}{pad}")),
        }
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// The colour of a state.
fn tone(state: &str) -> Option<&'static str> {
    match state {
        "delivered" | "filed" => Some("32"),
        "failed" | "rejected" | "quarantined" => Some("31"),
        "held" | "retrying" | "duplicate" => Some("33"),
        _ => None,
    }
}

/// A text without control characters and without what turns the direction of writing.
pub(crate) fn plain(text: &str) -> String {
    let harmless = |c: char| {
        let turning = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turning { '\u{fffd}' } else { c }
    };
    text.split('\n')
        .map(|line| line.chars().map(harmless).collect::<String>())
        .collect::<Vec<_>>()
        .join("\n")
}

/// `1,212`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The time of day in this machine's zone, with the day if it is another.
pub(crate) fn local(at: Millis, now: Millis) -> String {
    let zone = jiff::tz::TimeZone::system();
    let zoned = |at| jiff::Timestamp::from_millisecond(at).map(|at| at.to_zoned(zone.clone()));
    match (zoned(at), zoned(now)) {
        (Ok(at), Ok(now)) if at.date() == now.date() => at.strftime("%H:%M:%S").to_string(),
        (Ok(at), _) => at.strftime("%Y-%m-%d %H:%M").to_string(),
        _ => at.to_string(),
    }
}

/// `47s`, `12m`, `5h`, `3d`: a time in its largest unit.
fn age(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Lines of a name and a value, aligned; empty values are left out.
pub(crate) fn facts(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 3;
    let shown = lines.iter().filter(|(_, value)| !value.is_empty());
    shown
        .map(|(name, value)| format!("{name:<width$}{}\n", plain(value).replace('\n', &format!("\n{:width$}", ""))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(
            (show_size(999), show_size(1212), show_size(104_857_600)),
            ("999 B".to_owned(), "1.2 kB".to_owned(), "104.8 MB".to_owned())
        );
        assert_eq!(
            (grouped(0), grouped(1212), grouped(10_000_000)),
            ("0".to_owned(), "1,212".to_owned(), "10,000,000".to_owned())
        );
    }

    #[test]
    fn suggested_commands_name_the_place() {
        let printer = |place: &str| Printer::new(None, false, true, place.to_owned());
        let here = printer(" -c 'my gate.toml'");
        for (text, placed) in [
            ("as2gate message list", "as2gate -c 'my gate.toml' message list"),
            (
                "`as2gate init` writes one; as2gate partner set B",
                "`as2gate -c 'my gate.toml' init` writes one; as2gate -c 'my gate.toml' partner set B",
            ),
            ("install the newer as2gate", "install the newer as2gate"),
            ("as2gate --help", "as2gate --help"),
            ("sudo -u NAME as2gate …", "sudo -u NAME as2gate …"),
            ("no as2gate server is running", "no as2gate server is running"),
        ] {
            assert_eq!(here.placed(text), placed);
            assert_eq!(printer("").placed(text), text);
        }
    }

    #[test]
    fn ages_are_in_their_largest_unit() {
        assert_eq!(
            [0, 59, 60, 3599, 3600, 172_799, 172_800].map(age),
            ["0s", "59s", "1m", "59m", "1h", "47h", "2d"]
        );
    }

    #[test]
    fn rows_look_the_same_in_every_form() {
        let mut list = List::new(&[("id", "ID"), ("note", "")], "none");
        list.push(vec![Cell::short("1", "long-1"), Cell::text("a\tb\x1b[31m")]);
        assert_eq!(list.tsv(), "id\tnote\nlong-1\ta\\tb\x1b[31m\n");
        assert_eq!(list.table(false), "ID\n1\n");
        assert_eq!(list.object(&list.rows[0]), json!({"id": "long-1", "note": "a\tb\u{1b}[31m"}));
        let object = json!({
            "counts": { "at": ["x:1", "x:2"], "in": 2 }, "keys": [{ "days": 3, "kind": "rsa" }, { "kind": "ec" }], "n": 1, "names": ["a", "b\t"],
        });
        assert_eq!(
            one_row(&object),
            "counts\tkeys\tn\tnames\nat=x:1 x:2,in=2\tdays=3 kind=rsa,kind=ec\t1\ta,b\\t\n"
        );
        assert_eq!(plain("a\x1b[31m\nb\u{202e}"), "a\u{fffd}[31m\nb\u{fffd}");
    }
}
