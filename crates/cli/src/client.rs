//! The API's client: one connection a call, over the engine's Unix socket or, with a token, over TCP.
//!
//! Every wait has a deadline, but for lines of a stream that is followed until somebody ends it.

mod connect;
mod stream;

use std::future::Future;
use std::io;
use std::time::Duration;

use crate::server::ServerAddress;
use crate::token::Token;
use ace_api::http::{ApiError, BACKUP_FAILURE};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Frame, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stream::PatientStream;

/// What a request carries.
pub type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// An answer at once.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// An answer that comes when all of an app, or all apps, have stopped.
pub const STOP_DEADLINE: Duration = Duration::from_secs(300);
/// Documents are lists of apps and reports of checks; nothing of them is larger.
const DOCUMENT_MAX_BYTES: usize = 16 << 20;
/// What an answer of lines is.
const LINES: &str = "application/x-ndjson";
/// One event or one line of a log; what apps print is cut long before.
const LINE_MAX_BYTES: usize = 4 << 20;

/// Calls one engine.
#[derive(Debug, Clone)]
pub struct Client {
    server: ServerAddress,
    /// Shown over TCP alone.
    token: Option<Token>,
    /// Whether it may pass in clear text from machine to machine.
    insecure: bool,
}

/// Why a call had no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no engine listens at {}", where_and_way_out(server))]
    NotRunning { server: ServerAddress },
    #[error("you may not use the engine at {server}: run this as root, with sudo for instance")]
    Denied { server: ServerAddress, source: io::Error },
    #[error("the engine at {server} could not be reached")]
    Unreachable { server: ServerAddress, source: io::Error },
    #[error(
        "{server} wants a token: set ACE_TOKEN, or name its file by --token-file; on the engine's machine, \
         `ace token create` makes one"
    )]
    NoToken { server: ServerAddress },
    #[error(
        "{server} is another machine, and the token would go there in clear text: use a tunnel (ssh -L \
         8081:127.0.0.1:8081 HOST, then --server http://127.0.0.1:8081), or, where you trust the network, \
         --insecure"
    )]
    ClearText { server: ServerAddress },
    #[error("the connection to the engine broke while {doing}; `ace status` says what is now")]
    Broken { doing: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the engine gave no answer within {} s while {doing}", after.as_secs())]
    Slow { doing: &'static str, after: Duration },
    #[error("the engine's answer makes no sense: are `ace` and `ace server` of one version?")]
    Nonsense { source: serde_json::Error },
    /// What the engine said.
    #[error(transparent)]
    Refused(ApiError),
}

impl ClientError {
    /// The error's name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotRunning { .. } => "not_running",
            Self::Denied { .. } => "denied",
            Self::Unreachable { .. } => "unreachable",
            Self::NoToken { .. } => "no_token",
            Self::ClearText { .. } => "clear_text",
            Self::Broken { .. } => "broken_connection",
            Self::Slow { .. } => "no_answer",
            Self::Nonsense { .. } => "bad_answer",
            Self::Refused(_) => "refused",
        }
    }

    /// The connection broke while `doing` something.
    pub fn broken<E>(doing: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self::Broken { doing, source: source.into() }
    }
}

impl Client {
    /// `token` passes in clear text from machine to machine only where `insecure` says so.
    pub fn new(server: ServerAddress, token: Option<Token>, insecure: bool) -> Self {
        Self { server, token, insecure }
    }

    /// Whom it calls.
    pub fn server(&self) -> &ServerAddress {
        &self.server
    }

