//! Takes a request to an instance of its app, and starts the answer.
//!
//! A request that finds no instance waits, bounded in number and time: for the next table, or, where
//! instances are but take no connection, for a moment. Until an instance has taken the connection
//! nothing has been sent, so any request may try the next one. After that, one that the app can't
//! have seen is sent again, once; never one of whose body anything has been sent.
//!
//! Over HTTP, requests that are safe to repeat share connections with others. If such a connection
//! turns out to have ended, they are sent again on one of their own, like any other request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ace_types::Protocol;
use ace_upstream::{Connection, HeadError, ReceiveError, ResponseHead, Tunnel};
use http::{Response, StatusCode};
use hyper::ext::ReasonPhrase;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};

use crate::app_head::{AppHead, is_upgrade};
use crate::body::{AppContent, AppSource, Content, Pump};
use crate::failure::Failure;
use crate::headers;
use crate::interim::InterimSink;
use crate::request_body::{PumpError, RequestBody};
use crate::routes::{AppRoute, HoldPermit, Instance, InstancePermit, Routes, Visit, WorkPermit};
use crate::spool::AppSpool;

/// A request, ready to be sent.
pub struct Outgoing<'a> {
    pub head: AppHead<'a>,
    pub body: Option<RequestBody>,
    /// See [`ace_types::Limits::timeout`].
    pub timeout: Duration,
    /// Where an answer waits for a slow client.
    pub spool: AppSpool,
    /// Where what comes before the answer goes.
    pub interim: InterimSink,
    /// The request is one of those that the app is at work on, until it has been answered.
    pub work: Option<WorkPermit>,
}

/// An instance's answer.
pub struct Answer {
    pub response: Response<Content>,
    /// The app has agreed to an upgrade, and this is what the connection becomes.
    pub tunnel: Option<AppTunnel>,
    pub visit: Visit,
}

/// A connection to an app after an upgrade, and the request that it goes on as.
pub type AppTunnel = (Tunnel, InstancePermit);

/// What came of a request that was to be taken to an instance.
pub enum Forwarded<'a> {
    Answer(Answer),
    /// By now the app is files alone, along this route; the request has not been sent.
    Files {
        route: Arc<AppRoute>,
        head: AppHead<'a>,
    },
}

/// How long and how many may wait for an instance.
#[derive(Debug, Clone, Copy)]
pub struct HoldBounds {
    pub time: Duration,
    /// For one app; and in all, for the first table.
    pub requests_max: u32,
}

/// Between two tries to connect to instances that take no connection; doubles up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// Waits until there is a table of routes, be it empty: an engine that has just started does not
/// know yet what it runs, and its apps may run all the while.
pub async fn await_routes(routes: &Routes, bounds: HoldBounds) -> Result<(), Failure> {
    let mut changes = routes.changes(); // Before looking, lest the table come in between.
    if !routes.table().is_none_yet() {
        return Ok(());
    }
    let held = bounds.requests_max;
    let _permit = routes.hold(held).ok_or(Failure::Held { held })?;
    let waited = bounds.time;
    _ = timeout(waited, changes.changed()).await.map_err(|_| Failure::NoRoutes { waited })?;
    Ok(())
}

/// Forwards `request` to an instance of the app that it is for: along `route`, or where that is no longer the
/// way, along what `routes` have instead. Where that instance fails it, `failed` is left saying which it was.
pub async fn forward<'a>(
    routes: &Routes,
    route: &Arc<AppRoute>,
    mut request: Outgoing<'a>,
    bounds: HoldBounds,
    failed: &mut Option<Visit>,
) -> Result<Forwarded<'a>, Failure> {
    let mut way = Way { routes, found: Some(Arc::clone(route)), hold: None, bounds };
    let bodiless = request.body.is_none();
    let mut repeatable = true;
    loop {
        let manner = request.manner(repeatable);
        let Ready { connection, unsent, permit } = match way.connect(&request.head, manner).await? {
            Found::Instance(ready) => ready,
            Found::Files(route) => return Ok(Forwarded::Files { route, head: request.head }),
        };
        let visit = permit.visit();
        match request.exchange(connection, &unsent, permit).await {
            Ok((response, tunnel)) => {
                return Ok(Forwarded::Answer(Answer { response, tunnel, visit }));
            }
            Err(failure) if repeatable && is_unseen(&failure, bodiless) => repeatable = false,
            Err(failure) => {
                *failed = Some(visit);
                return Err(failure);
            }
        }
    }
}

/// How a connection to a server that speaks HTTP may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// By other requests before and after.
    Shared,
    /// By other requests after.
    FreshAndKept,
    /// By this one request.
    Single,
}

/// A connection to an instance, and what is still to be sent of the request's head.
struct Ready {
    connection: Connection,
    unsent: Vec<u8>,
    permit: InstancePermit,
}

