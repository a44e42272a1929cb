//! What a request holds and is known by until it has ended, and what is counted and logged of it then.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header::{HOST, USER_AGENT};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri, Version};
use jiff::Timestamp;

use crate::access_line::{AccessLine, Asked};
use crate::access_log::AccessLog;
use crate::bandwidth::Way;
use crate::body::BodyError;
use crate::client::{ClientState, is_stand_in};
use crate::failure::Failure;
use crate::file_parts::FileParts;
use crate::meter::Ended;
use crate::origin::Origin;
use crate::routes::{AppPermit, AppRoute, Visit};

/// Names requests, and takes down how they ended.
#[derive(Debug)]
pub struct Ledger {
    ids: RequestIds,
    log: Option<AccessLog>,
    /// Requests that led to no app.
    unrouted: AtomicU64,
}

/// Names requests: 32 hexadecimal digits, never the same twice.
#[derive(Debug)]
struct RequestIds {
    /// The first half.
    prefix: String,
    next: AtomicU64,
}

/// One request from its head to the last byte of its answer. Dropping it ends it: its permits are
/// given back, it's counted, and its line goes to the access log.
#[derive(Debug)]
pub struct RequestRecord {
    pub id: String,
    /// To whom it goes, once that is known.
    pub route: Option<Arc<AppRoute>>,
    /// Where the request has been counted in.
    pub app: Option<AppPermit>,
    pub instance: Option<Visit>,
    pub status: Option<StatusCode>,
    from: IpAddr,
    /// `None` where the head was refused before it could be told what it asks for.
    asked: Option<(Method, Uri, Version)>,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    received_bytes: u64,
    sent_bytes: u64,
    /// Its bandwidth has been asked for, each way, by whoever moves its bytes.
    is_paced: [bool; 2],
    started: Instant,
    /// When the app's answer began, after [`Self::started`].
    first_byte: Option<Duration>,
    client: Arc<ClientState>,
    /// A part of the answer waits for the client.
    is_offered: bool,
    ledger: Arc<Ledger>,
}

impl Ledger {
    /// `prefix` is random, and another one in each run of the engine.
    pub fn new(prefix: u64, log: Option<AccessLog>) -> Self {
        let ids = RequestIds { prefix: format!("{prefix:016x}"), next: AtomicU64::new(0) };
        Self { ids, log, unrouted: AtomicU64::new(0) }
    }

    /// How many requests have led to no app.
    pub fn unrouted(&self) -> u64 {
        self.unrouted.load(Ordering::Relaxed)
    }

    /// How many lines the access log had no room for.
    pub fn lines_dropped(&self) -> u64 {
        self.log.as_ref().map_or(0, AccessLog::dropped)
    }

    /// Waits until the access log is written, as far as its disk lets it. May block for a moment.
    pub fn finish(&self) {
        if let Some(log) = &self.log {
            log.finish();
        }
    }
}

impl RequestIds {
    fn draw(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut id = String::with_capacity(2 * self.prefix.len());
        id.push_str(&self.prefix);
        let digit = |place| char::from(b"0123456789abcdef"[(number >> (4 * place)) as usize & 15]);
        id.extend((0..16).rev().map(digit));
        id
    }
}

impl RequestRecord {
    /// Begins a request; its connection is busy until the record is dropped. In a box, since it goes with the answer,
    /// which is moved often.
    pub fn begin(
        ledger: &Arc<Ledger>,
        origin: &Origin,
        request: &Parts,
        client: Arc<ClientState>,
    ) -> Box<Self> {
        client.begin();
        let asked = || (request.method.clone(), request.uri.clone(), request.version);
        Box::new(Self {
            id: origin.request_id.clone().unwrap_or_else(|| ledger.ids.draw()),
            from: origin.client.ip().to_canonical(),
            route: None,
            app: None,
            instance: None,
            status: None,
            asked: (!is_stand_in(request)).then(asked),
            host: request.headers.get(HOST).cloned(),
            user_agent: request.headers.get(USER_AGENT).cloned(),
            received_bytes: 0,
            sent_bytes: 0,
            is_paced: [false; 2],
            started: Instant::now(),
            first_byte: None,
            client,
            is_offered: false,
            ledger: Arc::clone(ledger),
        })
    }

