//! Clients that ask an app without a pause, and count whatever goes wrong.
//!
//! A failure is no connection, a broken one, a status other than 200, half an answer, a wrong one, and an answer
//! of a release that was not to answer any more, or not yet.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::connection::Connection;
use crate::http::Answer;

/// An app to ask: `/` says which release answers, `/echo` its body after that, `/stream` ten lines, slowly.
pub const APP: &str = r#"
import os
import time

RELEASE = os.environ["ACE_RELEASE"].encode() + b"\n"


def application(environ, start_response):
    path = environ["PATH_INFO"]
    headers = [("Content-Type", "text/plain")]
    if path == "/stream":
        start_response("200 OK", headers)
        return stream()
    body = RELEASE
    if path == "/echo":
        body += environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
    start_response("200 OK", headers + [("Content-Length", str(len(body)))])
    return [body]


def stream():
    yield RELEASE
    for number in range(10):
        time.sleep(0.01)
        yield b"line %d\n" % number
"#;

/// What is sent to `/echo`: more than the gateway keeps in memory.
const BODY_BYTES: usize = 100_000;
/// Failures that are told in full.
const TOLD_MAX: usize = 10;
/// A pause after a failure, so that a gateway that is gone is not asked ten thousand times.
const AFTER_FAILURE: Duration = Duration::from_millis(20);

/// Clients at work. Dropping it ends them.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    host: String,
    /// The two releases that may answer now, as two halves.
    releases: AtomicU64,
    /// Whether a request may be told that the app is stopped.
    may_be_stopped: AtomicBool,
    done: AtomicBool,
    answered: AtomicU64,
    stopped: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Requests that were answered as they should be.
    pub answered: u64,
    /// Requests that were told that the app is stopped, when that was so.
    pub stopped: u64,
    /// What went wrong.
    pub failures: Vec<String>,
}

/// How a client goes about it.
#[derive(Debug, Clone, Copy)]
enum Habit {
    /// One request after the other on a connection.
    KeepAlive,
    /// A connection for each.
    Anew,
    /// Bodies, on one connection.
    Posts,
    /// Slow answers, on one connection.
    Streams,
}

impl Load {
    /// Begins to ask `app` at `address`, release `release` of which serves.
    pub fn start(address: SocketAddr, app: &str, release: u32) -> Self {
        let shared = Arc::new(Shared {
            address,
            host: format!("{app}.localhost"),
            releases: AtomicU64::new(halves(release, release)),
            may_be_stopped: AtomicBool::new(false),
            done: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            stopped: AtomicU64::new(0),
            failures: Mutex::default(),
        });
        let habits =
            [Habit::KeepAlive, Habit::KeepAlive, Habit::Anew, Habit::Posts, Habit::Streams];
        let client = |habit| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.ask_until_done(habit))
        };
        Self { clients: habits.into_iter().map(client).collect(), shared }
    }

    /// From now on `from` and `to` may answer.
    pub fn moves(&self, from: u32, to: u32) {
        self.shared.releases.store(halves(from, to), Ordering::SeqCst);
    }

    /// Requests that are sent from now on are answered by `release` alone.
    pub fn moved(&self, release: u32) {
        self.moves(release, release);
    }

    /// Whether requests may be told, from now on, that the app is stopped.
    pub fn may_be_stopped(&self, may: bool) {
        self.shared.may_be_stopped.store(may, Ordering::SeqCst);
    }

    /// Ends it, once each request that is under way has its answer.
    pub fn end(mut self) -> Result<Tally> {
        self.shared.done.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        }
        Ok(Tally {
            answered: self.shared.answered.load(Ordering::SeqCst),
            stopped: self.shared.stopped.load(Ordering::SeqCst),
            failures: std::mem::take(&mut *self.shared.failures()),
        })
    }
}

