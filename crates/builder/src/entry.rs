//! Finds what a server is to call, where `app.yaml` does not say it.
//!
//! The looking is done by the app's own Python, in a container, by a program of ours that reads the
//! source and imports none of it.

use ace_api::BuildError;
use ace_types::app_yaml::Entry;
use ace_types::{AppYaml, ServerChoice};
use serde::Deserialize;

use crate::container::{Bench, Command};
use crate::environment::{check_end, see_python};
use crate::python::Python;
use crate::site::{Site, engine};
use crate::unpack::CODE;

const PROGRAM: &str = include_str!("find_entry.py");
const PROGRAM_PATH: &str = "/ace/start/find_entry.py";
const FOUND_MAX: usize = 64 * 1024;
/// The variable that names a Django project's settings.
const SETTINGS: &str = "DJANGO_SETTINGS_MODULE";

/// What came of the search.
pub enum Search {
    Found(Entry),
    /// Nothing; these are what was looked for, each with why it wasn't that.
    Nothing {
        looked: Vec<String>,
    },
}

/// What the program prints.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Found {
    entry: Option<String>,
    /// What was looked for in vain.
    looked: Vec<String>,
}

/// The first entry that the source has.
pub async fn find(
    app_yaml: &AppYaml,
    python: &Python,
    bench: &Bench,
    site: &Site,
) -> Result<Search, BuildError> {
    let settings = app_yaml.env.get(SETTINGS).map_or("", String::as_str);
    let program = python.interpreter.program.display().to_string();
    let server = match app_yaml.server {
        Some(ServerChoice::Engine(server)) => server.name(),
        Some(ServerChoice::None) | None => "",
    };
    let words = [&program, "-E", "-s", PROGRAM_PATH, settings, server];
    let mut command =
        see_python(Command::new(words), python).read_only(&site.code(), CODE).in_folder(CODE);
    command.files.push((PROGRAM_PATH.into(), PROGRAM.to_owned()));
    command.keep_stdout = Some(FOUND_MAX);
    let ended = bench.run(command).await?;
    check_end(&ended, bench, "the source could not be searched for its entry")?;
    let found: Found = serde_json::from_slice(&ended.stdout)
        .map_err(|error| engine("read what the source begins with", error))?;
    let Some(entry) = found.entry else { return Ok(Search::Nothing { looked: found.looked }) };
    let entry: Entry = entry.parse().map_err(|error| BuildError::Rejected(format!("{error}")))?;
    bench.log().say(format!("entry: {entry}")).await;
    Ok(Search::Found(entry))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// What the program finds in `files` for `server`, by the system's Python.
    fn found(files: &[(&str, &str)], server: &str) -> Option<(Option<String>, String)> {
        let python = Path::new("/usr/bin/python3");
        if !python.exists() {
            eprintln!("skipped: there is no {}", python.display());
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let output = std::process::Command::new(python)
            .args(["-c", PROGRAM, "", server])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let found: Found = serde_json::from_slice(&output.stdout).expect(&said);
        Some((found.entry, found.looked.join(", ")))
    }

    fn finds(files: &[(&str, &str)], wanted: &str) {
        finds_for("", files, wanted);
    }

    fn finds_for(server: &str, files: &[(&str, &str)], wanted: &str) {
        let Some((entry, looked)) = found(files, server) else { return };
        assert_eq!(entry.as_deref(), Some(wanted), "{files:?}: {looked}");
    }

    #[test]
    fn index_py_goes_first() {
        let app = ("app.py", "app = None\n");
        finds(&[("index.py", "def application(e, s): ...\n"), app], "index:application");
        finds(&[("index.py", "from shop import *\n"), app], "index:application");
        finds(&[("index.py", "if 1:\n  application = 1\n"), app], "index:application");
        finds(&[("index.py", "import shop as application\n"), app], "app:app");
        // Its own traceback, at the start, says more than we could.
        finds(&[("index.py", "def application(:\n"), app], "index:application");
    }

    #[test]
    fn a_django_project_is_found_by_its_settings() {
        let manage = (
            "manage.py",
            "import os\ndef main():\n    os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.conf.live')\n",
        );
        let wsgi = ("shop/wsgi.py", "application = 1\n");
        finds(&[manage, wsgi], "shop.wsgi:application");
        let own = ("shop/conf/live.py", "WSGI_APPLICATION = 'shop.serve.app'\n");
        finds(&[manage, wsgi, own, ("shop/serve.py", "")], "shop.serve:app");
        finds(&[manage, wsgi, own], "shop.wsgi:application");
        let set = ("manage.py", "import os\nos.environ['DJANGO_SETTINGS_MODULE'] = 'shop.conf'\n");
        finds(&[set, wsgi, ("app.py", "app = 1\n")], "shop.wsgi:application");
    }

    #[test]
    fn the_usual_files_have_an_application_an_app_or_a_factory() {
        finds(&[("wsgi.py", "from shop import app as application\n")], "wsgi:application");
        finds(&[("main.py", "async def app(scope, receive, send): ...\n")], "main:app");
        finds(
            &[("app.py", "def create_app(config=None, *, debug=False): ...\n")],
            "app:create_app()",
        );
        finds(&[("app/__init__.py", "def create_app(): ...\n")], "app:create_app()");
        finds(&[("app.py", "import app\n"), ("main.py", "app: int = 1\n")], "main:app");
    }

    #[test]
    fn a_django_project_with_channels_is_asgis_where_a_server_can() {
        let files = [
            ("manage.py", "import os\nos.environ['DJANGO_SETTINGS_MODULE'] = 'chat.settings'\n"),
            ("chat/settings.py", "WSGI_APPLICATION = 'chat.wsgi.application'\n"),
            ("chat/wsgi.py", ""),
            ("chat/asgi.py", ""),
        ];
        finds(&files, "chat.wsgi:application");
        finds_for("uvicorn", &files, "chat.asgi:application");
        let mut files = files;
        files[1].1 =
            "WSGI_APPLICATION = 'chat.wsgi.application'\nASGI_APPLICATION = 'chat.asgi.app'\n";
        finds(&files, "chat.asgi:app");
        finds_for("gunicorn", &files, "chat.wsgi:application");
    }

    #[test]
    fn what_has_no_usual_place_is_found_where_there_is_one_of_it() {
        let package = ("wiki/__init__.py", "application = 1\n");
        let script = ("wiki.wsgi", "from wiki import application\n");
        finds(&[package, script], "wiki.wsgi:application");
        let below = ("wiki/server/moin.wsgi", "from wiki import application\n");
        let of_tests = ("wiki/server/test.wsgi", "application = 1\n");
        finds(&[package, below, of_tests], "wiki/server/moin.wsgi:application");
        finds(&[("run.py", "app = make()\n"), ("shop.py", "app = 1 + 1\n")], "run:app");
        finds(&[("shop.py", "app = make()\n"), ("setup.py", "app = make()\n")], "shop:app");
        let named = ("wiki/wsgi.py", "application = make()\n");
        finds(&[("wiki/__init__.py", ""), named], "wiki.wsgi:application");
        finds(&[named], "wiki/wsgi.py:application");
        finds(&[("app/main.py", "from . import x\napp = make()\n")], "app.main:app");
        finds(&[("server/main.py", "import x\napp = make()\n")], "server/main.py:app");
        let in_src = ("src/wiki/app.py", "from . import x\ndef create_app(): ...\n");
        finds(&[in_src, ("src/wiki/__init__.py", "")], "src/wiki/app.py:create_app()");
        finds(&[("flaskr/__init__.py", "def create_app(c=None): ...\n")], "flaskr:create_app()");
        let below = ("demo/site/wsgi.py", "application = make()\n");
        finds(
            &[below, ("demo/site/__init__.py", ""), ("demo/manage.py", "")],
            "demo/site/wsgi.py:application",
        );
        let dash = ("app.py", "app = Dash()\nserver = app.server\n");
        finds(&[dash], "app:server");
    }

    #[test]
    fn a_procfile_names_what_a_server_is_to_serve() {
        let files = [
            ("Procfile", "release: x\nweb: gunicorn -b 0.0.0.0:80 -w 3 shop.run:app\n"),
            ("shop/run.py", "app = make()\n"),
            ("other.py", "app = make()\n"),
        ];
        finds(&files, "shop.run:app");
        let wsgi = ("shop/live.py", "application = 1\n");
        for command in ["gunicorn shop.live", "gunicorn -w 2 shop.live --log-file -"] {
            let procfile = format!("web: {command}\n");
            finds(&[("Procfile", &procfile), wsgi, ("a.py", "app = 1\n")], "shop.live:application");
        }
        let nested = ("src/shop/live.py", "application = 1\n");
        for command in
            ["cd src && gunicorn shop.live:application", "gunicorn --chdir src shop.live"]
        {
            let procfile = format!("web: {command}\n");
            finds(&[("Procfile", &procfile), nested], "src/shop/live.py:application");
        }
        let listens = ("main.py", "from aiohttp import web\napp = web.Application()\n");
        for command in ["python main.py", "gunicorn main:app -k aiohttp.GunicornWebWorker"] {
            let found = found(&[("Procfile", &format!("web: {command}\n")), listens], "");
            assert!(found.is_none_or(|(entry, _)| entry.is_none()), "{command}");
        }
        let files = [("Procfile", "web: python serve.py\n"), ("serve.py", "app = make()\n")];
        finds_for("uwsgi", &files, "serve:app");
        // It listens by itself.
        assert!(found(&files, "").is_none_or(|(entry, _)| entry.is_none()));
    }

    #[test]
    fn nothing_is_guessed_at_where_there_are_several_or_none() {
        let two = [
            ("a/wsgi.py", "application = make()\n"),
            ("b/wsgi.py", "application = make()\n"),
            ("b/c/wsgi.py", "application = make()\n"),
        ];
        let Some((entry, looked)) = found(&two, "") else { return };
        assert_eq!(entry, None);
        let several = "several files could be it: a/wsgi.py:application, b/wsgi.py:application";
        assert!(looked.ends_with(several), "{looked}");
        for files in [
            [("cli.py", "app = typer.Typer()\n"), ("celery.py", "app = Celery('x')\n")],
            [("tests/app.py", "app = make()\n"), ("test_app.py", "app = make()\n")],
            [("shop/app.py", "app = None\n"), ("run.py", "def app(**options): ...\n")],
            [("index.html", ""), ("tool/app.py", "app = make()\n")],
        ] {
            let Some((entry, _)) = found(&files, "") else { return };
            assert_eq!(entry, None, "{files:?}");
        }
    }

    #[test]
    fn what_was_looked_for_is_named() {
        let files = [("index.py", "x = 1\n"), ("app.py", "def create_app(config): ...\n")];
        let Some((entry, looked)) = found(&files, "") else { return };
        assert_eq!(entry, None);
        for part in [
            "index.py defines no application",
            "no manage.py",
            "create_app needs",
            "no main.py",
            "no other file",
        ] {
            assert!(looked.contains(part), "{part}: {looked}");
        }
    }
}
