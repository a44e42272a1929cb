//! App servers' packages, made once for each Python and shared by all apps.
//!
//! They are installed in a container that sees nothing of a tenant's, from files known by their
//! hash, and belong to root afterwards. So what one tenant's build wrote never runs in another's app.

use std::path::PathBuf;

use ace_api::BuildError;
use tokio::sync::Mutex;

use crate::container::Bench;
use crate::environment::{Installer, PIP_LOCK};
use crate::python::Python;
use crate::site::{Site, engine};

const UWSGI: &str = "uwsgi-2.0.30.post1";
/// uWSGI as the module `pyuwsgi`, with the hashes of all its files.
const REQUIREMENT: &str = include_str!("pyuwsgi.txt");
const TARGET: &str = "/ace/user/server";

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
        let folder = self.folder.join(format!("{UWSGI}-{}", python.tag()));
        if folder.is_dir() {
            return Ok(folder);
        }
        let version = &python.interpreter.version;
        bench
            .log()
            .say(format!("installing {UWSGI} for Python {version}, once for this server"))
            .await;
        let fresh = site.add("server").await?;
        let mut command = installer
            .pip(
                python,
                ["install", "--no-cache", "--no-deps", "--require-hashes", "--compile-bytecode"],
            )
            .writable(&fresh, "/ace/user");
        command.argv.extend(["--target", TARGET, "--requirements", PIP_LOCK].map(str::to_owned));
        command
            .argv
            .extend(["--python".to_owned(), python.interpreter.program.display().to_string()]);
        command.files.push((PIP_LOCK.into(), REQUIREMENT.to_owned()));
        let ended = bench.run(command).await?;
        if !ended.success {
            return Err(engine(
                "install the app server",
                "its installer failed; see the build's log",
            ));
        }
        site.keep(fresh.join("server"), folder.clone()).await?;
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requirement_is_the_version_that_the_folder_is_named_by() {
        let version = UWSGI.trim_start_matches("uwsgi-");
        assert!(REQUIREMENT.contains(&format!("\npyuwsgi=={version} \\\n")));
        assert!(REQUIREMENT.lines().skip(2).all(|line| {
            let hash = line.trim().trim_end_matches(" \\").trim_start_matches("--hash=sha256:");
            hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
        }));
    }
}
