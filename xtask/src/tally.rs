//! How many tests passed, failed and were skipped, read off the lines of a test runner.

use std::fmt;

/// A count of tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    /// Names of those that passed at a second try alone; they are in `passed`, too.
    pub flaky: Vec<String>,
}

impl Tally {
    /// The count that `line` tells, or nothing.
    ///
    /// Known are nextest's `Summary […] 3 tests run: 2 passed, 1 failed, 0 skipped` and
    /// `FLAKY 2/2 […] package::file test`, and cargo test's `test result: ok. 2 passed; 1 failed; 0 ignored; …`. Indented, the latter is what
    /// nextest quotes of a test that failed, and is in its summary, too.
    pub fn of_line(line: &str) -> Self {
        let line = without_colours(line);
        let line = line.trim_end();
        if line.trim_start().starts_with("FLAKY ") {
            let test = line.rsplit_once([']', ')']).map_or(line, |(_, test)| test);
            return Self { flaky: vec![test.trim().to_owned()], ..Self::default() };
        }
        if !line.trim_start().starts_with("Summary [") && !line.starts_with("test result: ") {
            return Self::default();
        }
        let words: Vec<&str> =
            line.split([' ', ',', ';', '(', ')', ':']).filter(|word| !word.is_empty()).collect();
        let count = |names: &[&str]| {
            let pairs = words.windows(2).filter(|pair| names.contains(&pair[1]));
            pairs.filter_map(|pair| pair[0].parse::<u64>().ok()).sum()
        };
        Self {
            passed: count(&["passed"]),
            failed: count(&["failed", "timed"]),
            skipped: count(&["skipped", "ignored"]),
            flaky: Vec::new(),
        }
    }

    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        let unknown = other.flaky.into_iter().filter(|test| !self.flaky.contains(test));
        let unknown: Vec<String> = unknown.collect();
        self.flaky.extend(unknown);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// `line` without escape sequences of the form `ESC [ … letter`.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                chars.by_ref().skip(1).find(char::is_ascii_alphabetic);
            }
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally { passed, failed, skipped, flaky: Vec::new() }
    }

    #[test]
    fn nextest_is_understood() {
        let line = "     Summary [   0.185s] 53 tests run: 50 passed (1 slow), 2 failed, 1 timed out, 4 skipped\n";
        assert_eq!(Tally::of_line(line), tally(50, 3, 4));
    }

    #[test]
    fn a_second_try_is_told() {
        let mut sum = Tally::default();
        let line = "   FLAKY 2/2 [   0.003s] (3/9) ace::deploy an_app_answers\n";
        sum.add(Tally::of_line(line));
        sum.add(Tally::of_line("       FLAKY 2/2 [   0.003s] ace::deploy an_app_answers"));
        assert_eq!(sum.flaky, ["ace::deploy an_app_answers"]);
        assert_eq!(sum.passed, 0);
    }

    #[test]
    fn colours_do_not_matter() {
        let line = "\x1b[32;1m     Summary\x1b[0m [   0.1s] \x1b[1m2\x1b[0m tests run: \x1b[1m2\x1b[0m \x1b[32;1mpassed\x1b[0m, \x1b[1m0\x1b[0m skipped";
        assert_eq!(Tally::of_line(line), tally(2, 0, 0));
    }

    #[test]
    fn cargo_test_is_understood() {
        let line = "test result: FAILED. 2 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out";
        assert_eq!(Tally::of_line(line), tally(2, 1, 3));
    }

    #[test]
    fn a_failed_test_counts_once() {
        let quoted = "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured";
        assert_eq!(Tally::of_line(quoted), Tally::default());
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(Tally::of_line("the test says: 5 passed"), Tally::default());
    }
}
