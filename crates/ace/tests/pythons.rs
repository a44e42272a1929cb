//! Apps on old and new Pythons, as their authors left them.
//!
//! A Python that this machine lacks is passed over, with a word about it.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use ace_testkit::{AppFolder, Engine};
use anyhow::{Context, Result};

/// Answers with the Python that it runs on, in words that 2.7 and 3.14 understand.
const VERSION: &str = "
import sys


def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [('%d.%d %s' % (sys.version_info[0], sys.version_info[1], sys.prefix)).encode()]
";

fn engine() -> Result<Engine> {
    Engine::start(env!("CARGO_BIN_EXE_ace"))
}

/// The versions in `ace python list`.
fn pythons(engine: &Engine) -> Result<Vec<String>> {
    let listed = engine.ace(&["python", "list", "--json"])?.ok()?.json()?;
    let listed = listed.as_array().context("no list")?;
    Ok(listed.iter().filter_map(|python| Some(python["name"].as_str()?.to_owned())).collect())
}

fn has(engine: &Engine, minor_version: &str) -> Result<bool> {
    let beginning = format!("{minor_version}.");
    let has = pythons(engine)?.iter().any(|version| version.starts_with(&beginning));
    if !has {
        eprintln!("skipped: this machine has no Python {minor_version}");
    }
    Ok(has)
}

#[test]
fn apps_on_old_and_new_pythons_answer_side_by_side() -> Result<()> {
    let engine = engine()?;
    for version in ["2.7", "3.6", "3.7", "3.8", "3.13", "3.14"] {
        if !has(&engine, version)? {
            continue;
        }
        let app = AppFolder::new(VERSION)?;
        app.write("app.yaml", &format!("python: \"{version}\"\n"))?;
        let name = format!("on-{}", version.replace('.', "-"));
        engine.deploy(app.path(), &name)?.ok()?;
        let expected = format!("{version} /ace/user/virtualenv");
        assert_eq!(engine.get(&name, "/")?.text(), expected);
    }
    Ok(())
}

#[test]
fn a_range_of_pythons_is_kept_to() -> Result<()> {
    let engine = engine()?;
    if !has(&engine, "3.8")? {
        return Ok(());
    }
    let app = AppFolder::new(VERSION)?;
    app.write("app.yaml", "python: \">=3.8,<3.9\"\n")?;
    engine.deploy(app.path(), "range")?.ok()?;
    assert!(engine.get("range", "/")?.text().starts_with("3.8 "));
    // What developers' tools note counts after that, if it can be had.
    app.write(".python-version", "3.13.0\n")?;
    engine.deploy(app.path(), "range")?.ok()?;
    assert!(engine.get("range", "/")?.text().starts_with("3.8 "));
    app.write(".python-version", "3.8.1\n")?;
    app.write("app.yaml", "")?;
    engine.deploy(app.path(), "noted")?.ok()?;
    assert!(engine.get("noted", "/")?.text().starts_with("3.8 "));
    app.write(".python-version", "3.99\n")?;
    let said = engine.deploy(app.path(), "noted")?.ok()?.stderr;
    assert!(said.contains(".python-version names Python 3.99, which can't be had"), "{said}");
    assert!(engine.get("noted", "/")?.text().starts_with("3.8 "));
    app.write("app.yaml", "python: \">=3.99\"\n")?;
    let failed = engine.deploy(app.path(), "range")?;
    assert!(failed.stderr.contains("this server has no Python >=3.99"), "{}", failed.stderr);
    Ok(())
}

#[test]
fn a_django_project_as_it_is_started_answers() -> Result<()> {
    let engine = engine()?;
    let app = AppFolder::empty()?;
    app.write("requirements.txt", "django\n")?;
    app.write(
        "manage.py",
        "import os\nimport sys\n\ndef main():\n    \
         os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n    \
         from django.core.management import execute_from_command_line\n    \
         execute_from_command_line(sys.argv)\n\nif __name__ == '__main__':\n    main()\n",
    )?;
    app.write("shop/__init__.py", "")?;
    app.write(
        "shop/settings.py",
        "SECRET_KEY = 'x'\nALLOWED_HOSTS = ['*']\nROOT_URLCONF = 'shop.urls'\n\
         WSGI_APPLICATION = 'shop.wsgi.application'\n",
    )?;
    app.write(
        "shop/urls.py",
        "from django.http import HttpResponse\nfrom django.urls import path\n\
         urlpatterns = [path('', lambda request: HttpResponse('the shop is open'))]\n",
    )?;
    app.write(
        "shop/wsgi.py",
        "import os\nfrom django.core.wsgi import get_wsgi_application\n\
         os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n\
         application = get_wsgi_application()\n",
    )?;
    engine.deploy(app.path(), "shop")?.ok()?;
    assert_eq!(engine.get("shop", "/")?.text(), "the shop is open");
    Ok(())
}

#[test]
fn a_factory_is_called_once() -> Result<()> {
    let engine = engine()?;
    let app = AppFolder::empty()?;
    app.write(
        "app.py",
        "def create_app():\n    def answer(environ, start_response):\n        \
         start_response('200 OK', [])\n        return [b'made']\n    return answer\n",
    )?;
    engine.deploy(app.path(), "made")?.ok()?;
    assert_eq!(engine.get("made", "/")?.text(), "made");
    let nothing = AppFolder::empty()?;
    nothing.write("notes.txt", "")?;
    let failed = engine.deploy(nothing.path(), "nothing")?;
    for looked_for in ["index.py", "manage.py", "app.py", "wsgi.py", "main.py"] {
        assert!(failed.stderr.contains(looked_for), "{}", failed.stderr);
    }
    Ok(())
}

