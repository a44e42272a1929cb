//! The app server's command line and environment, inside a container.
//!
//! A server is started by a script of ours, which finds the app and hands it over. So a failing import
//! looks the same whatever the server, and nothing of the server's is written to the app's folder.

use std::path::Path;
use std::time::Duration;

use ace_api::{InstanceSpec, Program};
use ace_types::Server;
use ace_types::app_yaml::Entry;
use serde_json::{Value, json};

use crate::shape::VOLUME;

/// The descriptor under which the server finds its listening socket.
pub const SOCKET_FD: i32 = 3;

/// The status with which a server ends when there is no app to serve. uWSGI has it from
/// `UWSGI_FAILED_APP_CODE`, the others from our scripts.
pub const STATUS_NOT_LOADED: i32 = 22;

const PYTHON: &str = "/ace/user/virtualenv/bin/python";
/// What reads a command of the app's own. As its last act, it becomes the program it starts.
const SHELL: &str = "/bin/sh";

/// The machine's certificate authorities, on the host and in a container.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How long uWSGI lets a read or a write of its socket wait. By default four seconds, after which it
/// cuts the answer to a client that pauses. The gateway knows better when a client has left, and is
/// sooner to say so.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(90);

/// What each server's start has in common; see there.
const LOAD: &str = include_str!("server/load.py");
const CHILDREN: &str = include_str!("server/children.py");
const UWSGI: &str = include_str!("server/uwsgi.py");
const GUNICORN: &str = include_str!("server/gunicorn.py");
/// For servers whose workers we start ourselves.
const SUPERVISOR: &str = include_str!("server/supervisor.py");
const UVICORN: &str = include_str!("server/uvicorn.py");
const GRANIAN: &str = include_str!("server/granian.py");

/// How long a server keeps a connection without a request: longer than the gateway does.
const KEEP_ALIVE_SECONDS: u32 = 75;

/// The longest request head that uvicorn takes, beyond what the gateway sends.
const HEAD_BYTES_MAX: u32 = 128 << 10;

/// The program and arguments that serve `spec`'s app.
pub fn command(spec: &InstanceSpec) -> Vec<String> {
    match &spec.runtime.program {
        Program::Server { kind, entry, .. } => server(*kind, entry, spec),
        Program::Command { line, .. } => [SHELL, "-c", line].map(str::to_owned).into(),
    }
}

fn server(kind: Server, entry: &Entry, spec: &InstanceSpec) -> Vec<String> {
    let mercy = worker_mercy(spec.stop_grace).as_secs();
    let (script, options, arguments) = match kind {
        Server::Uwsgi => (UWSGI.to_owned(), json!({}), uwsgi_arguments(spec, mercy)),
        Server::Gunicorn => (GUNICORN.to_owned(), gunicorn_options(spec, mercy), Vec::new()),
        Server::Uvicorn => ([SUPERVISOR, UVICORN].concat(), uvicorn_options(mercy), Vec::new()),
        Server::Granian => ([SUPERVISOR, GRANIAN].concat(), granian_options(spec), Vec::new()),
    };
    let settings = json!({
        "server": kind,
        "entry": entry.to_string(),
        "processes": spec.processes,
        "options": options,
    });
    // Not from a file: programs that multiprocessing starts would run it again.
    let start = [PYTHON.to_owned(), "-c".to_owned(), format!("{LOAD}{CHILDREN}{script}")];
    start.into_iter().chain([settings.to_string()]).chain(arguments).collect()
}

#[rustfmt::skip] // An option and its value belong on one line.
fn uwsgi_arguments(spec: &InstanceSpec, mercy: u64) -> Vec<String> {
    let mercy = mercy.to_string();
    let socket_timeout = SOCKET_TIMEOUT.as_secs().to_string();
    let socket = format!("fd://{SOCKET_FD}");
    let processes = spec.processes.to_string();
    let threads = spec.threads.to_string();
    let arguments: &[&str] = &[
        "--socket", &socket,
        "--socket-timeout", &socket_timeout,
        "--master",
        "--module", "_ace_entry:load()",
        "--need-app", // Without an app there is nothing to serve: end, and say why.
        "--pythonpath", "/ace/code",
        "--chdir", "/ace/code",
        "--processes", &processes,
        "--threads", &threads,
        "--enable-threads",
        "--single-interpreter", // C extensions rarely bear more than one.
        "--lazy-apps", // Import in the worker: threads that an import starts don't survive a fork.
        "--buffer-size", "65535",
        "--disable-logging", // The gateway logs requests.
        "--close-on-exec", // A program that the app starts would keep an answer from its end.
        "--ignore-sigpipe",
        "--ignore-write-errors",
        "--disable-write-exception",
        "--backtrace-depth", "1", // Of itself: where a fault was in the app, Python says.
        "--hook-master-start", "unix_signal:15 gracefully_kill_them_all",
        "--worker-reload-mercy", &mercy,
        "--reload-mercy", &mercy,
    ];
    arguments.iter().map(|part| (*part).to_owned()).collect()
}

