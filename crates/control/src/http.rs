//! The API: paths, what comes in, what goes out. What it means is elsewhere.
//!
//! The table of paths stands in `ace_api::http`. Work that must not end with its client's connection
//! runs in a task of its own; a handler only waits for it.

mod builds;
mod document;
mod domains;
mod events;
mod gate;
mod metrics;
mod openapi;
mod operations;
mod page;
mod request_id;
mod route;
mod settings;
mod stream;
mod target;
mod tokens;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use ace_api::event::Event;
use ace_api::http::{
    AddPython, AppView, AppsView, BACKUP_FAILURE, BuildLine, BuildView, BuildsView, ConfigView,
    CreatedToken, DeployEvent, DoctorReport, DomainChange, DomainsView, Done, LimitsView, LogLine,
    NewToken, PythonView, ReleasesView, Rollback, Scale, TokensView,
};
use ace_api::run::RunRequest;
use ace_api::{BuildError, ErrorCode};
use ace_types::{
    AppName, ConfigChange, Domain, InstanceId, LimitChange, ReleaseNumber, TenantName, TokenId,
};
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use futures_util::FutureExt;
use futures_util::stream::unfold;
use http_body_util::StreamBody;
use hyper::body::Frame;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::backup;
use crate::caller::{Access, Caller};
use crate::destroy::{self, GONE_MARGIN};
use crate::engine::Engine;
use crate::logs::{self, Filter, LogRequest};
use crate::missing::{self, Missing};
use crate::pythons;
use crate::refusal::Refusal;
use crate::rows::AppRow;
use crate::run::run_command;
use crate::state::Row;
use crate::views;
use crate::wind_down;
pub use document::Document;
use page::PageQuery;
pub use request_id::Refused;
use route::Route;
use stream::Form;
pub use target::Target;

/// Lines that a log begins with unless asked for otherwise.
const TAIL: usize = 100;
/// How long the machine may be examined.
const DOCTOR_WITHIN: Duration = Duration::from_secs(60);

type Shared = State<Arc<Engine>>;

/// Everything that the API answers.
pub fn router(engine: Arc<Engine>) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, route| route.add_to(router))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(Arc::clone(&engine), gate::identify))
        .layer(from_fn(answer_panics))
        .layer(from_fn_with_state(Arc::clone(&engine), metrics::count))
        .layer(from_fn(request_id::identify))
        .with_state(engine)
}

