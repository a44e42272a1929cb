//! Names that the engine chooses: engines, instances, builds, releases, ranges of user ids.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::whole;

/// The alphabet of random ids: lowercase base 32 without characters that look alike.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// A string was not an id of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id of {length} characters of a-z and 0-9")]
pub struct IdError {
    pub text: String,
    pub length: usize,
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $length:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Bytes of randomness that [`Self::from_random`] takes.
            pub const LENGTH: usize = $length;

            /// The id that `random` bytes spell; the caller draws them.
            pub fn from_random(random: [u8; $length]) -> Self {
                Self(random.iter().map(|b| char::from(ALPHABET[usize::from(*b) % 32])).collect())
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                let fits = text.len() == $length
                    && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
                if fits { Ok(Self(text)) } else { Err(IdError { text, length: $length }) }
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_from(text.to_owned())
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": format!("^[a-z0-9]{{{}}}$", $length) })
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

random_id!(
    /// One engine, which is one data folder. Carried by the names of all that it makes in the kernel.
    EngineId,
    4
);
random_id!(
    /// One running container of a release. Unique within its engine for ever.
    InstanceId,
    8
);
random_id!(
    /// One run of source to release.
    BuildId,
    8
);

random_id!(
    /// One token of the API's. Not secret.
    TokenId,
    8
);

/// The number of a release within its app: 1, 2, 3…
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseNumber(#[serde(deserialize_with = "whole::number")] pub u32);

impl JsonSchema for ReleaseNumber {
    fn schema_name() -> Cow<'static, str> {
        "ReleaseNumber".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": u32::MAX })
    }
}

impl ReleaseNumber {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for ReleaseNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The user and group ids on the host that one app, or one build, has for its own.
///
/// Id `n` inside its containers is `first + n` on the host, for `n` below [`IdRange::COUNT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdRange {
    first: u32,
}

impl IdRange {
    /// Ids in one range.
    pub const COUNT: u32 = 4096;
    /// The first id of range 0. Above what distributions, systemd and container runtimes hand out.
    pub const BASE: u32 = 1_879_048_192;
    /// Ranges there are on a machine.
    pub const RANGES: u32 = 65_536;
    /// Init's user and group inside a container.
    pub const INIT: u32 = 0;
    /// The tenant's user and group inside a container.
    pub const APP: u32 = 1000;

    /// Range number `index`; `None` where there are not so many.
    pub fn new(index: u32) -> Option<Self> {
        (index < Self::RANGES).then(|| Self { first: Self::BASE + index * Self::COUNT })
    }
    /// The id on the host that is 0 inside.
    pub fn first(self) -> u32 {
        self.first
    }
    /// The id on the host that `inside` is inside.
    pub fn host_id(self, inside: u32) -> u32 {
        debug_assert!(inside < Self::COUNT);
        self.first + inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let id = InstanceId::from_random([0, 1, 2, 3, 31, 32, 33, 255]);
        assert_eq!(id.as_str(), "abcd9ab9");
        assert_eq!(id.as_str().parse(), Ok(id));
    }

    #[test]
    fn text_that_could_leave_a_folder_is_no_id() {
        assert!("../../ab".parse::<InstanceId>().is_err());
        assert!("".parse::<EngineId>().is_err());
    }

    #[test]
    fn the_last_range_ends_below_two_to_the_31() {
        let last = IdRange::new(IdRange::RANGES - 1).map(|range| range.host_id(IdRange::COUNT - 1));
        assert_eq!(last, Some((1 << 31) - 1));
        assert_eq!(IdRange::new(IdRange::RANGES), None);
    }
}
