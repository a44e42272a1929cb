//! The app server's command line and environment: uWSGI, inside a container.

use std::time::Duration;

use ace_api::InstanceSpec;

/// The descriptor under which the server finds its listening socket.
pub const SOCKET_FD: i32 = 3;

/// The status with which uWSGI ends when `--need-app` finds none. Source: `UWSGI_FAILED_APP_CODE`.
pub const STATUS_NOT_LOADED: i32 = 22;

/// Starts uWSGI inside the environment's own interpreter. Its packages come last on `sys.path`, so
/// that the app's copy of anything wins; the empty entry that `-c` puts first goes.
const START: &str = "import sys; sys.path[:] = [p for p in sys.path if p] + ['/ace/server']; \
                     import pyuwsgi; sys.exit(pyuwsgi.run())";

const PYTHON: &str = "/ace/user/virtualenv/bin/python";

/// How long uWSGI lets a read or a write of its socket wait. By default four seconds, after which it
/// cuts the answer to a client that pauses. The gateway knows better when a client has left, and is
/// sooner to say so.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(90);

/// The program and arguments that serve `spec`'s app.
#[rustfmt::skip] // An option and its value belong on one line.
pub fn command(spec: &InstanceSpec) -> Vec<String> {
    let mercy = worker_mercy(spec.stop_grace).as_secs().to_string();
    let socket_timeout = SOCKET_TIMEOUT.as_secs().to_string();
    let socket = format!("fd://{SOCKET_FD}");
    let module = spec.entry.to_string();
    let processes = spec.processes.to_string();
    let threads = spec.threads.to_string();
    let arguments: &[&str] = &[
        "--socket", &socket,
        "--socket-timeout", &socket_timeout,
        "--master",
        "--module", &module,
        "--py-sys-executable", PYTHON, // Else it's uWSGI's idea of it, which lacks the packages.
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
        "--ignore-sigpipe",
        "--ignore-write-errors",
        "--disable-write-exception",
        "--hook-master-start", "unix_signal:15 gracefully_kill_them_all",
        "--worker-reload-mercy", &mercy,
        "--reload-mercy", &mercy,
    ];
    let start = [PYTHON, "-c", START];
    start.iter().chain(arguments).map(|part| (*part).to_owned()).collect()
}

/// The server's whole environment: ours first, then what the app's `env:` says.
pub fn environment(spec: &InstanceSpec) -> Vec<(String, String)> {
    let ours = [
        ("PATH", "/ace/user/virtualenv/bin:/usr/local/bin:/usr/bin:/bin"),
        ("VIRTUAL_ENV", "/ace/user/virtualenv"),
        ("HOME", "/tmp"),
        ("TMPDIR", "/tmp"),
        ("USER", "app"),
        ("LOGNAME", "app"),
        ("LANG", "C.UTF-8"),
        ("PYTHONUNBUFFERED", "1"),
        ("PYTHONDONTWRITEBYTECODE", "1"), // The code is read-only and already compiled.
        ("ACE_APP", spec.app.as_str()),
        ("ACE_INSTANCE", spec.id.as_str()),
    ];
    let mut all: Vec<(String, String)> =
        ours.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    all.push(("ACE_RELEASE".to_owned(), spec.release.to_string()));
    all.retain(|(name, _)| !spec.env.contains_key(name));
    all.extend(spec.env.clone());
    all
}

/// How long uWSGI lets a worker finish its requests: a little less than init lets uWSGI.
fn worker_mercy(stop_grace: Duration) -> Duration {
    stop_grace.saturating_sub(Duration::from_secs(2)).max(Duration::from_secs(1))
}