impl Tally {
    /// Itself, if nothing went wrong and there was something that could have.
    pub fn ok(self) -> Result<Self> {
        let told: Vec<_> = self.failures.iter().take(TOLD_MAX).cloned().collect();
        let (failed, answered) = (self.failures.len(), self.answered);
        ensure!(
            failed == 0,
            "{failed} of {} failed:\n{}",
            failed as u64 + answered,
            told.join("\n")
        );
        ensure!(answered >= 20, "only {answered} requests were answered");
        Ok(self)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn ask_until_done(&self, habit: Habit) {
        let mut connection = None;
        while !self.done.load(Ordering::SeqCst) {
            if let Err(error) = self.ask(habit, &mut connection) {
                self.failures().push(format!("{habit:?}: {error:#}"));
                connection = None;
                thread::sleep(AFTER_FAILURE);
            }
        }
    }

    /// Asks once, on `connection` if there is one, and leaves there what can be used again.
    fn ask(&self, habit: Habit, connection: &mut Option<Connection>) -> Result<()> {
        let open = || Connection::open(self.address, &self.host).context("no connection");
        let mut used = connection.take().map_or_else(open, Ok)?;
        let (before, may_be_stopped) =
            (self.releases(), self.may_be_stopped.load(Ordering::SeqCst));
        let body = vec![b'x'; BODY_BYTES];
        let answer = match habit {
            Habit::KeepAlive | Habit::Anew => used.ask("GET", "/", b""),
            Habit::Posts => used.ask("POST", "/echo", &body),
            Habit::Streams => used.ask("GET", "/stream", b""),
        }?;
        let is_last =
            answer.header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
        if !matches!(habit, Habit::Anew) && !is_last {
            *connection = Some(used);
        }
        if answer.status == 503 && (may_be_stopped || self.may_be_stopped.load(Ordering::SeqCst)) {
            self.stopped.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        let release = release_of(&answer, habit)?;
        let allowed = [before, self.releases()].concat();
        ensure!(allowed.contains(&release), "release {release} answered, not one of {allowed:?}");
        self.answered.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn releases(&self) -> Vec<u32> {
        let both = self.releases.load(Ordering::SeqCst).to_be_bytes();
        both.chunks(4)
            .map(|half| half.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
            .collect()
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The release that gave `answer`, which is otherwise as it should be.
fn release_of(answer: &Answer, habit: Habit) -> Result<u32> {
    let text = answer.text();
    ensure!(answer.status == 200, "status {}: {text}", answer.status);
    let (release, rest) = text.split_once('\n').context("no release")?;
    let wanted = match habit {
        Habit::KeepAlive | Habit::Anew => String::new(),
        Habit::Posts => "x".repeat(BODY_BYTES),
        Habit::Streams => (0..10).map(|number| format!("line {number}\n")).collect(),
    };
    if rest != wanted {
        bail!("a wrong answer of {} bytes instead of {}", rest.len(), wanted.len());
    }
    Ok(release.parse()?)
}

fn halves(one: u32, other: u32) -> u64 {
    u64::from(one) << 32 | u64::from(other)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// What the load says of a server that answers each connection with `answer`, once.
    fn tally_of(answer: &'static str, releases: (u32, u32)) -> Tally {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                // A short request comes in one piece; of the others it's not the answer that is looked at.
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let load = Load::start(address, "shop", releases.0);
        load.moves(releases.0, releases.1);
        thread::sleep(Duration::from_millis(300));
        load.end().expect("a tally")
    }

    #[test]
    fn what_is_right_is_counted_and_what_is_wrong_is_told() {
        let fine = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n7\n";
        let tally = tally_of(fine, (6, 7));
        assert!(tally.answered > 0, "{tally:?}");
        let of_gets = |tally: &Tally| -> String {
            let mut told = tally.failures.iter().filter(|told| told.starts_with("Anew"));
            told.next().cloned().unwrap_or_default()
        };
        assert_eq!(of_gets(&tally), "");
        assert!(of_gets(&tally_of(fine, (5, 6))).contains("release 7 answered"));
        let half = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n7\n";
        assert!(of_gets(&tally_of(half, (7, 7))).contains("cut short"));
        let failed = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
        assert!(of_gets(&tally_of(failed, (7, 7))).contains("status 502"));
        assert!(of_gets(&tally_of("", (7, 7))).contains("no answer"));
    }
}
