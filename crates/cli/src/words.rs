//! What an app said while it did not start, without what the app server says about itself.
//!
//! uWSGI writes some thirty lines of its own around a traceback, the other servers a few. They are
//! known by how they begin, so an app's line that begins alike goes with them; `--verbose` shows
//! every line.

/// The server starts its first worker, and only workers import the app: what comes before is not
/// the app's.
const FIRST_WORKER: &str = "spawned uWSGI worker 1 (";

/// How the server's lines begin that come after it.
const SERVER_LINES: [&str; 25] = [
    "spawned uWSGI worker ",
    "running \"unix_signal:",
    NOT_LOADED,
    "*** no app loaded. GAME OVER ***",
    "OOPS ! failed loading app in worker ",
    "SIGINT/SIGTERM received...",
    "SIGINT/SIGQUIT received...",
    "goodbye to uWSGI.",
    "DAMN ! worker ",
    "Respawned uWSGI worker ",
    "worker respawning too fast !!! ",
    "WSGI app 0 (mountpoint=''",
    "!!! uWSGI process ",
    "*** backtrace of ",
    "/ace/server/pyuwsgi.",
    "*** end of backtrace ***",
    "gracefully killing workers...",
    "...gracefully killing workers...",
    // uvicorn's.
    "INFO:     Started server process [",
    "INFO:     Waiting for application startup.",
    "INFO:     ASGI 'lifespan' protocol appears unsupported.",
    "INFO:     Application startup complete.",
    "INFO:     Uvicorn running on ",
    "ERROR:    Application startup failed. Exiting.",
    // Our own, for servers whose workers we start.
    "ace: worker ",
];

/// All that the server says where the module has no such callable.
const NOT_LOADED: &str = "unable to load app ";

/// How Python begins to tell of an exception or a fault.
const TRACEBACKS: [&str; 2] = ["Traceback (most recent call last):", "Fatal Python error: "];

/// What is said for an app that has said nothing itself.
const SILENT: &str = "it printed nothing; with -v, `ace deploy` shows what its server says";

/// What only a server says that has come to starting workers.
const WORKERS_BEGAN: [&str; 3] =
    [FIRST_WORKER, "[INFO] Booting worker ", "INFO:     Started server process ["];

/// How a line of the server's ends that begins with a date.
const NEED_APP: &str = " - need-app requested, destroying the instance...";

/// The app's own lines of `log`; where it has none, why the server could not load it. A server that never
/// came to its workers is heard out.
pub fn of_the_app(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let first = lines.iter().position(|line| line.starts_with(FIRST_WORKER)).unwrap_or(0);
    let said = &lines[first..];
    let own: Vec<&str> = said.iter().copied().filter(|line| !is_of_the_server(line)).collect();
    if own.iter().any(|line| !line.trim().is_empty()) {
        return without_repetitions(&own).join("\n");
    }
    let not_loaded = said.iter().find(|line| line.starts_with(NOT_LOADED));
    let has_workers = WORKERS_BEGAN.iter().any(|words| log.contains(words));
    not_loaded.map_or(if has_workers { SILENT } else { log }, |line| *line).to_owned()
}

/// `lines` without tracebacks that come again below.
fn without_repetitions<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let begins = |line: &str| TRACEBACKS.iter().any(|beginning| line.starts_with(beginning));
    let parts: Vec<&[&str]> = lines.chunk_by(|_, next| !begins(next)).collect();
    let comes_again =
        |index: usize| begins(parts[index][0]) && parts[index + 1..].contains(&parts[index]);
    (0..parts.len())
        .filter(|index| !comes_again(*index))
        .flat_map(|index| parts[index].to_vec())
        .collect()
}

fn is_of_the_server(line: &str) -> bool {
    SERVER_LINES.iter().any(|beginning| line.starts_with(beginning))
        || line.ends_with(NEED_APP)
        || line.starts_with("worker ") && line.contains(" buried after ")
        || is_of_gunicorn(line)
        || is_below_the_app(line)
}

/// Whether this is a frame that Python shows of a fault, such as `  File "x.py", line 5 in f`, and not of
/// the app: what imports it and what serves it.
fn is_below_the_app(line: &str) -> bool {
    let strangers = ["<frozen ", "<string>", "/ace/server/"];
    let is_frame = !line.contains(", in ");
    line.strip_prefix("  File \"").is_some_and(|place| {
        is_frame && strangers.iter().any(|stranger| place.starts_with(stranger))
    })
}

