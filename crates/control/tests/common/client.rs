//! A client of the API: a connection for each request.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;

use ace_api::CommandOutput;
use ace_api::http::{ApiError, DeployEvent};
use ace_api::run::{
    ClientFrame, EngineFrame, Frame, FrameBuffer, PROTOCOL, RunCommand, RunOutcome, RunRequest,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};

use super::{SOON, block_on};

/// A whole answer.
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Answer {
    pub fn json<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.status, StatusCode::OK, "{:?}", self.body);
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The status and code of a refusal.
    pub fn refusal(&self) -> (u16, String) {
        let error: ApiError = serde_json::from_slice(&self.body).unwrap();
        (self.status.as_u16(), error.code)
    }
}

pub fn get(socket: &Path, path: &str) -> Answer {
    send(socket, "GET", path, "")
}

/// Sends a request and waits for the end of its answer.
pub fn send(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    block_on(async {
        tokio::time::timeout(SOON, async {
            let response = begin(socket, method, path, body).await;
            let status = response.status();
            Answer { status, body: response.into_body().collect().await.unwrap().to_bytes() }
        })
        .await
        .unwrap()
    })
}

/// A whole answer, with its headers, to a request over TCP; `token` is what it shows.
pub fn send_tcp(
    address: SocketAddr,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: &str,
) -> (Answer, HeaderMap) {
    send_as(address, token, method, path, None, body)
}

/// The same, with a body that says it's of `media_type`.
pub fn send_as(
    address: SocketAddr,
    token: Option<&str>,
    method: &str,
    path: &str,
    media_type: Option<&str>,
    body: &str,
) -> (Answer, HeaderMap) {
    let mut request = Request::builder().method(method).uri(path).header("host", "ace");
    if let Some(media_type) = media_type {
        request = request.header("content-type", media_type);
    }
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
    block_on(async {
        tokio::time::timeout(SOON, async {
            let stream = TcpStream::connect(address).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (Answer { status: head.status, body }, head.headers)
        })
        .await
        .unwrap()
    })
}

/// Sends a request and waits for the head of its answer.
pub async fn begin(socket: &Path, method: &str, path: &str, body: &str) -> Response<Incoming> {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "ace");
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    sender.send_request(request.body(body).unwrap()).await.unwrap()
}

/// A command and the connection that it is bound to.
pub struct Running {
    stream: std::os::unix::net::UnixStream,
    frames: FrameBuffer,
}

/// Starts a command. Errors: the head of the refusal.
pub fn run(socket: &Path, app: &str, argv: &[&str]) -> Result<Running, String> {
    let argv = argv.iter().map(|part| (*part).to_owned()).collect();
    let request = RunRequest { command: RunCommand::Program(argv), terminal: None };
    let body = serde_json::to_string(&request).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(
        stream,
        "POST /v1/apps/{app}/run HTTP/1.1\r\nhost: ace\r\nconnection: upgrade\r\n\
         upgrade: {PROTOCOL}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    match head.starts_with("HTTP/1.1 101 ") {
        true => Ok(Running { stream, frames: FrameBuffer::default() }),
        false => Err(head),
    }
}

impl Running {
    pub fn say(&mut self, frame: &ClientFrame) {
        self.try_say(frame).unwrap();
    }

    /// Fails where the engine has closed the connection.
    pub fn try_say(&mut self, frame: &ClientFrame) -> io::Result<()> {
        self.stream.write_all(&frame.encode())
    }

    /// The next frame; `None` where the engine has closed the connection.
    pub fn hear(&mut self) -> Option<EngineFrame> {
        loop {
            if let Some(frame) = self.frames.take().unwrap() {
                return Some(frame);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes).unwrap() {
                0 => return None,
                count => self.frames.add(&bytes[..count]),
            }
        }
    }

    /// What it prints until its end, and that.
    pub fn finish(mut self) -> (String, Option<RunOutcome>) {
        let mut printed = Vec::new();
        loop {
            match self.hear() {
                Some(EngineFrame::Output(CommandOutput::Out(bytes))) => printed.extend(bytes),
                Some(EngineFrame::Outcome(outcome)) => {
                    return (String::from_utf8(printed).unwrap(), Some(outcome));
                }
                Some(_) => {}
                None => return (String::from_utf8(printed).unwrap(), None),
            }
        }
    }
}

/// Deploys and returns every event.
pub fn deploy(socket: &Path, app: &str, archive: &str) -> Vec<DeployEvent> {
    ask(socket, "POST", &format!("/v1/apps/{app}/deploys"), archive)
}

/// Asks for something that is answered with events, and returns every one.
/// What is refused before anything has begun counts as having failed.
pub fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Vec<DeployEvent> {
    let answer = send(socket, method, path, body);
    if answer.status != StatusCode::OK {
        return vec![DeployEvent::Failed { error: serde_json::from_slice(&answer.body).unwrap() }];
    }
    let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// Deploys for as long as the engine lives. Returns the release, if it was told to be live.
pub async fn try_deploy(socket: &Path, app: &str, archive: &str) -> Option<u32> {
    try_ask(socket, "POST", &format!("/v1/apps/{app}/deploys"), archive).await
}

/// Asks for something that is answered with events, for as long as the engine lives. Returns the
/// release that was told to serve.
pub async fn try_ask(socket: &Path, method: &str, path: &str, body: &str) -> Option<u32> {
    let mut response = begin(socket, method, path, body).await;
    let mut body = Vec::new();
    while let Some(Ok(frame)) = response.body_mut().frame().await {
        body.extend(frame.into_data().unwrap_or_default());
    }
    let mut lines = body.split(|byte| *byte == b'\n');
    lines.find_map(|line| match serde_json::from_slice(line) {
        Ok(DeployEvent::Done { release, .. }) => Some(release.0),
        _ => None,
    })
}

/// Reads lines of a streamed answer until one holds `text`.
pub async fn read_until(response: &mut Response<Incoming>, text: &str) -> String {
    let mut read = String::new();
    while !read.contains(text) {
        let frame = tokio::time::timeout(SOON, response.body_mut().frame()).await.unwrap();
        let data = frame.unwrap_or_else(|| panic!("{text:?} never came: {read}")).unwrap();
        read += std::str::from_utf8(&data.into_data().unwrap()).unwrap();
    }
    read
}

/// The error that a deploy ended with.
pub fn failure(events: &[DeployEvent]) -> &ApiError {
    match events.last() {
        Some(DeployEvent::Failed { error }) => error,
        other => panic!("it did not fail: {other:?}"),
    }
}

/// The release that a deploy ended with.
pub fn done(events: &[DeployEvent]) -> u32 {
    match events.last() {
        Some(DeployEvent::Done { release, .. }) => release.0,
        other => panic!("it did not succeed: {other:?}"),
    }
}

/// What was said where nothing had to move.
pub fn noted(events: &[DeployEvent]) -> &str {
    match events.last() {
        Some(DeployEvent::Noted { message, .. }) => message,
        other => panic!("it was not noted: {other:?}"),
    }
}
