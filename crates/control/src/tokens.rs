//! Tokens: what is made, what is kept of it, and how one that was shown is recognised.
//!
//! A token is `ace_ID_SECRET`. The id finds its row; the secret is 256 random bits, of which the row
//! has the SHA-256. A plain hash is enough here: it's slow hashes that protect words that people
//! choose, and nobody can try 2^256 secrets at any speed.

use ace_api::ErrorCode;
use std::fmt::Write as _;

use ace_api::http::{NewToken, TokenRole, TokenView};
use ace_store::Op;
use ace_types::TokenId;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::caller::Caller;
use crate::refusal::Refusal;
use crate::rows::TokenRow;
use crate::state::{State, create};

/// Tokens that an engine keeps, those that are no longer good included.
const TOKENS_MAX: usize = 10_000;
/// The longest that a token can be good for, in seconds: ten years.
const EXPIRES_MAX_SECONDS: u32 = 10 * 365 * 24 * 3600;
/// How far behind the time of a token's last use may be: each step is a commit.
const LAST_USED_STEP: SignedDuration = SignedDuration::from_mins(5);
const PREFIX: &str = "ace_";

/// What a token is made of.
pub struct Ingredients {
    pub id: TokenId,
    pub secret: [u8; 32],
    pub now: Timestamp,
}

/// A new token: its row, and the text that is told once.
pub fn make(asked: &NewToken, of: &Ingredients) -> Result<(TokenRow, String), Refusal> {
    let tenant = match (asked.role, &asked.tenant) {
        (TokenRole::Admin | TokenRole::Metrics, Some(_)) => return Err(of_no_tenant(asked.role)),
        (TokenRole::Admin | TokenRole::Metrics, None) => None,
        (TokenRole::Deploy | TokenRole::Read, tenant) => Some(tenant.clone().unwrap_or_default()),
    };
    let lifetime = asked.expires_in_seconds.map(lifetime).transpose()?;
    let text = format!("{PREFIX}{}_{}", of.id, hex(&of.secret));
    let row = TokenRow {
        id: of.id.clone(),
        label: asked.label.clone(),
        role: asked.role,
        tenant,
        hash: hash(&text),
        created_at: of.now,
        last_used_at: None,
        expires_at: lifetime.map(|lifetime| of.now + lifetime),
    };
    Ok((row, text))
}

/// Keeps a new token.
pub fn keep(state: &State, row: &TokenRow) -> Result<Vec<Op>, Refusal> {
    if state.tokens().count() >= TOKENS_MAX {
        let message = format!("there are {TOKENS_MAX} tokens; revoke some that nobody needs");
        return Err(Refusal::new(ErrorCode::TooManyTokens, message));
    }
    Ok(vec![create(row)])
}

/// Whoever shows `text`; `None` where that is no token that is good at `now`.
pub fn recognise<'a>(
    state: &'a State,
    text: &str,
    now: Timestamp,
) -> Option<(&'a TokenRow, Caller)> {
    let row = state.token(&id_of(text)?)?;
    let is_right: bool = hash(text).as_bytes().ct_eq(row.hash.as_bytes()).into();
    let is_good = is_right && row.expires_at.is_none_or(|end| now < end);
    is_good.then_some((row, caller(row)?))
}

/// Notes that a token was used at `now`, if that is news.
pub fn note_use(state: &State, id: &TokenId, now: Timestamp) -> Vec<Op> {
    let row = state.token(id).filter(|row| is_news(row, now));
    let noted = |row: &TokenRow| TokenRow { last_used_at: Some(now), ..row.clone() };
    row.map(|row| row.replace(&noted(row))).into_iter().collect()
}

/// Whether it's worth a commit that `row` is used at `now`.
pub fn is_news(row: &TokenRow, now: Timestamp) -> bool {
    row.last_used_at.is_none_or(|last| now.duration_since(last) >= LAST_USED_STEP)
}

/// Takes a token back.
pub fn revoke(state: &State, id: &TokenId) -> Result<Vec<Op>, Refusal> {
    let row = state.token(id).ok_or_else(|| {
        let message = format!("there is no token {id}; `ace token list` lists those there are");
        Refusal::new(ErrorCode::NoSuchToken, message)
    })?;
    Ok(vec![row.delete()])
}

pub fn view(row: &TokenRow) -> TokenView {
    TokenView {
        id: row.id.clone(),
        label: row.label.clone(),
        role: row.role,
        tenant: row.tenant.clone(),
        created_at: row.created_at,
        last_used_at: row.last_used_at,
        expires_at: row.expires_at,
    }
}

