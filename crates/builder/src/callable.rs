//! Tells ASGI from WSGI by an entry's source and that of what it imports, before anything of it runs.
//!
//! What can't be told so is taken for WSGI; if that is wrong, the server says so at its start. See
//! `docs/adr/0006-asgi-by-source.md`.

use std::path::Path;

use ace_api::BuildError;
use ace_types::Server;
use ace_types::app_yaml::Entry;

use crate::container::{Bench, Command};
use crate::environment::{ENVIRONMENT, see_python};
use crate::python::Python;
use crate::servers;
use crate::site::Site;
use crate::unpack::CODE;

const SCRIPT: &str = include_str!("callable.py");
const ANSWER_MAX: usize = 64;

/// The server that suits the app's callable. What that is made of may come from a package of `environment`.
pub async fn suitable_server(
    entry: &Entry,
    python: &Python,
    environment: &Path,
    bench: &Bench,
    site: &Site,
) -> Result<Server, BuildError> {
    if servers::check(Server::Uvicorn, python).is_err()
        || !is_asgi(entry, python, environment, bench, site).await?
    {
        return Ok(Server::Uwsgi);
    }
    bench.log().say(format!("{entry} is an ASGI application: uvicorn serves it")).await;
    Ok(Server::Uvicorn)
}

async fn is_asgi(
    entry: &Entry,
    python: &Python,
    environment: &Path,
    bench: &Bench,
    site: &Site,
) -> Result<bool, BuildError> {
    let program = python.interpreter.program.display().to_string();
    let entry = entry.to_string();
    let words = Command::new([&program, "-I", "-c", SCRIPT, &entry, ENVIRONMENT]);
    let mut command = see_python(words, python)
        .read_only(&site.code(), CODE)
        .read_only(environment, ENVIRONMENT)
        .in_folder(CODE);
    command.keep_stdout = Some(ANSWER_MAX);
    let ended = bench.run(command).await?;
    Ok(ended.success && ended.stdout.trim_ascii() == b"asgi")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process;

    use super::*;

    /// Whether `source`, an `index.py` that is at the top of a folder with `packages`, has an ASGI
    /// `app`. `None` where this machine has no Python 3.
    fn sees_asgi(source: &str, packages: &[(&str, &str)]) -> Option<bool> {
        let version = "import sys; print('%d.%d' % sys.version_info[:2])";
        let version = process::Command::new("python3").args(["-c", version]).output().ok()?.stdout;
        let version = String::from_utf8(version).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let environment = folder.path().join("environment");
        let installed = environment.join(format!("lib/python{}/site-packages", version.trim()));
        for (name, text) in packages {
            let path = installed.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::write(folder.path().join("index.py"), source).unwrap();
        let ended = process::Command::new("python3")
            .args(["-I", "-c", SCRIPT, "index:app"])
            .arg(environment)
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(ended.status.success(), "{ended:?}");
        Some(ended.stdout.trim_ascii() == b"asgi")
    }

    #[track_caller]
    fn is(wanted: bool, source: &str, packages: &[(&str, &str)]) {
        match sees_asgi(source, packages) {
            Some(seen) => assert_eq!(seen, wanted, "{source}"),
            None => eprintln!("skipped: this machine has no python3"),
        }
    }

    #[test]
    fn a_framework_of_the_list_makes_asgi_applications() {
        is(true, "from fastapi import FastAPI\napp = FastAPI()\n", &[]);
        is(true, "import datasette.app as d\napp = d.Datasette([]).app()\n", &[]);
        is(
            true,
            "class app:\n  def __init__(self, s, r, w): ...\n  def __await__(self): ...\n",
            &[],
        );
        is(false, "from flask import Flask\napp = Flask(__name__)\n", &[]);
        is(false, "from shop import app\n", &[]);
    }

    #[test]
    fn a_package_that_is_installed_is_looked_into() {
        let shiny = [
            ("shiny/__init__.py", "from ._app import App\n"),
            (
                "shiny/_app.py",
                "class App:\n    async def __call__(self, scope, receive, send): ...\n",
            ),
        ];
        is(true, "from shiny import App\n\napp = App()\n", &shiny);
        is(true, "import shiny\napp = shiny._app.App.create()\n", &shiny);
        is(true, "import shiny\n\nclass Own(shiny.App): ...\n\napp = Own()\n", &shiny);
        let ready =
            [("served.py", "from starlette.applications import Starlette\napp = Starlette()\n")];
        is(true, "from served import app\n", &ready);
        let plain = [("plain.py", "class App:\n    def __call__(self, environ, start): ...\n")];
        is(false, "from plain import App\napp = App()\n", &plain);
        is(false, "from plain import *\napp = App()\n", &plain);
        is(false, "import plain\napp = plain.App.create()\n", &plain);
    }

    #[test]
    fn one_of_several_that_a_function_returns_is_told_from_the_others() {
        let fast = [
            ("fast/common.py", "from .core import *\n"),
            (
                "fast/core.py",
                "from starlette.applications import Starlette\n\nclass Fast(Starlette): ...\n\n\
                 def fast_app(path=None):\n    app = Fast()\n    if not path: return app, app.route\n    \
                 return app, app.route, open(path)\n",
            ),
        ];
        is(true, "from fast.common import *\napp, route = fast_app()\n", &fast);
        is(false, "from fast.common import *\nroute, app = fast_app()\n", &fast);
    }

    #[test]
    fn a_circle_of_imports_comes_to_an_end() {
        let circle = [("a.py", "from b import *\n"), ("b.py", "from a import *\n")];
        is(false, "from a import app\n", &circle);
        is(false, "class A(A): ...\n\napp = A()\n", &[]);
        is(false, "app = app()\n", &[]);
    }
}
