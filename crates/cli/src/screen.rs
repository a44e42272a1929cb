//! What a person or a script sees.
//!
//! Apps, their build logs and their names for things are hostile input to a terminal: a control
//! character can move the cursor, set the title or turn text around. [`escape`] is the one place
//! that makes them visible.

mod table;

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use ace_api::http::ApiError;
use serde::Serialize;

/// Standard output and standard error of one command.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    json: bool,
    quiet: bool,
    out_colour: bool,
    err_colour: bool,
    out_terminal: bool,
    err_terminal: bool,
    /// Columns that a table on standard output may take; `None` where nobody minds.
    columns: Option<usize>,
}

/// Takes the cursor to the top and clears all below it; see ECMA-48, CUP and ED.
const ERASE: &str = "\x1b[H\x1b[2J";

/// What every terminal has room for.
const WIDTH: usize = 80;

/// How a piece of text stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Error,
    Warning,
    Good,
    Dim,
    Bold,
}

impl Screen {
    /// Looks once whether the standard streams are terminals and whether `NO_COLOR` is set.
    pub fn new(json: bool, quiet: bool) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let plain = set("NO_COLOR") || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let (out_terminal, err_terminal) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self {
            json,
            quiet,
            out_colour: !plain && out_terminal,
            err_colour: !plain && err_terminal,
            out_terminal,
            err_terminal,
            columns: columns(),
        }
    }

    /// Neither terminal nor JSON.
    #[cfg(test)]
    pub fn plain() -> Self {
        Self {
            json: false,
            quiet: false,
            out_colour: false,
            err_colour: false,
            out_terminal: false,
            err_terminal: false,
            columns: None,
        }
    }

    /// Whether the result is to be JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Whether progress can be drawn in place.
    pub fn draws(&self) -> bool {
        self.err_terminal && !self.json && !self.quiet
    }

    /// Prints the command's result: `value` as JSON, or `text`, to which a line end is added.
    pub fn show<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> io::Result<()> {
        match self.json {
            true => self.line(&json_text(value, true)?),
            false => self.line(&text()),
        }
    }

    /// Prints the newest of a row of results: in place of the one before on a terminal, below it elsewhere; in
    /// JSON mode `value` on one line.
    pub fn show_anew<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> io::Result<()> {
        match (self.json, self.out_terminal) {
            (true, _) => self.json_line(value),
            (false, true) => self.line(&format!("{ERASE}{}", text())),
            (false, false) => self.line(&text()).and_then(|()| self.line("")),
        }
    }

    /// Prints `value` as JSON on one line.
    pub fn json_line<T: Serialize>(&self, value: &T) -> io::Result<()> {
        self.line(&json_text(value, false)?)
    }

    /// Prints `text` and a line end to standard output at once.
    pub fn line(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.trim_end_matches('\n').as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Says something about the way to the result, on standard error; nothing in JSON mode, or where it's to
    /// be quiet.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.complain(text);
        }
    }

    /// Says what went wrong, on standard error; nothing in JSON mode.
    pub fn complain(&self, text: &str) {
        if !self.json {
            // Nobody is left to be told that standard error is gone.
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Says why the command failed: `error: …` and the details below it, or `{"error": …}`.
    pub fn failure(&self, error: &ApiError) {
        if self.json {
            let document = serde_json::json!({ "error": error });
            // As above: an error that can't be written has nowhere to go.
            let _ = json_text(&document, true).and_then(|text| self.line(&text));
            return;
        }
        let mut text = self.paint_err(Style::Error, "error:");
        let _ = write!(text, " {}", escape_lines(&error.message));
        // For the other codes the message says all there is.
        if let Some(id) = error.request_id.as_ref().filter(|_| error.code == "engine_error") {
            let _ = write!(text, " (request {})", escape(id));
        }
        if let Some(detail) = &error.detail {
            let _ = write!(text, "\n{}", indent(&escape_lines(detail)));
        }
        self.complain(&text);
    }

    /// A table without rules, a heading above each column. Cells may be painted.
    ///
    /// Where it's too wide for the terminal, the last column is wrapped; where that leaves it too narrow, each
    /// row becomes a block of lines, a cell a line.
    pub fn table(&self, headings: &[&str], rows: Vec<Vec<String>>) -> String {
        table::render(headings, &rows, self.columns)
    }

    /// `text` in `style`, if standard output shows colours.
    pub fn paint(&self, style: Style, text: &str) -> String {
        paint(self.out_colour, style, text)
    }

    /// `text` in `style`, if standard error shows colours.
    pub fn paint_err(&self, style: Style, text: &str) -> String {
        paint(self.err_colour, style, text)
    }
}

/// `text` with every character that a terminal would obey made visible, as in `\x1b[31m`.
///
/// Obeyed are the C0 and C1 controls but the tab, DEL, the two Unicode line ends, and what changes
/// the direction of writing. A line end counts as a control: see [`escape_lines`].
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match u32::from(c) {
            _ if !is_obeyed(c) => escaped.push(c),
            code @ ..=0xff => {
                let _ = write!(escaped, "\\x{code:02x}");
            }
            code => {
                let _ = write!(escaped, "\\u{{{code:x}}}");
            }
        }
    }
    escaped
}

