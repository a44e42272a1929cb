//! What `ace deploy` leaves out: a built-in list, and the patterns in `.aceignore`.
//!
//! A part of gitignore's language: one pattern a line; `#` begins a comment; `*` and `?` match
//! within a name, `**` any number of folders; a `/` at the end matches folders only; a `/`
//! elsewhere ties the pattern to the top of the folder; `!` takes back what an earlier pattern
//! said. The last pattern that matches decides. What lies in a folder that is left out can't be
//! taken back. `[…]` and `\` have no meaning and are refused.

use std::path::Path;

/// The file with the patterns, at the top of the folder.
pub const FILE_NAME: &str = ".aceignore";

/// What no app needs. A pattern of the same form with `!` takes one back.
const BUILT_IN: &str = "
.git
.hg/
.svn/
__pycache__/
*.pyc
node_modules/
.DS_Store
";

/// Patterns in the order in which they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// The names of a path, each a pattern; `**` stands for any number of them.
    names: Vec<String>,
    folders_only: bool,
    /// Whether a match is sent after all.
    keep: bool,
}

/// A line is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("line {line}: {found:?} has no meaning here; use *, ? and **")]
    Unsupported { line: usize, found: char },
    #[error("line {line}: a pattern needs a name")]
    Empty { line: usize },
}

impl Rules {
    /// Parses the text of an `.aceignore`; the built-in patterns come before it.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let built_in = BUILT_IN.lines().map(|line| (0, line));
        let written = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let rules = built_in
            .chain(written)
            .map(|(number, line)| (number, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(number, line)| parse_rule(number, line));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// Whether `path`, relative to the top, is left out. Its parent is not.
    pub fn ignore(&self, path: &Path, is_folder: bool) -> bool {
        let names: Vec<_> = path.iter().map(|name| name.to_string_lossy()).collect();
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let matches =
            |rule: &&Rule| (is_folder || !rule.folders_only) && path_matches(&rule.names, &names);
        self.rules.iter().rev().find(matches).is_some_and(|rule| !rule.keep)
    }
}

fn parse_rule(line: usize, text: &str) -> Result<Rule, RuleError> {
    if let Some(found) = text.chars().find(|c| matches!(c, '[' | ']' | '\\')) {
        return Err(RuleError::Unsupported { line, found });
    }
    let (keep, text) = match text.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (folders_only, text) = match text.strip_suffix('/') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut names: Vec<String> =
        text.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(RuleError::Empty { line });
    }
    if !text.contains('/') {
        names.insert(0, "**".to_owned());
    }
    Ok(Rule { names, folders_only, keep })
}

/// Whether the whole of `path` matches the whole of `pattern`.
fn path_matches(pattern: &[String], path: &[&str]) -> bool {
    sequence_matches(
        pattern,
        path,
        |name| name == "**",
        |pattern, name| {
            let (pattern, name): (Vec<char>, Vec<char>) =
                (pattern.chars().collect(), name.chars().collect());
            sequence_matches(&pattern, &name, |c| *c == '*', |p, c| *p == '?' || p == c)
        },
    )
}

/// Whether all of `items` match all of `pattern`, in which a wildcard stands for any run of items.
///
/// Going back to the last wildcard alone is enough, so time is bounded by the product of lengths.
fn sequence_matches<P, T>(
    pattern: &[P],
    items: &[T],
    is_wildcard: impl Fn(&P) -> bool,
    matches: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut item) = (0, 0);
    let mut last_wildcard = None;
    while item < items.len() {
        match pattern.get(at) {
            Some(part) if is_wildcard(part) => {
                last_wildcard = Some((at, item));
                at += 1;
            }
            Some(part) if matches(part, &items[item]) => {
                at += 1;
                item += 1;
            }
            _ => {
                let Some((wildcard, taken)) = last_wildcard else { return false };
                last_wildcard = Some((wildcard, taken + 1));
                at = wildcard + 1;
                item = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(is_wildcard)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Which of `paths` are left out by `text`. A path that ends in `/` is a folder.
    fn ignored<'a>(text: &str, paths: &[&'a str]) -> Vec<&'a str> {
        let rules = Rules::parse(text).expect("valid patterns");
        let is_ignored =
            |path: &&&str| rules.ignore(Path::new(path.trim_end_matches('/')), path.ends_with('/'));
        paths.iter().filter(is_ignored).copied().collect()
    }

    #[test]
    fn a_name_matches_at_any_depth() {
        assert_eq!(ignored("*.log", &["a.log", "x/y/b.log", "a.logs"]), ["a.log", "x/y/b.log"]);
    }

    #[test]
    fn a_slash_ties_a_pattern_to_the_top() {
        assert_eq!(ignored("/build", &["build", "x/build"]), ["build"]);
        assert_eq!(
            ignored("docs/*.md", &["docs/a.md", "docs/x/a.md", "x/docs/a.md"]),
            ["docs/a.md"]
        );
    }

    #[test]
    fn a_slash_at_the_end_means_folders() {
        assert_eq!(ignored("media/", &["media", "media/", "x/media/"]), ["media/", "x/media/"]);
    }

    #[test]
    fn two_stars_cross_folders() {
        let paths = ["a/b", "a/x/b", "a/x/y/b", "b"];
        assert_eq!(ignored("a/**/b", &paths), ["a/b", "a/x/b", "a/x/y/b"]);
    }

    #[test]
    fn the_last_word_counts() {
        let text = "# notes\n*.txt\n!keep.txt\n\n!node_modules/";
        let paths = ["a.txt", "keep.txt", "node_modules/", "__pycache__/"];
        assert_eq!(ignored(text, &paths), ["a.txt", "__pycache__/"]);
    }

    #[test]
    fn a_git_file_of_a_worktree_is_left_out_too() {
        assert_eq!(ignored("", &[".git", ".git/", ".gitignore"]), [".git", ".git/"]);
    }

    #[test]
    fn what_is_not_supported_is_refused_with_its_line() {
        let found = Rules::parse("ok\n[ab].py");
        assert_eq!(found, Err(RuleError::Unsupported { line: 2, found: '[' }));
        assert_eq!(Rules::parse("/"), Err(RuleError::Empty { line: 1 }));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".{0,60}", path in "[a-z*/.]{1,30}") {
            if let Ok(rules) = Rules::parse(&text) {
                rules.ignore(Path::new(&path), false);
            }
        }

        #[test]
        fn a_name_without_wildcards_matches_itself(name in "[a-z.]{1,20}") {
            let rules = Rules::parse(&name).expect("a valid pattern");
            prop_assert!(rules.ignore(Path::new(&name), false));
        }
    }
}
