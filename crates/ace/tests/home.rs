//! What a Python program takes for granted is there in its container.

#![forbid(unsafe_code)]

use std::fs;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, eventually};
use anyhow::{Context, Result};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(20);

/// Its name, Python for it, and the answer.
type Question = (&'static str, &'static str, fn() -> Value);

/// Each line is a question of its own; a failing one names itself in the answer.
const QUESTIONS: &[Question] = &[
    (
        "its own Python runs as a child",
        "subprocess.run([sys.executable, '-c', 'import sys; print(sys.prefix)'], capture_output=True, text=True).stdout.strip()",
        || json!("/ace/user/virtualenv"),
    ),
    ("temporary files", "tempfile.mkstemp()[1].startswith('/tmp/')", || json!(true)),
    ("a home that can be written to", "os.access(os.path.expanduser('~'), os.W_OK)", || {
        json!(true)
    }),
    ("a user with a name", "getpass.getuser()", || json!("app")),
    ("text is UTF-8", "[locale.getpreferredencoding(), sys.getfilesystemencoding()]", || {
        json!(["UTF-8", "utf-8"])
    }),
    ("time zones", "str(zoneinfo.ZoneInfo('Europe/Berlin'))", || json!("Europe/Berlin")),
    (
        "certificates of authorities",
        "ssl.create_default_context().cert_store_stats()['x509_ca'] > 10",
        || json!(true),
    ),
    (
        "where requests and httpx find them",
        "[os.environ[name] for name in ('REQUESTS_CA_BUNDLE', 'SSL_CERT_FILE')]",
        || json!(["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt"]),
    ),
    (
        "locks and shared memory of multiprocessing",
        "[str(multiprocessing.get_context('fork').Lock()), shared()]",
        || json!(["<Lock(owner=None)>", 8]),
    ),
    (
        "a database on its volume",
        "sqlite3.connect('/ace/data/x.db').execute('create table t(x)').fetchall()",
        || json!([]),
    ),
    ("names of its own host", "socket.gethostbyname(socket.gethostname())", || json!("127.0.0.1")),
    (
        "its code first, the server's packages last",
        "[sys.path[0].rstrip('/'), sys.path[-1]]",
        || json!(["/ace/code", "/ace/server"]),
    ),
    ("where it is", "[os.getcwd(), os.environ['ACE_APP']]", || json!(["/ace/code", "home"])),
];

const IMPORTS: &str = "
import getpass, locale, multiprocessing, os, socket, sqlite3, ssl, subprocess, sys, tempfile, zoneinfo
from multiprocessing import shared_memory
def shared():
    memory = shared_memory.SharedMemory(create=True, size=8)
    memory.buf[0] = 8
    found = memory.buf[0]
    memory.close(); memory.unlink()
    return found
globals().update(locals())
";

/// What children have to say, and by what they end. On any Python.
const CHILDREN: &str = "
import multiprocessing, os, subprocess, sys, time
forking = getattr(multiprocessing, 'get_context', lambda _: multiprocessing)('fork')
def ends(child, ask):
    child.start(); ask(child); child.join(20)
    return child.exitcode
pool = forking.Pool(2)
answer = [pool.map(abs, [-1, -2])]
pool.terminate(); pool.join()
answer.append(ends(forking.Process(target=abs, args=(-1,)), repr))
answer.append(ends(forking.Process(target=time.sleep, args=(60,)), lambda child: child.terminate()))
spawning = getattr(multiprocessing, 'get_context', lambda _: multiprocessing)('spawn')
answer.append(ends(spawning.Process(target=time.sleep, args=(60,)), lambda child: child.terminate()))
program = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
program.terminate()
answer.append(program.wait())
lasting = forking.Process(target=time.sleep, args=(300,))
lasting.daemon = True
lasting.start()
os.system('sleep 300 &')
";

/// How often children are asked for, so that each of a server's threads is.
const TIMES: usize = 8;

/// Stands before a workbench, which then says so when it ends, under whatever serves it. On any Python.
const PARTING: &str = "# -*- coding: utf-8 -*-
import atexit, os, sys


@atexit.register
def part():
    sys.stdout.write(u'I went, f\\u00fcr heute\\n')

";

/// The same on $PORT, below a shell that does not become it.
const PARTING_SERVER: &str = "
import signal, sys
from wsgiref.simple_server import make_server
import index

signal.signal(signal.SIGTERM, lambda *_: sys.exit())
make_server('', int(index.os.environ['PORT']), index.application).serve_forever()
";

#[test]
fn children_and_the_end_are_as_without_a_server() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let app = AppFolder::workbench()?;
    let workbench = fs::read_to_string(app.path().join("index.py"))?;
    app.write("index.py", &format!("{PARTING}{workbench}"))?;
    app.write("serve.py", PARTING_SERVER)?;
    app.write("Procfile", "web: cd /ace/code; python serve.py; echo over\n")?;
    let listed = engine.ace(&["python", "list", "--json"])?.ok()?.stdout;
    let servers =
        ["uwsgi", "gunicorn", "uvicorn", "granian", "none"].map(|server| ("3.13", server));
    let old = [("3.8", "uwsgi"), ("2.7", "uwsgi"), ("2.7", "none")];
    for (python, server) in servers.into_iter().chain(old) {
        if !listed.contains(&format!("\"{python}.")) {
            eprintln!("skipped in part: this machine has no Python {python}");
            continue;
        }
        app.write("app.yaml", &format!("python: \"{python}\"\nserver: {server}\n"))?;
        let name = format!("{server}-{}", python.replace('.', ""));
        engine.deploy(app.path(), &name)?.ok()?;
        // A command of the app's own has what it says itself of signals.
        for _ in 0..if server == "none" { 0 } else { TIMES } {
            let answer = engine.python(&name, CHILDREN).with_context(|| name.clone())?;
            assert_eq!(answer, json!([[1, 2], 0, -15, -15, -15]), "{name}");
        }
        engine.ace(&["stop", &name])?.ok()?;
        eventually(&format!("the last word under {name}"), DEADLINE, || {
            let said = engine.ace(&["logs", &name]).ok()?.stdout;
            said.contains("I went, für heute").then_some(())
        })?;
    }
    Ok(())
}

#[test]
fn a_python_program_is_at_home() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let home = AppFolder::workbench()?;
    home.write("app.yaml", "volume: 64M\n")?;
    engine.deploy(home.path(), "home")?.ok()?;
    for (what, question, expected) in QUESTIONS {
        let answer = engine.python("home", &format!("{IMPORTS}\nanswer = {question}"))?;
        assert_eq!(answer, expected(), "{what}");
    }
    Ok(())
}
