//! What only the host can see: whether it is as it was, and as whom a tenant's processes run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ace_api::CommandEnd;
use ace_api::http::{AppView, LogLine};
use ace_types::{AppName, IdRange};
use http::Method;
use tokio::time::{Instant, sleep};

use super::bait::{self, Bait};
use super::inside::Inside;
use super::report::Probe;
use super::stage::Stage;
use crate::client::{Client, empty_body};
use crate::error::CommandError;

/// How long what an app has printed may take to be in its log.
const LOG_DEADLINE: Duration = Duration::from_secs(10);
const LOG_PAUSE: Duration = Duration::from_millis(200);
/// How long the flood of lines lasts, in seconds.
const FLOOD_SECONDS: &str = "4";

/// How many connections the kernel keeps track of, everybody's.
const CONNECTIONS: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// Each goes to a port of its own.
const BEGIN_CONNECTIONS: &str = "
import socket
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1, 32769):
    try:
        datagrams.sendto(b'x', ('192.0.2.1', port))
    except OSError:
        pass
";
const CONNECTIONS_TRIED: u64 = 32_768;
/// What one container may have, 4,096, and what others on a busy machine may begin meanwhile.
const CONNECTIONS_MOST: u64 = CONNECTIONS_TRIED / 2;
/// Fewer come of what others do.
const CONNECTIONS_LEAST: u64 = 2048;

/// Memory of the kernel's that no limit binds: what it's for, where the kernel tells of it, and code that takes some
/// 100 MB of it and waits.
const UNBOUND: [(&str, &str, &str); 4] = [
    (
        "locks of files, which no limit binds",
        "/sys/kernel/slab/file_lock_cache/total_objects",
        LOCK_FILES,
    ),
    ("answers that nobody reads, which no limit binds", "/proc/self/net/netlink", LEAVE_ANSWERS),
    ("netlink sockets, which no limit binds", "/proc/self/net/protocols", OPEN_NETLINK),
    ("TCP sockets, which no limit binds", "/proc/self/net/protocols", OPEN_TCP),
];
const LOCK_FILES: &str = "
import fcntl, os, struct, time
files = [os.open('/tmp/locked-%d' % number, os.O_RDWR | os.O_CREAT) for number in range(100)]
for place in range(6000, 0, -1):
    for file in files:
        fcntl.fcntl(file, fcntl.F_SETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 4 * place, 1, 0))
time.sleep(30)
";

const LEAVE_ANSWERS: &str = "
import socket, struct, time
question = struct.pack('IHHIIBBHiII', 32, 18, 1, 1, 0, 0, 0, 0, 1, 0, 0)
kept = []
for _ in range(500):
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    one.setblocking(False)
    kept.append(one)
    try:
        for _ in range(400):
            one.send(question)
    except OSError:
        pass
time.sleep(30)
";

const OPEN_NETLINK: &str = "
import os, socket, time
for _ in range(4):
    if os.fork() == 0:
        break
kept = []
try:
    while True:
        kept.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
except OSError:
    time.sleep(30)
";

const OPEN_TCP: &str = "
import os, socket, time
for _ in range(8):
    if os.fork() == 0:
        break
listening = socket.socket()
listening.bind(('127.0.0.1', 0))
listening.listen(64)
kept = []
try:
    while True:
        kept.append(socket.create_connection(listening.getsockname()))
        kept.append(listening.accept()[0])
except OSError:
    time.sleep(30)
";

/// Packets of which the host lacks a piece.
const PIECES: &str = "/proc/net/sockstat";
/// Sends what goes in many pieces to its own gateway, which throws it away, faster than all of them get through.
const SEND_PIECES: &str = "
import socket, struct, time
gateway = next(
    words[2] for words in map(str.split, open('/proc/net/route')) if words[1] == '00000000'
)
address = socket.inet_ntoa(struct.pack('=I', int(gateway, 16)))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.setblocking(False)
end = time.monotonic() + 2
while time.monotonic() < end:
    try:
        datagrams.sendto(bytes(65000), (address, 9))
    except OSError:
        pass
";
/// So many may be others'. Some 800 fill the kernel's room for them.
const PIECES_MOST: u64 = 100;

/// A process of a tenant's, as the host sees it. It runs until this is dropped: a namespace that is gone gives its
/// number to another.
struct Seen {
    _running: Inside,
    user: u32,
    status: String,
    namespaces: BTreeMap<String, String>,
}

