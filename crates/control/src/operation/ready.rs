//! Waits until all new instances run, and tells what they say meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use ace_api::http::{DeployEvent, LogLine};
use ace_api::{EndReason, ErrorCode, InstanceState, InstanceStatus};
use ace_types::{InstanceId, ReleaseNumber, shared_object};
use tokio::time::{Instant, sleep, timeout};

use super::Operation;
use crate::hints;
use crate::log_file::Follower;
use crate::log_line::Origin;
use crate::plan::Statuses;
use crate::refusal::Refusal;

/// What a new instance may take beyond its own `startup`, for its container to be made.
const STARTUP_MARGIN: Duration = Duration::from_secs(30);
/// How long all new instances must go on running after the last one's first answer.
const STEADY_FOR: Duration = Duration::from_millis(400);
/// How often a new instance's log is looked at.
const LOG_EVERY: Duration = Duration::from_millis(200);
/// How long its lines may come after the news of its end, which has a shorter way.
const LINES_AFTER: Duration = Duration::from_millis(200);
/// Lines of its log that tell why a new instance failed.
const LAST_WORDS: usize = 60;

type Followers = BTreeMap<InstanceId, Follower>;

impl Operation {
    /// Waits until all `candidates` have run together for a moment, and passes on what they say meanwhile.
    ///
    /// Errors: why one does not, with its last words.
    pub(super) async fn ready(
        &self,
        candidates: &[InstanceId],
        release: ReleaseNumber,
        startup: Duration,
    ) -> Result<(), Refusal> {
        let within = startup + STARTUP_MARGIN;
        let (id, status, reason) = match timeout(within, self.started(candidates)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err((id, status))) => {
                let reason = in_words(&status);
                (id, Some(status), reason)
            }
            Err(_) => {
                let (id, status) = self.late(candidates);
                (id, status, format!("it was not ready after {} s", within.as_secs()))
            }
        };
        let end = status.as_ref().and_then(|status| status.last_end.clone());
        let words = match &status {
            Some(status) => last_words(&id, status).await,
            None => None,
        };
        let lines = words.iter().flat_map(|words| words.lines().rev());
        let missing = lines.filter_map(shared_object::missing_in).next();
        let told = end.as_ref().zip(words.as_ref());
        let reason = match (missing, told.and_then(|(end, words)| hints::of_last_words(end, words)))
        {
            (Some((object, package)), _) => format!(
                "{reason}; this server has no {object}, which comes with: apt-get install {package}"
            ),
            (None, Some(way_out)) => format!("{reason}; {way_out}"),
            (None, None) => reason,
        };
        let mut refusal = self.start_failed(release, &reason).await;
        refusal.error.code =
            end.as_ref().map_or(ErrorCode::StartFailed.as_str(), EndReason::code).to_owned();
        refusal.error.detail = with_answer(words, end.as_ref());
        Err(refusal)
    }

    /// Waits until all run; an error is the first that failed, and how it is.
    async fn started(&self, candidates: &[InstanceId]) -> Result<(), (InstanceId, InstanceStatus)> {
        let mut statuses = self.engine.node.statuses();
        let mut followers = Followers::new();
        let mut steady_at = None;
        loop {
            let now = statuses.borrow_and_update().clone();
            followers = self.mention_app_logs(followers, candidates, &now).await;
            let known = candidates.iter().filter_map(|id| Some((id, now.get(id)?)));
            let has_failed = |(_, status): &(_, &InstanceStatus)| {
                matches!(status.state, InstanceState::Failed | InstanceState::Crashed { .. })
            };
            if let Some((id, status)) = known.clone().find(has_failed) {
                return Err((id.clone(), status.clone()));
            }
            let running = known.filter(|(_, status)| status.state == InstanceState::Running);
            if running.count() < candidates.len() {
                steady_at = None;
            } else if Instant::now() >= *steady_at.get_or_insert(Instant::now() + STEADY_FOR) {
                return Ok(());
            }
            tokio::select! {
                Ok(()) = statuses.changed() => {}
                () = tokio::time::sleep(LOG_EVERY) => {}
            }
        }
    }

    async fn mention_app_logs(
        &self,
        mut followers: Followers,
        candidates: &[InstanceId],
        statuses: &Statuses,
    ) -> Followers {
        for (id, status) in candidates.iter().filter_map(|id| Some((id, statuses.get(id)?))) {
            let follow = || Follower::from_start(origin(id, status), status.log.clone());
            followers.entry(id.clone()).or_insert_with(follow);
        }
        let polled = tokio::task::spawn_blocking(move || {
            let poll = |follower: &mut Follower| follower.poll().unwrap_or_default();
            let lines: Vec<LogLine> = followers.values_mut().flat_map(poll).collect();
            (lines, followers)
        });
        let (lines, followers) = polled.await.unwrap_or_default();
        for line in lines {
            self.mention(DeployEvent::AppLog { line: line.text });
        }
        followers
    }

    /// The first of `candidates` that does not run, and how it is, if it has come to be at all.
    fn late(&self, candidates: &[InstanceId]) -> (InstanceId, Option<InstanceStatus>) {
        let statuses = self.engine.node.statuses().borrow().clone();
        let runs = |id: &&InstanceId| {
            statuses.get(*id).is_some_and(|status| status.state == InstanceState::Running)
        };
        let late = candidates.iter().find(|id| !runs(id)).unwrap_or(&candidates[0]);
        (late.clone(), statuses.get(late).cloned())
    }

    async fn start_failed(&self, release: ReleaseNumber, reason: &str) -> Refusal {
        let remains = self.what_remains(release).await;
        let message = format!("release {release} did not start: {reason}; {remains}");
        Refusal::new(ErrorCode::StartFailed, message)
    }

    /// What those who use the app have after `release` could not be had.
    pub(super) async fn what_remains(&self, release: ReleaseNumber) -> String {
        let state = self.engine.records.state().await.ok();
        let app = state.as_ref().and_then(|state| state.app(&self.app));
        match app.and_then(|app| Some((app.serving?, app.stopped))) {
            Some((_, true)) => "the app stays stopped".to_owned(),
            Some((number, _)) if number == release => "what ran before is left as it is".to_owned(),
            Some((number, _)) => format!("release {number} still serves"),
            None => "nothing was deployed".to_owned(),
        }
    }
}

