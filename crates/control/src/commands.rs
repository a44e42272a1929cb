//! Which commands run beside the apps' instances, how many may, and how they are ended.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ace_api::CommandSpec;
use ace_api::http::CommandView;
use ace_types::AppName;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::becomes_true;

/// Commands at once that people may start, of all apps.
const OF_ALL: usize = 64;
/// And of one app.
pub const OF_AN_APP: usize = 4;

/// All commands that run.
#[derive(Debug, Default)]
pub struct Commands {
    running: watch::Sender<Vec<Entry>>,
}

#[derive(Debug, Clone)]
struct Entry {
    app: AppName,
    view: CommandView,
    /// What of the disk it needs.
    paths: [PathBuf; 2],
    stop: watch::Sender<bool>,
}

/// A command's place among them, given up when dropped.
#[derive(Debug)]
pub struct Place {
    commands: Arc<Commands>,
    entry: Entry,
}

/// Who starts a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starter {
    /// A deploy, of which each app has one at a time: it always has a place.
    Deploy,
    Person,
}

impl Commands {
    /// Takes a place for `command`; `None` where too many run.
    pub fn enter(self: &Arc<Self>, command: &CommandSpec, starter: Starter) -> Option<Place> {
        let like = &command.like;
        let entry = Entry {
            app: like.app.clone(),
            view: CommandView {
                id: like.id.clone(),
                release: like.release,
                name: command.name.clone(),
                since: Timestamp::now(),
            },
            paths: [like.code.clone(), like.runtime.environment.clone()],
            stop: watch::Sender::new(false),
        };
        let entered = self.running.send_if_modified(|running| {
            let of_app = running.iter().filter(|other| other.app == entry.app).count();
            let has_room = of_app < OF_AN_APP && running.len() < OF_ALL;
            let enters = has_room || starter == Starter::Deploy;
            running.extend(enters.then(|| entry.clone()));
            enters
        });
        entered.then(|| Place { commands: Arc::clone(self), entry })
    }

    /// Those of `app`, the oldest first.
    pub fn of(&self, app: &AppName) -> Vec<CommandView> {
        let running = self.running.borrow();
        running.iter().filter(|entry| entry.app == *app).map(|entry| entry.view.clone()).collect()
    }

    /// What of the disk those that run need.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.running.borrow().iter().flat_map(|entry| entry.paths.clone()).collect()
    }

    /// Asks those of `app` to end.
    pub fn stop(&self, app: &AppName) {
        for entry in self.running.borrow().iter().filter(|entry| entry.app == *app) {
            entry.stop.send_replace(true);
        }
    }

    /// Waits until none of `app` runs. Returns whether that came within `within`.
    pub async fn gone(&self, app: &AppName, within: Duration) -> bool {
        let mut running = self.running.subscribe();
        let gone = running.wait_for(|running| !running.iter().any(|entry| entry.app == *app));
        matches!(timeout(within, gone).await, Ok(Ok(_)))
    }
}

impl Place {
    /// Waits until the command is asked to end.
    pub async fn stopped(&self) {
        becomes_true(self.entry.stop.subscribe()).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let id = &self.entry.view.id;
        self.commands.running.send_modify(|running| running.retain(|entry| entry.view.id != *id));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plan;
    use crate::testing::{Rows, config, deploy, instance_id, name};

    /// Command `n` of `app`, which has been deployed.
    fn command(app: &str, n: u32) -> CommandSpec {
        let mut state = Rows::default();
        deploy(&mut state, app, 1);
        let row = state.app(&name(app)).unwrap();
        let release = state.release(&name(app), row.serving.unwrap()).unwrap();
        CommandSpec {
            like: plan::like_an_instance(&config(), row, release, instance_id(n)).unwrap(),
            name: "sh".to_owned(),
            argv: vec!["sh".to_owned()],
            env: Vec::new(),
            terminal: None,
            deadline: Duration::from_secs(1),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_free_again_when_it_is_given_up() {
        let commands = Arc::new(Commands::default());
        let enter = |n| commands.enter(&command("shop", n), Starter::Person);
        let mut places: Vec<_> = (0..4).map_while(enter).collect();
        assert_eq!((places.len(), commands.of(&name("shop")).len()), (OF_AN_APP, OF_AN_APP));
        assert!(enter(9).is_none());
        assert!(commands.enter(&command("blog", 10), Starter::Person).is_some());
        places.pop();
        assert!(enter(9).is_some());
    }

    #[test]
    fn a_deploy_has_a_place_though_people_have_them_all() {
        let commands = Arc::new(Commands::default());
        let enter = |n, starter| commands.enter(&command("shop", n), starter);
        let _places: Vec<_> = (0..4).map_while(|n| enter(n, Starter::Person)).collect();
        assert!(enter(9, Starter::Deploy).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn those_of_an_app_are_asked_to_end_and_waited_for() {
        let commands = Arc::new(Commands::default());
        let place = commands.enter(&command("shop", 1), Starter::Person).unwrap();
        let other = commands.enter(&command("blog", 2), Starter::Person).unwrap();
        let within = Duration::from_secs(1);
        commands.stop(&name("shop"));
        place.stopped().await;
        assert!(timeout(within, other.stopped()).await.is_err());
        assert!(!commands.gone(&name("shop"), within).await);
        drop(place);
        assert!(commands.gone(&name("shop"), within).await);
    }
}
