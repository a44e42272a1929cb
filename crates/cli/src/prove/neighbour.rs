//! How a neighbour of another tenant fares while the attacker takes all that it gets of something.
//!
//! A figure that is out of bounds is measured again, with a new one of the neighbour alone just before: a machine does
//! other things as well, and what it does at one moment is not the attacker's doing.

use std::time::Duration;

use ace_api::http::AppView;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::inside::Inside;
use super::report::Figures;
use super::stage::Stage;
use super::web::Site;
use crate::client::{Client, ClientError};
use crate::error::CommandError;
use crate::screen::Screen;

/// How often a figure is measured that stays out of bounds.
const ATTEMPTS: u32 = 3;
/// What the p99 may be, in times of that alone.
const BOUND: f64 = 1.5;
/// The same for all attacks at once on a machine of two processors or fewer.
const BOUND_OF_ALL_ON_TWO: f64 = 2.0;
const API_MAX: Duration = Duration::from_secs(1);

/// Clients of the neighbour, and how long each waits after an answer.
const CLIENTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);
const VISITORS_NICENESS: i32 = -15;
const API_PAUSE: Duration = Duration::from_millis(200);
/// Until an attack is at its height; and until nothing of it is left.
const SETTLE: Duration = Duration::from_millis(700);
/// Connections of the attacker's own clients that wait for an answer.
const HANGING: usize = 300;

/// What the attacker takes all of: in its instance, in containers beside it, and through clients of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    Cpu,
    Memory,
    Processes,
    DiskIo,
    DiskSpace,
    Inodes,
    Log,
    Bandwidth,
    Connections,
    Sockets,
    Descriptors,
    All,
}

/// What goes on until it is dropped.
#[derive(Default)]
struct UnderWay {
    beside: Vec<Inside>,
    clients: JoinSet<()>,
}

/// What was measured.
struct Sample {
    /// Of requests that were answered with 200, sorted.
    times: Vec<Duration>,
    failures: usize,
    api_slowest: Duration,
}

/// Measures the neighbour alone, and then for `period` under each of `attacks`.
pub async fn measure(
    client: &Client,
    screen: &Screen,
    stage: &Stage,
    attacks: &[Attack],
    period: Duration,
) -> Result<Vec<Figures>, CommandError> {
    if attacks.is_empty() {
        return Ok(Vec::new());
    }
    screen.note("measuring the neighbour alone");
    // The first requests find nothing warm.
    sample(client, stage, Duration::from_secs(1)).await?;
    let mut alone = sample(client, stage, period).await?;
    let mut figures = vec![alone.figures("none", &alone, 1.0)];
    for attack in attacks {
        screen.note(&format!("measuring the neighbour under attack: {}", attack.name()));
        let mut found = attacked(client, stage, period, *attack, &alone).await?;
        for _ in 1..ATTEMPTS {
            if found.ok {
                break;
            }
            screen.note(&format!("    {:.2} times alone: measuring both again", found.times_alone));
            alone = sample(client, stage, period).await?;
            found = attacked(client, stage, period, *attack, &alone).await?;
        }
        figures.push(found);
    }
    Ok(figures)
}

async fn attacked(
    client: &Client,
    stage: &Stage,
    period: Duration,
    attack: Attack,
    alone: &Sample,
) -> Result<Figures, CommandError> {
    let under_way = UnderWay::begin(client, stage, attack, period + 2 * SETTLE).await?;
    sleep(SETTLE).await;
    let sample = sample(client, stage, period).await?;
    drop(under_way);
    sleep(SETTLE).await;
    Ok(sample.figures(attack.name(), alone, attack.bound()))
}

impl Attack {
    pub const ALL: [Self; 12] = [
        Self::Cpu,
        Self::Memory,
        Self::Processes,
        Self::DiskIo,
        Self::DiskSpace,
        Self::Inodes,
        Self::Log,
        Self::Bandwidth,
        Self::Connections,
        Self::Sockets,
        Self::Descriptors,
        Self::All,
    ];

    /// As `attacks.py` knows it, too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Processes => "processes",
            Self::DiskIo => "disk-io",
            Self::DiskSpace => "disk-space",
            Self::Inodes => "inodes",
            Self::Log => "log",
            Self::Bandwidth => "bandwidth",
            Self::Connections => "connections",
            Self::Sockets => "sockets",
            Self::Descriptors => "descriptors",
            Self::All => "all",
        }
    }

    pub fn names() -> Vec<&'static str> {
        Self::ALL.map(Self::name).into()
    }

    /// What the p99 may be, in times of that without it.
    fn bound(self) -> f64 {
        let is_small = std::thread::available_parallelism().is_ok_and(|count| count.get() <= 2);
        if self == Self::All && is_small { BOUND_OF_ALL_ON_TWO } else { BOUND }
    }
}

impl UnderWay {
    /// What nobody can call off, since it's in the attacker's instance, lasts as long as `period`.
    async fn begin(
        client: &Client,
        stage: &Stage,
        attack: Attack,
        period: Duration,
    ) -> Result<Self, CommandError> {
        let mut under_way = Self::default();
        let (site, seconds) = (stage.attacker_site(), period.as_secs().to_string());
        if attack != Attack::Log {
            under_way.beside(client, stage, attack.name()).await?;
        }
        if matches!(attack, Attack::Log | Attack::All) {
            // Its instance may be busy enough to answer late; it floods all the same.
            let _ = site.get(&stage.work("flood", &seconds)).await;
        }
        if matches!(attack, Attack::Bandwidth | Attack::All) {
            under_way.ask(site, stage.work("large", "x"), CLIENTS);
        }
        if matches!(attack, Attack::Connections | Attack::All) {
            under_way.ask(site, stage.work("slow", &seconds), HANGING);
        }
        Ok(under_way)
    }

