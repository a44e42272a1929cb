//! Names that people choose: apps, tenants, hosts.

use std::borrow::Borrow;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An app's name: it becomes a DNS label, a folder and part of a cgroup's path.
///
/// 1 to 40 bytes of `a`-`z`, `0`-`9` and `-`, beginning and ending with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppName(String);

/// A tenant's name: who owns apps, and the boundary of isolation. Same alphabet as [`AppName`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantName(String);

/// A host name as it stands in a `Host` header: lowercase, without port and trailing dot.
///
/// At most 253 bytes; each label as an [`AppName`] but up to 63 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// What a person calls a thing that has a name of its own: 1 to 64 characters, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// Why a string is not a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("a label has 1 to {LABEL_CHARS_MAX} characters, this one has {len}")]
    Length { len: usize },
    #[error("a label can't have control characters in it")]
    Control,
}

/// Why a string is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name can't be empty")]
    Empty,
    #[error("a name has at most {max} characters, this one has {len}")]
    Long { max: usize, len: usize },
    #[error(
        "{found:?} at position {offset} can't stand in a name: use a-z, 0-9 and, between them, \"-\""
    )]
    Char { found: char, offset: usize },
}

const APP_NAME_MAX: usize = 40;
const LABEL_MAX: usize = 63;
const HOST_MAX: usize = 253;
const LABEL_CHARS_MAX: usize = 64;

/// Checks one label; `offset` in an error is counted in bytes from the label's start.
fn check_label(label: &str, max: usize) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::Empty);
    }
    for (offset, found) in label.char_indices() {
        let edge = offset == 0 || offset == label.len() - 1;
        let allowed = matches!(found, 'a'..='z' | '0'..='9') || (found == '-' && !edge);
        if !allowed {
            return Err(NameError::Char { found, offset });
        }
    }
    if label.len() > max {
        return Err(NameError::Long { max, len: label.len() });
    }
    Ok(())
}

macro_rules! string_type {
    ($name:ident, $error:ty, $check:expr) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = $error;
            fn from_str(text: &str) -> Result<Self, $error> {
                $check(text)?;
                Ok(Self(text.to_owned()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = $error;
            fn try_from(text: String) -> Result<Self, $error> {
                $check(&text)?;
                Ok(Self(text))
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

string_type!(AppName, NameError, |text: &str| check_label(text, APP_NAME_MAX));
string_type!(TenantName, NameError, |text: &str| check_label(text, APP_NAME_MAX));
string_type!(HostName, NameError, |text: &str| {
    if text.len() > HOST_MAX {
        return Err(NameError::Long { max: HOST_MAX, len: text.len() });
    }
    text.split('.').try_for_each(|label| check_label(label, LABEL_MAX))
});

string_type!(Label, LabelError, |text: &str| {
    match text.chars().count() {
        1..=LABEL_CHARS_MAX if text.chars().any(char::is_control) => Err(LabelError::Control),
        1..=LABEL_CHARS_MAX => Ok(()),
        len => Err(LabelError::Length { len }),
    }
});

/// Gives a type of text its schema.
macro_rules! text_schema {
    ($name:ident, $schema:tt) => {
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

text_schema!(AppName, {
    "type": "string",
    "pattern": "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
    "examples": ["shop"],
});
text_schema!(TenantName, {
    "type": "string",
    "pattern": "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
    "examples": ["default"],
});
text_schema!(Label, {
    "type": "string",
    "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,64}$",
    "examples": ["laptop"],
});

impl Default for TenantName {
    /// The tenant that every engine has from its first day.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl HostName {
    /// The name without its first label: `example.com` for `www.example.com`. `None` where it has one
    /// label only.
    pub fn parent(&self) -> Option<&str> {
        self.0.split_once('.').map(|(_, parent)| parent)
    }

    /// Whether it's `other` or a name below that.
    pub fn is_within(&self, other: &HostName) -> bool {
        let above = self.0.strip_suffix(other.as_str());
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    }
}

impl AppName {
    /// A name made of any text, such as a folder's: `My_Shop 2` becomes `my-shop-2`.
    ///
    /// Errors: [`NameError::Empty`] where nothing of `text` can stand in a name.
    pub fn suggest(text: &str) -> Result<Self, NameError> {
        let mut name = String::new();
        for found in text.chars().map(|c| c.to_ascii_lowercase()) {
            match found {
                'a'..='z' | '0'..='9' => name.push(found),
                _ if name.is_empty() || name.ends_with('-') => {}
                _ => name.push('-'),
            }
        }
        name.truncate(APP_NAME_MAX);
        name.trim_end_matches('-').parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_an_app_name() {
        assert_eq!("shop-2".parse::<AppName>().map(String::from), Ok("shop-2".to_owned()));
    }

    #[test]
    fn what_could_leave_a_path_or_a_dns_label_is_refused() {
        for bad in ["", ".", "..", "a/b", "A", "-a", "a-", "a_b", "a.b", "\u{e4}", "a\0"] {
            assert!(bad.parse::<AppName>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(41).parse::<AppName>().is_err());
    }

    #[test]
    fn a_folder_suggests_a_name() {
        assert_eq!(AppName::suggest("My_Shop  2!").map(String::from), Ok("my-shop-2".to_owned()));
        assert_eq!(AppName::suggest("__"), Err(NameError::Empty));
    }

    #[test]
    fn a_label_is_a_short_line() {
        assert!("Ada's laptop, \u{e4}".parse::<Label>().is_ok());
        assert!("\u{e4}".repeat(64).parse::<Label>().is_ok());
        assert_eq!("a\u{1b}[1m".parse::<Label>(), Err(LabelError::Control));
        assert_eq!("".parse::<Label>(), Err(LabelError::Length { len: 0 }));
        assert_eq!("a".repeat(65).parse::<Label>(), Err(LabelError::Length { len: 65 }));
    }

    #[test]
    fn a_host_is_labels_between_dots() {
        assert!("flask.localhost".parse::<HostName>().is_ok());
        assert!("flask..localhost".parse::<HostName>().is_err());
        assert!("flask.localhost.".parse::<HostName>().is_err());
    }

    #[test]
    fn a_host_lies_within_those_above_it() {
        let host = |text: &str| text.parse::<HostName>().unwrap();
        assert_eq!(host("www.example.com").parent(), Some("example.com"));
        assert_eq!(host("localhost").parent(), None);
        assert!(host("www.example.com").is_within(&host("example.com")));
        assert!(host("example.com").is_within(&host("example.com")));
        assert!(!host("badexample.com").is_within(&host("example.com")));
        assert!(!host("com").is_within(&host("example.com")));
    }
}