    /// Asks for the document at `path`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.document(Method::GET, path, ANSWER_DEADLINE).await
    }

    /// Asks with `method` for something that answers with one document within `deadline`.
    pub async fn document<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        let doing = "waiting for its answer";
        let request = request(method, path, empty_body())?;
        let call = async { whole(self.send(request).await?).await };
        within(deadline, doing, call).await
    }

    /// Sends `document` to `path`, which answers with one.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send_document(Method::POST, path, document).await
    }

    /// The same with `method`.
    pub async fn send_document<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        document: &impl Serialize,
    ) -> Result<T, ClientError> {
        let request = request(method, path, json_body(document)?)?;
        let call = async { whole(self.send(request).await?).await };
        within(ANSWER_DEADLINE, "waiting for its answer", call).await
    }

    /// Sends `document` to `path` and goes on in `protocol` on the same connection.
    pub async fn upgrade(
        &self,
        path: &str,
        document: &impl Serialize,
        protocol: &'static str,
    ) -> Result<Upgraded, ClientError> {
        let mut request = request(Method::POST, path, json_body(document)?)?;
        let protocol = HeaderValue::from_static(protocol);
        request.headers_mut().insert(header::UPGRADE, protocol);
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        let doing = "waiting for its answer";
        let call = async {
            let answer = self.send(request).await?;
            hyper::upgrade::on(answer).await.map_err(ClientError::broken(doing))
        };
        within(ANSWER_DEADLINE, doing, call).await
    }

    /// Sends `body` and returns the lines of the answer as they come.
    ///
    /// The head of the answer may take as long as the body takes to be sent.
    pub async fn lines(
        &self,
        method: Method,
        path: &str,
        body: RequestBody,
    ) -> Result<Lines, ClientError> {
        let mut request = request(method, path, body)?;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(LINES));
        let answer = self.send(request).await?;
        Ok(Lines { body: answer.into_body(), buffer: BytesMut::new() })
    }

    /// Asks for something that is answered with bytes, which come as they are read.
    pub async fn download(&self, method: Method, path: &str) -> Result<Download, ClientError> {
        let mut request = request(method, path, empty_body())?;
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        let doing = "waiting for its answer";
        let answer = within(ANSWER_DEADLINE, doing, self.send(request)).await?;
        Ok(Download { body: answer.into_body() })
    }

    /// Sends a request on a connection of its own; an answer of 400 and above is an error.
    async fn send(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, ClientError> {
        let request = self.addressed(request)?;
        let connect = connect::connect(&self.server, self.insecure);
        let stream = within(CONNECT_DEADLINE, "connecting", connect).await?;
        let doing = "sending a request";
        let stream = TokioIo::new(PatientStream(stream));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
            .await
            .map_err(ClientError::broken(doing))?;
        // Ends with the answer's body, or when it is dropped. Its errors reach us through the body.
        tokio::spawn(connection.with_upgrades());
        let answer = sender.send_request(request).await.map_err(ClientError::broken(doing))?;
        match answer.status() {
            status if status.as_u16() < 400 => Ok(answer),
            status => Err(refusal(status, answer).await),
        }
    }

    /// `request` with what the way to the engine asks for.
    fn addressed(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<Request<RequestBody>, ClientError> {
        let host = match &self.server {
            ServerAddress::Socket(_) => "ace",
            ServerAddress::Http(authority) => {
                let server = || self.server.clone();
                let token = self.token.as_ref();
                let token = token.ok_or_else(|| ClientError::NoToken { server: server() })?;
                request.headers_mut().insert(header::AUTHORIZATION, token.header());
                authority
            }
        };
        let host = HeaderValue::from_str(host).map_err(ClientError::broken("writing a request"))?;
        request.headers_mut().insert(header::HOST, host);
        Ok(request)
    }
}

/// An answer of bytes, read as they come.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
}

impl Download {
    /// The next bytes; `None` at the end.
    ///
    /// Errors: also where the engine says at the end that it has failed.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let doing = "reading its answer";
        let next = async {
            while let Some(frame) = self.body.frame().await {
                match frame.map_err(ClientError::broken(doing))?.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(frame) => end_well(&frame)?,
                }
            }
            Ok(None)
        };
        within(STOP_DEADLINE, doing, next).await
    }
}

/// Errors: what the trailers in `frame` tell of, if that is a failure.
fn end_well(frame: &Frame<Bytes>) -> Result<(), ClientError> {
    let Some(reason) = frame.trailers_ref().and_then(|trailers| trailers.get(BACKUP_FAILURE))
    else {
        return Ok(());
    };
    let reason = String::from_utf8_lossy(reason.as_bytes());
    let message = format!("no backup was made: {reason}");
    Err(ClientError::Refused(ApiError::new("backup_failed", message)))
}

/// An answer of one JSON document a line, read as it comes.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    /// The next document; `None` at the end. A line that is cut short is an error.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        let doing = "reading its answer";
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let document = serde_json::from_slice(&line);
                return document.map(Some).map_err(|source| ClientError::Nonsense { source });
            }
            if self.buffer.len() > LINE_MAX_BYTES {
                return Err(ClientError::broken(doing)("a line of its answer is too long"));
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(ClientError::broken(doing))?;
                    self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(ClientError::broken(doing)("it ends within a line")),
            }
        }
    }
}

fn where_and_way_out(server: &ServerAddress) -> String {
    match server {
        ServerAddress::Socket(path) => {
            let path = path.display();
            format!("{path}: start one with `ace server`, or name its socket with --server")
        }
        ServerAddress::Http(authority) => {
            format!("{server}: `ace server --api {authority}` would, on that machine")
        }
    }
}

/// The document that an answer is.
async fn whole<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T, ClientError> {
    let body = Limited::new(answer.into_body(), DOCUMENT_MAX_BYTES).collect().await;
    let bytes = body.map_err(ClientError::broken("reading its answer"))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|source| ClientError::Nonsense { source })
}

