//! Where an engine is, as `--server` and `ACE_SERVER` say it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// An engine's address: today always a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    socket: PathBuf,
}

/// A string was not an engine's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerAddressError {
    #[error("an engine is reached by its socket only: write unix:PATH")]
    Scheme,
    #[error("the socket's path is missing: write unix:PATH")]
    Empty,
}

impl ServerAddress {
    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

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

    /// Takes `unix:PATH` and `PATH`; anything else with `://` is refused.
    fn from_str(text: &str) -> Result<Self, ServerAddressError> {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.contains("://") {
            return Err(ServerAddressError::Scheme);
        }
        if path.is_empty() {
            return Err(ServerAddressError::Empty);
        }
        Ok(Self { socket: PathBuf::from(path) })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix:{}", self.socket.display())
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
    fn other_schemes_are_refused() {
        assert_eq!("http://h:1".parse::<ServerAddress>(), Err(ServerAddressError::Scheme));
        assert_eq!("unix:".parse::<ServerAddress>(), Err(ServerAddressError::Empty));
    }

    #[test]
    fn the_data_folder_is_where_the_socket_is() {
        assert_eq!(ServerAddress::data(Path::new("/d/ace.sock")), Path::new("/d"));
        assert_eq!(ServerAddress::data(Path::new("ace.sock")), Path::new("."));
    }
}
