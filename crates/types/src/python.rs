//! Which Pythons an app may run on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A set of Python versions: `3.13`, `2.7`, `>=3.11`, `>=3.8,<3.12`.
///
/// Conditions stand between commas and all have to hold. A bare version is any release of it, so
/// `3.13` is `==3.13.*`. The operators are those of Python packages.
/// Source: <https://packaging.python.org/en/latest/specifications/version-specifiers/>.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PythonRange {
    text: String,
    conditions: Vec<Condition>,
}

/// A text is no [`PythonRange`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no Python version, such as 3.13, or a range of them, such as >=3.8,<3.12")]
pub struct NoPythonRange(String);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    operator: Operator,
    /// One to three numbers.
    version: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    /// `3.11`, `==3.11.*`: begins with these numbers.
    Is,
    /// `!=3.11.*`.
    IsNot,
    /// `==3.11`: just that, missing numbers being zero.
    Exactly,
    ExactlyNot,
    AtLeast,
    AtMost,
    Above,
    Below,
    /// `~=3.8`: at least 3.8, and 3.
    Compatible,
}

impl PythonRange {
    const LENGTH_MAX: usize = 200;

    /// Whether a Python of this major, minor and micro version is in it.
    pub fn contains(&self, version: [u32; 3]) -> bool {
        self.conditions.iter().all(|condition| condition.holds(version))
    }

    /// The range that a package's `requires-python` means, in which `==3.11` is 3.11.0 alone.
    pub fn from_specifiers(text: &str) -> Result<Self, NoPythonRange> {
        Self::parse(text, Operator::Exactly)
    }

    fn parse(text: &str, equal: Operator) -> Result<Self, NoPythonRange> {
        let error = || NoPythonRange(text.chars().take(Self::LENGTH_MAX).collect());
        if text.len() > Self::LENGTH_MAX {
            return Err(error());
        }
        let conditions = text.split(',').map(|part| Condition::parse(part.trim(), equal));
        let conditions = conditions.collect::<Option<_>>().ok_or_else(error)?;
        Ok(Self { text: text.to_owned(), conditions })
    }
}

impl FromStr for PythonRange {
    type Err = NoPythonRange;

    fn from_str(text: &str) -> Result<Self, NoPythonRange> {
        // Who writes `python: ==3.11` means any 3.11.
        Self::parse(text, Operator::Is)
    }
}

impl fmt::Display for PythonRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<PythonRange> for String {
    fn from(range: PythonRange) -> Self {
        range.text
    }
}

impl TryFrom<String> for PythonRange {
    type Error = NoPythonRange;

    fn try_from(text: String) -> Result<Self, NoPythonRange> {
        text.parse()
    }
}

impl Condition {
    /// `equal` is what `==` without a star means. `None` where it is no condition on a version.
    fn parse(text: &str, equal: Operator) -> Option<Self> {
        let not_equal = if equal == Operator::Is { Operator::IsNot } else { Operator::ExactlyNot };
        let operators = [
            (">=", Operator::AtLeast),
            ("<=", Operator::AtMost),
            ("==", equal),
            ("!=", not_equal),
            ("~=", Operator::Compatible),
            (">", Operator::Above),
            ("<", Operator::Below),
            ("", Operator::Is),
        ];
        let (sign, mut operator) =
            operators.into_iter().find(|(sign, _)| text.starts_with(sign))?;
        let mut version = text[sign.len()..].trim();
        if let Some(beginning) = version.strip_suffix(".*") {
            version = beginning;
            operator = match sign {
                "" | "==" => Operator::Is,
                "!=" => Operator::IsNot,
                _ => return None,
            };
        }
        let version = numbers(version)?;
        let fits = operator != Operator::Compatible || version.len() > 1;
        fits.then_some(Self { operator, version })
    }

    fn holds(&self, version: [u32; 3]) -> bool {
        let begins = |count: usize| version[..count] == self.version[..count];
        let bound = self.padded();
        match self.operator {
            Operator::Is => begins(self.version.len()),
            Operator::IsNot => !begins(self.version.len()),
            Operator::Exactly => version == bound,
            Operator::ExactlyNot => version != bound,
            Operator::AtLeast => version >= bound,
            Operator::AtMost => version <= bound,
            Operator::Above => version > bound,
            Operator::Below => version < bound,
            Operator::Compatible => version >= bound && begins(self.version.len() - 1),
        }
    }

    fn padded(&self) -> [u32; 3] {
        std::array::from_fn(|place| self.version.get(place).copied().unwrap_or(0))
    }
}

/// One to three numbers between dots.
fn numbers(text: &str) -> Option<Vec<u32>> {
    let number = |part: &str| {
        let fits = (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        if fits { part.parse().ok() } else { None }
    };
    let numbers: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    (numbers.len() <= 3).then_some(numbers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PYTHONS: [[u32; 3]; 5] = [[2, 7, 18], [3, 8, 18], [3, 11, 0], [3, 11, 7], [3, 13, 1]];

    fn in_range(range: &PythonRange) -> Vec<[u32; 3]> {
        PYTHONS.into_iter().filter(|version| range.contains(*version)).collect()
    }

    #[test]
    fn a_bare_version_is_any_release_of_it() {
        for text in ["3.11", "==3.11", "==3.11.*", "3.11.*", " >= 3.11 , < 3.12 ", "~=3.11.0"] {
            assert_eq!(in_range(&text.parse().unwrap()), [[3, 11, 0], [3, 11, 7]], "{text}");
        }
        assert_eq!(in_range(&"2.7".parse().unwrap()), [[2, 7, 18]]);
        assert_eq!(in_range(&"3.1".parse().unwrap()), [[0; 3]; 0]);
    }

    #[test]
    fn ranges_are_as_packages_write_them() {
        for (text, count) in
            [(">=3.8,<3.12", 3), (">2.7.18", 4), ("<=3.11", 3), ("!=3.11.*", 3), ("~=3.8", 4)]
        {
            assert_eq!(in_range(&text.parse().unwrap()).len(), count, "{text}");
        }
        let exact = PythonRange::from_specifiers("==3.11").unwrap();
        assert_eq!(in_range(&exact), [[3, 11, 0]]);
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for bad in
            ["", "three", "3.", "3.11.1.2", ">=", "~=3", ">=3.8.*", "3.11,", "^3.8", "3.11rc1"]
        {
            assert!(bad.parse::<PythonRange>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn it_crosses_as_its_text() {
        let range: PythonRange = ">=3.8,<3.12".parse().unwrap();
        assert_eq!(String::from(range.clone()).parse(), Ok(range));
    }
}