/// Whether this is gunicorn's, such as `[2026-11-23 09:12:02 +0000] [7] [INFO] Booting worker`, on
/// itself. Its errors may have a traceback below them.
fn is_of_gunicorn(line: &str) -> bool {
    let mut parts = line.splitn(4, "] [");
    let is_date = parts.next().is_some_and(|date| date.starts_with('[') && date.len() == 26);
    let is_process = parts.next().is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_digit()));
    let said = parts.next().and_then(|said| said.split_once("] ")).unwrap_or_default();
    let of_itself = ["Worker (pid:", "Shutting down: ", "Reason: "];
    let is_news = said.0 == "INFO" || of_itself.iter().any(|start| said.1.starts_with(start));
    is_date && is_process && is_news
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As uWSGI 2.0.30 writes it, with less of its beginning.
    fn log(of_the_app: &str) -> String {
        format!(
            "*** Starting uWSGI 2.0.30 (64bit) on [Mon Nov 23 07:35:06 2026] ***\n\
             machine: x86_64\n\
             spawned uWSGI master process (pid: 2)\n\
             spawned uWSGI worker 1 (pid: 3, cores: 4)\n\
             running \"unix_signal:15 gracefully_kill_them_all\" (master-start)...\n\
             {of_the_app}\
             unable to load app 0 (mountpoint='') (callable not found or import error)\n\
             *** no app loaded. GAME OVER ***\n\
             OOPS ! failed loading app in worker 1 (pid 3)\n\
             Mon Nov 23 07:35:07 2026 - need-app requested, destroying the instance...\n\
             SIGINT/SIGTERM received...killing workers...\n\
             goodbye to uWSGI."
        )
    }

    #[test]
    fn a_traceback_comes_last_and_alone() {
        let traceback = "machine: mine\nTraceback (most recent call last):\n  File \"index.py\"\n\
                         ImportError: x";
        assert_eq!(of_the_app(&log(&format!("{traceback}\n"))), traceback);
    }

    #[test]
    fn without_a_word_of_the_app_the_server_has_one() {
        assert_eq!(
            of_the_app(&log("")),
            "unable to load app 0 (mountpoint='') (callable not found or import error)"
        );
    }

    #[test]
    fn the_other_servers_say_less_and_go_likewise() {
        let gunicorn = "[2026-11-23 09:12:02 +0000] [2] [INFO] Starting gunicorn 23.0.0\n\
                        Traceback\n\
                        [2026-11-23 09:12:02 +0000] [2] [ERROR] Worker (pid:3) exited with code 22\n\
                        [2026-11-23 09:12:02 +0000] [2] [ERROR] Reason: App failed to load.";
        assert_eq!(of_the_app(gunicorn), "Traceback");
        let uvicorn = "INFO:     Started server process [2]\nERROR:    Traceback\nERROR:    \
                       Application startup failed. Exiting.";
        assert_eq!(of_the_app(uvicorn), "ERROR:    Traceback");
        let of_the_app_s = "[2026-11-23 09:12:02 +0000] [2] [ERROR] Error handling request /";
        assert_eq!(of_the_app(of_the_app_s), of_the_app_s);
    }

    #[test]
    fn a_fault_is_shown_where_the_app_was() {
        let fault = "Fatal Python error: Segmentation fault\n\n\
                     Current thread 0x00007f17c5652b80 (most recent call first):\n  \
                     File \"/ace/code/index.py\", line 2 in <module>\n";
        let below = "  File \"<frozen importlib._bootstrap>\", line 488 in _call\n  \
                     File \"/ace/server/gunicorn/arbiter.py\", line 608 in spawn_worker\n\
                     !!! uWSGI process 9 got Segmentation Fault !!!\n\
                     worker respawning too fast !!! i have to sleep a bit (2 seconds)...\n";
        let thrice = format!("{fault}{below}").repeat(3);
        assert_eq!(of_the_app(&log(&thrice)), fault.trim_end());
    }

    #[test]
    fn a_silent_app_is_said_to_be_silent() {
        let gunicorn = "[2026-11-23 09:12:02 +0000] [2] [INFO] Starting gunicorn 23.0.0\n\
                        [2026-11-23 09:12:02 +0000] [3] [INFO] Booting worker with pid: 3\n\
                        [2026-11-23 09:12:02 +0000] [2] [ERROR] Worker (pid:3) was sent SIGKILL!";
        assert_eq!(of_the_app(gunicorn), SILENT);
    }

    #[test]
    fn a_server_that_never_came_to_its_workers_is_heard_out() {
        let log = "*** Starting uWSGI 2.0.30\nFatal Python error: init failed";
        assert_eq!(of_the_app(log), log);
        assert_eq!(of_the_app("goodbye to uWSGI."), "goodbye to uWSGI.");
    }
}
