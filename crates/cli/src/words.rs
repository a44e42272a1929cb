//! What an app said while it did not start, without what the app server says about itself.
//!
//! uWSGI writes some thirty lines of its own around a traceback. They are known by how they begin,
//! so an app's line that begins alike goes with them; `--verbose` shows every line.

/// The server starts its first worker, and only workers import the app: what comes before is not
/// the app's.
const FIRST_WORKER: &str = "spawned uWSGI worker 1 (";

/// How the server's lines begin that come after it.
const SERVER_LINES: [&str; 7] = [
    "spawned uWSGI worker ",
    "running \"unix_signal:",
    NOT_LOADED,
    "*** no app loaded. GAME OVER ***",
    "OOPS ! failed loading app in worker ",
    "SIGINT/SIGTERM received...killing workers...",
    "goodbye to uWSGI.",
];

/// All that the server says where the module has no such callable.
const NOT_LOADED: &str = "unable to load app ";

/// How a line of the server's ends that begins with a date.
const NEED_APP: &str = " - need-app requested, destroying the instance...";

/// The app's own lines of `log`; where it has none, why the server could not load it; else `log`.
pub fn of_the_app(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let first = lines.iter().position(|line| line.starts_with(FIRST_WORKER)).unwrap_or(0);
    let said = &lines[first..];
    let own: Vec<&str> = said.iter().copied().filter(|line| !is_of_the_server(line)).collect();
    if own.iter().any(|line| !line.trim().is_empty()) {
        return own.join("\n");
    }
    let not_loaded = said.iter().find(|line| line.starts_with(NOT_LOADED));
    not_loaded.map_or(log, |line| *line).to_owned()
}

fn is_of_the_server(line: &str) -> bool {
    SERVER_LINES.iter().any(|beginning| line.starts_with(beginning)) || line.ends_with(NEED_APP)
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
    fn a_server_that_never_came_to_its_workers_is_heard_out() {
        let log = "*** Starting uWSGI 2.0.30\nFatal Python error: init failed";
        assert_eq!(of_the_app(log), log);
        assert_eq!(of_the_app("goodbye to uWSGI."), "goodbye to uWSGI.");
    }
}