fn routes() -> Vec<Route> {
    use Access::{Admin, Deploy, Metrics, Open, Read};
    use operations as op;
    use settings as set;
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PUT: Method = Method::PUT;
    const PATCH: Method = Method::PATCH;
    const DELETE: Method = Method::DELETE;
    vec![
        Route::new(GET, "/v1/apps", Read, ("listApps", "List apps"), list_apps)
            .query::<AppsQuery>()
            .gives::<AppsView>(200),
        Route::new(GET, "/v1/apps/{app}", Read, ("showApp", "Show an app"), show_app)
            .gives::<AppView>(200)
            .refuses(&[404]),
        Route::new(
            DELETE,
            "/v1/apps/{app}",
            Deploy,
            ("destroyApp", "Remove an app with all that it has"),
            destroy_app,
        )
        .gives::<Done>(200)
        .refuses(&[404, 503, 504]),
        Route::new(
            POST,
            "/v1/apps/{app}/deploys",
            Deploy,
            ("deploy", "Build a source and serve it; a new name becomes an app"),
            op::deploy,
        )
        .query::<op::OwnerQuery>()
        .takes_archive()
        .gives_lines::<DeployEvent>()
        .refuses(&[409, 429, 503]),
        Route::new(
            POST,
            "/v1/apps/{app}/rollback",
            Deploy,
            ("rollBack", "Serve an earlier release again"),
            op::roll_back,
        )
        .gives_lines::<DeployEvent>()
        .refuses(&[404, 429, 503])
        .takes::<Rollback>(false),
        Route::new(
            POST,
            "/v1/apps/{app}/restart",
            Deploy,
            ("restart", "Replace an app's instances by new ones"),
            op::restart,
        )
        .gives_lines::<DeployEvent>()
        .refuses(&[404, 429, 503]),
        Route::new(
            POST,
            "/v1/apps/{app}/stop",
            Deploy,
            ("stop", "Let nothing of an app run"),
            op::stop,
        )
        .gives_lines::<DeployEvent>()
        .refuses(&[404, 429, 503]),
        Route::new(
            POST,
            "/v1/apps/{app}/start",
            Deploy,
            ("start", "Start an app that was stopped"),
            op::start,
        )
        .gives_lines::<DeployEvent>()
        .refuses(&[404, 429, 503]),
        Route::new(
            PUT,
            "/v1/apps/{app}/scale",
            Deploy,
            ("scale", "Set how many instances an app has"),
            op::scale,
        )
        .takes::<Scale>(true)
        .gives_lines::<DeployEvent>()
        .refuses(&[404, 429, 503]),
        Route::new(
            GET,
            "/v1/apps/{app}/config",
            Read,
            ("showConfig", "List an app's variables; their values where that is asked for"),
            set::config,
        )
        .query::<set::ConfigQuery>()
        .gives::<ConfigView>(200)
        .refuses(&[404]),
        Route::new(
            PATCH,
            "/v1/apps/{app}/config",
            Deploy,
            ("changeConfig", "Set and unset variables; a new name becomes an app"),
            op::configure,
        )
        .query::<op::OwnerQuery>()
        .takes::<ConfigChange>(false)
        .gives_lines::<DeployEvent>()
        .refuses(&[409, 429, 503]),
        Route::new(
            GET,
            "/v1/apps/{app}/limits",
            Read,
            ("showLimits", "List an app's limits"),
            set::limits,
        )
        .gives::<LimitsView>(200)
        .refuses(&[404]),
        Route::new(
            PATCH,
            "/v1/apps/{app}/limits",
            Deploy,
            ("changeLimits", "Set and reset limits"),
            op::limit,
        )
        .takes::<LimitChange>(false)
        .gives_lines::<DeployEvent>()
        .refuses(&[404, 409, 429, 503]),
        Route::new(
            GET,
            "/v1/apps/{app}/releases",
            Read,
            ("listReleases", "List the releases that can serve again"),
            set::releases,
        )
        .query::<PageQuery<ReleaseNumber>>()
        .gives::<ReleasesView>(200)
        .refuses(&[404]),
        Route::new(
            GET,
            "/v1/apps/{app}/builds",
            Read,
            ("listBuilds", "List an app's builds"),
            builds::list,
        )
        .query::<PageQuery<ReleaseNumber>>()
        .gives::<BuildsView>(200)
        .refuses(&[404]),
        Route::new(
            GET,
            "/v1/apps/{app}/builds/{release}",
            Read,
            ("showBuild", "Show one build"),
            builds::show,
        )
        .gives::<BuildView>(200)
        .refuses(&[404]),
        Route::new(
            GET,
            "/v1/apps/{app}/builds/{release}/log",
            Read,
            ("readBuildLog", "Read what a build said"),
            builds::log,
        )
        .query::<builds::LogQuery>()
        .gives_lines::<BuildLine>()
        .can_be_followed()
        .refuses(&[404]),
        Route::new(
            GET,
            "/v1/apps/{app}/domains",
            Read,
            ("listDomains", "List the names that an app answers at besides its own"),
            domains::list,
        )
        .query::<PageQuery<Domain>>()
        .gives::<DomainsView>(200)
        .refuses(&[404]),
        Route::new(
            PATCH,
            "/v1/apps/{app}/domains",
            Deploy,
            ("changeDomains", "Add and remove such names"),
            domains::change,
        )
        .takes::<DomainChange>(false)
        .gives::<DomainsView>(200)
        .refuses(&[404, 409, 503]),
        Route::new(
            GET,
            "/v1/apps/{app}/logs",
            Read,
            ("readLogs", "Read what an app printed"),
            show_logs,
        )
        .query::<LogQuery>()
        .gives_lines::<LogLine>()
        .can_be_followed()
        .refuses(&[404]),
        Route::new(
            POST,
            "/v1/apps/{app}/run",
            Deploy,
            ("run", "Run a command in an app's release; needs `Upgrade: ace-run`"),
            run_command,
        )
        .takes::<RunRequest>(true)
        .refuses(&[404, 409, 426, 429, 503]),
        Route::new(
            GET,
            "/v1/events",
            Read,
            ("listEvents", "List what has happened, or follow it"),
            events::list,
        )
        .query::<events::EventsQuery>()
        .gives_lines::<Event>()
        .can_be_followed()
        .refuses(&[410]),
        Route::new(
            GET,
            "/v1/doctor",
            Admin,
            ("examine", "Say what this machine can enforce"),
            examine,
        )
        .gives::<DoctorReport>(200),
        Route::new(
            GET,
            "/v1/pythons",
            Read,
            ("listPythons", "List the Pythons that apps can have"),
            list_pythons,
        )
        .gives::<Vec<PythonView>>(200),
        Route::new(
            POST,
            "/v1/pythons",
            Admin,
            ("addPython", "Let apps have a further Python"),
            add_python,
        )
        .takes::<AddPython>(true)
        .gives::<PythonView>(200)
        .refuses(&[409]),
        Route::new(GET, "/v1/tokens", Admin, ("listTokens", "List tokens"), tokens::list)
            .query::<PageQuery<TokenId>>()
            .gives::<TokensView>(200),
        Route::new(POST, "/v1/tokens", Admin, ("createToken", "Make a token"), tokens::create)
            .takes::<NewToken>(true)
            .gives::<CreatedToken>(201)
            .refuses(&[409]),
        Route::new(
            DELETE,
            "/v1/tokens/{token}",
            Admin,
            ("revokeToken", "Take a token back"),
            tokens::revoke,
        )
        .gives::<Done>(200)
        .refuses(&[404]),
        Route::new(
            POST,
            "/v1/down",
            Admin,
            ("bringDown", "Stop every app and the engine"),
            bring_down,
        )
        .gives::<Done>(200),
        Route::new(
            GET,
            "/metrics",
            Metrics,
            ("readMetrics", "Read the engine's metrics, as Prometheus does"),
            metrics::show,
        )
        .gives_bytes(crate::metrics::MEDIA_TYPE),
        Route::new(
            POST,
            "/v1/backup",
            Admin,
            ("backUp", "Send a backup of the engine's state; whole only where its end says so"),
            back_up,
        )
        .gives_bytes("application/gzip")
        .refuses(&[409, 429, 503]),
        Route::new(
            GET,
            openapi::PATH,
            Open,
            ("describe", "Describe the API, as this document does"),
            openapi::show,
        )
        .gives::<serde_json::Value>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
struct AppsQuery {
    /// Only this tenant's.
    tenant: Option<TenantName>,
    /// How many at most.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u16>,
    /// What the part begins behind: `next` of the one before.
    after: Option<AppName>,
}

async fn list_apps(
    State(engine): Shared,
    Extension(caller): Extension<Caller>,
    query: Result<Query<AppsQuery>, QueryRejection>,
) -> Result<Json<AppsView>, Refusal> {
    let AppsQuery { tenant, limit, after } = query?.0;
    let state = engine.records.state().await?;
    let is_meant = |app: &&Row<AppRow>| {
        caller.sees(app)
            && tenant.as_ref().is_none_or(|tenant| app.tenant == *tenant)
            && after.as_ref().is_none_or(|after| app.name > *after)
    };
    let page = PageQuery { limit, after: after.clone() };
    let rows = state.apps().filter(is_meant);
    let (rows, next) = page.cut(rows, |app| app.name.clone())?;
    let (observed, missing) = (engine.observed(), missing::find(&state).await);
    let view = |row: &Row<AppRow>| {
        let view = views::app(&engine.config, &state, &observed, &engine.commands, row);
        with_trouble(&engine, &missing, view)
    };
    Ok(Json(AppsView { apps: rows.into_iter().map(view).collect(), next }))
}

async fn show_app(State(engine): Shared, target: Target) -> Result<Json<AppView>, Refusal> {
    let state = engine.records.state().await?;
    let app = target.row(&state)?;
    let view = views::app(&engine.config, &state, &engine.observed(), &engine.commands, app);
    Ok(Json(with_trouble(&engine, &missing::find(&state).await, view)))
}

/// `view` with what is wrong with the app's Python, and what is `missing` of its release.
fn with_trouble(engine: &Engine, missing: &Missing, view: AppView) -> AppView {
    let trouble = |release| engine.upgrades.trouble(&view.name, release);
    let missing = missing.get(&view.name).cloned().unwrap_or_default();
    AppView { python_trouble: view.release.and_then(trouble), missing, ..view }
}

async fn destroy_app(State(engine): Shared, target: Target) -> Result<Json<Done>, Refusal> {
    if engine.is_ending() {
        return Err(Refusal::ending());
    }
    // The instances' time to stop, and as much again for their files.
    let within = engine.config.stop_grace + GONE_MARGIN * 2;
    let (task_engine, task_target) = (Arc::clone(&engine), target.clone());
    let work = in_background(&engine, async move {
        let Target { name, tenant, by } = task_target;
        destroy::begin(&task_engine, &name, tenant.as_ref(), &by).await?;
        destroy::run(task_engine, name).await;
        Ok(())
    });
    let app = target.name;
    match timeout(within, work).await {
        Ok(done) => done?,
        Err(_) => return Err(still_being_destroyed(&app)),
    }
    if engine.is_ending() {
        return Err(Refusal::ending());
    }
    Ok(Json(Done { message: format!("{app} is gone, with all that it had") }))
}

#[derive(Deserialize, JsonSchema)]
struct LogQuery {
    #[serde(default)]
    follow: bool,
    #[schemars(range(max = 10_000))]
    tail: Option<usize>,
    since: Option<Timestamp>,
    release: Option<ReleaseNumber>,
    instance: Option<InstanceId>,
}

async fn show_logs(
    State(engine): Shared,
    target: Target,
    headers: HeaderMap,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let LogQuery { follow, tail, since, release, instance } = query?.0;
    // Who names a time wants all from then on.
    let tail = tail.unwrap_or(if since.is_some() { logs::TAIL_MAX } else { TAIL });
    if tail > logs::TAIL_MAX {
        let message = format!("tail={tail} is too much; it can be up to {}", logs::TAIL_MAX);
        return Err(Refusal::bad_request(message));
    }
    let state = engine.records.state().await?;
    target.row(&state)?;
    let app = target.name;
    let filter = Filter { since, release, instance: instance.clone() };
    let request = LogRequest { app: app.clone(), filter, tail, follow };
    let found = logs::start(&engine, request).await;
    let found = found.ok_or_else(|| no_such_instance(&app, instance.as_ref()))?;
    Ok(stream::answer(Form::of(follow, &headers), found, |_| None))
}

async fn examine(State(engine): Shared) -> Result<Json<DoctorReport>, Refusal> {
    let doctor = Arc::clone(&engine.doctor);
    let examined = timeout(DOCTOR_WITHIN, tokio::task::spawn_blocking(move || doctor())).await;
    let report =
        examined.map_err(|error| Refusal::engine("examine the machine in time", &error))?;
    report.map(Json).map_err(|error| Refusal::engine("examine the machine", &error))
}

async fn list_pythons(
    State(engine): Shared,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<PythonView>>, Refusal> {
    pythons::all(&engine, &caller).await.map(Json)
}

async fn add_python(
    State(engine): Shared,
    Document(AddPython { program }): Document<AddPython>,
) -> Result<Json<PythonView>, Refusal> {
    if !program.is_absolute() {
        return Err(Refusal::bad_request("the path of a Python begins with \"/\""));
    }
    match engine.builder.add_python(&program).await {
        Ok(python) => {
            // It may be what an app waits for.
            engine.upgrades.look_now();
            Ok(Json(pythons::view(python)))
        }
        Err(BuildError::Rejected(message)) => Err(Refusal::new(ErrorCode::UnfitPython, message)),
        Err(error @ BuildError::Engine { .. }) => Err(Refusal::engine("add a Python", &error)),
    }
}

async fn back_up(State(engine): Shared) -> Result<Response, Refusal> {
    let chunks = backup::start(&engine).await?;
    let stream = unfold(chunks, |mut chunks| async move {
        let frame = chunks.recv().await?.map_or_else(|reason| failure(&reason), Frame::data);
        Some((Ok::<_, Infallible>(frame), chunks))
    });
    let headers = [(header::CONTENT_TYPE, "application/gzip"), (header::TRAILER, BACKUP_FAILURE)];
    Ok((headers, Body::new(StreamBody::new(stream))).into_response())
}

/// Why a backup broke off, for whoever reads trailers.
fn failure(reason: &str) -> Frame<Bytes> {
    let plain = reason.replace(|c: char| !matches!(c, ' '..='~'), "?");
    let value = HeaderValue::try_from(plain).unwrap_or(HeaderValue::from_static("unknown"));
    Frame::trailers(HeaderMap::from_iter([(HeaderName::from_static(BACKUP_FAILURE), value)]))
}

async fn bring_down(State(engine): Shared) -> Result<Json<Done>, Refusal> {
    let task_engine = Arc::clone(&engine);
    // Not among the tasks that winding down waits for: it would wait for itself.
    let work = tokio::spawn(async move { down(&task_engine).await });
    work.await.map_err(|error| Refusal::engine("bring everything down", &error))??;
    Ok(Json(Done { message: "everything has stopped and nothing is left".to_owned() }))
}

async fn down(engine: &Engine) -> Result<(), Refusal> {
    let _only_one = engine.going_down.lock().await;
    wind_down(engine).await;
    if let Err(left) = engine.node.down().await {
        let message = "not everything could be removed; the engine waits for another `ace down`";
        let mut refusal = Refusal::new(ErrorCode::DownIncomplete, message);
        refusal.error.detail = Some(left.join("\n"));
        return Err(refusal);
    }
    engine.is_down.send_replace(true);
    Ok(())
}

async fn no_such_path() -> Refusal {
    let message = "the API has no such path; is the client of another version than the engine?";
    Refusal::new(ErrorCode::NoSuchPath, message)
}

async fn no_such_method() -> Refusal {
    let message = "that can't be done with this path";
    Refusal::new(ErrorCode::NoSuchMethod, message)
}

/// A handler that panics costs its own request and nothing else.
async fn answer_panics(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!(path, "a request's handler panicked");
            let message = "the engine made a mistake of its own; its log says which";
            Refusal::new(ErrorCode::EngineError, message).into_response()
        }
    }
}

/// Does `work` whether its caller stays or not, and returns what came of it.
async fn in_background(
    engine: &Engine,
    work: impl Future<Output = Result<(), Refusal>> + Send + 'static,
) -> Result<(), Refusal> {
    let (sender, done) = tokio::sync::oneshot::channel();
    engine.tasks.spawn(async move {
        // Whoever asked may have left.
        let _ = sender.send(work.await);
    });
    done.await.map_err(|error| Refusal::engine("end what it had begun", &error))?
}

/// A response of one JSON document a line, as they come.
fn lines<T: Send + 'static>(receiver: mpsc::Receiver<T>, render: fn(T) -> Vec<u8>) -> Response {
    let stream = unfold(receiver, move |mut receiver| async move {
        let bytes = Bytes::from(render(receiver.recv().await?));
        Some((Ok::<_, Infallible>(bytes), receiver))
    });
    let headers = [(header::CONTENT_TYPE, stream::LINES)];
    (headers, Body::from_stream(stream)).into_response()
}

fn json_line<T: Serialize>(document: &T) -> Vec<u8> {
    // These documents are plain data, which always has a JSON form.
    let mut line = serde_json::to_vec(document).unwrap_or_default();
    line.push(b'\n');
    line
}

fn no_such_instance(app: &AppName, instance: Option<&InstanceId>) -> Refusal {
    let instance = instance.map_or("", InstanceId::as_str);
    let message =
        format!("no log is kept of an instance {instance} of {app}; `ace logs {app}` shows all");
    Refusal::new(ErrorCode::NoSuchInstance, message)
}

fn still_being_destroyed(app: &AppName) -> Refusal {
    let message = format!("{app} takes its time to stop; it's being destroyed in the background");
    Refusal::new(ErrorCode::StillBeingDestroyed, message)
}

impl From<QueryRejection> for Refusal {
    fn from(error: QueryRejection) -> Self {
        Self::bad_request(error.body_text())
    }
}
