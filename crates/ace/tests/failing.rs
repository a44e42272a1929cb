//! Apps that fail, each told from the others: in the deploy's output and afterwards, while what
//! served before goes on.

#![forbid(unsafe_code)]

use std::time::Duration;

use ace_testkit::{AppFolder, Engine, app, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Workers that end at once are started again after a pause, and only some number of times.
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(60);

/// An app that fails.
struct Failing {
    /// The stable word for it.
    code: &'static str,
    index: &'static str,
    settings: &'static str,
    /// What the message has, then what the app's own words have.
    told: &'static str,
    words: &'static str,
}

const SERVES: &str = "\n\ndef application(environ, start_response):\n    \
                      start_response('200 OK', [])\n    return [b'up']\n";

/// Deploys each of `apps` over one that serves, under each of `servers`.
fn each_is_told(servers: &[&str], apps: &[Failing]) -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let folder = AppFolder::new(&app::saying("old"))?;
    engine.deploy(folder.path(), "shop")?.ok()?;
    for (server, failing) in servers.iter().flat_map(|s| apps.iter().map(move |app| (s, app))) {
        let Failing { code, index, settings, .. } = failing;
        folder.write("index.py", index)?;
        folder.write("app.yaml", &format!("server: {server}\n{settings}\n"))?;
        is_told(&engine, &folder, failing).with_context(|| format!("{code} under {server}"))?;
    }
    Ok(())
}

fn is_told(engine: &Engine, folder: &AppFolder, failing: &Failing) -> Result<()> {
    let path = folder.path().to_str().context("no text")?;
    let failed = engine.ace(&["deploy", path, "--app", "shop", "--json"])?;
    ensure!(failed.status == 1, "{failed:?}");
    let error: Value = failed.json()?["error"].clone();
    ensure!(error["code"] == failing.code, "{error}");
    let message = error["message"].as_str().unwrap_or_default();
    ensure!(message.contains(failing.told), "{message}");
    let detail = error["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains(failing.words), "{detail}");

    let status = engine.status("shop")?;
    let last = status["last_deploy"]["error"].as_str().unwrap_or_default();
    ensure!(last.contains(failing.told), "{last}");
    ensure!(status["last_deploy"]["code"] == failing.code, "{status}");
    ensure!(status["release"] == 1, "{status}");
    ensure!(engine.get("shop", "/")?.text() == "old", "the old release does not serve");
    Ok(())
}

#[test]
fn what_does_not_load_is_told_under_every_server() -> Result<()> {
    let apps = [
        Failing {
            code: "import_failed",
            index: "raise ValueError('no settings')\napplication = None",
            settings: "",
            told: "its import failed with ValueError",
            words: "ValueError: no settings",
        },
        Failing {
            code: "import_failed",
            index: "import os\nos.environ['DATABASE_URL']\napplication = None",
            settings: "",
            told: "KeyError: DATABASE_URL; if that is a variable, \"env:\" in app.yaml sets it",
            words: "KeyError: 'DATABASE_URL'",
        },
        Failing {
            code: "module_missing",
            index: "import yaml\napplication = None",
            settings: "",
            told: "add this line to requirements.txt: PyYAML",
            words: "index.py\", line 1",
        },
        Failing {
            code: "syntax_error",
            index: "import other\napplication = None",
            settings: "env: {A: \"1\"}",
            told: "a syntax error in other.py, line 2",
            words: "SyntaxError",
        },
        Failing {
            code: "entry_missing",
            index: "def main(): pass",
            settings: "entry: index:application",
            told: "there is no index:application",
            words: "it has main",
        },
        Failing {
            code: "entry_not_callable",
            index: "application = 7",
            settings: "",
            told: "index:application can't be called, being of type int",
            words: "is of type int",
        },
    ];
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let folder = AppFolder::new(&app::saying("old"))?;
    folder.write("other.py", "a = 1\ndef b(:\n")?;
    engine.deploy(folder.path(), "shop")?.ok()?;
    for server in ["uwsgi", "gunicorn", "uvicorn", "granian"] {
        for failing in &apps {
            folder.write("index.py", failing.index)?;
            folder.write("app.yaml", &format!("server: {server}\n{}\n", failing.settings))?;
            is_told(&engine, &folder, failing)
                .with_context(|| format!("{} under {server}", failing.code))?;
        }
    }
    // What loads, but answers as Django does where ALLOWED_HOSTS lacks a name, is live with a note.
    folder.write("index.py", &SERVES.replace("200 OK", "400 Bad Request"))?;
    let live = engine.deploy(folder.path(), "shop")?.ok()?;
    ensure!(live.stderr.contains("note: shop answers GET / with 400 Bad Request; if"), "{live:?}");
    ensure!(live.stderr.contains("let it allow shop.localhost"), "{live:?}");
    Ok(())
}

#[test]
fn what_the_limits_did_is_told() -> Result<()> {
    let index = |text: &str| -> &'static str { Box::leak(format!("{text}{SERVES}").into()) };
    let everywhere = [
        Failing {
            code: "tmp_full",
            index: index("open('/tmp/a', 'wb').write(b'x' * (2 << 20))"),
            settings: "limits: {tmp: 1M}",
            told: "/tmp is full: its limit is 1M (tmp)",
            words: "No space left on device",
        },
        Failing {
            code: "shm_full",
            index: index("open('/dev/shm/a', 'wb').write(b'x' * (2 << 20))"),
            settings: "limits: {shm: 1M}",
            told: "/dev/shm is full: its limit is 1M (shm)",
            words: "No space left on device",
        },
        Failing {
            code: "too_many_processes",
            index: index(
                "import threading, time\nfor _ in range(50):\n    \
                 threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
            ),
            settings: "limits: {pids: 30}",
            told: "its limit is 30 (pids)",
            words: "can't start new thread",
        },
        Failing {
            code: "out_of_memory",
            index: index("a = b'x' * (200 << 20)"),
            settings: "limits: {memory: 64M}",
            told: "out of memory: its limit is 64M (memory)",
            words: "",
        },
    ];
    each_is_told(&["uwsgi", "gunicorn", "uvicorn", "granian"], &everywhere)?;
    let volume = Failing {
        code: "volume_full",
        index: index(
            "f = open('/ace/data/a', 'wb', buffering=0)\nwhile True: f.write(b'x' * (1 << 20))",
        ),
        settings: "volume: 16M",
        told: "the volume is full",
        words: "No space left on device",
    };
    each_is_told(&["gunicorn"], &[volume])
}

#[test]
fn memory_is_the_cause_though_the_server_lives_on() -> Result<()> {
    // The server's own process is small and answers nothing: a child of the app's is killed again and again.
    let child = Failing {
        code: "out_of_memory",
        index: "import subprocess, sys\ndef application(environ, start_response):\n    \
                while True: subprocess.call([sys.executable, '-c', 'b\"x\" * (200 << 20)'])",
        settings: "limits: {memory: 64M}\nstartup: 3s",
        told: "out of memory: its limit is 64M (memory)",
        words: "",
    };
    each_is_told(&["gunicorn"], &[child])
}

#[test]
fn a_fault_in_a_worker_is_told_by_its_signal() -> Result<()> {
    let fault = |settings| Failing {
        code: "workers_end",
        index: "import ctypes\nctypes.string_at(0)\napplication = None",
        settings,
        told: "its worker processes end as soon as they start, by signal 11 (SIGSEGV",
        words: "/ace/code/index.py\", line 2 in <module>",
    };
    each_is_told(&["uwsgi", "gunicorn"], &[fault("")])?;
    each_is_told(&["uvicorn"], &[fault("processes: 2")])
}

/// An application that says itself that it can't start.
const LIFESPAN: &str = "async def application(scope, receive, send):\n    \
    if scope['type'] == 'lifespan':\n        \
        await receive()\n        \
        await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n";

#[test]
fn a_lifespan_that_fails_is_told() -> Result<()> {
    let lifespan = |settings| Failing {
        code: "startup_failed",
        index: LIFESPAN,
        settings,
        told: "the app's own startup failed",
        words: "no database",
    };
    each_is_told(&["uvicorn", "granian"], &[lifespan(""), lifespan("processes: 2")])
}

#[test]
fn workers_that_end_just_after_their_start_take_the_release_back() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let folder = AppFolder::new(&app::saying("old"))?;
    engine.deploy(folder.path(), "shop")?.ok()?;
    let dies = "import os, threading\nthreading.Timer(0.7, os._exit, (1,)).start()";
    folder.write("index.py", &format!("{dies}{SERVES}"))?;
    engine.deploy(folder.path(), "shop")?;
    let withdrawn = eventually("the release taken back", TAKEN_BACK_WITHIN, || {
        let status = engine.status("shop").ok()?;
        (status["release"] == 1).then(|| status["withdrawn"]["reason"].clone())
    })?;
    let reason = withdrawn.as_str().unwrap_or_default();
    ensure!(reason.contains("its worker processes end as soon as they start"), "{reason}");
    ensure!(engine.get("shop", "/")?.text() == "old");
    Ok(())
}