/// Why an instance did not come to run, or ended soon after it did.
fn in_words(status: &InstanceStatus) -> String {
    let reason = status.last_end.as_ref().map_or_else(|| "it ended".to_owned(), hints::told);
    match status.state {
        InstanceState::Crashed { .. } => format!("it answered, and then ended: {reason}"),
        _ => reason,
    }
}

/// The app's last words, and below them the answer that its health was judged by.
fn with_answer(words: Option<String>, end: Option<&EndReason>) -> Option<String> {
    let Some(EndReason::Unhealthy { path, body, .. }) = end else { return words };
    let answer = format!("GET {path} was answered with:\n{body}");
    Some(words.map_or_else(|| answer.clone(), |words| format!("{words}\n{answer}")))
}

fn origin(instance: &InstanceId, status: &InstanceStatus) -> Origin {
    Origin { instance: Some(instance.clone()), release: Some(status.release) }
}

/// The end of what the instance has printed, where there is anything.
async fn last_words(instance: &InstanceId, status: &InstanceStatus) -> Option<String> {
    let folder = status.log.clone();
    let origin = origin(instance, status);
    let read = move || Follower::from_end(origin, folder, LAST_WORDS);
    sleep(LINES_AFTER).await;
    let (lines, _): (Vec<LogLine>, _) = tokio::task::spawn_blocking(read).await.ok()?.ok()?;
    // The log's own remarks tell nothing of why it ended.
    let printed = lines.into_iter().filter(|line| line.stream != "ace");
    let lines: Vec<String> = printed.map(|line| line.text).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}
