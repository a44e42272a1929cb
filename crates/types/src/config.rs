//! Configuration: environment variables that are set beside an app's code, and override those of its
//! `app.yaml`.
//!
//! Values are secrets. What is printed of these types for debugging has the names alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::app_yaml::is_identifier;

/// The longest name of a variable, in bytes.
const NAME_MAX: usize = 255;
/// The longest value of a variable, in bytes.
const VALUE_MAX: usize = 32 * 1024;
/// Variables in one configuration.
const COUNT_MAX: usize = 256;
/// Names and values of one configuration together, in bytes.
const SIZE_MAX: usize = 64 * 1024;

/// Variables by their names, each checked, within bounds of number and size.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Config(BTreeMap<String, String>);

/// What is to be different in a [`Config`]. Not checked before it's applied.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigChange {
    #[serde(default)]
    #[schemars(schema_with = "variables_schema")]
    pub set: BTreeMap<String, String>,
    /// What is not set need not be unset, and may be. Nothing can be both.
    #[serde(default)]
    #[schemars(schema_with = "names_schema")]
    pub unset: BTreeSet<String>,
}

/// Of what [`check_name`] takes.
fn name_schema() -> Schema {
    json_schema!({ "type": "string", "pattern": "^(?!ACE_)[A-Za-z_][A-Za-z0-9_]{0,254}$" })
}

fn names_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": name_schema() })
}

fn variables_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": COUNT_MAX,
        "propertyNames": name_schema(),
        "additionalProperties": { "type": "string", "pattern": "^[^\\u0000]*$", "maxLength": VALUE_MAX },
    })
}

/// Why variables can't be a configuration. Never tells a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{0:?} is reserved; names beginning with ACE_ are the engine's")]
    Reserved(String),
    #[error("{0:?} is no name of a variable: use letters, digits and \"_\"")]
    Name(String),
    #[error("a value is at most {VALUE_MAX} bytes, without a null byte")]
    Value,
    #[error("{name}: its value has more than {VALUE_MAX} bytes, or a null byte")]
    ValueOf { name: String },
    #[error("{name} can't be both set and unset")]
    Both { name: String },
    #[error("these would be {count} variables; there can be {COUNT_MAX}")]
    Count { count: usize },
    #[error("the variables would have {bytes} bytes together; they can have {SIZE_MAX}")]
    Size { bytes: usize },
}

impl Config {
    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// This configuration with `change` in it.
    pub fn with(&self, change: &ConfigChange) -> Result<Self, ConfigError> {
        if let Some(name) = change.set.keys().find(|name| change.unset.contains(*name)) {
            return Err(ConfigError::Both { name: shortened(name) });
        }
        change.unset.iter().try_for_each(|name| check_name(name))?;
        let mut variables = self.0.clone();
        variables.retain(|name, _| !change.unset.contains(name));
        variables.extend(change.set.clone());
        Self::try_from(variables)
    }

    /// Names whose values are not the same in `other`, or that only one of the two has.
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        let differs = |name: &&&String| self.0.get(**name) != other.0.get(**name);
        names.iter().filter(differs).map(|name| (*name).clone()).collect()
    }
}

impl TryFrom<BTreeMap<String, String>> for Config {
    type Error = ConfigError;

    fn try_from(variables: BTreeMap<String, String>) -> Result<Self, ConfigError> {
        for (name, value) in &variables {
            check_name(name)?;
            check_value(value).map_err(|_| ConfigError::ValueOf { name: name.clone() })?;
        }
        let bytes = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        if variables.len() > COUNT_MAX {
            Err(ConfigError::Count { count: variables.len() })
        } else if bytes > SIZE_MAX {
            Err(ConfigError::Size { bytes })
        } else {
            Ok(Self(variables))
        }
    }
}

impl From<Config> for BTreeMap<String, String> {
    fn from(config: Config) -> Self {
        config.0
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl fmt::Debug for ConfigChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set: Vec<_> = self.set.keys().collect();
        f.debug_struct("ConfigChange").field("set", &set).field("unset", &self.unset).finish()
    }
}

/// Whether `text` can be a variable's name, and is not one of the engine's.
pub fn check_name(text: &str) -> Result<(), ConfigError> {
    if text.starts_with("ACE_") {
        return Err(ConfigError::Reserved(shortened(text)));
    }
    if !is_identifier(text) || text.len() > NAME_MAX {
        return Err(ConfigError::Name(shortened(text)));
    }
    Ok(())
}

/// Whether `text` can be a variable's value.
pub fn check_value(text: &str) -> Result<(), ConfigError> {
    if text.contains('\0') || text.len() > VALUE_MAX { Err(ConfigError::Value) } else { Ok(()) }
}

/// As much of a name as an error has room for.
fn shortened(name: &str) -> String {
    name.chars().take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(set: &[(&str, &str)], unset: &[&str]) -> ConfigChange {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        ConfigChange {
            set: set.iter().map(owned).collect(),
            unset: unset.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn config(set: &[(&str, &str)]) -> Config {
        Config::default().with(&change(set, &[])).expect("a configuration")
    }

    #[test]
    fn a_change_sets_and_unsets() {
        let before = config(&[("A", "1"), ("B", "2"), ("C", "3")]);
        let after = before.with(&change(&[("B", "4"), ("D", "")], &["A", "X"])).expect("a change");
        let pairs: Vec<_> = after.iter().collect();
        assert_eq!(pairs, [("B", "4"), ("C", "3"), ("D", "")]);
        assert_eq!(before.difference(&after), ["A", "B", "D"]);
    }

    #[test]
    fn what_can_not_be_a_variable_is_refused() {
        for name in ["ACE_APP", "", "1A", "A-B", "A B", "\u{c4}", &"A".repeat(256)] {
            assert!(Config::default().with(&change(&[(name, "")], &[])).is_err(), "{name:?}");
        }
        let both = change(&[("A", "1")], &["A"]);
        assert_eq!(Config::default().with(&both), Err(ConfigError::Both { name: "A".to_owned() }));
    }

    #[test]
    fn there_are_bounds_and_no_error_tells_a_value() {
        let long = "secret".repeat(6000);
        for value in [long.as_str(), "secret\0"] {
            let error = Config::default().with(&change(&[("A", value)], &[])).expect_err("bounds");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let names: Vec<String> = (0..257).map(|n| format!("N{n}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        let error = Config::default().with(&change(&many, &[]));
        assert_eq!(error, Err(ConfigError::Count { count: 257 }));
        let large = "x".repeat(30_000);
        let error =
            Config::default().with(&change(&[("A", &large), ("B", &large), ("C", &large)], &[]));
        assert_eq!(error, Err(ConfigError::Size { bytes: 90_003 }));
    }

    #[test]
    fn what_is_shown_for_debugging_has_no_values() {
        let shown =
            format!("{:?} {:?}", config(&[("A", "secret")]), change(&[("B", "secret")], &[]));
        assert!(!shown.contains("secret") && shown.contains('A') && shown.contains('B'), "{shown}");
    }
}