    /// Where its connection takes parts of files, if it does.
    pub fn parts(&self) -> Option<&FileParts> {
        self.client.parts()
    }

    /// The connection that it came on.
    pub fn client(&self) -> Arc<ClientState> {
        Arc::clone(&self.client)
    }

    /// The connection goes on as a tunnel.
    pub fn leave_http(&self) {
        self.client.leave_http();
    }

    /// Counts bytes of the request's body.
    pub fn received(&mut self, count: u64) {
        self.received_bytes += count;
    }

    /// Bytes of its body so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// What passes that `way` has an allowance: it's not to be counted against the app's bandwidth at the end.
    pub fn pace(&mut self, way: Way) {
        self.is_paced[way as usize] = true;
    }

    /// The app's answer has begun.
    pub fn answered(&mut self) {
        self.first_byte = Some(self.started.elapsed());
    }

    /// Counts bytes of the answer's body.
    pub fn sent(&mut self, count: usize) {
        self.sent_bytes += count as u64;
    }

    /// Notes whether the next part of the answer is there, and so waits for the client. That somebody
    /// looks for one means that the last has been taken.
    pub fn note_offer(&mut self, is_there: bool) {
        if std::mem::replace(&mut self.is_offered, is_there) {
            self.client.take();
        }
        if is_there {
            self.client.offer();
        }
    }

    /// Counts and logs why the client got an error page. A client's mistakes are no news to the
    /// operator.
    pub fn failed(&self, failure: &Failure) {
        if let Some(route) = &self.route {
            route.meter().failed(failure);
        }
        let causes = causes(failure);
        let (request, app) = (&self.id, self.app_name());
        // That of a version that is not spoken is a server's by its number alone.
        if failure.status().is_server_error() && !matches!(failure, Failure::Version) {
            tracing::warn!(request, app, causes, "{failure}");
        } else {
            tracing::debug!(request, app, causes, "{failure}");
        }
    }

    /// Logs why the client got only a part of the answer.
    pub fn broke_off(&self, error: &BodyError) {
        let (request, app, causes) = (&self.id, self.app_name(), causes(error));
        match error {
            BodyError::Request(_) => tracing::debug!(request, app, causes, "{error}"),
            _ => tracing::warn!(request, app, causes, "{error}"),
        }
    }

    fn app_name(&self) -> Option<&str> {
        self.route.as_ref().map(|route| route.app.as_str())
    }

    fn count(&self, duration: Duration) {
        let ended = Ended {
            status: self.status,
            duration,
            received_bytes: self.received_bytes,
            sent_bytes: self.sent_bytes,
        };
        match &self.route {
            Some(route) => {
                route.meter().ended(ended);
                self.count_small(route);
            }
            None => _ = self.ledger.unrouted.fetch_add(1, Ordering::Relaxed),
        }
        if let Some(instance) = &self.instance {
            instance.pace().ended(ended);
        }
    }

    /// Counts against the app's bandwidth what has passed at once.
    fn count_small(&self, route: &AppRoute) {
        let ways = [(Way::Received, self.received_bytes), (Way::Sent, self.sent_bytes)];
        for (way, bytes) in ways {
            if bytes > 0 && !self.is_paced[way as usize] {
                route.bandwidth().count(way, bytes);
            }
        }
    }

    fn line(&self, duration: Duration) -> AccessLine<'_> {
        // Without its query, which may hold what nobody should read in a log.
        let asked = self.asked.as_ref();
        let asked = asked.map(|(method, uri, version)| Asked {
            method,
            path: uri.path(),
            version: *version,
        });
        AccessLine {
            at: Timestamp::now(),
            request: &self.id,
            client: self.from,
            asked,
            host: self.host.as_ref(),
            user_agent: self.user_agent.as_ref(),
            status: self.status,
            received_bytes: self.received_bytes,
            sent_bytes: self.sent_bytes,
            duration,
            first_byte: self.first_byte,
            app: self.route.as_ref().map(|route| (&route.app, route.release)),
            instance: self.instance.as_ref().map(Visit::instance),
        }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        self.note_offer(false);
        self.client.end(self.status.is_some());
        let duration = self.started.elapsed();
        self.count(duration);
        if let Some(log) = &self.ledger.log {
            log.write(&self.line(duration));
        }
    }
}

/// What caused `error`, the nearest cause first; empty where nothing did.
fn causes(error: &dyn Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
