//! Names that somebody may have meant.

use ace_types::{AppName, TenantName};

use crate::refusal::Refusal;
use crate::state::State;

/// Names that are said at most.
const NEAR_MAX: usize = 3;

/// There is no app `name` for `tenant`, or for anybody; says which one of theirs may have been meant.
pub fn no_such_app(state: &State, name: &AppName, tenant: Option<&TenantName>) -> Refusal {
    let mut near: Vec<(usize, AppName)> = state
        .apps()
        .filter(|app| tenant.is_none_or(|tenant| app.tenant == *tenant))
        .map(|app| (distance(name.as_str(), app.name.as_str()), app.name.clone()))
        .filter(|(distance, other)| *distance <= 2 && *distance < other.as_str().len())
        .collect();
    near.sort();
    let near: Vec<AppName> = near.into_iter().take(NEAR_MAX).map(|(_, name)| name).collect();
    Refusal::no_such_app(name, &near)
}

/// How many letters must be added, removed or changed to make `b` of `a`; both are ASCII.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rows, deploy, name};

    #[test]
    fn distance_counts_letters() {
        for (a, b, wanted) in [("", "", 0), ("shop", "shop", 0), ("shop", "sop", 1), ("", "ab", 2)]
        {
            assert_eq!(distance(a, b), wanted, "{a} {b}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn a_typing_error_is_answered_with_the_name() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        deploy(&mut state, "blog", 2);
        let message = no_such_app(&state, &name("shpo"), None).error.message;
        assert_eq!(message, "there is no app named \"shpo\"; did you mean \"shop\"?");
        let other = "other".parse().ok();
        let message = no_such_app(&state, &name("shpo"), other.as_ref()).error.message;
        assert_eq!(message, "there is no app named \"shpo\"; `ace apps` lists those there are");
        let message = no_such_app(&state, &name("x"), None).error.message;
        assert_eq!(message, "there is no app named \"x\"; `ace apps` lists those there are");
    }
}
