//! Tables that fit the terminal.

use unicode_width::UnicodeWidthChar;

/// Between two columns.
const GAP: usize = 2;
/// The last column is not made narrower than this.
const WRAPPED_MIN: usize = 16;

/// See [`super::Screen::table`].
pub fn render(headings: &[&str], rows: &[Vec<String>], columns: Option<usize>) -> String {
    let widths: Vec<usize> = (0..headings.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| width(cell)).chain([width(headings[column])]).max().unwrap_or(0)
        })
        .collect();
    let Some((last, before)) = widths.split_last() else { return String::new() };
    let indent: usize = before.iter().map(|width| width + GAP).sum();
    let columns = columns.unwrap_or(usize::MAX);
    if indent.saturating_add((*last).min(WRAPPED_MIN)) > columns {
        return blocks(headings, rows, columns);
    }
    let headings = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let rows = std::iter::once(&headings).chain(rows);
    rows.map(|row| line(row, before, columns - indent)).collect::<Vec<_>>().join("\n")
}

/// One row: all but its last cell padded to `before`, that one wrapped to `room`.
fn line(row: &[String], before: &[usize], room: usize) -> String {
    let mut line = String::new();
    for (cell, width_of_column) in row.iter().zip(before) {
        line += cell;
        line += &" ".repeat(width_of_column - width(cell) + GAP);
    }
    let indent: usize = before.iter().map(|width| width + GAP).sum();
    let last = row.get(before.len()).map(|cell| wrap(cell, room)).unwrap_or_default();
    line += &last.join(&format!("\n{}", " ".repeat(indent)));
    line.trim_end().to_owned()
}

/// Each row as lines of a heading and its cell, an empty line between two rows.
fn blocks(headings: &[&str], rows: &[Vec<String>], columns: usize) -> String {
    let most = headings.iter().map(|heading| width(heading)).max().unwrap_or(0);
    let room = columns.saturating_sub(most + GAP).max(WRAPPED_MIN);
    let block = |row: &Vec<String>| {
        let pairs = headings.iter().zip(row).map(|(heading, cell)| {
            let padding = " ".repeat(most - width(heading) + GAP);
            let cell = wrap(cell, room).join(&format!("\n{}", " ".repeat(most + GAP)));
            format!("{heading}{padding}{cell}").trim_end().to_owned()
        });
        pairs.collect::<Vec<_>>().join("\n")
    };
    rows.iter().map(block).collect::<Vec<_>>().join("\n\n")
}

/// `text` in lines of at most `room` places, broken at spaces where there are some. Paint stays with what is
/// painted: a painted cell is a word or two, and is left whole.
fn wrap(text: &str, room: usize) -> Vec<String> {
    if width(text) <= room {
        return vec![text.to_owned()];
    }
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        let mut word = word.to_owned();
        if !line.is_empty() && width(&line) + 1 + width(&word) <= room {
            line.push(' ');
            line += &word;
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        // An escape is no place to break at.
        while !word.contains('\x1b') && width(&word) > room {
            let rest = word.split_off(fitting(&word, room));
            lines.push(std::mem::replace(&mut word, rest));
        }
        line = word;
    }
    lines.push(line);
    lines
}

/// How many bytes of `word` take at most `room` places; at least one character.
fn fitting(word: &str, room: usize) -> usize {
    let mut taken = 0;
    for (offset, c) in word.char_indices() {
        taken += c.width().unwrap_or(0);
        if taken > room && offset > 0 {
            return offset;
        }
    }
    word.len()
}

/// How many places `text` takes. What paint adds takes none; nothing else has an escape.
fn width(text: &str) -> usize {
    let places = |text: &str| text.chars().filter_map(UnicodeWidthChar::width).sum::<usize>();
    let mut parts = text.split('\x1b');
    let first = places(parts.next().unwrap_or_default());
    let painted = parts.map(|part| part.split_once('m').map_or(part, |(_, shown)| shown));
    first + painted.map(places).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn a_table_has_a_heading_and_no_trailing_space() {
        let text = render(&["NAME", "STATE"], &[row(&["shop", "running"])], None);
        assert_eq!(text, "NAME  STATE\nshop  running");
    }

    #[test]
    fn colours_take_no_room_in_a_table() {
        let rows = [row(&["\x1b[32mup\x1b[0m", "/a"]), row(&["starting", "/b"])];
        let expected = "STATE     URL\n\x1b[32mup\x1b[0m        /a\nstarting  /b";
        assert_eq!(render(&["STATE", "URL"], &rows, None), expected);
    }

    #[test]
    fn wide_letters_take_two_places() {
        let rows = [row(&["\u{4f60}\u{597d}", "a"]), row(&["abcd", "b"])];
        assert_eq!(render(&["X", "Y"], &rows, None), "X     Y\n\u{4f60}\u{597d}  a\nabcd  b");
    }

    #[test]
    fn the_last_column_is_wrapped_where_it_is_too_wide() {
        let rows = [row(&["shop", "it ended with status 1 again"]), row(&["blog", "-"])];
        assert_eq!(
            render(&["NAME", "BECAUSE"], &rows, Some(26)),
            "NAME  BECAUSE\nshop  it ended with status\n      1 again\nblog  -"
        );
    }

    #[test]
    fn a_row_is_a_block_where_nothing_else_fits() {
        let rows = [row(&["a-rather-long-name", "running", "http://x"]), row(&["b", "new", "-"])];
        assert_eq!(
            render(&["NAME", "STATE", "URL"], &rows, Some(30)),
            "NAME   a-rather-long-name\nSTATE  running\nURL    http://x\n\n\
             NAME   b\nSTATE  new\nURL    -"
        );
    }

    proptest! {
        #[test]
        fn no_line_is_too_wide_and_no_letter_is_lost(text in "[a-z\u{4f60} ]{0,60}", columns in 24usize..60) {
            let shown = render(&["NAME", "TEXT"], &[row(&["n", &text])], Some(columns));
            prop_assert!(shown.lines().all(|line| width(line) <= columns), "{shown}");
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert!(letters(&shown).ends_with(&letters(&text)), "{shown}");
        }
    }
}
