//! The gateway as a whole: its listeners, threads and connections.
//!
//! Each thread has a runtime and a listener of its own on the one address, and the kernel spreads
//! connections over them. A connection stays on its thread; threads share the routes and counters.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ace_api::{Gateway, RouteTable, Traffic};
use ace_types::{InstanceId, error_chain};
use async_trait::async_trait;
use futures_util::FutureExt;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::rand::{GetRandomFlags, getrandom};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::access::Ledger;
use crate::access_log::{AccessLog, AccessLogConfig};
use crate::body::Body;
use crate::body_pace::BodyPace;
use crate::client::{ClientState, ClientStream, Deadlines};
use crate::client_end::{ClientEnd, ClientError};
use crate::connections::{Connections, Place};
use crate::forward::HoldBounds;
use crate::framing::HEAD_BYTES_MAX;
use crate::http2::{self, Http2Stream, Spoken};
use crate::meter::ROLL_EVERY;
use crate::origin::TrustedProxies;
use crate::proxy_protocol::{self, ProxyError};
use crate::routes::Routes;
use crate::service::{Client, Service};
use crate::spool::Spool;

/// How a gateway is to run. [`GatewayConfig::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Port 0 takes one that is free.
    pub address: SocketAddr,
    /// By default one a core.
    pub threads: usize,
    /// Connections of clients at once. For more, those that wait without a request have to go.
    pub connections_max: u32,
    /// Connections from one address at once. More are closed. This machine's own and those of
    /// trusted proxies are not counted.
    pub address_connections_max: u32,
    /// How long a client may take for a request's head, and between connecting and its first one.
    pub head_timeout: Duration,
    /// How long a connection stays open between requests.
    pub idle_timeout: Duration,
    /// How long a client may send nothing of a body, or take nothing of an answer; and how long an answer may
    /// have waited for it in all, before it has to have gone at 500 bytes a second.
    pub body_timeout: Duration,
    /// How long a request's body may take, before it has to have come at 500 bytes a second.
    pub body_grace: Duration,
    /// How long a request waits for an instance; before that, for the first table of routes.
    pub hold_timeout: Duration,
    /// How many requests may wait for an instance of one app; and for the first table of routes.
    pub held_max: u32,
    /// Where requests' bodies are kept until they are complete.
    pub spool: PathBuf,
    /// What all of them together may take there.
    pub spool_bytes_max: u64,
    /// Proxies in front of the gateway, whose word on clients counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections from those begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// `None`: requests are counted and not logged.
    pub access_log: Option<AccessLogConfig>,
}

/// A running gateway. [`GatewayServer::stop`] ends it with grace, dropping it without.
#[derive(Debug)]
pub struct GatewayServer {
    service: Arc<Service>,
    connections: Arc<Connections>,
    phase: watch::Sender<Phase>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// How many threads accept connections.
    accepting: watch::Sender<usize>,
    /// The sockets that the threads listen on; see [`GatewayServer::hand_over`].
    listeners: Mutex<Vec<TcpListener>>,
}

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("could not listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("could not begin the access log at {}", file.display())]
    AccessLog { file: PathBuf, source: io::Error },
    #[error("could not start a thread of the gateway")]
    Thread(#[source] io::Error),
    #[error("could not draw a random number")]
    Random(#[source] io::Error),
}

/// Where in its life the gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// No new connections; those that are end with the answer they are at.
    Closing,
    Ended,
}

/// Connections that have been made and that no thread has taken yet, for each thread.
const BACKLOG: i32 = 1024;

/// What is written to a connection and can't be sent yet, beyond which it takes no more.
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// After a connection could not be accepted, for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection without a request stays open when the gateway closes. Its client may have just sent
/// one, and is told with the answer that it was the last. (HTTP/2 has a frame that says so at once.)
const LAST_REQUEST_WITHIN: Duration = Duration::from_secs(1);

/// See [`beat`]. Few requests have less time.
const BEAT: Duration = Duration::from_secs(1);

/// Threads that wait for disks, for each thread that serves.
const DISK_THREADS: usize = 8;

impl GatewayConfig {
    /// A gateway on `address` with the default of everything else.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            connections_max: 10_000,
            address_connections_max: 1000,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            body_grace: Duration::from_secs(20),
            hold_timeout: Duration::from_secs(30),
            held_max: 1000,
            spool: std::env::temp_dir(),
            spool_bytes_max: 1 << 30,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            access_log: None,
        }
    }
}

impl GatewayServer {
    /// Listens. Requests wait, bounded, for the first [`Gateway::set_routes`].
    pub fn start(config: GatewayConfig) -> Result<Arc<Self>, StartError> {
        Self::start_with(config, Vec::new())
    }

