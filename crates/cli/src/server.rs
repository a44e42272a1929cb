//! Where an engine is, as `--server` and `ACE_SERVER` say it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use http::uri::Authority;

/// An engine's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// Its socket, for root on its machine.
    Socket(PathBuf),
    /// `HOST:PORT`, for whoever has a token.
    Http(String),
}

/// A string was not an engine's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerAddressError {
    #[error("an engine is reached by unix:PATH or http://HOST:PORT")]
    Scheme,
    #[error(
        "the engine does not speak TLS itself yet: name what decrypts for it, as http://HOST:PORT, or \
         a tunnel (ssh -L 8081:127.0.0.1:8081 HOST, then http://127.0.0.1:8081)"
    )]
    Tls,
    #[error("the socket's path is missing: write unix:PATH")]
    Empty,
    #[error("write http://HOST:PORT, with a port and nothing behind it")]
    Authority,
}

impl ServerAddress {
    /// The data folder of the engine that listens at `DATA/ace.sock`.
    pub fn data(socket: &Path) -> &Path {
        match socket.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }
}

impl FromStr for ServerAddress {
    type Err = ServerAddressError;

    /// Takes `unix:PATH`, `PATH` and `http://HOST:PORT`; anything else with `://` is refused.
    fn from_str(text: &str) -> Result<Self, ServerAddressError> {
        if let Some(authority) = text.strip_prefix("http://") {
            return Ok(Self::Http(authority_of(authority)?));
        }
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.starts_with("https://") {
            return Err(ServerAddressError::Tls);
        }
        if path.contains("://") {
            return Err(ServerAddressError::Scheme);
        }
        if path.is_empty() {
            return Err(ServerAddressError::Empty);
        }
        Ok(Self::Socket(PathBuf::from(path)))
    }
}

/// `HOST:PORT`, and no more than a slash behind it.
fn authority_of(text: &str) -> Result<String, ServerAddressError> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let authority: Authority = text.parse().map_err(|_| ServerAddressError::Authority)?;
    let fits =
        authority.port_u16().is_some() && !authority.host().is_empty() && !text.contains('@');
    if fits { Ok(text.to_owned()) } else { Err(ServerAddressError::Authority) }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Http(authority) => write!(f, "http://{authority}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_socket() {
        let bare: ServerAddress = "/run/x.sock".parse().unwrap();
        assert_eq!("unix:/run/x.sock".parse(), Ok(bare.clone()));
        assert_eq!(bare.to_string(), "unix:/run/x.sock");
    }

    #[test]
    fn a_url_is_a_host_and_a_port() {
        for url in ["http://h:1", "http://h:1/", "http://[::1]:8081"] {
            let address: ServerAddress = url.parse().unwrap();
            assert_eq!(address.to_string(), url.trim_end_matches('/'));
        }
        for url in ["http://h", "http://", "http://:1", "http://h:1/v1", "http://a@h:1"] {
            assert_eq!(url.parse::<ServerAddress>(), Err(ServerAddressError::Authority), "{url}");
        }
    }

    #[test]
    fn other_schemes_are_refused() {
        assert_eq!("tcp://h:1".parse::<ServerAddress>(), Err(ServerAddressError::Scheme));
        assert_eq!("https://h:1".parse::<ServerAddress>(), Err(ServerAddressError::Tls));
        assert_eq!("unix:".parse::<ServerAddress>(), Err(ServerAddressError::Empty));
    }

    #[test]
    fn the_data_folder_is_where_the_socket_is() {
        assert_eq!(ServerAddress::data(Path::new("/d/ace.sock")), Path::new("/d"));
        assert_eq!(ServerAddress::data(Path::new("ace.sock")), Path::new("."));
    }
}
