//! One request, from its head to the head of its answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ace_types::HostName;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};

use crate::access::{Ledger, RequestRecord};
use crate::app_head::{AppHead, wanted_upgrade};
use crate::bandwidth::Way;
use crate::body::{Body, Content};
use crate::body_pace::BodyPace;
use crate::client::ClientState;
use crate::client_body::ClientBody;
use crate::client_end::{ClientEnd, Upgrade};
use crate::failure::{self, Failure};
use crate::file_cache::{Found, ServedFile};
use crate::forward::{Answer, AppTunnel, Forwarded, HoldBounds, Outgoing, await_routes, forward};
use crate::origin::{Origin, TrustedProxies};
use crate::places::network;
use crate::request_body::{BodyBounds, RequestBody};
use crate::rewrite::{Facts, Outcome, Place};
use crate::routes::{AppPermit, AppRoute, BodyPermit, Routes, WorkPermit};
use crate::server::Lease;
use crate::spool::Spool;
use crate::statics::Asked;
use crate::{headers, http2, rewrite, statics, target, tunnel};

/// How much of a body that nobody wants is read, so that its client gets the answer, and keeps its connection.
const DISCARDED_MAX_BYTES: usize = 1 << 20;
/// How long that may take.
const DISCARDED_WITHIN: Duration = Duration::from_secs(2);

/// What every request is handled with.
#[derive(Debug)]
pub struct Service {
    pub routes: Routes,
    pub ledger: Arc<Ledger>,
    pub spool: Arc<Spool>,
    /// The most requests of one app at once, whatever its limits say.
    pub app_requests_max: u32,
    pub hold: HoldBounds,
    pub body_pace: BodyPace,
    /// Where clients connect to.
    pub address: SocketAddr,
    pub proxies: TrustedProxies,
}

/// Who sends a request.
#[derive(Debug, Clone)]
pub struct Client {
    pub address: SocketAddr,
    /// It's on this machine.
    pub is_near: bool,
    pub state: Arc<ClientState>,
    pub lease: Arc<Lease>,
}

/// An answer, and what its connection is to become after it.
struct Reply {
    response: Response<Content>,
    tunnel: Option<(Upgrade, AppTunnel)>,
}

/// A request that no file answers.
struct AppRequest<'a> {
    host: &'a HostName,
    route: &'a Arc<AppRoute>,
    origin: Origin,
    counted: Option<IpAddr>,
    place: Place,
    parts: Parts,
    end: ClientEnd,
}

impl Service {
    /// Answers `request`; with an error page, where nothing else can be said.
    pub async fn handle(
        &self,
        client: Client,
        mut parts: Parts,
        mut end: ClientEnd,
    ) -> Response<Body> {
        let is_http2 = parts.version == Version::HTTP_2;
        let is_websocket = http2::is_websocket(&parts);
        let refusal = match parts.version {
            Version::HTTP_2 => http2::adopt(&mut parts).err(),
            _ => client.state.refusal(&parts),
        };
        let origin = self.proxies.origin(client.address, self.address.port(), &mut parts.headers);
        let counted = self.counted(&origin, &client);
        let mut record = RequestRecord::begin(&self.ledger, &origin, &parts, client.state);
        let reader = Reader::of(&parts);
        let waits_to_send = parts.headers.contains_key(EXPECT);
        let result = match refusal {
            Some(failure) => Err(failure),
            None => self.answer(origin, counted, parts, &mut end, &mut record).await,
        };
        let result = if is_websocket { result.and_then(Reply::over_http2) } else { result };
        let mut has_left = false;
        let Reply { mut response, tunnel } = match result {
            Ok(reply) => reply,
            Err(failure) => {
                record.failed(&failure);
                has_left = matches!(failure, Failure::Body(_)) && record.client().has_left();
                Box::pin(error_page(&failure, &reader, &record)).await.into()
            }
        };
        // A stream of HTTP/2 can end in between, a connection can't: what is left would be the next request.
        let ends = response.headers().contains_key(CONNECTION); // As after a request that has no sense.
        let unread = end.body.filter(|body| !is_http2 && !ends && !body.is_end_stream());
        let is_dirty = match unread {
            Some(unread) => waits_to_send || !Box::pin(discard(unread)).await,
            None => false,
        };
        if tunnel.is_none() && (ends || is_dirty) {
            record.client().cut_short();
        }
        if is_dirty || (!is_http2 && tunnel.is_none() && client.lease.is_closing()) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if is_http2 {
            response.headers_mut().remove(CONNECTION); // It has a frame of its own for that.
        }
        match tunnel {
            None => finish(response, record, has_left),
            Some((upgrade, app)) => open_tunnel(response, upgrade, app, record, client.lease),
        }
    }