/// [`escape`] for text of several lines: `\n` and `\r\n` still end a line.
pub fn escape_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(escape).collect();
    lines.join("\n")
}

/// `text` with four spaces before each line.
pub fn indent(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

/// `text` in lines of [`WIDTH`] places, broken at spaces, all but the first indented. Longer words
/// stay whole.
pub fn fold(text: &str) -> String {
    let mut folded = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > WIDTH {
            folded.push_str("\n    ");
            used = 4;
        } else if used > 0 {
            folded.push(' ');
            used += 1;
        }
        folded.push_str(word);
        used += length;
    }
    folded
}

/// `4.2 s`, `3 min 12 s`.
pub fn seconds(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        0..60 => format!("{:.1} s", elapsed.as_secs_f64()),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

fn is_obeyed(c: char) -> bool {
    let turns = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    let ends_line = matches!(c, '\u{2028}' | '\u{2029}');
    (c.is_control() && c != '\t') || turns || ends_line
}

/// `value` as JSON in which no character is left that a terminal obeys.
fn json_text<T: Serialize>(value: &T, pretty: bool) -> io::Result<String> {
    let text = match pretty {
        true => serde_json::to_string_pretty(value)?,
        false => serde_json::to_string(value)?,
    };
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Outside of strings, a document has no such character but its own line ends.
            c if c != '\n' && is_obeyed(c) => {
                let _ = write!(safe, "\\u{:04x}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    Ok(safe)
}

/// How wide the terminal is: `COLUMNS`, or what the terminal itself says.
fn columns() -> Option<usize> {
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let told = told.filter(|columns| *columns > 0);
    let size = || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col.into());
    told.or_else(size).filter(|columns| *columns > 0)
}

fn paint(colour: bool, style: Style, text: &str) -> String {
    let code = match style {
        Style::Error => "31;1",
        Style::Warning => "33",
        Style::Good => "32",
        Style::Dim => "2",
        Style::Bold => "1",
    };
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_becomes_visible() {
        assert_eq!(escape("\x1b[31mred\x07\r"), "\\x1b[31mred\\x07\\x0d");
        assert_eq!(escape("a\u{9b}1mb\u{7f}"), "a\\x9b1mb\\x7f");
        assert_eq!(escape("txt\u{202e}exe"), "txt\\u{202e}exe");
        assert_eq!(escape("one\ntwo"), "one\\x0atwo");
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        let text = "\tGr\u{fc}\u{df}e, \u{4f60}\u{597d} \u{1f600}";
        assert_eq!(escape(text), text);
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(escape_lines("one\r\ntwo\rthree\n"), "one\ntwo\\x0dthree");
    }

    #[test]
    fn json_keeps_its_meaning_and_loses_its_controls() {
        let value = "\u{9b}2J\u{202e}\x1b\n";
        let text = json_text(&value, true).unwrap();
        assert!(!text.chars().any(is_obeyed), "{text:?}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }

    #[test]
    fn long_lines_are_folded_at_spaces() {
        assert_eq!(fold("a b"), "a b");
        let text = format!("{} {} x", "a".repeat(50), "b".repeat(40));
        assert_eq!(fold(&text), format!("{}\n    {} x", "a".repeat(50), "b".repeat(40)));
        assert_eq!(fold(&"c".repeat(100)), "c".repeat(100));
    }

    #[test]
    fn time_is_short() {
        assert_eq!(seconds(Duration::from_millis(4234)), "4.2 s");
        assert_eq!(seconds(Duration::from_secs(192)), "3 min 12 s");
    }

    proptest! {
        #[test]
        fn nothing_escaped_is_obeyed(text in any::<String>()) {
            prop_assert!(!escape(&text).chars().any(is_obeyed));
        }
    }
}
