//! Requests to the two apps, by way of the gateway as anybody's.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// From the request to the last byte of the answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Where an app answers.
#[derive(Debug, Clone)]
pub struct Site {
    pub gateway: SocketAddr,
    pub host: String,
}

/// A connection to a [`Site`], for one request after the other.
pub struct Connection {
    host: String,
    sender: SendRequest<Empty<Bytes>>,
}

impl Site {
    /// The site of an app with this URL. `gateway` goes before what the URL says.
    pub fn of(url: &str, gateway: Option<SocketAddr>) -> io::Result<Self> {
        let uri: http::Uri = url.parse().map_err(io::Error::other)?;
        let host = uri.host().unwrap_or_default().to_owned();
        let local = SocketAddr::from(([127, 0, 0, 1], uri.port_u16().unwrap_or(80)));
        Ok(Self { gateway: gateway.unwrap_or(local), host })
    }

    pub async fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect(self.gateway).await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // It ends with the sender.
        tokio::spawn(connection);
        Ok(Connection { host: self.host.clone(), sender })
    }

    /// The status and body of the answer to one GET.
    pub async fn get(&self, path: &str) -> io::Result<(u16, Bytes)> {
        self.connect().await?.get(path).await
    }
}

impl Connection {
    /// Errors: no whole answer within [`ANSWER_DEADLINE`].
    pub async fn get(&mut self, path: &str) -> io::Result<(u16, Bytes)> {
        let request = Request::get(path).header(header::HOST, &self.host);
        let request = request.body(Empty::new()).map_err(io::Error::other)?;
        let exchange = async {
            let answer = self.sender.send_request(request).await.map_err(io::Error::other)?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.map_err(io::Error::other)?;
            Ok((status, body.to_bytes()))
        };
        timeout(ANSWER_DEADLINE, exchange).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Takes the answer's body and throws it away, for as long as it comes.
    pub async fn drain(&mut self, path: &str) -> io::Result<()> {
        let request = Request::get(path).header(header::HOST, &self.host);
        let request = request.body(Empty::new()).map_err(io::Error::other)?;
        let answer = self.sender.send_request(request).await.map_err(io::Error::other)?;
        let mut body = answer.into_body();
        while body.frame().await.is_some_and(|frame| frame.is_ok()) {}
        Ok(())
    }
}