    /// As [`Self::start`], on `listeners` of an earlier gateway, a thread for each; where there are none,
    /// on new ones.
    pub fn start_with(
        config: GatewayConfig,
        mut listeners: Vec<TcpListener>,
    ) -> Result<Arc<Self>, StartError> {
        let cant = |source| StartError::Listen { address: config.address, source };
        if listeners.is_empty() {
            listeners = listen(config.address, config.threads.max(1)).map_err(cant)?;
        }
        listeners.iter().try_for_each(bound_unsent).map_err(cant)?;
        let address = listeners[0].local_addr().map_err(cant)?;
        let again: io::Result<Vec<_>> = listeners.iter().map(TcpListener::try_clone).collect();
        let server = Arc::new(Self {
            service: Arc::new(service(&config, address)?),
            connections: Connections::new(config.connections_max, config.address_connections_max),
            phase: watch::Sender::new(Phase::Serving),
            threads: Mutex::default(),
            accepting: watch::Sender::new(0),
            listeners: Mutex::new(again.map_err(cant)?),
        });
        for (number, listener) in listeners.into_iter().enumerate() {
            server.start_thread(number, listener, &config).inspect_err(|_| {
                server.phase.send_replace(Phase::Ended);
            })?;
        }
        Ok(server)
    }

    /// Gives away the sockets that are listened on. Whoever has them keeps them open: connections made after
    /// this gateway's end wait for the next one that is started with them.
    pub fn hand_over(&self) -> Vec<TcpListener> {
        std::mem::take(&mut *self.listeners.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Accepts no more, lets requests that are under way end for as long as `within`, and then ends
    /// what is left. When it returns, nothing of the gateway runs.
    pub async fn stop(&self, within: Duration) {
        drop(self.hand_over());
        self.phase.send_replace(Phase::Closing);
        // What a thread is just accepting has to be counted before connections are.
        let mut accepting = self.accepting.subscribe();
        _ = tokio::time::timeout(within, accepting.wait_for(|threads| *threads == 0)).await;
        if !self.connections.all_gone(within).await {
            tracing::warn!(?within, "the gateway stops with requests under way");
        }
        self.phase.send_replace(Phase::Ended);
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let service = Arc::clone(&self.service);
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(|thread| _ = thread.join());
            service.ledger.finish();
        });
        _ = joined.await;
    }

    fn start_thread(
        &self,
        number: usize,
        listener: TcpListener,
        config: &GatewayConfig,
    ) -> Result<(), StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(DISK_THREADS)
            .thread_name(format!("gateway-disk-{number}"))
            .build()
            .map_err(StartError::Thread)?;
        let worker = Worker {
            service: Arc::clone(&self.service),
            connections: Arc::clone(&self.connections),
            phase: self.phase.subscribe(),
            accepting: self.accepting.clone(),
            deadlines: deadlines(config),
            proxy_protocol: config.proxy_protocol,
        };
        self.accepting.send_modify(|threads| *threads += 1);
        let thread = std::thread::Builder::new()
            .name(format!("gateway-{number}"))
            .spawn(move || {
                runtime.block_on(worker.run(listener, number == 0));
                runtime.shutdown_background(); // Ends the connections that are left.
            })
            .map_err(StartError::Thread)?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }
}

#[async_trait]
impl Gateway for GatewayServer {
    fn set_routes(&self, routes: RouteTable) {
        self.service.routes.replace(routes);
    }

    async fn drained(&self, instance: &InstanceId, deadline: Duration) -> bool {
        self.service.routes.drained(instance, deadline).await
    }

    fn traffic(&self) -> Traffic {
        let Service { routes, ledger, .. } = &*self.service;
        let now = Instant::now();
        Traffic {
            apps: routes.apps(now),
            instances: routes.instances(now),
            connections: self.connections.count(),
            unrouted: ledger.unrouted(),
            access_lines_dropped: ledger.lines_dropped(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.service.address
    }
}

/// What a thread serves with.
#[derive(Clone)]
struct Worker {
    service: Arc<Service>,
    connections: Arc<Connections>,
    phase: watch::Receiver<Phase>,
    accepting: watch::Sender<usize>,
    deadlines: Deadlines,
    proxy_protocol: bool,
}

impl Worker {
    /// Serves until the gateway has ended. One worker notes from time to time how much has come.
    async fn run(mut self, listener: TcpListener, notes: bool) {
        self.phase = own_phase(self.phase);
        if notes {
            tokio::spawn(roll(Arc::clone(&self.service)));
        }
        tokio::spawn(beat());
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                tokio::select! {
                    () = self.accept_all(listener) => {}
                    () = reached(self.phase.clone(), Phase::Closing) => {}
                }
            }
            Err(error) => tracing::error!(%error, "a thread of the gateway can't listen"),
        }
        self.accepting.send_modify(|threads| *threads -= 1);
        reached(self.phase, Phase::Ended).await;
    }