fn caller(row: &TokenRow) -> Option<Caller> {
    let member = |may_change| {
        let tenant = row.tenant.clone()?;
        Some(Caller::Member { tenant, may_change })
    };
    match row.role {
        TokenRole::Admin => Some(Caller::Operator),
        TokenRole::Metrics => Some(Caller::Collector),
        TokenRole::Deploy => member(true),
        TokenRole::Read => member(false),
    }
}

fn id_of(text: &str) -> Option<TokenId> {
    let (id, _) = text.strip_prefix(PREFIX)?.split_once('_')?;
    id.parse().ok()
}

fn lifetime(seconds: u32) -> Result<SignedDuration, Refusal> {
    match seconds {
        1..=EXPIRES_MAX_SECONDS => Ok(SignedDuration::from_secs(seconds.into())),
        _ => Err(Refusal::bad_request("a token is good for a second to ten years")),
    }
}

fn hash(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn of_no_tenant(role: TokenRole) -> Refusal {
    Refusal::bad_request(format!(
        "a token for {role} is for every tenant; for one of them: --role deploy or --role read"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Rows, at};

    fn asked(role: TokenRole) -> NewToken {
        NewToken { role, tenant: None, label: None, expires_in_seconds: Some(60) }
    }

    /// Token number `n`, and its text.
    fn make_one(state: &mut Rows, n: u8, role: TokenRole) -> (TokenId, String) {
        let id: TokenId = format!("tokenn{n:02}").parse().unwrap();
        let of = Ingredients { id: id.clone(), secret: [n; 32], now: at(0) };
        let (row, text) = make(&asked(role), &of).unwrap();
        state.commit(keep(state, &row).unwrap());
        (id, text)
    }

    #[test]
    fn a_token_is_recognised_until_it_expires_or_is_revoked() {
        let mut state = Rows::default();
        let (id, text) = make_one(&mut state, 1, TokenRole::Read);
        let recognised = recognise(&state, &text, at(59)).unwrap();
        let tenant = Default::default();
        assert_eq!(recognised.1, Caller::Member { tenant, may_change: false });
        assert_eq!(recognise(&state, &text, at(60)), None);
        let ops = revoke(&state, &id).unwrap();
        state.commit(ops);
        assert_eq!(recognise(&state, &text, at(1)), None);
        assert_eq!(revoke(&state, &id).unwrap_err().error.code, "no_such_token");
    }

    #[test]
    fn nothing_else_is_recognised() {
        let mut state = Rows::default();
        let (_, one) = make_one(&mut state, 1, TokenRole::Admin);
        let (_, two) = make_one(&mut state, 2, TokenRole::Admin);
        let mixed = format!("{}{}", &one[..13], &two[13..]);
        let hash = state.tokens().next().unwrap().hash.clone();
        let of_hash = format!("{}{hash}", &one[..13]);
        let spaced = format!("{one} ");
        let others = ["", "ace_", "ace__", "ace_tokenn01", "ace_tokenn01_", &mixed, &of_hash];
        for text in others.into_iter().chain([&*spaced, &one[4..], &one[..one.len() - 1]]) {
            assert_eq!(recognise(&state, text, at(0)), None, "{text:?}");
        }
        assert_eq!(recognise(&state, &one, at(0)).unwrap().1, Caller::Operator);
    }

    #[test]
    fn a_secret_is_not_kept() {
        let mut state = Rows::default();
        let (_, text) = make_one(&mut state, 7, TokenRole::Deploy);
        let row = serde_json::to_string(&**state.tokens().next().unwrap()).unwrap();
        assert!(!row.contains(text.rsplit('_').next().unwrap()), "{row}");
    }

    #[test]
    fn a_use_is_noted_every_five_minutes() {
        let mut state = Rows::default();
        let (id, _) = make_one(&mut state, 1, TokenRole::Deploy);
        let mut noted = |second| {
            let ops = note_use(&state, &id, at(second));
            let count = ops.len();
            state.commit(ops);
            count
        };
        assert_eq!([0, 299, 300, 301].map(&mut noted), [1, 0, 1, 0]);
    }

    #[test]
    fn an_admin_has_no_tenant_and_nobody_lives_for_ever() {
        let of = || Ingredients { id: "tokenn01".parse().unwrap(), secret: [0; 32], now: at(0) };
        let tenant = "other".parse().ok();
        assert!(make(&NewToken { tenant, ..asked(TokenRole::Admin) }, &of()).is_err());
        for seconds in [0, EXPIRES_MAX_SECONDS + 1] {
            let expires_in_seconds = Some(seconds);
            assert!(
                make(&NewToken { expires_in_seconds, ..asked(TokenRole::Read) }, &of()).is_err()
            );
        }
    }
}