    /// Takes what `name` says in a container like those of the instances.
    async fn beside(
        &mut self,
        client: &Client,
        stage: &Stage,
        name: &str,
    ) -> Result<(), CommandError> {
        let mut command =
            Inside::run(client, stage.attacker(), &["python", "attacks.py", name]).await?;
        command.line().await?;
        self.beside.push(command);
        Ok(())
    }

    /// Has `count` clients ask for `path` of the attacker's, again and again.
    fn ask(&mut self, site: &Site, path: String, count: usize) {
        for _ in 0..count {
            let (site, path) = (site.clone(), path.clone());
            self.clients.spawn(async move {
                loop {
                    // Refused or not: it's the attacker's own loss.
                    if let Ok(mut connection) = site.connect().await {
                        let _ = connection.drain(&path).await;
                    }
                    sleep(PAUSE).await;
                }
            });
        }
    }
}

/// Asks the neighbour, and the engine for how it fares, for as long as `period`.
async fn sample(client: &Client, stage: &Stage, period: Duration) -> Result<Sample, CommandError> {
    let end = Instant::now() + period;
    let visitors = visitors(stage.neighbour_site().clone(), end)?;
    let path = format!("/v1/apps/{}", stage.neighbour());
    let mut api_slowest = Duration::ZERO;
    while Instant::now() < end {
        let begun = Instant::now();
        match client.get::<AppView>(&path).await {
            // It took too long, which the figures say.
            Ok(_) | Err(ClientError::Slow { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        api_slowest = api_slowest.max(begun.elapsed());
        sleep(API_PAUSE).await;
    }
    let (mut times, failures) = visitors.await.map_err(std::io::Error::other)?;
    times.sort();
    Ok(Sample { times, failures, api_slowest })
}

/// Has [`CLIENTS`] ask until `end`, in a thread that goes before others: visitors have processors of
/// their own, and what they would wait for this machine's is not the neighbour's doing.
///
/// Errors: the thread, or what it waits by, could not be made.
fn visitors(
    site: Site,
    end: Instant,
) -> std::io::Result<oneshot::Receiver<(Vec<Duration>, usize)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (answer, answered) = oneshot::channel();
    let ask = move || {
        // Only root has this right; the figures are a little worse without.
        let _ = rustix::process::setpriority_process(None, VISITORS_NICENESS);
        let asked = runtime.block_on(async {
            let clients = (0..CLIENTS).map(|_| ask_until(site.clone(), end));
            futures_util::future::join_all(clients).await
        });
        let (times, failures): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        let _ = answer.send((times.concat(), failures.iter().sum()));
    };
    std::thread::Builder::new().name("visitors".to_owned()).spawn(ask)?;
    Ok(answered)
}

/// One client. Returns how long each answer took, and how many requests failed.
async fn ask_until(site: Site, end: Instant) -> (Vec<Duration>, usize) {
    let (mut times, mut failures, mut connection) = (Vec::new(), 0, None);
    while Instant::now() < end {
        let begun = Instant::now();
        let open = match connection.take() {
            Some(open) => Ok(open),
            None => site.connect().await,
        };
        if let Ok(mut open) = open
            && let Ok((200, _)) = open.get("/").await
        {
            times.push(begun.elapsed());
            connection = Some(open);
        } else {
            failures += 1;
        }
        sleep(PAUSE).await;
    }
    (times, failures)
}

impl Sample {
    fn figures(&self, attack: &str, alone: &Self, bound: f64) -> Figures {
        let (p99, p99_alone) = (self.percentile(99), alone.percentile(99));
        let times_alone = p99.as_secs_f64() / p99_alone.as_secs_f64().max(1e-6);
        let is_served = self.failures == 0 && !self.times.is_empty();
        let ms = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
        Figures {
            attack: attack.to_owned(),
            requests: self.times.len() + self.failures,
            failures: self.failures,
            p50_ms: ms(self.percentile(50)),
            p99_ms: ms(p99),
            times_alone: (times_alone * 100.0).round() / 100.0,
            bound,
            api_slowest_ms: ms(self.api_slowest),
            ok: is_served && times_alone <= bound && self.api_slowest <= API_MAX,
        }
    }

    /// What so many of a hundred requests took at most.
    fn percentile(&self, percent: usize) -> Duration {
        let last = self.times.len().saturating_sub(1);
        self.times.get(last * percent / 100).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_of(times: impl IntoIterator<Item = u64>, failures: usize) -> Sample {
        let times = times.into_iter().map(Duration::from_millis).collect();
        Sample { times, failures, api_slowest: Duration::ZERO }
    }

    #[test]
    fn a_slower_neighbour_is_a_wall_that_failed() {
        let alone = sample_of(1..=101, 0);
        assert_eq!(alone.percentile(99), Duration::from_millis(100));
        assert!(sample_of(1..=101, 0).figures("x", &alone, 1.5).ok);
        assert!(!sample_of(100..=201, 0).figures("x", &alone, 1.5).ok);
        assert!(!sample_of(1..=101, 1).figures("x", &alone, 1.5).ok, "a request failed");
        assert!(!sample_of([], 0).figures("x", &alone, 1.5).ok, "nothing was answered");
    }
}