fn request(
    method: Method,
    path: &str,
    body: RequestBody,
) -> Result<Request<RequestBody>, ClientError> {
    let request = Request::builder().method(method).uri(path);
    request.body(body).map_err(ClientError::broken("writing a request"))
}

/// A body that is `document`.
pub fn json_body(document: &impl Serialize) -> Result<RequestBody, ClientError> {
    let bytes = serde_json::to_vec(document).map_err(ClientError::broken("writing a request"))?;
    Ok(Full::from(bytes).map_err(|never| match never {}).boxed_unsync())
}

/// A body without content.
pub fn empty_body() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Waits for `call`, at most for `deadline`.
pub async fn within<T>(
    deadline: Duration,
    doing: &'static str,
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(deadline, call)
        .await
        .unwrap_or(Err(ClientError::Slow { doing, after: deadline }))
}

/// What an answer with an error's status says.
async fn refusal(status: StatusCode, answer: Response<Incoming>) -> ClientError {
    let read = Limited::new(answer.into_body(), DOCUMENT_MAX_BYTES).collect();
    let read = tokio::time::timeout(ANSWER_DEADLINE, read).await;
    let bytes = read.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    ClientError::Refused(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
        ApiError::new("bad_answer", format!("the engine answered {status} and did not say why"))
    }))
}

#[cfg(test)]
pub mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// A client of the engine at `socket`.
    fn at(socket: std::path::PathBuf) -> Client {
        Client::new(ServerAddress::Socket(socket), None, false)
    }

    /// A client of an engine that answers one request with `answer` and closes.
    pub fn client_of(answer: impl Into<String>) -> (Client, tempfile::TempDir) {
        let answer = answer.into();
        let folder = tempfile::tempdir().expect("a temp folder");
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).expect("a socket");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a caller");
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            stream.write_all(answer.as_bytes()).await.expect("an open connection");
        });
        (at(socket), folder)
    }

    #[tokio::test]
    async fn a_missing_socket_means_no_engine() {
        let error = at("/nonexistent/ace.sock".into()).get::<u8>("/v1/apps").await;
        let text = error.unwrap_err().to_string();
        assert!(text.contains("/nonexistent/ace.sock") && text.contains("`ace server`"), "{text}");
    }

    #[tokio::test]
    async fn nothing_is_sent_over_tcp_without_a_token() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let client = Client::new(ServerAddress::Http(address), None, false);
        let error = client.get::<u8>("/v1/apps").await.unwrap_err();
        assert!(matches!(error, ClientError::NoToken { .. }), "{error}");
    }

    #[tokio::test]
    async fn an_error_of_the_api_comes_back_as_it_was_sent() {
        let (client, _folder) = client_of(
            "HTTP/1.1 404 Not Found\r\ncontent-length: 51\r\n\r\n\
             {\"code\":\"no_such_app\",\"message\":\"no\",\"detail\":null}",
        );
        match client.get::<u8>("/v1/apps/x").await {
            Err(ClientError::Refused(error)) => assert_eq!(error.code, "no_such_app"),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn lines_are_documents_wherever_the_chunks_end() {
        let (client, _folder) = client_of(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n12\r\n4\r\n\n3\n4\r\n1\r\n\n\r\n0\r\n\r\n",
        );
        let mut lines = client.lines(Method::GET, "/", empty_body()).await.unwrap();
        let mut seen = Vec::new();
        while let Some(number) = lines.next::<u8>().await.unwrap() {
            seen.push(number);
        }
        assert_eq!(seen, [12, 3, 4]);
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_is_an_error() {
        let (client, _folder) =
            client_of("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n1\n\r\n");
        let mut lines = client.lines(Method::GET, "/", empty_body()).await.unwrap();
        assert_eq!(lines.next::<u8>().await.unwrap(), Some(1));
        assert!(matches!(lines.next::<u8>().await, Err(ClientError::Broken { .. })));
    }

    #[tokio::test]
    async fn a_refusal_is_heard_though_the_engine_has_not_read_the_body() {
        for _ in 0..50 {
            let (client, _folder) = client_of(
                "HTTP/1.1 413 Payload Too Large\r\nconnection: close\r\ncontent-length: 52\r\n\r\n\
                 {\"code\":\"too_large\",\"message\":\"no\",\"detail\":null}   ",
            );
            let body = http_body_util::Full::new(Bytes::from(vec![0; 8 << 20]));
            let body = body.map_err(|never| match never {}).boxed_unsync();
            match client.lines(Method::POST, "/", body).await {
                Err(ClientError::Refused(error)) => assert_eq!(error.code, "too_large"),
                other => panic!("{other:?}"),
            }
        }
    }
}