#[test]
fn apps_are_found_where_their_authors_put_them() -> Result<()> {
    let engine = engine()?;
    let answering = |expression: &str| {
        format!(
            "def application(environ, start_response):\n    \
             start_response('200 OK', [])\n    return [({expression}).encode()]\n"
        )
    };
    // A script beside the package of its name.
    let script = AppFolder::empty()?;
    script.write("wiki/__init__.py", &answering("'the wiki'"))?;
    // Its name is no unicode in Python 2 either, which its folders' names can't be joined to.
    let named = "assert type(__file__) is str\n";
    script.write("wiki.wsgi", &format!("{named}from wiki import application\n"))?;
    for python in ["2.7", "3.13"] {
        if has(&engine, python)? {
            script.write("app.yaml", &format!("python: \"{python}\"\n"))?;
            engine.deploy(script.path(), "script")?.ok()?;
            assert_eq!(engine.get("script", "/")?.text(), "the wiki", "{python}");
        }
    }

    let package = AppFolder::empty()?;
    package.write("src/shop/__init__.py", "")?;
    package.write("src/shop/name.py", "NAME = 'the shop'\n")?;
    let module = format!("import os\nfrom .name import NAME\n{}", answering("NAME + os.getcwd()"));
    package.write("src/shop/wsgi.py", &module)?;
    for python in ["2.7", "3.6", "3.13"] {
        if has(&engine, python)? {
            package.write("app.yaml", &format!("python: \"{python}\"\n"))?;
            engine.deploy(package.path(), "package")?.ok()?;
            assert_eq!(engine.get("package", "/")?.text(), "the shop/ace/code", "{python}");
        }
    }

    // Its kind is seen, too, and its folder is where it imports from.
    let program = AppFolder::empty()?;
    program.write("server/say.py", "WORDS = b'from below'\n")?;
    program.write(
        "server/main.py",
        "from say import WORDS\n\nasync def app(scope, receive, send):\n    \
         assert scope['type'] == 'http'\n    \
         await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n    \
         await send({'type': 'http.response.body', 'body': WORDS})\n",
    )?;
    let said = engine.deploy(program.path(), "program")?.ok()?;
    assert!(said.stderr.contains("server/main.py:app is an ASGI application"), "{said:?}");
    assert_eq!(engine.get("program", "/")?.text(), "from below");
    Ok(())
}

#[test]
fn a_project_finds_its_own_version_and_entry_points() -> Result<()> {
    let engine = engine()?;
    let project = AppFolder::empty()?;
    project.write(
        "wiki/__init__.py",
        "import os\nimport pkg_resources\n\nVERSION = pkg_resources.get_distribution('the-wiki').version\n\
         PLUGINS = [found.name for found in pkg_resources.iter_entry_points('wiki.plugins')]\n\n\
         def application(environ, start_response):\n    start_response('200 OK', [])\n    \
         return [('%s %s' % (VERSION, PLUGINS)).encode()]\n",
    )?;
    project.write("wiki.wsgi", "from wiki import application\n")?;
    project.write("requirements.txt", "setuptools<80\n")?;
    project.write(
        "setup.py",
        "from setuptools import setup\nsetup(name='the-wiki', version='4.2', packages=['wiki'], \
         entry_points={'wiki.plugins': ['graph = wiki:graph']})\n",
    )?;
    for python in ["2.7", "3.6", "3.13"] {
        if has(&engine, python)? {
            project.write("app.yaml", &format!("python: \"{python}\"\n"))?;
            engine.deploy(project.path(), "wiki")?.ok()?;
            assert_eq!(engine.get("wiki", "/")?.text(), "4.2 ['graph']", "{python}");
        }
    }

    // Its version is in a repository, which is not sent; and one that can't be built is served, too.
    let modern = AppFolder::empty()?;
    modern.write(
        "shop.py",
        &VERSION.replace(
            "import sys\n",
            "import sys\nfrom importlib import metadata\nmetadata.version('shop')\n",
        ),
    )?;
    let project = "[project]\nname = 'shop'\ndynamic = ['version']\n[tool.setuptools]\n\
                   py-modules = ['shop']\n[tool.setuptools_scm]\n[build-system]\n\
                   requires = ['setuptools', 'setuptools_scm']\n\
                   build-backend = 'setuptools.build_meta'\n";
    modern.write("pyproject.toml", project)?;
    engine.deploy(modern.path(), "modern")?.ok()?;
    assert_eq!(engine.get("modern", "/")?.status, 200);
    modern.write("shop.py", VERSION)?;
    modern.write("pyproject.toml", &project.replace("'setuptools.build_meta'", "'no_such'"))?;
    let said = engine.deploy(modern.path(), "modern")?.ok()?;
    assert!(said.stderr.contains("the project can't be built"), "{}", said.stderr);
    assert_eq!(engine.get("modern", "/")?.status, 200);
    Ok(())
}

#[test]
fn the_legacy_example_puts_every_package_to_work() -> Result<()> {
    let engine = engine()?;
    if !has(&engine, "2.7")? {
        return Ok(());
    }
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/legacy"));
    engine.deploy(&folder, "legacy")?.ok()?;
    let page = engine.get("legacy", "/")?;
    assert_eq!(page.status, 200, "{}", page.text());
    for shown in [
        "Python 2.7.",
        "trusts many authorities",
        "ecdsa 0.11</th><td>signed and verified: True",
        "remembers 1 line",
        "paramiko 1.15.2</th><td>made a key",
        "pycrypto 2.6.1</th><td>encrypted and decrypted: True",
        "rendered this page",
        "virtualenv 13.1.0",
    ] {
        assert!(page.text().contains(shown), "{shown}: {}", page.text());
    }
    Ok(())
}
