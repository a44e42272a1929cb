//! App servers' packages, made once for each Python and shared by all apps.
//!
//! They are installed in a container that sees nothing of a tenant's, from files known by their
//! hash, and belong to root afterwards. So what one tenant's build wrote never runs in another's app.

use std::path::PathBuf;

use ace_api::BuildError;
use ace_types::Server;
use tokio::sync::Mutex;

use crate::container::Bench;
use crate::environment::{Installer, PIP_LOCK};
use crate::python::Python;
use crate::site::{Site, engine};

const TARGET: &str = "/ace/user/server";

/// What is installed for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// With the version, since it names a folder.
    pub name: &'static str,
    /// Every package with the hashes of its files.
    pub lock: &'static str,
}

/// A server has no version for a Python.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{server} does not run on Python {version}: it needs {needs} or later")]
pub struct Unfit {
    server: Server,
    version: String,
    needs: &'static str,
}

/// What is installed for `server` on `python`. The newest version of a server that runs on a Python,
/// as far as that is one that has proved itself.
pub fn check(server: Server, python: &Python) -> Result<Package, Unfit> {
    let [major, minor, _] = python.version;
    let package = |name, lock| Ok(Package { name, lock });
    match (server, major, minor) {
        (Server::Uwsgi, ..) => package("uwsgi-2.0.30.post1", include_str!("pyuwsgi.txt")),
        (Server::Gunicorn, ..=2, _) => {
            package("gunicorn-19.10.0", include_str!("gunicorn/2.7.txt"))
        }
        (Server::Gunicorn, 3, ..=6) => package("gunicorn-21.2.0", include_str!("gunicorn/3.6.txt")),
        (Server::Gunicorn, ..) => package("gunicorn-23.0.0", include_str!("gunicorn/3.7.txt")),
        (Server::Uvicorn, ..=2, _) | (Server::Uvicorn, 3, ..=6) => {
            let version = python.interpreter.version.clone();
            Err(Unfit { server, version, needs: "3.7" })
        }
        (Server::Uvicorn, ..) => package("uvicorn-0.39.0", include_str!("uvicorn/3.7.txt")),
    }
}

/// Keeps the packages of app servers in a folder of the engine's.
pub struct Servers {
    folder: PathBuf,
    making: Mutex<()>,
}

impl Servers {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, making: Mutex::default() }
    }

    /// The folder with `server` for `python`, made if it isn't there.
    pub async fn ensure(
        &self,
        server: Server,
        python: &Python,
        installer: &Installer,
        bench: &Bench,
        site: &Site,
    ) -> Result<PathBuf, BuildError> {
        let Package { name, lock } =
            check(server, python).map_err(|unfit| BuildError::Rejected(unfit.to_string()))?;
        let _making = self.making.lock().await;
        let folder = self.folder.join(format!("{name}-{}", python.tag()));
        if folder.is_dir() {
            return Ok(folder);
        }
        let version = &python.interpreter.version;
        bench
            .log()
            .say(format!("installing {name} for Python {version}, once for this server"))
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
        command.files.push((PIP_LOCK.into(), lock.to_owned()));
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
    use ace_api::Interpreter;

    use super::*;

    fn python(major: u32, minor: u32) -> Python {
        let version = format!("{major}.{minor}.1");
        let interpreter = Interpreter { version, program: "/p".into(), prefix: "/".into() };
        Python { version: [major, minor, 1], interpreter }
    }

    #[test]
    fn a_lock_names_the_version_that_its_folder_is_named_by_and_hashes() {
        for (server, minor) in [
            (Server::Uwsgi, 13),
            (Server::Gunicorn, 13),
            (Server::Gunicorn, 6),
            (Server::Uvicorn, 13),
        ] {
            let Package { name, lock } = check(server, &python(3, minor)).unwrap();
            let pin = name.replace('-', "==");
            assert!(lock.contains(&format!("{pin} ")), "{pin}");
            let hashes = lock.lines().filter(|line| line.starts_with(' '));
            assert!(hashes.clone().count() > 1);
            assert!(hashes.map(str::trim).all(|line| {
                let hash = line.trim_end_matches(" \\").trim_start_matches("--hash=sha256:");
                hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            }));
        }
    }

    #[test]
    fn a_server_that_cannot_run_on_a_python_is_refused_with_a_reason() {
        let unfit = check(Server::Uvicorn, &python(2, 7)).unwrap_err();
        assert_eq!(
            unfit.to_string(),
            "uvicorn does not run on Python 2.7.1: it needs 3.7 or later"
        );
    }
}
