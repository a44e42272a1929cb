//! What an app can't do, tried from inside one.

#![forbid(unsafe_code)]

use std::net::{IpAddr, TcpListener};
use std::time::{Duration, Instant};

use ace_testkit::{AppFolder, Engine, eventually};
use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Where `connect(host, port)` says whether there was a connection within two seconds.
const CONNECT: &str = "
import socket
def connect(host, port):
    try:
        socket.create_connection((host, port), 2).close()
        return True
    except OSError:
        return False
";

fn engine_with(apps: &[&str]) -> Result<Engine> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    for app in apps {
        engine.deploy(AppFolder::workbench()?.path(), app)?.ok()?;
    }
    Ok(engine)
}

#[test]
fn an_app_has_no_privileges_and_sees_nothing_of_the_host() -> Result<()> {
    let engine = engine_with(&["shop"])?;
    let ask = |code: &str| engine.python("shop", code);
    assert_eq!(ask("import os; answer = [os.getuid(), os.getgid()]")?, json!([1000, 1000]));

    let status = ask("answer = open('/proc/self/status').read()")?;
    let status = status.as_str().context("no text")?;
    let none = "0000000000000000";
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{name}:\t{none}")), "{name}: {status}");
    }
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");

    let seen = ask("import os; answer = sorted(os.listdir('/'))")?;
    let seen: Vec<&str> =
        seen.as_array().context("no list")?.iter().filter_map(Value::as_str).collect();
    for hidden in ["boot", "home", "mnt", "srv", "var"] {
        assert!(!seen.contains(&hidden), "{seen:?}");
    }
    let readable = "
import os
paths = ['/etc/shadow', '/etc/ssl/private', '/proc/kcore', '/proc/1/root/etc', '/proc/1/environ', '/run/ace']
answer = [path for path in paths if os.access(path, os.R_OK)]";
    assert_eq!(ask(readable)?, json!([]));
    let processes = ask("import os; answer = sum(name.isdigit() for name in os.listdir('/proc'))")?;
    assert!(processes.as_u64().context("no number")? < 20, "{processes}");
    no_way_out_of_the_container(&engine)
}

/// Calls that would gain something are refused.
fn no_way_out_of_the_container(engine: &Engine) -> Result<()> {
    let code = "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
calls = {
    'unshare': lambda: libc.unshare(CLONE_NEWUSER),
    'mount': lambda: libc.mount(b'none', b'/tmp', b'tmpfs', 0, None),
    'setuid': lambda: libc.setuid(0),
    'chroot': lambda: libc.chroot(b'/tmp'),
    'sethostname': lambda: libc.sethostname(b'x', 1),
    'vsock': lambda: libc.socket(40, 1, 0),
    'packet': lambda: libc.socket(17, 3, 0),
}
answer = [name for name, call in calls.items() if call() >= 0]";
    assert_eq!(engine.python("shop", code)?, json!([]));
    let writes = "
answer = []
for path in ['/x', '/usr/x', '/etc/x', '/ace/x', '/ace/user/virtualenv/x', '/proc/sys/kernel/hostname']:
    try:
        open(path, 'w').close()
        answer.append(path)
    except OSError:
        pass";
    assert_eq!(engine.python("shop", writes)?, json!([]));
    Ok(())
}

#[test]
fn an_app_reaches_neither_the_host_nor_another_app() -> Result<()> {
    let engine = engine_with(&["a", "b"])?;
    let host = TcpListener::bind("0.0.0.0:0")?;
    let port = host.local_addr()?.port();
    // A datagram socket that is connected sends nothing, but knows its own address.
    let own = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('192.0.2.1', 9))
answer = s.getsockname()[0]";
    let address_of = |app: &str| -> Result<String> {
        let address = engine.python(app, own)?;
        let address = address.as_str().context("no text")?.to_owned();
        address.parse::<IpAddr>()?;
        Ok(address)
    };
    let (a, b) = (address_of("a")?, address_of("b")?);
    assert_ne!(a, b);

    let gateways = "
import socket, struct
rows = [line.split() for line in open('/proc/net/route').read().splitlines()[1:]]
answer = [socket.inet_ntoa(struct.pack('<L', int(row[2], 16))) for row in rows if row[2] != '00000000']";
    let gateways = engine.python("a", gateways)?;
    assert!(!gateways.as_array().context("no list")?.is_empty());
    let reached =
        format!("{CONNECT}\nanswer = [host for host in {gateways} if connect(host, {port})]");
    assert_eq!(engine.python("a", &reached)?, json!([]), "the host's port {port}");

    let listen = "
import socket, sys
sys.listener = socket.socket()
sys.listener.bind(('0.0.0.0', 9000))
sys.listener.listen()
answer = 1";
    engine.python("b", listen)?;
    let connect = format!("{CONNECT}\nanswer = connect({b:?}, 9000)");
    assert_eq!(engine.python("b", &connect)?, true, "an app reaches itself");
    assert_eq!(engine.python("a", &connect)?, false, "app a reached app b");
    let metadata = format!("{CONNECT}\nanswer = connect('169.254.169.254', 80)");
    assert_eq!(engine.python("a", &metadata)?, false, "a link-local address");
    Ok(())
}

#[test]
fn limits_hold_and_an_app_comes_back_after_it_met_one() -> Result<()> {
    let engine = engine_with(&["shop"])?;
    let fill = "
import errno, os
answer = 'no end'
try:
    with open('/tmp/fill', 'wb') as file:
        for _ in range(80):
            file.write(bytes(1 << 20))
except OSError as error:
    answer = errno.errorcode[error.errno]
os.unlink('/tmp/fill')";
    assert_eq!(engine.python("shop", fill)?, "ENOSPC");

    let forks = "
import os, signal, time
children = []
try:
    while len(children) < 1000:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        children.append(child)
except OSError:
    pass
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
answer = len(children)";
    let forks = engine.python("shop", forks)?;
    assert!((1..=256).contains(&forks.as_u64().context("no number")?), "{forks} processes");

    let bomb = "x = bytearray(1 << 30); x[::4096] = bytes(len(x) // 4096); answer = len(x)";
    assert!(engine.python("shop", bomb).is_err(), "a GiB fits into 512 MiB");
    let alive = || engine.python("shop", "answer = 1").ok();
    eventually("the app after its memory ran out", Duration::from_secs(30), alive)?;
    let told = || {
        let status = engine.ace(&["status", "shop"]).ok()?.stdout;
        let logs = engine.ace(&["logs", "shop"]).ok()?.stdout;
        (status + &logs).contains("memory: the limit is 512M").then_some(())
    };
    eventually("the reason", Duration::from_secs(20), told)
}

/// Neither a server that is stopped nor a process that ignores every request to end holds it up.
#[test]
fn an_app_that_will_not_end_is_destroyed_in_seconds() -> Result<()> {
    let engine = engine_with(&["shop"])?;
    let stubborn = "
import os, signal, time
if os.fork() == 0:
    os.closerange(0, 64) # Else the answer would not end before it does.
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    os._exit(0)
os.kill(os.getppid(), signal.SIGSTOP)
answer = 1";
    engine.python("shop", stubborn)?;
    let begun = Instant::now();
    engine.ace(&["destroy", "shop", "--yes"])?.ok()?;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    Ok(())
}
