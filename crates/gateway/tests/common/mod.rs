//! A gateway, a raw HTTP client and a fake app server that speaks uwsgi, for the tests of this crate.

#![allow(dead_code, clippy::unwrap_used)] // Each test program uses a part.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ace_api::{Backend, Gateway, InstanceSocket, Route, RouteTable};
use ace_gateway::{GatewayConfig, GatewayServer};
use ace_types::{InstanceId, Limits, Protocol, ReleaseNumber, StaticRule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway on a free port, and a folder of its own.
pub struct Bench {
    pub gateway: Arc<GatewayServer>,
    pub folder: tempfile::TempDir,
    /// How long the apps of its routes may be silent.
    app_timeout: Duration,
}

/// A request as an app sees it: its variables, and the stream its body comes on.
pub struct AppRequest {
    pub variables: HashMap<String, String>,
    pub stream: UnixStream,
}

/// A running fake app; ends when dropped.
pub struct FakeApp {
    pub socket: InstanceSocket,
    /// Requests that it has taken.
    pub taken: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// A response as it came over the wire, chunks joined.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    /// Names in lowercase.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A connection to the gateway.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// No deadline that a busy machine could miss.
pub fn config() -> GatewayConfig {
    GatewayConfig {
        threads: 2,
        head_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        body_timeout: PATIENCE,
        hold_timeout: PATIENCE,
        ..GatewayConfig::new("127.0.0.1:0".parse().unwrap())
    }
}

/// For what a client or an app does too late.
pub fn impatient() -> GatewayConfig {
    GatewayConfig {
        head_timeout: Duration::from_millis(500),
        idle_timeout: Duration::from_millis(1500),
        body_timeout: Duration::from_millis(500),
        hold_timeout: Duration::from_millis(500),
        ..config()
    }
}

/// Waits until `holds`.
pub async fn eventually(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("it came about");
}

impl Bench {
    pub fn start() -> Self {
        Self::with(config())
    }

    pub fn with(config: GatewayConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { gateway: GatewayServer::start(config).unwrap(), folder, app_timeout: PATIENCE }
    }

    /// One with short deadlines, for clients and apps.
    pub fn impatient() -> Self {
        Self { app_timeout: Duration::from_millis(500), ..Self::with(impatient()) }
    }

    /// Starts an app that lets `answer` answer every request.
    pub fn app<F, A>(&self, name: &str, answer: A) -> FakeApp
    where
        A: Fn(AppRequest) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        FakeApp::start(&self.folder.path().join(name), name, answer)
    }

    /// The route of `shop.localhost` to `apps`.
    pub fn route(&self, apps: &[&FakeApp]) -> Route {
        Route {
            hosts: vec!["shop.localhost".parse().unwrap()],
            wildcards: Vec::new(),
            app: "shop".parse().unwrap(),
            release: ReleaseNumber(1),
            code: self.code(),
            statics: Vec::new(),
            rewrites: Vec::new(),
            tries: Vec::new(),
            errors: Vec::new(),
            backend: Backend::Instances(apps.iter().map(|app| app.socket.clone()).collect()),
            limits: Limits { timeout: self.app_timeout, ..Limits::for_app() },
        }
    }

    pub fn set_route(&self, route: Route) {
        self.gateway.set_routes(RouteTable { routes: vec![route] });
    }

    /// Where the release's files are.
    pub fn code(&self) -> PathBuf {
        let code = self.folder.path().join("code");
        std::fs::create_dir_all(&code).unwrap();
        code
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.code().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.gateway.address()).await
    }

    /// Sends one request on a connection of its own and receives its answer.
    pub async fn ask(&self, request: &str) -> Answer {
        let mut client = self.client().await;
        client.send(request).await;
        client.receive(request.starts_with("HEAD ")).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")).await
    }
}

pub fn rule(path: &str, files: &str) -> StaticRule {
    StaticRule { path: path.to_owned(), files: files.to_owned(), expire: None }
}

pub fn instance_id(name: &str) -> InstanceId {
    InstanceId::try_from(format!("{name:a<0$}", InstanceId::LENGTH)).unwrap()
}

