//! App servers' packages, made once for each Python and shared by all apps.
//!
//! They are installed in a container that sees nothing of a tenant's, from files known by their
//! hash, and belong to root afterwards. So what one tenant's build wrote never runs in another's app.

use std::path::PathBuf;

use ace_api::BuildError;
use tokio::sync::Mutex;

use crate::container::Bench;
use crate::environment::Installer;
use crate::python::Python;
use crate::site::Site;

/// uWSGI as the module `pyuwsgi`: the newest version that runs on a Python, with the hashes of its
/// files.
struct Uwsgi {
    version: &'static str,
    requirement: &'static str,
}

const UWSGI: Uwsgi =
    Uwsgi { version: "2.0.30.post1", requirement: include_str!("pyuwsgi/3.8.txt") };
const UWSGI_37: Uwsgi = Uwsgi { version: "2.0.30", requirement: include_str!("pyuwsgi/3.7.txt") };
const UWSGI_36: Uwsgi = Uwsgi { version: "2.0.20", requirement: include_str!("pyuwsgi/3.6.txt") };
const UWSGI_27: Uwsgi =
    Uwsgi { version: "2.0.19.1.post0", requirement: include_str!("pyuwsgi/2.7.txt") };

/// Keeps the packages of app servers in a folder of the engine's.
pub struct Servers {
    folder: PathBuf,
    making: Mutex<()>,
}

impl Servers {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, making: Mutex::default() }
    }

    /// The folder with uWSGI for `python`, made if it isn't there.
    pub async fn ensure_uwsgi(
        &self,
        python: &Python,
        installer: &Installer,
        bench: &Bench,
        site: &Site,
    ) -> Result<PathBuf, BuildError> {
        let _making = self.making.lock().await;
        let name = uwsgi_name(python);
        let folder = self.folder.join(format!("{name}-{}", python.tag()));
        if folder.is_dir() {
            return Ok(folder);
        }
        let version = &python.interpreter.version;
        bench
            .log()
            .say(format!("installing {name} for Python {version}, once for this server"))
            .await;
        let requirement = uwsgi(python).requirement;
        installer.install_apart(requirement, python, bench, site, folder.clone()).await?;
        Ok(folder)
    }
}

/// The app server that runs on `python`: `uwsgi-2.0.30`.
pub fn uwsgi_name(python: &Python) -> String {
    format!("uwsgi-{}", uwsgi(python).version)
}

fn uwsgi(python: &Python) -> &'static Uwsgi {
    match python.version {
        [2, ..] => &UWSGI_27,
        [3, 6, _] => &UWSGI_36,
        [3, 7, _] => &UWSGI_37,
        _ => &UWSGI,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requirements_are_the_versions_that_folders_are_named_by() {
        for Uwsgi { version, requirement } in [UWSGI, UWSGI_37, UWSGI_36, UWSGI_27] {
            assert!(requirement.contains(&format!("\npyuwsgi=={version} \\\n")));
            assert!(requirement.lines().skip(2).all(|line| {
                let hash = line.trim().trim_end_matches(" \\").trim_start_matches("--hash=sha256:");
                hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            }));
        }
    }
}
