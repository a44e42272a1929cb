//! Sizes, as people write them: `512M`, `1G`.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number of bytes. Written `512M`, `1G`, `64K` or a bare number; units are powers of 1,024.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// A string was not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a size; write a whole number and K, M, G or T, as in 512M")]
pub struct BytesError {
    pub text: String,
}

impl Bytes {
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }
}

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl FromStr for Bytes {
    type Err = BytesError;

    /// Parses `512M`, `512m`, `512MB` and `512MiB` alike, as 512 × 2²⁰.
    fn from_str(text: &str) -> Result<Self, BytesError> {
        let error = || BytesError { text: text.to_owned() };
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| error())?;
        let unit = unit.to_ascii_uppercase();
        let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
        let shift = match unit {
            "" => 0,
            _ => UNITS.iter().find(|(name, _)| unit == name.to_string()).ok_or_else(error)?.1,
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Bytes {
    /// The largest unit that divides it, as in `512M`; `1536M`, not `1.5G`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        match unit {
            Some((name, shift)) => f.pad(&format!("{}{name}", self.0 >> shift)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        for text in ["1G", "1g", "1GB", "1GiB", "1024M"] {
            assert_eq!(text.parse(), Ok(Bytes::gib(1)), "{text}");
        }
        assert_eq!("17".parse(), Ok(Bytes(17)));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for bad in ["", "M", "1.5G", "-1", "1X", "99999999999T", "1 G"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_size_prints_as_it_was_written() {
        assert_eq!(Bytes::mib(512).to_string(), "512M");
        assert_eq!(Bytes(0).to_string(), "0");
        assert_eq!(Bytes(1500).to_string(), "1500");
    }
}