    /// Starts a task for every connection that has a place.
    async fn accept_all(&self, listener: tokio::net::TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let state = Arc::default();
                    let exempt = self.service.proxies.contains(peer.ip()) || is_near(&stream, peer);
                    match self.connections.place(peer.ip(), exempt, &state).await {
                        Some(place) => {
                            // In a box, lest it be copied over and over: it's large.
                            tokio::spawn(Box::pin(self.clone().serve(stream, peer, state, place)));
                        }
                        None => tracing::debug!(%peer, "an address has too many connections"),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection, to the end of the answers it is at when the gateway closes.
    async fn serve(
        self,
        mut stream: TcpStream,
        peer: SocketAddr,
        state: Arc<ClientState>,
        place: Place,
    ) {
        let connected = tokio::time::Instant::now();
        let address = match self.client(&mut stream, peer).await {
            Ok(address) => address,
            Err(error) => {
                let causes = error_chain(&error);
                return tracing::debug!(%peer, causes, "a proxy's connection was refused");
            }
        };
        let is_near = address == peer && is_near(&stream, peer);
        let Some(Spoken { is_http2, early }) = self.spoken(&mut stream, &state).await else {
            return tracing::debug!(client = %address, "a connection ended without a request");
        };
        let lease = Arc::new(Lease { _place: place, phase: self.phase.clone() });
        let client = Client { address, is_near, state: Arc::clone(&state), lease };
        let service = Arc::clone(&self.service);
        let handle = move |parts, end| {
            let (service, client) = (Arc::clone(&service), client.clone());
            async move { service.handle(client, parts, end).await }
        };
        let result = if is_http2 {
            let closing = reached(self.phase, Phase::Closing);
            let shared = Arc::clone(&state);
            let stream = Http2Stream::new(stream, shared, self.deadlines, early, connected);
            http2::serve(stream, &state, self.deadlines.send, closing, handle)
                .await
                .map_err(ClientError::Http2)
        } else {
            let closing = closed_to_silence(self.phase);
            let shared = Arc::clone(&state);
            let stream = ClientStream::new(stream, shared, self.deadlines, early, connected);
            serve_http1(stream, state, closing, handle).await.map_err(ClientError::Http1)
        };
        if let Err(error) = result {
            tracing::debug!(client = %address, %error, "a connection ended early");
        }
    }

    /// What the client begins to speak; `None` where it says too little in time, or has to go.
    async fn spoken(&self, stream: &mut TcpStream, state: &ClientState) -> Option<Spoken> {
        tokio::select! {
            spoken = tokio::time::timeout(self.deadlines.head, http2::sniff(stream)) => {
                spoken.ok()?.ok()
            }
            () = state.dismissed() => None,
            () = closed_to_silence(self.phase.clone()) => None,
        }
    }

    /// Where the client is that has connected as `peer`, by the word of a proxy if it is one.
    async fn client(
        &self,
        stream: &mut TcpStream,
        peer: SocketAddr,
    ) -> Result<SocketAddr, ProxyError> {
        if !self.proxy_protocol || !self.service.proxies.contains(peer.ip()) {
            return Ok(peer);
        }
        tokio::select! {
            read = tokio::time::timeout(self.deadlines.head, proxy_protocol::read(stream)) => {
                Ok(read.map_err(io::Error::from)??.unwrap_or(peer))
            }
            () = closed_to_silence(self.phase.clone()) => {
                Err(io::Error::from(io::ErrorKind::Interrupted).into())
            }
        }
    }
}

/// A client's place among the connections; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    _place: Place,
    phase: watch::Receiver<Phase>,
}

impl Lease {
    /// Whether the gateway closes.
    pub fn is_closing(&self) -> bool {
        *self.phase.borrow() >= Phase::Closing
    }

