//! Parts of long lists: `limit` says how long one is, `after` what it begins behind.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::refusal::Refusal;

/// The longest part.
pub const LIMIT_MAX: u16 = 1000;
/// How long one is unless it's asked for otherwise.
const LIMIT: u16 = 100;

/// Which part of a list is asked for. `C` is what its entries are known by.
#[derive(Deserialize, JsonSchema)]
pub struct PageQuery<C> {
    /// How many at most.
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u16>,
    /// What the part begins behind: `next` of the one before.
    pub after: Option<C>,
}

impl<C> PageQuery<C> {
    /// As many of `entries`, which come behind `after`, as were asked for; and what the last one is known by,
    /// if there are more.
    pub fn cut<T>(
        &self,
        entries: impl IntoIterator<Item = T>,
        known_by: impl Fn(&T) -> C,
    ) -> Result<(Vec<T>, Option<C>), Refusal> {
        let limit = limit_of(self.limit)?;
        let mut part: Vec<T> = entries.into_iter().take(limit + 1).collect();
        let has_more = part.len() > limit;
        part.truncate(limit);
        let next = part.last().filter(|_| has_more).map(known_by);
        Ok((part, next))
    }
}

/// How many are asked for.
pub fn limit_of(asked: Option<u16>) -> Result<usize, Refusal> {
    match asked.unwrap_or(LIMIT) {
        limit @ 1..=LIMIT_MAX => Ok(limit.into()),
        _ => Err(Refusal::bad_request(format!("limit can be 1 to {LIMIT_MAX}"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_the_whole() {
        let all: Vec<u32> = (1..=10).collect();
        for limit in [1, 3, 5, 10, 11] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let query = PageQuery { limit: Some(limit), after };
                let rest = all.iter().copied().filter(|n| after.is_none_or(|after| *n > after));
                let (part, next) = query.cut(rest, |n| *n).unwrap();
                found.extend(part);
                match next {
                    Some(_) => after = next,
                    None => break,
                }
            }
            assert_eq!(found, all, "{limit}");
        }
    }

    #[test]
    fn a_part_has_bounds() {
        assert!([Some(0), Some(LIMIT_MAX + 1)].map(limit_of).iter().all(Result::is_err));
        assert_eq!(limit_of(None).unwrap(), usize::from(LIMIT));
    }
}