/// Where a route leads.
enum Found {
    Instance(Ready),
    Files(Arc<AppRoute>),
}

/// One request's way to an instance.
struct Way<'a> {
    routes: &'a Routes,
    /// Found a moment ago, and not tried yet. Should the table have changed since, its instances have been retired
    /// and tell so.
    found: Option<Arc<AppRoute>>,
    hold: Option<Hold>,
    bounds: HoldBounds,
}

impl Way<'_> {
    /// Connects to the least busy instance that takes the connection, waiting for one if need be.
    async fn connect(&mut self, head: &AppHead<'_>, manner: Manner) -> Result<Found, Failure> {
        loop {
            let route = self.found.take().or_else(|| self.routes.table().route(head.host).cloned());
            let route =
                route.ok_or_else(|| Failure::UnknownHost { host: head.host.to_string() })?;
            if route.is_files_alone() {
                return Ok(Found::Files(route));
            }
            if route.is_stopped() {
                return Err(Failure::Stopped);
            }
            let refusal = match connect_to_any(&route, head, manner)? {
                Attempt::Connected(ready) => return Ok(Found::Instance(ready)),
                Attempt::OldTable => continue,
                Attempt::Refused(error) => Some(Arc::new(error)),
                Attempt::NoInstance => None,
            };
            match &mut self.hold {
                // In a box, like all that is large and rare on a request's way: the rest is copied with its room.
                Some(hold) => Box::pin(hold.wait(refusal)).await?,
                // Sees changes from here on; so look once more before waiting for one.
                None => self.hold = Some(Hold::begin(self.routes, &route, self.bounds)?),
            }
        }
    }
}

/// What came of trying the instances of a route.
enum Attempt {
    Connected(Ready),
    /// An instance is in no table any more; so there is a newer table.
    OldTable,
    Refused(io::Error),
    NoInstance,
}

/// Errors: the request does not fit into what an instance speaks.
fn connect_to_any(
    route: &AppRoute,
    head: &AppHead<'_>,
    manner: Manner,
) -> Result<Attempt, Failure> {
    let mut tried = Vec::new();
    let mut refusal = None;
    while let Some(instance) = route.least_busy(&tried) {
        let Some(permit) = instance.enter() else { return Ok(Attempt::OldTable) };
        // Before connecting: a server should not see connections that nothing comes on.
        let mut unsent = head.encode(instance.protocol, manner != Manner::Single)?;
        match connect_to(instance, manner, &unsent) {
            Ok((connection, sent)) => {
                unsent.drain(..sent);
                return Ok(Attempt::Connected(Ready { connection, unsent, permit }));
            }
            Err(error) => refusal = Some(error),
        }
        tried.push(&instance.id);
    }
    Ok(refusal.map_or(Attempt::NoInstance, Attempt::Refused))
}

/// A connection to `instance`, and how much of `head` has gone out on it already.
fn connect_to(instance: &Instance, manner: Manner, head: &[u8]) -> io::Result<(Connection, usize)> {
    let (socket, pool) = (&instance.socket, instance.pool());
    match (instance.protocol, manner) {
        (Protocol::Http, Manner::Shared) => match pool.take() {
            Some(connection) => Ok((connection, 0)),
            None => Connection::connect_for(pool, socket, head),
        },
        (Protocol::Http, Manner::FreshAndKept) => Connection::connect_for(pool, socket, head),
        (protocol, _) => Connection::connect_and_send(socket, protocol, head),
    }
}

/// A request that waits for an instance.
struct Hold {
    changes: watch::Receiver<()>,
    began: Instant,
    time: Duration,
    pause: Duration,
    _permit: HoldPermit,
}

impl Hold {
    fn begin(routes: &Routes, route: &AppRoute, bounds: HoldBounds) -> Result<Self, Failure> {
        let held = bounds.requests_max;
        let permit = route.hold(held).ok_or(Failure::Held { held })?;
        Ok(Self {
            changes: routes.changes(),
            began: Instant::now(),
            time: bounds.time,
            pause: PAUSES.0,
            _permit: permit,
        })
    }

    /// Waits for the next table, or where instances are there and refused, for a pause.
    ///
    /// Errors: [`Failure::NoInstance`] when the time is over.
    async fn wait(&mut self, refusal: Option<Arc<io::Error>>) -> Result<(), Failure> {
        let end = self.began + self.time;
        let now = Instant::now();
        if now >= end {
            return Err(Failure::NoInstance { waited: self.time, source: refusal });
        }
        let until = if refusal.is_some() { end.min(now + self.pause) } else { end };
        self.pause = (self.pause * 2).min(PAUSES.1);
        // When the time is over, one last look is taken, and this function says so.
        _ = timeout_at(until, self.changes.changed()).await;
        Ok(())
    }
}