/// Looks while both apps run.
pub async fn look(client: &Client, stage: &Stage, bait: &Bait) -> Result<Vec<Probe>, CommandError> {
    let mut probes = as_whom(client, stage, bait).await?;
    probes.push(static_files(stage).await?);
    probes.push(connections(client, stage).await?);
    probes.push(pieces(client, stage).await?);
    probes.extend(kernel_memory(client, stage).await?);
    probes.push(passed_files(stage).await?);
    probes.extend(log(client, stage, bait).await?);
    let contacts = stage.contacts().await?.contacts;
    probes.push(Probe::outside(
        "who came to the neighbour's own port",
        "nobody",
        contacts.is_empty(),
        nobody_or(&contacts),
    ));
    let visitors = bait.visitors();
    probes.push(Probe::outside(
        "who came to services of the host, as himself or forged",
        "nobody",
        visitors.is_empty(),
        nobody_or(&visitors),
    ));
    Ok(probes)
}

/// Looks when both are gone.
pub fn after(bait: &Bait) -> Vec<Probe> {
    let changed = bait.changed_settings();
    let left = processes_of(&bait.facts.nonce);
    let one = |name, expected, ok, good: &str, bad: String| {
        Probe::outside(name, expected, ok, if ok { good.to_owned() } else { bad })
    };
    vec![
        one(
            "the host's file",
            "as it was",
            bait.is_file_whole(),
            "as it was",
            "changed, or gone".to_owned(),
        ),
        one(
            "the host's process",
            "still runs",
            bait.is_process_alive(),
            "still runs",
            "ended".to_owned(),
        ),
        one(
            "the kernel's settings",
            "as they were",
            changed.is_empty(),
            "as they were",
            format!("changed: {}", changed.join(", ")),
        ),
        one(
            "processes that outlive their app",
            "none",
            left.is_empty(),
            "none",
            format!("still there: {left:?}"),
        ),
    ]
}

/// Starts a process in each app, and looks at both.
async fn as_whom(client: &Client, stage: &Stage, bait: &Bait) -> Result<Vec<Probe>, CommandError> {
    let attacker = see(client, stage.attacker(), &bait.facts.nonce).await?;
    let neighbour = see(client, stage.neighbour(), &bait.facts.nonce).await?;
    let first = IdRange::new(0).map_or(u32::MAX, |range| range.first());
    let range = |seen: &Seen| seen.user / IdRange::COUNT;
    let unprivileged = attacker.is_unprivileged();
    Ok(vec![
        Probe::outside(
            "the attacker's user",
            "none that the host has",
            attacker.user >= first,
            attacker.user.to_string(),
        ),
        Probe::outside(
            "the ranges of two tenants' users",
            "apart",
            range(&attacker) != range(&neighbour),
            format!("{} and {}", attacker.user, neighbour.user),
        ),
        Probe::outside(
            "the attacker's capabilities",
            "none",
            unprivileged,
            if unprivileged { "none" } else { "some" },
        ),
        shared("the host", &attacker, &bait::namespaces("self")),
        shared("the neighbour", &attacker, &neighbour.namespaces),
    ])
}

/// Whether the attacker has a namespace in common with somebody.
fn shared(whom: &str, attacker: &Seen, others: &BTreeMap<String, String>) -> Probe {
    let same = attacker.namespaces.iter().filter(|(name, id)| others.get(*name) == Some(*id));
    let same: Vec<&str> = same.map(|(name, _)| name.as_str()).collect();
    let is_known = !others.is_empty() && attacker.namespaces.len() == others.len();
    let observed = match (&same[..], is_known) {
        ([], true) => "none".to_owned(),
        ([], false) => "not all can be seen".to_owned(),
        (same, _) => same.join(", "),
    };
    let name = format!("namespaces shared with {whom}");
    Probe::outside(&name, "none", is_known && same.is_empty(), observed)
}

impl Seen {
    fn is_unprivileged(&self) -> bool {
        let is_empty = |name: &&str| {
            self.status.lines().any(|line| line == format!("{name}:\t0000000000000000"))
        };
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].iter().all(is_empty)
    }
}

/// A process of `app`, as the host sees it.
async fn see(client: &Client, app: &AppName, nonce: &str) -> Result<Seen, CommandError> {
    let mark = format!("seen-{nonce}-{app}");
    let code = "import time; print('ready', flush=True); time.sleep(60)";
    let mut command = Inside::run(client, app, &["python", "-c", code, &mark]).await?;
    command.line().await?;
    let lost = || CommandError::Refused(format!("the host does not see what runs in {app}"));
    let pid = processes_of(&mark).into_iter().next().ok_or_else(lost)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let user = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next()?.parse().ok());
    let (user, namespaces) = (user.ok_or_else(lost)?, bait::namespaces(&pid.to_string()));
    Ok(Seen { _running: command, user, status, namespaces })
}