    /// Finds the route and follows it, noting in `record` where it leads. Takes what it needs of `end`.
    async fn answer(
        &self,
        origin: Origin,
        counted: Option<IpAddr>,
        parts: Parts,
        end: &mut ClientEnd,
        record: &mut RequestRecord,
    ) -> Result<Reply, Failure> {
        let host = target::host(&parts)?;
        let path = target::normalise(parts.uri.path())?;
        let route = self.route(&host).await?;
        record.route = Some(Arc::clone(&route));
        let most = self.app_requests_max;
        let permit = AppPermit::take(&route, most, counted);
        record.app = Some(permit.map_err(Failure::no_place(most))?);
        route.bandwidth().note();
        if route.is_stopped() {
            return Err(Failure::Stopped);
        }
        let followed = match route.has_rules() {
            true => Box::pin(follow_rules(&route, &host, origin.scheme, path, &parts)).await?,
            false => Outcome::Place(Place::asked(path, &parts.uri)),
        };
        let place = match followed {
            Outcome::Place(place) => place,
            Outcome::Redirect { status, location } => return Ok(redirect(status, &location).into()),
        };
        if let Some(file) = file(&route, &place.path, asked(&parts)).await {
            return file.map(Reply::from);
        }
        let end = std::mem::take(end);
        let request = AppRequest { host: &host, route: &route, origin, counted, place, parts, end };
        self.ask_app(request, record).await
    }

    async fn ask_app(
        &self,
        request: AppRequest<'_>,
        record: &mut RequestRecord,
    ) -> Result<Reply, Failure> {
        let AppRequest { host, route, origin, counted, place, parts, end } = request;
        let ClientEnd { body, interim, upgrade } = end;
        let (limits, spool) = (&route.limits, self.spool.of(route.spooled()));
        let bytes_max = limits.body.map(|bytes| bytes.0);
        let pace = match route.is_crowded(self.app_requests_max) {
            true => self.body_pace.hurried(),
            false => self.body_pace,
        };
        let bounds = BodyBounds { bytes_max, pace };
        let body = match body {
            Some(body) if !body.is_end_stream() => {
                let connections = (self.app_requests_max / 2).max(1);
                let _permit = BodyPermit::take(route, connections, counted)
                    .map_err(Failure::no_place(connections))?;
                Box::pin(RequestBody::accept(body, bounds, &spool, route.bandwidth())).await?
            }
            _ => None,
        };
        if let Some(body) = &body {
            record.received(body.length());
            if body.is_paced() {
                record.pace(Way::Received);
            }
        }
        let connections = limits.connections;
        let work = WorkPermit::take(route, connections, counted)
            .map_err(Failure::no_place(connections))?;
        let request = Outgoing {
            head: AppHead {
                rewritten: place.is_rewritten.then(|| place.target()),
                ..app_head(host, &origin, &record.id, parts, body.as_ref())
            },
            body,
            timeout: limits.timeout,
            spool,
            interim,
            work: Some(work),
        };
        match forward(&self.routes, route, request, self.hold, &mut record.instance).await? {
            Forwarded::Answer(Answer { response, tunnel, visit }) => {
                record.answered();
                record.instance = Some(visit);
                Ok(Reply { response, tunnel: upgrade.zip(tunnel) })
            }
            Forwarded::Files { route, head } => {
                let asked = Asked { method: &head.method, uri: &head.uri, headers: &head.headers };
                let file = file(&route, &place.path, asked).await;
                file.unwrap_or(Err(Failure::NoSuchFile)).map(Reply::from)
            }
        }
    }

    /// The address whose requests to an app are counted together; `None` for this machine's own and for proxies.
    fn counted(&self, origin: &Origin, client: &Client) -> Option<IpAddr> {
        let address = origin.client.ip().to_canonical();
        let is_near = address.is_loopback() || (client.is_near && origin.client == client.address);
        (!is_near && !self.proxies.contains(address)).then(|| network(address))
    }

    async fn route(&self, host: &HostName) -> Result<Arc<AppRoute>, Failure> {
        if self.routes.table().is_none_yet() {
            await_routes(&self.routes, self.hold).await?;
        }
        let route = self.routes.table().route(host).cloned();
        route.ok_or_else(|| Failure::UnknownHost { host: host.to_string() })
    }
}

/// The file that `route` has at `path`; `None` where its app is to be asked.
async fn file(
    route: &AppRoute,
    path: &[u8],
    asked: Asked<'_>,
) -> Option<Result<Response<Content>, Failure>> {
    match statics::rule_for(&route.statics, path) {
        Some(rule) => Some(match &route.code {
            Some(code) => statics::serve(code, rule, path, asked).await,
            None => Err(Failure::NoSuchFile),
        }),
        None => route.is_files_alone().then_some(Err(Failure::NoSuchFile)),
    }
}

/// What an app is told of a request.
pub fn app_head<'a>(
    host: &'a HostName,
    origin: &'a Origin,
    request_id: &'a str,
    mut parts: Parts,
    body: Option<&RequestBody>,
) -> AppHead<'a> {
    let announced = parts.headers.contains_key(CONTENT_LENGTH).then_some(0);
    let upgrade = wanted_upgrade(&parts).filter(|_| body.is_none());
    headers::to_app(&mut parts.headers);
    AppHead {
        method: parts.method,
        uri: parts.uri,
        rewritten: None,
        version: parts.version,
        headers: parts.headers,
        host,
        origin,
        request_id,
        content_length: body.map(RequestBody::length).or(announced),
        upgrade,
    }
}