impl Outgoing<'_> {
    /// How its connection may be used, at the first try or a later one.
    fn manner(&self, is_first: bool) -> Manner {
        match self.body.is_none() && self.head.is_safe() {
            false => Manner::Single,
            true if is_first => Manner::Shared,
            true => Manner::FreshAndKept,
        }
    }

    /// Sends the request and receives the answer's head; the rest comes with its body.
    async fn exchange(
        &mut self,
        mut connection: Connection,
        unsent: &[u8],
        mut permit: InstancePermit,
    ) -> Result<(Response<Content>, Option<AppTunnel>), Failure> {
        if self.head.upgrade.is_some() && connection.protocol() == Protocol::Http {
            connection.allow_upgrade();
        }
        if !unsent.is_empty() {
            let sent = Box::pin(timeout(self.timeout, connection.sender().send(unsent))).await;
            sent.map_err(|_| self.timed_out())?.map_err(Failure::Send)?;
        }
        let mut pump = self
            .body
            .take()
            .map(|body| -> Pump { Box::pin(body.pump(connection.sender(), self.timeout)) });
        let head = match &mut pump {
            None => None,
            Some(running) => {
                let early = Box::pin(self.receive_while(&mut connection, running.as_mut())).await?;
                if early.is_none() {
                    pump = None;
                }
                early
            }
        };
        let head = match head {
            Some(head) => head,
            None => {
                let head = timeout(self.timeout, self.receive_head(&mut connection)).await;
                head.map_err(|_| self.timed_out())?.map_err(Failure::Answer)?
            }
        };
        permit.keep(self.work.take());
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return upgrade(head, connection, permit);
        }
        Ok((self.respond(head, connection, pump, permit), None))
    }

    /// Receives the answer's head. Hints that come before it are passed on.
    async fn receive_head(
        &self,
        connection: &mut Connection,
    ) -> Result<ResponseHead, ReceiveError> {
        loop {
            let head = connection.receive_next_head().await?;
            if !head.is_interim() {
                return Ok(head);
            }
            if self.interim.leave(head.status, head.headers) {
                yield_now().await; // So that it's sent before the answer overtakes it.
            }
        }
    }

    /// Receives a head as long as the request's body goes out; `None` when that has ended first.
    async fn receive_while(
        &self,
        connection: &mut Connection,
        pump: Pin<&mut (dyn Future<Output = Result<(), PumpError>> + Send)>,
    ) -> Result<Option<ResponseHead>, Failure> {
        tokio::select! {
            biased;
            head = self.receive_head(connection) => head.map(Some).map_err(Failure::Answer),
            pumped = pump => match pumped {
                Ok(()) => Ok(None),
                // The app may have answered and closed without reading all.
                Err(PumpError::App(_)) => Ok(None),
                Err(PumpError::AppStalled { waited }) => Err(Failure::Timeout { waited }),
                Err(PumpError::Client(failure)) => Err(failure),
            },
        }
    }

    fn respond(
        &self,
        head: ResponseHead,
        connection: Connection,
        pump: Option<Pump>,
        permit: InstancePermit,
    ) -> Response<Content> {
        let body = connection.into_body(&head, &self.head.method);
        let source = AppSource::new(body, pump, self.timeout, permit);
        let content = AppContent::new(source, self.spool.clone());
        let mut response = begin(head.status, head.headers, Content::App(Box::new(content)));
        headers::to_client(response.headers_mut(), head.status, head.content_length);
        if head.status.canonical_reason() != Some(head.reason.as_ref())
            && let Ok(reason) = ReasonPhrase::try_from(head.reason.into_owned())
        {
            response.extensions_mut().insert(reason);
        }
        response
    }

    fn timed_out(&self) -> Failure {
        Failure::Timeout { waited: self.timeout }
    }
}

fn begin(status: StatusCode, headers: http::HeaderMap, content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// What the app's 101 makes of `connection`.
fn upgrade(
    head: ResponseHead,
    connection: Connection,
    permit: InstancePermit,
) -> Result<(Response<Content>, Option<AppTunnel>), Failure> {
    // Nothing else has hold of the connection: the request had no body.
    let tunnel = connection.into_tunnel().filter(|_| is_upgrade(&head.headers));
    let tunnel = tunnel.ok_or_else(|| Failure::Answer(HeadError::Upgrade.into()))?;
    let mut response = begin(head.status, head.headers, Content::Empty);
    headers::to_upgraded_client(response.headers_mut());
    Ok((response, Some((tunnel, permit))))
}

/// Whether the app can't have seen the request's head.
fn is_unseen(failure: &Failure, bodiless: bool) -> bool {
    match failure {
        // Nothing but the head is sent by then, and not all of it went out.
        Failure::Send(_) => true,
        // Only requests that are safe to repeat share connections.
        Failure::Answer(ReceiveError::Stale) => true,
        // With a body, it may be the body that the app has not read.
        Failure::Answer(ReceiveError::Reset) => bodiless,
        _ => false,
    }
}