/// Processes whose command line has `mark` in it, but for the host's that is bait.
fn processes_of(mark: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has_mark = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_bait = command.starts_with(b"ace-prove-bait-");
        !is_bait && command.windows(mark.len()).any(|window| window == mark.as_bytes())
    };
    pids.filter(has_mark).collect()
}

/// Asks the gateway for what lies beside the folder of static files.
async fn static_files(stage: &Stage) -> Result<Probe, CommandError> {
    let site = stage.attacker_site();
    let (plain, _) = site.get("/files/plain").await?;
    let mut through = Vec::new();
    for path in
        ["/files/../secret", "/files/%2e%2e/secret", "/files/..%2fsecret", "/files//../secret"]
    {
        let (_, body) = site.get(path).await?;
        let secret = stage.secret().as_bytes();
        if body.windows(secret.len()).any(|window| window == secret) {
            through.push(path);
        }
    }
    let observed = match (plain, &through[..]) {
        (200, []) => "not served; a file in it is".to_owned(),
        (200, through) => format!("served: {}", through.join(", ")),
        (status, _) => format!("a file in it is answered with {status}"),
    };
    let ok = plain == 200 && through.is_empty();
    Ok(Probe::outside("what lies beside an app's static files", "not served", ok, observed))
}

/// Has the attacker begin more connections with the world than it may have, at an address that nobody has (RFC 5737).
async fn connections(client: &Client, stage: &Stage) -> Result<Probe, CommandError> {
    let taken = || fs::read_to_string(CONNECTIONS).ok()?.trim().parse::<u64>().ok();
    let before = taken();
    Inside::run(client, stage.attacker(), &["python", "-c", BEGIN_CONNECTIONS])
        .await?
        .finish()
        .await?;
    let began = before.zip(taken()).map(|(before, after)| after.saturating_sub(before));
    let (ok, observed) = match began {
        Some(began) if began >= CONNECTIONS_LEAST => (
            began <= CONNECTIONS_MOST,
            format!("{began} places taken in the kernel's table, of {CONNECTIONS_TRIED} attempts"),
        ),
        Some(_) | None => (true, "none gets out of this machine".to_owned()),
    };
    let skipped = began.is_none_or(|began| began < CONNECTIONS_LEAST);
    let name = "connections with the world at once";
    Ok(Probe { skipped, ..Probe::outside(name, "4,096 at the most", ok, observed) })
}

/// Has the attacker send packets of which pieces get lost: the host would wait for them, with room for those of all.
async fn pieces(client: &Client, stage: &Stage) -> Result<Probe, CommandError> {
    Inside::run(client, stage.attacker(), &["python", "-c", SEND_PIECES]).await?.finish().await?;
    let waiting = packets_in_pieces(&fs::read_to_string(PIECES)?);
    let (name, expected) = ("packets whose pieces the host waits for", "none of the attacker's");
    let Some(waiting) = waiting else {
        let observed = "this kernel does not tell";
        return Ok(Probe { skipped: true, ..Probe::outside(name, expected, true, observed) });
    };
    Ok(Probe::outside(name, expected, waiting <= PIECES_MOST, format!("{waiting} wait")))
}

/// Reads `FRAG: inuse 7 memory 4096`.
fn packets_in_pieces(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("FRAG: inuse "))?;
    line.split(' ').next()?.parse().ok()
}

/// Has the attacker take memory of the kernel's that it counts as nobody's, until it's ended.
async fn kernel_memory(client: &Client, stage: &Stage) -> Result<Vec<Probe>, CommandError> {
    let mut probes = Vec::new();
    for (name, told_by, code) in UNBOUND {
        let expected = "ended by the engine";
        if !Path::new(told_by).exists() {
            let observed = "this kernel does not tell how much there is";
            probes.push(Probe { skipped: true, ..Probe::outside(name, expected, true, observed) });
            continue;
        }
        let command = Inside::run(client, stage.attacker(), &["python", "-c", code]).await?;
        let end = command.finish().await?;
        let is_ended = matches!(end, Some(CommandEnd::KernelMemory { .. }));
        let observed = end.map_or("no end".to_owned(), |end| end.to_string());
        probes.push(Probe::outside(name, expected, is_ended, observed));
    }
    Ok(probes)
}