/// By the names of gunicorn's settings.
fn gunicorn_options(spec: &InstanceSpec, mercy: u64) -> Value {
    json!({
        "worker_class": "gthread",
        "workers": spec.processes,
        "threads": spec.threads,
        "timeout": 0, // The gateway bounds a request's time, and the engine a start's.
        "graceful_timeout": mercy,
        "keepalive": KEEP_ALIVE_SECONDS,
        "worker_tmp_dir": "/dev/shm", // Where a heartbeat waits for no disk.
        "forwarded_allow_ips": "*", // Nobody but the gateway reaches the socket.
        "limit_request_line": 0, // The gateway has bounded the head.
        "limit_request_field_size": 0,
        "limit_request_fields": 1000,
        "control_socket_disable": true,
    })
}

/// By the names of uvicorn's settings.
fn uvicorn_options(mercy: u64) -> Value {
    json!({
        "fd": SOCKET_FD,
        "access_log": false, // The gateway logs requests.
        "lifespan": "auto",
        "proxy_headers": true,
        "forwarded_allow_ips": "*", // Nobody but the gateway reaches the socket.
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": mercy,
        "h11_max_incomplete_event_size": HEAD_BYTES_MAX,
    })
}

/// By the names of granian's settings, but for `keep_alive_ms`.
fn granian_options(spec: &InstanceSpec) -> Value {
    json!({
        "blocking_threads": spec.threads,
        "log_access": false, // The gateway logs requests.
        "keep_alive_ms": KEEP_ALIVE_SECONDS * 1000,
    })
}

/// The server's whole environment: ours first, then what the app's `env:` says.
pub fn environment(spec: &InstanceSpec) -> Vec<(String, String)> {
    // What programs keep for their user outlives them where something does.
    let home = if spec.volume.is_some() { VOLUME } else { "/tmp" };
    let ours = [
        ("PATH", "/ace/user/virtualenv/bin:/usr/local/bin:/usr/bin:/bin"),
        ("VIRTUAL_ENV", "/ace/user/virtualenv"),
        ("HOME", home),
        ("TMPDIR", "/tmp"),
        ("USER", "app"),
        ("LOGNAME", "app"),
        ("LANG", "C.UTF-8"),
        ("PYTHONUNBUFFERED", "1"),
        ("PYTHONDONTWRITEBYTECODE", "1"), // The code is compiled already.
        ("ACE_APP", spec.app.as_str()),
        ("ACE_INSTANCE", spec.id.as_str()),
    ];
    let mut all: Vec<(String, String)> =
        ours.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    all.push(("ACE_RELEASE".to_owned(), spec.release.to_string()));
    if spec.runtime.python.version.starts_with("2.") {
        // Its output is ASCII wherever it is no terminal, whatever LANG says.
        all.push(("PYTHONIOENCODING".to_owned(), "UTF-8".to_owned()));
    }
    // What this machine trusts, its owner's certificates among it: packages bring lists of their own.
    if Path::new(CERTIFICATES).exists() {
        let names = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"];
        all.extend(names.map(|name| (name.to_owned(), CERTIFICATES.to_owned())));
    }
    all.retain(|(name, _)| !spec.env.contains_key(name));
    all.extend(spec.env.clone());
    if let Program::Command { port, .. } = spec.runtime.program {
        // Where connections go is settled when the release is made, whatever is configured later.
        all.retain(|(name, _)| name != "PORT");
        all.push(("PORT".to_owned(), port.to_string()));
    }
    all
}

/// How long a server lets a worker finish its requests: a little less than init lets the server.
fn worker_mercy(stop_grace: Duration) -> Duration {
    stop_grace.saturating_sub(Duration::from_secs(2)).max(Duration::from_secs(1))
}
