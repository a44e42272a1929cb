//! What the API says when it does not do what it was asked to.

use ace_api::ErrorCode;
use std::io;

use ace_api::http::ApiError;
use ace_types::{AppName, NameError, TenantName, error_chain};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::http::Refused;
use crate::records::RecordsError;

/// An [`ApiError`] and the status it goes with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{error}")]
pub struct Refusal {
    pub status: StatusCode,
    pub error: ApiError,
}

impl Refusal {
    /// `message` is one sentence for a person.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(code.status());
        let error = ApiError::new(code.as_str(), message);
        Self { status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), error }
    }

    /// Something of ours failed at `doing`. What it was goes to the log, not to the tenant, but for
    /// a disk that is full: that has one remedy.
    pub fn engine(doing: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(doing, error = %error_chain(error), "the engine failed");
        if let Some(state) = state_of_disk(error) {
            let message = format!("the engine could not {doing}: its disk {state}");
            return Self::new(ErrorCode::NoStorage, message);
        }
        let message = format!("the engine could not {doing}; its own log says why");
        Self::new(ErrorCode::EngineError, message)
    }

    /// `near` are names that `name` may have been meant for.
    pub fn no_such_app(name: &AppName, near: &[AppName]) -> Self {
        let near: Vec<String> = near.iter().map(|name| format!("\"{name}\"")).collect();
        let way_out = match near.as_slice() {
            [] => "`ace apps` lists those there are".to_owned(),
            near => format!("did you mean {}?", near.join(" or ")),
        };
        let message = format!("there is no app named \"{name}\"; {way_out}");
        Self::new(ErrorCode::NoSuchApp, message)
    }

    /// `text` stood where an app's name should.
    pub fn bad_app_name(text: &str, error: &NameError) -> Self {
        let way_out = match AppName::suggest(text) {
            Ok(name) => format!("; try \"{name}\""),
            Err(_) => String::new(),
        };
        let message = format!("that can't be an app's name: {error}{way_out}");
        Self::new(ErrorCode::BadName, message)
    }

    /// Whether it's for want of room on the engine's disk.
    pub fn is_full_disk(&self) -> bool {
        self.error.code == ErrorCode::NoStorage.as_str()
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    pub fn being_destroyed(name: &AppName) -> Self {
        let message = format!("the app \"{name}\" is being destroyed; try again when it's gone");
        Self::new(ErrorCode::BeingDestroyed, message)
    }

    pub fn name_taken(name: &AppName, tenant: &TenantName) -> Self {
        let message =
            format!("the name \"{name}\" is not free for tenant \"{tenant}\"; choose another");
        Self::new(ErrorCode::NameTaken, message)
    }

    /// No token came with the request.
    pub fn no_token() -> Self {
        let message = "show a token: Authorization: Bearer ace_…; `ace token create` makes one";
        Self::new(ErrorCode::NoToken, message)
    }

    /// What came with it is no token, or none any more.
    pub fn wrong_token() -> Self {
        let message = "that token is good for nothing: it's wrong, has expired or was revoked";
        Self::new(ErrorCode::WrongToken, message)
    }

    pub fn forbidden() -> Self {
        let message = "your token is not for that; ask whoever runs the engine for another";
        Self::new(ErrorCode::Forbidden, message)
    }

    pub fn ending() -> Self {
        let message = "the engine is about to stop; try again when it's back";
        Self::new(ErrorCode::Stopping, message)
    }
}

/// What is wrong with the disk, if that is what caused `error`.
fn state_of_disk(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|cause| match cause.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some("is full"),
        io::ErrorKind::ReadOnlyFilesystem => Some("can only be read"),
        _ => None,
    })
}

impl From<RecordsError> for Refusal {
    fn from(error: RecordsError) -> Self {
        Self::engine("read or keep its state", &error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(Refused(self.error));
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"ace\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use ace_api::BuildError;

    use super::*;

    #[test]
    fn a_full_disk_is_said_to_be_full_however_deep_the_error_lies() {
        let full = io::Error::from_raw_os_error(28);
        let error = BuildError::Engine { doing: "make a folder".into(), source: full.into() };
        let refusal = Refusal::engine("make a folder", &error);
        assert_eq!(refusal.error.message, "the engine could not make a folder: its disk is full");
    }

    #[test]
    fn any_other_cause_is_for_the_log_alone() {
        let refusal = Refusal::engine("make a folder", &io::Error::other("secret"));
        assert!(!refusal.error.message.contains("secret"));
    }
}