    /// Returns when the gateway closes.
    pub async fn closing(&self) {
        reached(self.phase.clone(), Phase::Closing).await;
    }
}

/// Whether `peer` is on this machine: it has connected to an address of its own.
fn is_near(stream: &TcpStream, peer: SocketAddr) -> bool {
    let peer = peer.ip().to_canonical();
    peer.is_loopback() || stream.local_addr().is_ok_and(|own| own.ip().to_canonical() == peer)
}

/// Keeps what it takes to tell the last minute. Ends with its runtime.
async fn roll(service: Arc<Service>) {
    loop {
        tokio::time::sleep(ROLL_EVERY).await;
        service.routes.roll(Instant::now());
    }
}

/// Keeps a timer that is due before those of requests. Without one the runtime would write to itself for a request's
/// timer, which comes before all others of a thread that has been idle. Ends with its runtime.
async fn beat() {
    loop {
        tokio::time::sleep(BEAT).await;
    }
}

/// Tells what `phase` tells, to one thread alone: its connections wait for that without a lock that others take.
/// Ends with its runtime.
fn own_phase(mut phase: watch::Receiver<Phase>) -> watch::Receiver<Phase> {
    let (own, receiver) = watch::channel(*phase.borrow_and_update());
    tokio::spawn(async move {
        while phase.changed().await.is_ok() {
            own.send_replace(*phase.borrow_and_update());
        }
        own.send_replace(Phase::Ended);
        own.closed().await;
    });
    receiver
}

/// Waits until the gateway is in `wanted` or beyond, or is gone.
async fn reached(mut phase: watch::Receiver<Phase>, wanted: Phase) {
    _ = phase.wait_for(|phase| *phase >= wanted).await;
}

/// Waits until the gateway closes and those have had their time who have not sent a request.
async fn closed_to_silence(phase: watch::Receiver<Phase>) {
    reached(phase, Phase::Closing).await;
    tokio::time::sleep(LAST_REQUEST_WITHIN).await;
}

/// Serves `stream` until it ends by itself, or with the answer it is at once `closing` has come.
async fn serve_http1<H, F>(
    stream: ClientStream,
    state: Arc<ClientState>,
    closing: impl Future<Output = ()>,
    handle: H,
) -> hyper::Result<()>
where
    H: Fn(Parts, ClientEnd) -> F,
    F: Future<Output = Response<Body>>,
{
    let handle = service_fn(|request: Request<Incoming>| {
        let (mut parts, body) = request.into_parts();
        let end = ClientEnd::over_http1(&mut parts, body, &state);
        handle(parts, end).map(Ok::<_, Infallible>)
    });
    let connection = http1_builder().serve_connection(TokioIo::new(stream), handle);
    let mut connection = pin!(connection.with_upgrades());
    tokio::select! {
        output = connection.as_mut() => output,
        () = closing => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// HTTP/1 as we speak it. Time is kept by [`ClientStream`].
pub fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX + 4096)
        // A client that closes its sending half has left: its request need not be answered.
        .half_close(false);
    builder
}

fn deadlines(config: &GatewayConfig) -> Deadlines {
    let send = BodyPace { between: config.body_timeout, grace: config.body_timeout };
    Deadlines { head: config.head_timeout, idle: config.idle_timeout, send }
}

fn service(config: &GatewayConfig, address: SocketAddr) -> Result<Service, StartError> {
    let mut random = [0; 8];
    getrandom(&mut random, GetRandomFlags::empty())
        .map_err(|error| StartError::Random(error.into()))?;
    let log = config.access_log.clone().map(open_log).transpose()?;
    Ok(Service {
        routes: Routes::new(),
        ledger: Arc::new(Ledger::new(u64::from_ne_bytes(random), log)),
        spool: Spool::new(config.spool.clone(), config.spool_bytes_max),
        app_requests_max: (config.connections_max / 2).max(1),
        hold: HoldBounds { time: config.hold_timeout, requests_max: config.held_max },
        body_pace: BodyPace { between: config.body_timeout, grace: config.body_grace },
        address,
        proxies: TrustedProxies::new(config.trusted_proxies.clone()),
    })
}

fn open_log(config: AccessLogConfig) -> Result<AccessLog, StartError> {
    let file = config.file.clone();
    AccessLog::open(config).map_err(|source| StartError::AccessLog { file, source })
}

/// As many listeners on `address` as there are threads, at least one.
///
/// `SO_REUSEPORT` would let another process of ours listen there too, and take a part of the
/// connections. So an ordinary socket has to get the address first; it also finds a port for port 0.
fn listen(address: SocketAddr, threads: usize) -> io::Result<Vec<TcpListener>> {
    let address = TcpListener::bind(address)?.local_addr()?;
    (0..threads).map(|_| listen_beside_others(address)).collect()
}

fn listen_beside_others(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    // Answers go out when they are complete; holding back their last part only delays them. The connections
    // that are accepted have this from here.
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Bounds what the kernel keeps for each client that does not take it: else some hundred slow readers have all
/// the memory that it gives to TCP. The connections that are accepted have the bound from here.
fn bound_unsent(listener: &TcpListener) -> io::Result<()> {
    SockRef::from(listener).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    #[tokio::test]
    async fn what_is_accepted_does_not_wait_to_send() {
        let listener = listen(([127, 0, 0, 1], 0).into(), 1).unwrap().remove(0);
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(listener.accept().await.unwrap().0.nodelay().unwrap());
    }

    #[tokio::test]
    async fn little_is_kept_of_what_a_client_does_not_take() {
        let listener = listen(([127, 0, 0, 1], 0).into(), 1).unwrap().remove(0);
        bound_unsent(&listener).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        let _client = client.connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        server.writable().await.unwrap();
        let mut taken = 0;
        while let Ok(count) = server.try_write(&[0; 64 * 1024]) {
            taken += count;
        }
        assert!(taken < 512 * 1024, "{taken}");
    }
}
