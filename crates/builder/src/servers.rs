//! App servers' packages, made once for each Python and shared by all apps.
//!
//! They are installed in a container that sees nothing of a tenant's, from files known by their
//! hash, and belong to root afterwards. So what one tenant's build wrote never runs in another's app.

use std::path::PathBuf;

use ace_api::BuildError;
use ace_types::Server;
use tokio::sync::Mutex;

use crate::container::Bench;
use crate::environment::Installer;
use crate::python::Python;
use crate::site::Site;

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
#[error(
    "{server} does not run on Python {version}: it needs {needs} or later; say which by \"python:\" \
     in app.yaml, or take another \"server:\""
)]
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
    let unfit = |needs| {
        let version = python.interpreter.version.clone();
        Err(Unfit { server, version, needs })
    };
    match (server, major, minor) {
        (Server::Uwsgi, ..=2, _) => {
            package("uwsgi-2.0.19.1.post0", include_str!("pyuwsgi/2.7.txt"))
        }
        (Server::Uwsgi, 3, ..=6) => package("uwsgi-2.0.20", include_str!("pyuwsgi/3.6.txt")),
        (Server::Uwsgi, 3, 7) => package("uwsgi-2.0.30", include_str!("pyuwsgi/3.7.txt")),
        (Server::Uwsgi, ..) => package("uwsgi-2.0.30.post1", include_str!("pyuwsgi/3.8.txt")),
        (Server::Gunicorn, ..=2, _) => {
            package("gunicorn-19.10.0", include_str!("gunicorn/2.7.txt"))
        }
        (Server::Gunicorn, 3, ..=6) => package("gunicorn-21.2.0", include_str!("gunicorn/3.6.txt")),
        (Server::Gunicorn, ..) => package("gunicorn-23.0.0", include_str!("gunicorn/3.7.txt")),
        (Server::Uvicorn, ..=2, _) | (Server::Uvicorn, 3, ..=6) => unfit("3.7"),
        (Server::Uvicorn, ..) => package("uvicorn-0.39.0", include_str!("uvicorn/3.7.txt")),
        // Before its version 2.5 it had no Unix sockets.
        (Server::Granian, ..=2, _) | (Server::Granian, 3, ..=8) => unfit("3.9"),
        (Server::Granian, 3, 9) => package("granian-2.5.7", include_str!("granian/3.9.txt")),
        (Server::Granian, ..) => package("granian-2.8.7", include_str!("granian/3.10.txt")),
    }
}

/// The servers that run on `python`, with their versions.
pub fn names(python: &Python) -> Vec<String> {
    let packages = Server::ALL.into_iter().filter_map(|server| check(server, python).ok());
    packages.map(|package| package.name.to_owned()).collect()
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
        installer.install_apart(lock, python, bench, site, folder.clone()).await?;
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use ace_api::Interpreter;

    use super::*;

    fn python(major: u32, minor: u32) -> Python {
        let version = format!("{major}.{minor}.1");
        let (program, prefix) = ("/p".into(), "/".into());
        let interpreter = Interpreter { version, program, prefix, build: 1 };
        Python { version: [major, minor, 1], interpreter }
    }

    #[test]
    fn a_lock_names_the_version_that_its_folder_is_named_by_and_hashes() {
        let pythons = [(2, 7), (3, 6), (3, 7), (3, 8), (3, 9), (3, 14)]
            .map(|(major, minor)| python(major, minor));
        for (server, python) in
            Server::ALL.iter().flat_map(|s| pythons.iter().map(move |p| (*s, p)))
        {
            let Ok(Package { name, lock }) = check(server, python) else { continue };
            let pin = name.replace('-', "==");
            assert!(lock.contains(&format!("{pin} ")), "{pin}");
            let hashes: Vec<&str> =
                lock.lines().filter(|line| line.starts_with(' ')).map(str::trim).collect();
            assert!(
                !hashes.is_empty()
                    && hashes.iter().all(|line| {
                        let hash =
                            line.trim_end_matches(" \\").trim_start_matches("--hash=sha256:");
                        hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
                    })
            );
        }
    }

    #[test]
    fn a_server_that_cannot_run_on_a_python_is_refused_with_a_reason() {
        let unfit = check(Server::Uvicorn, &python(2, 7)).unwrap_err();
        assert_eq!(
            unfit.to_string(),
            "uvicorn does not run on Python 2.7.1: it needs 3.7 or later; say which by \"python:\" in \
             app.yaml, or take another \"server:\""
        );
    }
}
