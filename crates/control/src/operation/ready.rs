//! Waits until all new instances run, and tells what they say meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ace_api::http::{DeployEvent, LogLine};
use ace_api::{InstanceState, InstanceStatus};
use ace_types::{InstanceId, ReleaseNumber};
use axum::http::StatusCode;
use tokio::time::timeout;

use super::Operation;
use crate::log_file::Follower;
use crate::plan::Statuses;
use crate::refusal::Refusal;

/// What a new instance may take beyond its own `startup`, for its container to be made.
const STARTUP_MARGIN: Duration = Duration::from_secs(30);
/// How often a new instance's log is looked at.
const LOG_EVERY: Duration = Duration::from_millis(200);
/// Lines of its log that tell why a new instance failed.
const LAST_WORDS: usize = 60;

type Followers = BTreeMap<InstanceId, Follower>;

impl Operation {
    /// Waits until all `candidates` run at one moment, and passes on what they say meanwhile.
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
                let ended = status.last_end.as_ref().map(ToString::to_string);
                (id, Some(status), ended.unwrap_or_else(|| "it ended".to_owned()))
            }
            Err(_) => {
                let (id, status) = self.late(candidates);
                (id, status, format!("it was not ready after {} s", within.as_secs()))
            }
        };
        let words = match status {
            Some(status) => last_words(&id, &status).await,
            None => None,
        };
        Err(self.start_failed(release, &reason, words).await)
    }

    /// Waits until all run; an error is the first that failed, and how it is.
    async fn started(&self, candidates: &[InstanceId]) -> Result<(), (InstanceId, InstanceStatus)> {
        let mut statuses = self.engine.node.statuses();
        let mut followers = Followers::new();
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
            if running.count() == candidates.len() {
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
            let follow = || Follower::from_start(Some(id.clone()), status.log.clone());
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

    async fn start_failed(
        &self,
        release: ReleaseNumber,
        reason: &str,
        words: Option<String>,
    ) -> Refusal {
        let remains = self.what_remains(release).await;
        let message = format!("release {release} did not start: {reason}; {remains}");
        let mut refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "start_failed", message);
        refusal.error.detail = words;
        refusal
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

/// The end of the instance's log, where there is one.
async fn last_words(instance: &InstanceId, status: &InstanceStatus) -> Option<String> {
    let (instance, folder): (InstanceId, PathBuf) = (instance.clone(), status.log.clone());
    let read = move || Follower::from_end(Some(instance), folder, LAST_WORDS);
    let (lines, _): (Vec<LogLine>, _) = tokio::task::spawn_blocking(read).await.ok()?.ok()?;
    let lines: Vec<String> = lines.into_iter().map(|line| line.text).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}
