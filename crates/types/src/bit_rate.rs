//! Rates of a network, as people write them: `50M`, `1G`.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bits in a second. Written `50M`, `1G`, `500K` or a bare number; units are powers of 1,000, as
/// networks count.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct BitRate(pub u64);

/// A string was not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a rate; write bits a second and K, M or G, as in 50M")]
pub struct BitRateError {
    pub text: String,
}

impl BitRate {
    pub const fn mega(count: u64) -> Self {
        Self(count * 1_000_000)
    }

    pub const fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }
}

const UNITS: [(char, u64); 3] = [('G', 1_000_000_000), ('M', 1_000_000), ('K', 1_000)];

impl FromStr for BitRate {
    type Err = BitRateError;

    fn from_str(text: &str) -> Result<Self, BitRateError> {
        let error = || BitRateError { text: text.to_owned() };
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| error())?;
        let unit = unit.to_ascii_uppercase();
        let scale = match unit.as_str() {
            "" => 1,
            _ => UNITS.iter().find(|(name, _)| unit == name.to_string()).ok_or_else(error)?.1,
        };
        number.checked_mul(scale).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for BitRate {
    /// The largest unit that divides it, as in `50M`; `1500K`, not `1.5M`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, scale)| self.0 != 0 && self.0.is_multiple_of(*scale));
        match unit {
            Some((name, scale)) => f.pad(&format!("{}{name}", self.0 / scale)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1000() {
        for text in ["50M", "50m", "50000K", "50000000"] {
            assert_eq!(text.parse(), Ok(BitRate::mega(50)), "{text}");
        }
        assert_eq!(BitRate::mega(8).bytes_per_second(), 1_000_000);
        for bad in ["", "M", "1.5M", "-1", "50MB", "99999999999999G"] {
            assert!(bad.parse::<BitRate>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_rate_prints_as_it_was_written() {
        for text in ["50M", "1500K", "1G", "0", "77"] {
            assert_eq!(text.parse::<BitRate>().map(|rate| rate.to_string()).as_deref(), Ok(text));
        }
    }
}
