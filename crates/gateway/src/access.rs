//! One line of the access log a request, and what a request holds until it has ended.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::request::Parts;
use http::{Method, StatusCode, Uri};

use crate::body::BodyError;
use crate::client::ClientState;
use crate::failure::Failure;
use crate::origin::Origin;
use crate::routes::{AppPermit, InstancePermit};

/// Names requests: 32 hexadecimal digits, never the same twice.
#[derive(Debug)]
pub struct RequestIds {
    prefix: u64,
    next: AtomicU64,
}

/// One request from its head to the last byte of its answer. Dropping it ends it: its permits are
/// given back and its line is logged.
#[derive(Debug)]
pub struct RequestRecord {
    pub id: String,
    /// Where the request has been counted in, once it is known to whom it goes.
    pub app: Option<AppPermit>,
    pub instance: Option<InstancePermit>,
    pub status: Option<StatusCode>,
    from: IpAddr,
    method: Method,
    host: String,
    uri: Uri,
    sent_bytes: u64,
    started: Instant,
    client: Arc<ClientState>,
    /// A part of the answer waits for the client.
    is_offered: bool,
}

impl RequestIds {
    /// `prefix` is random, and another one in each run of the engine.
    pub fn new(prefix: u64) -> Self {
        Self { prefix, next: AtomicU64::new(0) }
    }

    fn draw(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}{number:016x}", self.prefix)
    }
}

impl RequestRecord {
    /// Begins a request; its connection is busy until the record is dropped.
    pub fn begin(
        ids: &RequestIds,
        origin: &Origin,
        request: &Parts,
        client: Arc<ClientState>,
    ) -> Self {
        client.begin();
        let host = request.headers.get(http::header::HOST);
        let host = host.map(|host| host.as_bytes()).unwrap_or_default();
        Self {
            id: origin.request_id.clone().unwrap_or_else(|| ids.draw()),
            from: origin.client.ip().to_canonical(),
            app: None,
            instance: None,
            status: None,
            method: request.method.clone(),
            host: String::from_utf8_lossy(host).into_owned(),
            uri: request.uri.clone(),
            sent_bytes: 0,
            started: Instant::now(),
            client,
            is_offered: false,
        }
    }

    /// The connection goes on as a tunnel.
    pub fn leave_http(&self) {
        self.client.leave_http();
    }

    fn app(&self) -> Option<&str> {
        self.app.as_ref().map(|permit| permit.app().as_str())
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

    /// Logs why the client got an error page. A client's mistakes are no news to the operator.
    pub fn failed(&self, failure: &Failure) {
        let causes = causes(failure);
        let (request, app) = (&self.id, self.app());
        if failure.status().is_server_error() {
            tracing::warn!(request, app, causes, "{failure}");
        } else {
            tracing::debug!(request, app, causes, "{failure}");
        }
    }

    /// Logs why the client got only a part of the answer.
    pub fn broke_off(&self, error: &BodyError) {
        let (request, app, causes) = (&self.id, self.app(), causes(error));
        match error {
            BodyError::Request(_) => tracing::debug!(request, app, causes, "{error}"),
            _ => tracing::warn!(request, app, causes, "{error}"),
        }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        self.note_offer(false);
        self.client.end(self.status.is_some());
        // The path without its query, which may hold what nobody should read in a log.
        tracing::info!(
            target: "access",
            request = self.id,
            client = %self.from,
            method = self.method.as_str(),
            host = self.host,
            path = self.uri.path(),
            // None: the client left before there was an answer.
            status = self.status.map(|status| status.as_u16()),
            bytes = self.sent_bytes,
            ms = self.started.elapsed().as_millis() as u64,
            app = self.app(),
            instance = self.instance.as_ref().map(|permit| permit.instance().as_str()),
        );
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