#[test]
fn an_end_and_a_delay_are_told_apart() -> Result<()> {
    let index = |text: &str| -> &'static str { Box::leak(format!("{text}{SERVES}").into()) };
    each_is_told(
        &["uvicorn"],
        &[
            Failing {
                code: "signalled",
                index: index("import ctypes\nctypes.string_at(0)"),
                settings: "",
                told: "signal 11 (SIGSEGV",
                words: "Segmentation fault",
            },
            Failing {
                code: "exited",
                index: index("import os\nos._exit(3)"),
                settings: "",
                told: "ended with status 3",
                words: "",
            },
            Failing {
                code: "exited",
                index: index("import os, threading\nthreading.Timer(0.2, os._exit, (4,)).start()"),
                settings: "",
                told: "ended with status 4",
                words: "",
            },
        ],
    )?;
    each_is_told(
        &["uwsgi"],
        &[
            Failing {
                code: "workers_end",
                index: index("import os\nos.kill(os.getpid(), 9)"),
                settings: "",
                told: "its worker processes end as soon as they start, by signal 9 (SIGKILL",
                words: "",
            },
            Failing {
                code: "still_loading",
                index: index("import time\nprint('thinking')\ntime.sleep(99)"),
                settings: "startup: 2s",
                told: "its import has not ended after 2 s",
                words: "thinking",
            },
            Failing {
                code: "no_answer",
                index: "import time\ndef application(environ, start_response): time.sleep(99)",
                settings: "startup: 2s",
                told: "no answer after 2 s",
                words: "",
            },
            Failing {
                code: "unhealthy",
                index: "def application(environ, start_response):\n    \
                        start_response('500 Oops', [])\n    return [b'the database is away']",
                settings: "startup: 2s\nhealth: /healthz",
                told: "GET /healthz was answered with 500",
                words: "the database is away",
            },
        ],
    )
}
