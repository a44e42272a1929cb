//! HTTP/1.1 on the API's Unix socket and over TCP: connections, their bounds, and their end.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::caller::Peer;
use crate::patience::Patient;
use crate::socket::ApiSocket;
use crate::{Listeners, becomes_true};

/// Connections at once to one listener; further ones wait in its backlog. Those over TCP take nothing
/// from those on this machine.
const CONNECTIONS: usize = 256;
/// Those of one address over TCP; further ones are closed.
const OF_AN_ADDRESS: usize = 64;
/// How long a client may take to send a request's head, and keep quiet between two.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// The largest head of a request, in bytes.
const HEAD_MAX: usize = 64 << 10;
/// The pause after a connection could not be taken, for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long responses under way may take once the server is to end.
const ENDED_WITHIN: Duration = Duration::from_secs(5);

/// Answers requests until `end` turns true, and lets those under way finish, within a deadline.
pub async fn serve(listeners: Listeners, router: Router, end: watch::Receiver<bool>) {
    let socket = serve_one(listeners.socket, router.clone(), end.clone());
    let tcp = async {
        if let Some(listener) = listeners.tcp {
            serve_one(TcpDoor { listener, counts: Arc::default() }, router, end).await;
        }
    };
    tokio::join!(socket, tcp);
}

/// Where connections come in.
trait Door {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Held for as long as the connection.
    type Place: Send + 'static;

    /// The next connection; `None` where it was one too many of its kind.
    async fn accept(&mut self) -> io::Result<Option<(Self::Stream, Peer, Self::Place)>>;
}

impl Door for ApiSocket {
    type Stream = UnixStream;
    type Place = ();

    async fn accept(&mut self) -> io::Result<Option<(UnixStream, Peer, ())>> {
        Ok(Some((ApiSocket::accept(self).await?, Peer::Socket, ())))
    }
}

struct TcpDoor {
    listener: TcpListener,
    counts: Arc<Counts>,
}

impl Door for TcpDoor {
    type Stream = Patient<TcpStream>;
    type Place = Place;

    async fn accept(&mut self) -> io::Result<Option<(Patient<TcpStream>, Peer, Place)>> {
        let (stream, address) = self.listener.accept().await?;
        // Answers are small and nothing is gained by waiting for more of them.
        stream.set_nodelay(true)?;
        let address = address.ip().to_canonical();
        let place = self.counts.enter(address);
        Ok(place.map(|place| (Patient::new(stream), Peer::Address(address), place)))
    }
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Counts(Mutex<HashMap<IpAddr, usize>>);

/// One of an address's connections.
struct Place {
    counts: Arc<Counts>,
    address: IpAddr,
}

impl Counts {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= OF_AN_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Place { counts: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

async fn serve_one<D: Door>(mut door: D, router: Router, end: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&mut door, &room) => accepted,
            () = becomes_true(end.clone()) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((Some((stream, peer, place)), permit)) => {
                let connection = connection(stream, peer, router.clone(), end.clone());
                connections.spawn(async move {
                    connection.await;
                    drop((place, permit));
                });
            }
            Ok((None, _)) => {}
            Err(error) => {
                tracing::warn!(%error, "could not take a connection to the API");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(ENDED_WITHIN, all).await.is_err() {
        connections.shutdown().await;
    }
}

type Accepted<D> = Option<(<D as Door>::Stream, Peer, <D as Door>::Place)>;

/// Waits for room first, so that a client too many waits rather than being turned away.
async fn accept<D: Door>(
    door: &mut D,
    room: &Arc<Semaphore>,
) -> io::Result<(Accepted<D>, Option<OwnedSemaphorePermit>)> {
    // Nobody closes the semaphore, so there is always a permit to come.
    let permit = Arc::clone(room).acquire_owned().await.ok();
    Ok((door.accept().await?, permit))
}

async fn connection<S>(stream: S, peer: Peer, router: Router, end: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        service.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = becomes_true(end) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Clients leave when they please.
        tracing::debug!(%error, "a connection to the API ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let counts = Arc::new(Counts::default());
        let [one, other] = [1, 2].map(|n| IpAddr::from([127, 0, 0, n]));
        let mut places: Vec<Place> = (0..OF_AN_ADDRESS).filter_map(|_| counts.enter(one)).collect();
        assert_eq!(places.len(), OF_AN_ADDRESS);
        assert!(counts.enter(one).is_none() && counts.enter(other).is_some());
        places.pop();
        assert!(counts.enter(one).is_some());
        places.clear();
        assert!(counts.0.lock().is_ok_and(|counts| counts.is_empty()));
    }
}
