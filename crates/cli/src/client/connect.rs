//! A connection to an engine, by its socket or over TCP.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::ClientError;
use crate::server::ServerAddress;

/// What bytes go through, whichever way it leads.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connects to `server`. A token must not pass in clear text, unless `insecure`: then a connection that
/// leaves this machine is an error, before anything has been sent.
pub async fn connect(server: &ServerAddress, insecure: bool) -> Result<Box<dyn Io>, ClientError> {
    match server {
        ServerAddress::Socket(path) => match UnixStream::connect(path).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(not_connected(server, error)),
        },
        ServerAddress::Http(authority) => {
            let stream = TcpStream::connect(authority.as_str()).await;
            let stream = stream.map_err(|error| not_connected(server, error))?;
            let peer = stream.peer_addr().map_err(|error| not_connected(server, error))?;
            if !insecure && !peer.ip().to_canonical().is_loopback() {
                return Err(ClientError::ClearText { server: server.clone() });
            }
            // Requests are small; a terminal's keys are smaller.
            stream.set_nodelay(true).map_err(|error| not_connected(server, error))?;
            Ok(Box::new(stream))
        }
    }
}

fn not_connected(server: &ServerAddress, source: io::Error) -> ClientError {
    let server = server.clone();
    match (source.kind(), &server) {
        (io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused, _) => {
            ClientError::NotRunning { server }
        }
        (io::ErrorKind::PermissionDenied, ServerAddress::Socket(_)) => {
            ClientError::Denied { server, source }
        }
        _ => ClientError::Unreachable { server, source },
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, UdpSocket};

    use tokio::net::TcpListener;

    use super::*;

    /// An address of this machine's that is not its own business alone. Nothing is sent.
    fn address_outside() -> Option<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
    }

    #[tokio::test]
    async fn a_connection_that_leaves_the_machine_has_to_be_wanted() {
        let Some(ip) = address_outside() else {
            return eprintln!("skipped: this machine has no network");
        };
        let listener = TcpListener::bind((ip, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let server = ServerAddress::Http(address);
        let refused = connect(&server, false).await;
        assert!(matches!(refused, Err(ClientError::ClearText { .. })));
        assert!(connect(&server, true).await.is_ok());
    }

    #[tokio::test]
    async fn a_connection_on_the_machine_is_fine() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        assert!(connect(&ServerAddress::Http(format!("localhost:{port}")), false).await.is_ok());
        drop(listener);
        let gone = connect(&ServerAddress::Http(format!("127.0.0.1:{port}")), false).await;
        assert!(matches!(gone, Err(ClientError::NotRunning { .. })));
    }
}