impl FakeApp {
    pub fn start<F, A>(path: &Path, name: &str, answer: A) -> Self
    where
        A: Fn(AppRequest) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = UnixListener::bind(path).unwrap();
        let taken: Arc<AtomicUsize> = Arc::default();
        let counter = Arc::clone(&taken);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let request = AppRequest::receive(stream).await;
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(request));
            }
        });
        let socket = InstanceSocket {
            id: instance_id(name),
            socket: path.to_owned(),
            protocol: Protocol::Uwsgi,
        };
        Self { socket, taken, task }
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }
}

impl Drop for FakeApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl AppRequest {
    async fn receive(mut stream: UnixStream) -> Self {
        let mut header = [0; 4];
        stream.read_exact(&mut header).await.unwrap();
        let mut packet = vec![0; usize::from(u16::from_le_bytes([header[1], header[2]]))];
        stream.read_exact(&mut packet).await.unwrap();
        let mut rest = packet.as_slice();
        let mut text = || {
            let (length, tail) = rest.split_at_checked(2)?;
            let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
            let (text, tail) = tail.split_at(length);
            rest = tail;
            Some(String::from_utf8_lossy(text).into_owned())
        };
        let mut variables = HashMap::new();
        while let Some(name) = text() {
            variables.insert(name, text().unwrap());
        }
        Self { variables, stream }
    }

    pub fn get(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    /// Reads the body, as long as it is announced to be.
    pub async fn body(&mut self) -> Vec<u8> {
        let length: u64 = self.get("CONTENT_LENGTH").parse().unwrap_or(0);
        let mut body = Vec::new();
        (&mut self.stream).take(length).read_to_end(&mut body).await.unwrap();
        body
    }

    pub async fn say(mut self, text: impl AsRef<[u8]>) {
        // The gateway may have left, which some tests are about.
        _ = self.stream.write_all(text.as_ref()).await;
    }

    /// As uWSGI does, in the version that the request has.
    pub async fn ok(self, body: &str) {
        let version = self.get("SERVER_PROTOCOL").to_owned();
        let head = format!("{version} 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        self.say(head + body).await;
    }
}

impl Answer {
    /// The one value of a header; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        let mut values = self.headers.iter().filter(|(key, _)| key == name);
        let first = values.next().map_or("", |(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} comes twice");
        first
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Receives one answer; its body too, unless it answers a HEAD.
    pub async fn receive(&mut self, to_head: bool) -> Answer {
        let answer = timeout(PATIENCE, self.try_receive(to_head)).await.expect("an answer in time");
        answer.expect("a whole answer")
    }

    /// As [`Self::receive`]; `None` where the connection ends first.
    pub async fn try_receive(&mut self, to_head: bool) -> Option<Answer> {
        let end = loop {
            match self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.fill().await?,
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let mut status_line = lines.next().unwrap().splitn(3, ' ').skip(1);
        let status = status_line.next().unwrap().parse().unwrap();
        let reason = status_line.next().unwrap_or_default().to_owned();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Answer { status, reason, headers, body: Vec::new() };
        if !to_head && !matches!(status, 103 | 204 | 304) {
            answer.body = self.receive_body(&answer).await?;
        }
        Some(answer)
    }

    async fn receive_body(&mut self, answer: &Answer) -> Option<Vec<u8>> {
        if answer.header("transfer-encoding") == "chunked" {
            return self.receive_chunks().await;
        }
        match answer.header("content-length").parse() {
            Ok(length) => self.take(length).await,
            Err(_) => {
                while self.fill().await.is_some() {}
                Some(std::mem::take(&mut self.buffer))
            }
        }
    }

    async fn receive_chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                match self.buffer.iter().position(|byte| *byte == b'\n') {
                    Some(end) => break self.buffer.drain(..=end).collect::<Vec<_>>(),
                    None => self.fill().await?,
                }
            };
            let size =
                usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            let chunk = self.take(size + 2).await?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Some(body);
            }
        }
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Some(self.buffer.drain(..length).collect())
    }

    /// Whether the gateway closes the connection without another byte.
    pub async fn is_closed(&mut self) -> bool {
        timeout(PATIENCE, self.fill()).await.expect("news in time").is_none()
    }

    async fn fill(&mut self) -> Option<()> {
        let mut part = vec![0; 65536];
        let count = self.stream.read(&mut part).await.ok().filter(|count| *count > 0)?;
        self.buffer.extend_from_slice(&part[..count]);
        Some(())
    }
}
