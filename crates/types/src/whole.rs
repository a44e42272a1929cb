//! Whole numbers in JSON, where `2` and `2.0` are the same number. For `#[serde(deserialize_with)]`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// A whole number that a `T` can be.
pub fn number<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_u64(Whole(PhantomData))
}

/// The same, or none.
pub fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    deserializer.deserialize_option(Maybe(PhantomData))
}

/// Doubles count in steps of one up to here.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

struct Whole<T>(PhantomData<T>);

impl<T: TryFrom<u64>> Visitor<'_> for Whole<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number that is not too large")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        let found = Unexpected::Unsigned(number);
        T::try_from(number).map_err(|_| E::invalid_value(found, &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        match number {
            0.0..=EXACT_MAX if number.fract() == 0.0 => self.visit_u64(number as u64),
            _ => Err(E::invalid_value(Unexpected::Float(number), &self)),
        }
    }
}

struct Maybe<T>(PhantomData<T>);

impl<'de, T: TryFrom<u64>> Visitor<'de> for Maybe<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, or none")
    }

    fn visit_none<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        number(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Both {
        #[serde(deserialize_with = "super::number")]
        one: u16,
        #[serde(default, deserialize_with = "super::optional")]
        other: Option<u32>,
    }

    fn both(text: &str) -> Option<Both> {
        serde_json::from_str(text).ok()
    }

    #[test]
    fn a_whole_number_may_have_a_point() {
        for text in [r#"{"one": 2}"#, r#"{"one": 2.0, "other": null}"#, r#"{"one": 2e0}"#] {
            assert_eq!(both(text), Some(Both { one: 2, other: None }), "{text}");
        }
        assert_eq!(both(r#"{"one": 0, "other": 7.0}"#), Some(Both { one: 0, other: Some(7) }));
    }

    #[test]
    fn what_is_not_whole_or_too_large_is_refused() {
        for number in ["-1", "1.5", "65536", "65536.0", "1e300", "\"2\"", "null", "true"] {
            assert_eq!(both(&format!(r#"{{"one": {number}}}"#)), None, "{number}");
        }
    }
}