impl Reply {
    /// The answer to a request for a WebSocket, as HTTP/2 has it.
    fn over_http2(self) -> Result<Self, Failure> {
        let Self { response, tunnel } = self;
        let response = http2::answer_websocket(response, tunnel.is_some())?;
        Ok(Self { response, tunnel })
    }
}

impl From<Response<Content>> for Reply {
    fn from(response: Response<Content>) -> Self {
        Self { response, tunnel: None }
    }
}

fn asked(request: &Parts) -> Asked<'_> {
    Asked { method: &request.method, uri: &request.uri, headers: &request.headers }
}

/// Where the rules of `route` lead a request for `path`.
async fn follow_rules(
    route: &AppRoute,
    host: &HostName,
    scheme: &'static str,
    path: Vec<u8>,
    request: &Parts,
) -> Result<Outcome, Failure> {
    let facts = Facts { asked: asked(request), host, scheme };
    let place = match rewrite::follow(&route.rewrites, facts, Place::asked(path, &request.uri))? {
        Outcome::Place(place) => place,
        redirect => return Ok(redirect),
    };
    let Some(rule) = rewrite::try_rule(&route.tries, &place.path) else {
        return Ok(Outcome::Place(place));
    };
    let file = statics::rule_for(&route.statics, &place.path).zip(route.code.as_ref());
    if let Some((file, code)) = file
        && statics::has_file(code, file, &place.path).await?
    {
        return Ok(Outcome::Place(place));
    }
    rewrite::fall_back(rule, facts, &place).map(Outcome::Place)
}

/// Reads what is left of a body that nobody wants. Returns whether its connection can carry another request.
async fn discard(body: ClientBody) -> bool {
    let mut body = Limited::new(body, DISCARDED_MAX_BYTES);
    let read = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(DISCARDED_WITHIN, read).await.unwrap_or(false)
}

fn redirect(status: StatusCode, location: &str) -> Response<Content> {
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = status;
    // Whatever can't stand in a header has been escaped.
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// For whom an error page is, since the request's head goes to the app.
struct Reader {
    accept: Option<HeaderValue>,
    accept_encoding: Option<HeaderValue>,
    wants_head: bool,
}

impl Reader {
    fn of(request: &Parts) -> Self {
        Self {
            accept: request.headers.get(ACCEPT).cloned(),
            accept_encoding: request.headers.get(ACCEPT_ENCODING).cloned(),
            wants_head: request.method == Method::HEAD,
        }
    }

    /// What the request says of what its client takes.
    fn headers(&self) -> HeaderMap {
        let said = [(ACCEPT, &self.accept), (ACCEPT_ENCODING, &self.accept_encoding)];
        said.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

/// The page of the app's own for `failure`, if it has one and the reader takes pages; else ours.
async fn error_page(
    failure: &Failure,
    reader: &Reader,
    record: &RequestRecord,
) -> Response<Content> {
    let headers = reader.headers();
    let page = failure.page(&headers, &record.id);
    let mut page = page.map(|text| Content::Bytes(text.into()));
    if !failure::wants_data(&headers)
        && let Some(own) = own_page(record.route.as_deref(), failure.status()).await
    {
        statics::stand_in(&own, &headers, &mut page);
    }
    if reader.wants_head {
        let length = page.body().remaining().unwrap_or(0);
        page.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        *page.body_mut() = Content::Empty;
    }
    page
}

async fn own_page(route: Option<&AppRoute>, status: StatusCode) -> Option<Arc<ServedFile>> {
    let route = route?;
    let page = route.errors.iter().find(|page| page.status == status.as_u16())?;
    match route.code.as_ref()?.find(page.file.as_bytes()).await {
        Ok(Some(Found::File(file))) => Some(file),
        _ => None,
    }
}

/// Signs the response and ties the request's end to the end of its body. What is for a client that has left is no answer.
fn finish(
    mut response: Response<Content>,
    mut record: Box<RequestRecord>,
    has_left: bool,
) -> Response<Body> {
    headers::sign(response.headers_mut(), &record.id);
    record.status = (!has_left).then(|| response.status());
    response.map(|content| Body::new(content, record))
}

/// As [`finish`], for a request that goes on as a tunnel.
fn open_tunnel(
    mut response: Response<Content>,
    upgrade: Upgrade,
    app: AppTunnel,
    mut record: Box<RequestRecord>,
    lease: Arc<Lease>,
) -> Response<Body> {
    headers::sign(response.headers_mut(), &record.id);
    record.status = Some(response.status());
    record.leave_http();
    tokio::spawn(tunnel::run(upgrade, app, record, lease));
    response.map(|_| Body::none())
}