/// Has the instance hand an open file to the gateway.
async fn passed_files(stage: &Stage) -> Result<Probe, CommandError> {
    let name = "files that an app hands to the gateway";
    let (_, answer) = stage.attacker_site().get(&stage.work("pass", "file")).await?;
    let answer = String::from_utf8_lossy(&answer).trim().to_owned();
    let is_refused = answer == "EPERM";
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if !is_refused && !can_refuse_files(&kernel) {
        let observed = "a kernel before Linux 6.16 can't refuse them";
        return Ok(Probe { skipped: true, ..Probe::outside(name, "refused", true, observed) });
    }
    let observed = if is_refused { "refused (EPERM)".to_owned() } else { answer };
    Ok(Probe::outside(name, "refused", is_refused, observed))
}

/// Whether the `kernel` of this release, `6.1.0-13-amd64`, lets a socket take no descriptors.
fn can_refuse_files(kernel: &str) -> bool {
    let mut numbers =
        kernel.split(['.', '-']).map_while(|number| number.trim().parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(16))
}

/// Has the instance print lines that look like others, and more than its log takes.
async fn log(client: &Client, stage: &Stage, bait: &Bait) -> Result<Vec<Probe>, CommandError> {
    let (site, nonce) = (stage.attacker_site(), &bait.facts.nonce);
    site.get(&stage.work("forge", nonce)).await?;
    let path = format!("/v1/apps/{}/logs?tail=1000", stage.attacker());
    let lines = found(|| lines_with(client, &path, nonce), |lines| lines.len() >= 3).await?;
    let forged = lines.iter().any(|line| line.stream != "out" && line.stream != "err");
    let whole =
        lines.len() == 3 && lines.iter().take(2).all(|line| line.text.starts_with("2026-01-01T"));
    site.get(&stage.work("flood", FLOOD_SECONDS)).await?;
    let dropped = found(|| dropped(client, stage.attacker()), |dropped| *dropped > 0).await?;
    Ok(vec![
        Probe::outside(
            "forged lines in the app's log",
            "stay what the app said",
            whole && !forged,
            if forged {
                "taken for the engine's".to_owned()
            } else {
                format!("{} lines, all the app's", lines.len())
            },
        ),
        Probe::outside(
            "a flood of lines",
            "beyond the rate, dropped and counted",
            dropped > 0,
            format!("{dropped} dropped"),
        ),
    ])
}

/// Asks until the answer is as `wanted`, or until it should have been.
async fn found<T, F: Future<Output = Result<T, CommandError>>>(
    mut ask: impl FnMut() -> F,
    wanted: impl Fn(&T) -> bool,
) -> Result<T, CommandError> {
    let deadline = Instant::now() + LOG_DEADLINE;
    loop {
        let answer = ask().await?;
        if wanted(&answer) || Instant::now() > deadline {
            return Ok(answer);
        }
        sleep(LOG_PAUSE).await;
    }
}

async fn lines_with(client: &Client, path: &str, mark: &str) -> Result<Vec<LogLine>, CommandError> {
    let mut lines = client.lines(Method::GET, path, empty_body()).await?;
    let mut found = Vec::new();
    while let Some(line) = lines.next::<LogLine>().await? {
        if line.text.contains(mark) {
            found.push(line);
        }
    }
    Ok(found)
}

async fn dropped(client: &Client, app: &AppName) -> Result<u64, CommandError> {
    let view: AppView = client.get(&format!("/v1/apps/{app}")).await?;
    let of = view.instances.iter().filter_map(|instance| instance.usage.as_ref());
    Ok(of.map(|usage| usage.log_lines_dropped).sum())
}

fn nobody_or(visitors: &[String]) -> String {
    match visitors {
        [] => "nobody".to_owned(),
        visitors => visitors.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_in_pieces_are_read() {
        let text = "sockets: used 17\nFRAG: inuse 858 memory 4194384\n";
        assert_eq!(packets_in_pieces(text), Some(858));
        assert_eq!(packets_in_pieces("sockets: used 17\n"), None);
    }

    #[test]
    fn descriptors_can_be_refused_since_linux_6_16() {
        for (kernel, can) in [
            ("6.1.0-13-amd64", false),
            ("6.15.9", false),
            ("6.16.0-rc1+", true),
            ("6.18\n", true),
            ("7.0.1", true),
            ("", false),
        ] {
            assert_eq!(can_refuse_files(kernel), can, "{kernel:?}");
        }
    }
}
