//! The programs that serve apps inside their containers.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What runs an app and speaks to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Server {
    /// For WSGI.
    #[default]
    Uwsgi,
    /// For WSGI.
    Gunicorn,
    /// For ASGI; it takes WSGI as well.
    Uvicorn,
    /// For WSGI and ASGI.
    Granian,
}

/// What `server:` of an `app.yaml` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerChoice {
    /// One of the engine's servers.
    Engine(Server),
    /// None of them: a command of the app's own serves it, or it is files alone.
    None,
}

/// What a server speaks on its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// uwsgi's own: one request a connection, answered in HTTP.
    #[default]
    Uwsgi,
    /// HTTP/1.1, with many requests a connection and upgrades to other protocols.
    Http,
}

impl Server {
    pub const ALL: [Self; 4] = [Self::Uwsgi, Self::Gunicorn, Self::Uvicorn, Self::Granian];

    /// As `app.yaml` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uwsgi => "uwsgi",
            Self::Gunicorn => "gunicorn",
            Self::Uvicorn => "uvicorn",
            Self::Granian => "granian",
        }
    }

    pub fn protocol(self) -> Protocol {
        match self {
            Self::Uwsgi => Protocol::Uwsgi,
            Self::Gunicorn | Self::Uvicorn | Self::Granian => Protocol::Http,
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
