//! Fetches a file over HTTP and TLS. For the engine's own tools; tenants' packages are fetched in
//! their build containers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::uri::{Authority, Scheme};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const CONNECT_DEADLINE: Duration = Duration::from_secs(15);
/// From the request to the last byte of the answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(180);
const REDIRECTS_MAX: usize = 5;

/// An HTTP client that trusts the system's certificate authorities, or those of `SSL_CERT_FILE`.
pub struct Client {
    tls: TlsConnector,
}

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0:?} is no address that can be fetched")]
    Address(String),
    #[error("could not connect to {host}")]
    Connect { host: String, source: io::Error },
    #[error("the connection to {host} failed")]
    Http { host: String, source: hyper::Error },
    #[error("{host} did not answer in time")]
    Deadline { host: String },
    #[error("{uri} answered {status}")]
    Status { uri: String, status: StatusCode },
    #[error("{uri} is larger than {max} bytes")]
    Size { uri: String, max: usize },
    #[error("{uri} leads to too many other addresses")]
    Redirects { uri: String },
}

impl Client {
    /// Reads the certificate authorities from disk.
    pub fn new() -> Self {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a certificate authority could not be read");
        }
        roots.add_parsable_certificates(found.certs);
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { tls: TlsConnector::from(Arc::new(config)) }
    }

    /// The body that `uri` answers a GET with, of at most `max` bytes. Follows redirects, but not
    /// from `https` to `http`.
    pub async fn get(&self, uri: &Uri, accept: &str, max: usize) -> Result<Bytes, FetchError> {
        let mut target = uri.clone();
        for _ in 0..=REDIRECTS_MAX {
            let deadline = || FetchError::Deadline { host: target.host().unwrap_or("").to_owned() };
            let answer = timeout(ANSWER_DEADLINE, self.get_once(&target, accept, max));
            match answer.await.map_err(|_| deadline())?? {
                Answer::Body(body) => return Ok(body),
                Answer::Redirect(reference) => {
                    let next = resolve(&target, &reference)?;
                    if target.scheme() == Some(&Scheme::HTTPS)
                        && next.scheme() != Some(&Scheme::HTTPS)
                    {
                        return Err(FetchError::Address(reference));
                    }
                    target = next;
                }
            }
        }
        Err(FetchError::Redirects { uri: uri.to_string() })
    }

    async fn get_once(&self, uri: &Uri, accept: &str, max: usize) -> Result<Answer, FetchError> {
        let unfit = || FetchError::Address(uri.to_string());
        let host = uri.host().ok_or_else(unfit)?.to_owned();
        let (tls, default_port) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err(unfit()),
        };
        let http = |source| FetchError::Http { host: host.clone(), source };
        let stream = self.connect(&host, uri.port_u16().unwrap_or(default_port), tls).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        // It ends with the sender, or with the answer's last byte.
        tokio::spawn(connection);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(header::HOST, uri.authority().map_or("", Authority::as_str))
            .header(header::ACCEPT, accept)
            .header(header::USER_AGENT, concat!("ace/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|_| unfit())?;
        let answer = sender.send_request(request).await.map_err(http)?;
        let status = answer.status();
        let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        match (status, location) {
            (StatusCode::OK, _) => read_body(answer.into_body(), uri, max).await.map(Answer::Body),
            (status, Some(location)) if status.is_redirection() => {
                Ok(Answer::Redirect(location.to_owned()))
            }
            (status, _) => Err(FetchError::Status { uri: uri.to_string(), status }),
        }
    }

    async fn connect(
        &self,
        host: &str,
        port: u16,
        tls: bool,
    ) -> Result<Box<dyn Stream>, FetchError> {
        let failed = |source| FetchError::Connect { host: host.to_owned(), source };
        let connected = async {
            let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
            if !tls {
                return Ok::<Box<dyn Stream>, io::Error>(Box::new(stream));
            }
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            Ok(Box::new(self.tls.connect(name, stream).await?))
        };
        timeout(CONNECT_DEADLINE, connected)
            .await
            .map_err(|_| FetchError::Deadline { host: host.to_owned() })?
            .map_err(failed)
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

enum Answer {
    Body(Bytes),
    Redirect(String),
}

/// What `reference`, found in the document at `base`, names.
///
/// Understands what indexes use: full addresses, and paths with or without a leading `/`.
/// Source: <https://www.rfc-editor.org/rfc/rfc3986#section-5>.
pub fn resolve(base: &Uri, reference: &str) -> Result<Uri, FetchError> {
    let unfit = || FetchError::Address(reference.to_owned());
    let reference = reference.split('#').next().unwrap_or_default();
    if reference.contains("://") {
        return reference.parse().map_err(|_| unfit());
    }
    let origin = format!(
        "{}://{}",
        base.scheme_str().ok_or_else(unfit)?,
        base.authority().ok_or_else(unfit)?
    );
    if reference.starts_with('/') {
        return format!("{origin}{reference}").parse().map_err(|_| unfit());
    }
    let mut segments: Vec<&str> = base.path().split('/').collect();
    segments.pop();
    for segment in reference.split('/') {
        match segment {
            "." => {}
            ".." if segments.len() > 1 => drop(segments.pop()),
            ".." => return Err(unfit()),
            segment => segments.push(segment),
        }
    }
    format!("{origin}{}", segments.join("/")).parse().map_err(|_| unfit())
}

async fn read_body(mut body: Incoming, uri: &Uri, max: usize) -> Result<Bytes, FetchError> {
    let mut content = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let host = || uri.host().unwrap_or_default().to_owned();
        let frame = frame.map_err(|source| FetchError::Http { host: host(), source })?;
        let Ok(data) = frame.into_data() else { continue };
        if content.len() + data.len() > max {
            return Err(FetchError::Size { uri: uri.to_string(), max });
        }
        content.extend_from_slice(&data);
    }
    Ok(content.freeze())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that gives `answers` one after the other, and where it listens.
    async fn serve(answers: Vec<String>) -> Uri {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        format!("http://{address}/simple/uv/").parse().unwrap()
    }

    fn answer(head: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    #[tokio::test]
    async fn a_body_is_fetched_through_redirects() {
        let answers = vec![answer("302 Found\r\nlocation: ../b", ""), answer("200 OK", "hello")];
        let uri = serve(answers).await;
        assert_eq!(Client::new().get(&uri, "*/*", 5).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn what_is_too_large_or_missing_is_an_error() {
        let client = Client::new();
        let uri = serve(vec![answer("200 OK", "hello"), answer("404 Not Found", "")]).await;
        assert!(matches!(client.get(&uri, "*/*", 4).await, Err(FetchError::Size { .. })));
        assert!(matches!(client.get(&uri, "*/*", 4).await, Err(FetchError::Status { .. })));
        let circle = serve(vec![answer("302 Found\r\nlocation: /", ""); 9]).await;
        assert!(matches!(client.get(&circle, "*/*", 4).await, Err(FetchError::Redirects { .. })));
    }

    #[test]
    fn references_are_read_as_seen_from_their_document() {
        let base: Uri = "https://index.test/simple/uv/".parse().unwrap();
        let resolved = |reference| resolve(&base, reference).unwrap().to_string();
        assert_eq!(resolved("https://files.test/a.whl#sha256=1"), "https://files.test/a.whl");
        assert_eq!(resolved("/a.whl"), "https://index.test/a.whl");
        assert_eq!(resolved("../../a.whl"), "https://index.test/a.whl");
        assert_eq!(resolved("a.whl"), "https://index.test/simple/uv/a.whl");
        assert!(resolve(&base, "../../../../a").is_err());
    }
}
