//! The app that a path names, and whether there is one for who asks.

use ace_api::http::Author;
use ace_types::{AppName, TenantName};
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use crate::caller::Caller;
use crate::changes::check_owner;
use crate::names;
use crate::refusal::Refusal;
use crate::rows::AppRow;
use crate::state::{Row, State};

/// An app, if there is one, as one caller sees it. Every handler below `/v1/apps/{app}` begins with it.
#[derive(Debug, Clone)]
pub struct Target {
    pub name: AppName,
    /// Whose it has to be; `None`: anybody's.
    pub tenant: Option<TenantName>,
    /// Who asks.
    pub by: Author,
}

impl Target {
    /// Its row. For a caller that may not see it there is none.
    pub fn row<'a>(&self, state: &'a State) -> Result<&'a Row<AppRow>, Refusal> {
        let is_theirs =
            |row: &&Row<AppRow>| self.tenant.as_ref().is_none_or(|tenant| row.tenant == *tenant);
        state.app(&self.name).filter(is_theirs).ok_or_else(|| self.missing(state))
    }

    /// Whether something can be made or changed under its name.
    pub fn check_name(&self, state: &State) -> Result<(), Refusal> {
        state.app(&self.name).map_or(Ok(()), |row| check_owner(row, self.tenant.as_ref()))
    }

    /// The same, of `tenant`'s alone. Errors: the caller is of another.
    pub fn of(self, tenant: Option<TenantName>) -> Result<Self, Refusal> {
        match (&self.tenant, &tenant) {
            (_, None) => Ok(self),
            (Some(own), Some(wanted)) if own != wanted => Err(Refusal::forbidden()),
            (_, Some(_)) => Ok(Self { tenant, ..self }),
        }
    }

    fn missing(&self, state: &State) -> Refusal {
        names::no_such_app(state, &self.name, self.tenant.as_ref())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let caller = parts.extensions.get::<Caller>().cloned().ok_or_else(Refusal::no_token)?;
        let by = parts.extensions.get::<Author>().cloned().ok_or_else(Refusal::no_token)?;
        let path = RawPathParams::from_request_parts(parts, state).await;
        let path = path.map_err(|error| Refusal::bad_request(error.body_text()))?;
        let text = path.iter().find(|(key, _)| *key == "app").map_or("", |(_, text)| text);
        let name = text.parse().map_err(|error| Refusal::bad_app_name(text, &error))?;
        Ok(Self { name, tenant: caller.tenant().cloned(), by })
    }
}
