//! Whole builds, in real containers, with packages from the index. Needs root and the internet.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // All of it is for tests.

mod kit;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use ace_api::{Builder, Interpreter, Program, Runtime, Serving};
use ace_types::StaticRule;
use kit::{INDEX, Kit, SETUP, has_file, has_python, packages, site_packages};
use tokio::sync::mpsc;

#[tokio::test]
async fn an_app_without_requirements_has_an_empty_environment() {
    let Some(kit) = Kit::new() else { return };
    let built = kit.build(&[INDEX, ("old.py", "print 'Python 2'\n")]).await.built();
    assert!(built.code.starts_with(kit.data.path().join("releases/shop")));
    assert!(has_file(&built.code.join("__pycache__"), "index.cpython-"));
    assert!(has_file(&built.server, "pyuwsgi"));
    assert_eq!(packages(&built.environment), Vec::<String>::new());
    assert!(built.environment.join("bin/python").read_link().is_ok());
    for path in [&built.code, &built.environment, &built.server] {
        assert_eq!(fs::metadata(path).unwrap().uid(), 0);
    }
}

#[tokio::test]
async fn requirements_are_installed_once_until_they_change() {
    let Some(kit) = Kit::new() else { return };
    let pure = ("requirements.txt", "itsdangerous==2.2.0\nmarkupsafe\n");
    let first = kit.build(&[INDEX, pure]).await.built();
    assert_eq!(packages(&first.environment), ["itsdangerous", "markupsafe"]);
    let site = site_packages(&first.environment);
    assert!(has_file(&site.join("markupsafe"), "_speedups."), "the compiled part is missing");
    assert!(has_file(&site.join("itsdangerous/__pycache__"), "signer."), "no byte code");

    let again = kit.build(&[("index.py", "application = None\n"), pure]).await;
    assert!(again.logged("nothing to install"), "{:?}", again.log);
    let again = again.built();
    assert_eq!(again.environment, first.environment);
    assert_ne!(again.code, first.code);

    let changed = kit.build(&[INDEX, ("requirements.txt", "itsdangerous==2.2.0\n")]).await.built();
    assert_ne!(changed.environment, first.environment);

    kit.builder.remove(vec![first.code.clone(), first.environment.clone()]).await.unwrap();
    assert!(!first.code.exists() && !first.environment.exists());
    assert!(again.code.exists() && changed.environment.exists());
    let rest = vec![again.code, again.environment, changed.code, changed.environment];
    kit.builder.remove(rest).await.unwrap();
    kit.builder.remove_app(&"shop".parse().unwrap()).await.unwrap();
    for folder in ["releases", "environments", "caches"] {
        assert!(is_empty(&kit.data.path().join(folder)), "{folder}");
    }
    kit.builder.remove(vec![kit.data.path().join("releases")]).await.unwrap_err();
    kit.builder.remove(vec!["/etc".into()]).await.unwrap_err();
}

#[tokio::test]
async fn a_c_extension_is_compiled_where_there_is_a_compiler() {
    let Some(kit) = Kit::new() else { return };
    if !Path::new("/usr/bin/gcc").exists() {
        return eprintln!("skipped: there is no compiler");
    }
    let requirements = ("requirements.txt", "--no-binary markupsafe\nmarkupsafe==3.0.2\n");
    let built = kit.build(&[INDEX, requirements]).await.built();
    let site = site_packages(&built.environment);
    assert!(has_file(&site.join("markupsafe"), "_speedups.cpython-"));
    assert_eq!(packages(&built.environment), ["markupsafe"], "the build's tools came along");
}

#[tokio::test]
async fn a_package_of_the_source_itself_is_installed() {
    let Some(kit) = Kit::new() else { return };
    let source =
        [INDEX, ("requirements.txt", "-e ./own\n"), ("own/setup.py", SETUP), ("own/own.py", "")];
    let first = kit.build(&source).await;
    assert!(first.logged("no hash to know them by"), "{:?}", first.log);
    let changed = kit.build(&[&source[..], &[("other.py", "")]].concat()).await.built();
    assert_ne!(first.built().environment, changed.environment);
}

#[tokio::test]
async fn files_alone_are_kept_without_an_environment() {
    let Some(kit) = Kit::new() else { return };
    let outcome = kit.build(&[("index.html", "<p>hi"), ("a/b.css", "")]).await;
    assert!(outcome.logged("files alone"), "{:?} {:?}", outcome.log, outcome.result);
    let release = outcome.release();
    assert_eq!(release.serving, Serving::Files);
    let rule = StaticRule { path: "/".into(), files: String::new(), expire: None };
    assert_eq!(release.app_yaml.statics, [rule]);
    assert!(release.code.join("a/b.css").is_file());
    assert!(!kit.data.path().join("environments").exists());

    let yaml = ("app.yaml", "server: none\nstatic: [{path: /, files: gone/}]\n");
    let missing = kit.build(&[INDEX, yaml, ("manage.py", "")]).await.rejection();
    assert!(missing.contains("no such folder"), "{missing}");
}

#[tokio::test]
async fn a_command_has_its_requirements_and_no_server_of_ours() {
    let Some(kit) = Kit::new() else { return };
    let requirements = ("requirements.txt", "itsdangerous==2.2.0\n");
    let procfile = ("Procfile", "worker: x\nrelease: make\nweb: python serve.py --fast\n");
    let release = kit.build(&[("serve.py", ""), requirements, procfile]).await.release();
    let Serving::Program(Runtime { environment, program, .. }) = release.serving else {
        panic!("it is files alone");
    };
    let line = "python serve.py --fast".to_owned();
    assert_eq!(program, Program::Command { line, port: 8000 });
    assert_eq!(packages(&environment), ["itsdangerous"]);

    assert_eq!(release.app_yaml.predeploy.as_deref(), Some("make"));

    let own = ("app.yaml", "predeploy: make all\n");
    let both = kit.build(&[INDEX, procfile, own]).await.built();
    assert_eq!(both.entry.to_string(), "index:application");
    assert_eq!(both.app_yaml.predeploy.as_deref(), Some("make all"));
}

#[tokio::test]
async fn what_cant_be_built_is_refused_with_the_reason() {
    let Some(kit) = Kit::new() else { return };
    let nothing = kit.build(&[("app.py", "")]).await.rejection();
    assert!(nothing.contains("there is no index.py"), "{nothing}");
    assert!(nothing.contains("app.py, with no application, app or create_app()"), "{nothing}");
    assert!(nothing.contains("there is no Procfile, there is no index.html"), "{nothing}");
    let wrong = kit.build(&[("app.py", ""), ("Procfile", "web: a\nweb: b\n")]).await.rejection();
    assert!(wrong.contains("Procfile, line 2: names web a second time"), "{wrong}");
    let bad_yaml = kit.build(&[INDEX, ("app.yaml", "threads: many\n")]).await;
    assert!(bad_yaml.rejection().starts_with("app.yaml:1:10: "), "{}", bad_yaml.rejection());
    let no_python = kit.build(&[INDEX, ("app.yaml", "python: 3.99\n")]).await;
    assert!(no_python.rejection().contains("it has 3."), "{}", no_python.rejection());
    let unknown = kit.build(&[INDEX, ("requirements.txt", "itsdangerous==99.9\n")]).await;
    assert_eq!(unknown.rejection(), "the requirements could not be resolved");
    assert!(unknown.logged("itsdangerous==99.9"), "{:?}", unknown.log);
    let broken =
        [INDEX, ("requirements.txt", "./own\n"), ("own/setup.py", "raise SystemExit('words')\n")];
    let broken = kit.build(&broken).await;
    assert!(broken.logged("words"), "{:?}", broken.log);
}

#[tokio::test]
async fn django_may_collect_what_is_declared_static() {
    let Some(kit) = Kit::new() else { return };
    let app_yaml = "static: [{path: /static/, files: collected/}]\nenv: {NAME: a.css}\n";
    let manage = "import os, sys\nassert sys.argv[1:] == ['collectstatic', '--noinput']\nassert sys.prefix == '/ace/user/virtualenv'\nos.mkdir('collected'); open('collected/' + os.environ['NAME'], 'w').write('a' * 4096)\n";
    let built = kit.build(&[INDEX, ("app.yaml", app_yaml), ("manage.py", manage)]).await.built();
    for sibling in ["", ".br", ".zst", ".gz"] {
        assert!(built.code.join(format!("collected/a.css{sibling}")).is_file(), "{sibling}");
    }
    let none = kit.build(&[INDEX, ("app.yaml", app_yaml), ("manage.py", "")]).await;
    assert!(none.rejection().contains("no such folder"), "{}", none.rejection());
    let failing = kit.build(&[INDEX, ("app.yaml", app_yaml), ("manage.py", "1/0")]).await;
    assert_eq!(failing.rejection(), "manage.py collectstatic failed");
    assert!(failing.logged("ZeroDivisionError"));
}

/// A package whose `.pth` file runs when Python next starts, which is when uv compiles byte code: it
/// puts a link in the place of the environment that it is in.
const SWAP: &str = r#"
import os, zipfile

CODE = """import os; not os.path.islink('/ace/user/virtualenv') and (
os.rename('/ace/user/virtualenv', '/ace/user/own'), os.symlink('/usr/..', '/ace/user/virtualenv'))"""

def build_wheel(folder, config_settings=None, metadata_directory=None):
    info = "own-1.dist-info/"
    files = {
        "own.py": "",
        "own.pth": "import sys; exec(%r)" % CODE,
        info + "METADATA": "Metadata-Version: 2.1\nName: own\nVersion: 1\n",
        info + "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        info + "RECORD": "",
    }
    with zipfile.ZipFile(os.path.join(folder, "own-1-py3-none-any.whl"), "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "own-1-py3-none-any.whl"
"#;

#[tokio::test]
async fn an_environment_can_not_become_a_link_to_something_of_the_hosts() {
    let Some(kit) = Kit::new() else { return };
    let project = "[build-system]\nrequires = []\nbuild-backend = 'swap'\nbackend-path = ['.']\n\
                   [project]\nname = 'own'\nversion = '1'\n";
    let outcome = kit
        .build(&[
            INDEX,
            ("requirements.txt", "./own\n"),
            ("own/pyproject.toml", project),
            ("own/swap.py", SWAP),
        ])
        .await;
    let reason = outcome.rejection();
    // uv starts several Pythons; one that starts after the swap finds none, and uv gives up first.
    let expected = ["removed the virtual environment", "requirements could not be installed"];
    assert!(expected.iter().any(|end| reason.contains(end)), "{reason}: {:?}", outcome.log);
}

#[tokio::test]
async fn the_examples_build() {
    let Some(kit) = Kit::new() else { return };
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let webpy = kit.build_folder(&examples.join("webpy")).await.built();
    assert!(packages(&webpy.environment).contains(&"web".to_owned()));
    let flask = kit.build_folder(&examples.join("flask")).await.built();
    assert_eq!(flask.app_yaml.statics.len(), 2);
    let django = kit.build_folder(&examples.join("django")).await.built();
    assert!(django.code.join("static/guestbook/style.css").is_file());
    assert!(!django.code.join("data").exists(), "the build made a secret key");
}

#[tokio::test]
async fn a_build_is_bounded_and_sees_nothing_of_the_engine() {
    let Some(kit) = Kit::new() else { return };
    let app_yaml = ("app.yaml", "static: [{path: /s/, files: s/}]\n");
    let look = format!(
        "import os\nfor path in {:?}, '/home', '/var', '/proc/1/environ':\n    try: print('sees', os.listdir(path) if os.path.isdir(path) else open(path).read())\n    except OSError: pass\nos.mkdir('s')\n",
        kit.data.path()
    );
    let looked = kit.build(&[INDEX, app_yaml, ("manage.py", &look)]).await;
    assert!(!looked.logged("sees"), "{:?}", looked.log);
    let hog = kit.build(&[INDEX, app_yaml, ("manage.py", "b'x' * (3 << 30)")]).await;
    assert_eq!(hog.rejection(), "the build ran out of memory: its limit is 2G");
    let flood = "for _ in range(3000): print('x' * 10000)\nimport os; os.mkdir('s')";
    let flooded = kit.build(&[INDEX, app_yaml, ("manage.py", flood)]).await;
    assert!(flooded.logged("the rest is left out"));
    assert!(flooded.log.iter().map(String::len).sum::<usize>() <= 8 << 20);
}

#[tokio::test]
async fn a_build_nobody_waits_for_any_more_ends_and_leaves_nothing() {
    let Some(kit) = Kit::new() else { return };
    let app_yaml = ("app.yaml", "static: [{path: /s/, files: s/}]\n");
    let manage = ("manage.py", "import time\nprint('asleep', flush=True)\ntime.sleep(600)\n");
    let (sender, mut log) = mpsc::channel(64);
    let build = kit.builder.build(kit.request(&[INDEX, app_yaml, manage]), sender);
    tokio::select! {
        result = build => panic!("{result:?}"),
        () = async { while log.recv().await.unwrap() != "asleep" {} } => {}
    }
    for _ in 0..100 {
        if kit.leftovers().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("left over: {:?}", kit.leftovers());
}

#[tokio::test]
async fn what_a_dead_engine_left_is_removed() {
    let Some(kit) = Kit::new() else { return };
    let data = kit.data.path();
    fs::create_dir_all(data.join("builds/abcdefgh/code")).unwrap();
    fs::create_dir_all(data.join("archives")).unwrap();
    fs::write(data.join("archives/abcdefgh.tgz"), "").unwrap();
    kit.cgroups.create("build-abcdefgh", &ace_types::Limits::for_build()).unwrap();
    kit.cgroups.create("instance", &ace_types::Limits::for_build()).unwrap();
    kit.builder.recover().await.unwrap();
    assert_eq!(kit.leftovers(), ["instance"]);
    assert!(is_empty(&data.join("archives")));
}

#[tokio::test]
async fn an_app_keeps_its_python() {
    let Some(kit) = Kit::new() else { return };
    let system: Interpreter =
        kit.build(&[INDEX, ("app.yaml", "python: 3.11\n")]).await.built().python;
    let later = kit.build_with(&[INDEX], Some(system.clone())).await.built();
    assert_eq!(later.python, system);
}

#[tokio::test]
async fn a_django_project_and_a_factory_need_no_entry() {
    let Some(kit) = Kit::new() else { return };
    let manage = "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n";
    let django = [
        ("manage.py", manage),
        ("shop/settings.py", "WSGI_APPLICATION = 'shop.wsgi.application'\n"),
        ("shop/wsgi.py", ""),
    ];
    let found = kit.build(&django).await.built().entry;
    assert_eq!(found.to_string(), "shop.wsgi:application");
    let factory = kit.build(&[("app.py", "def create_app(): return None\n")]).await;
    assert!(factory.logged("entry: app:create_app()"), "{:?}", factory.log);
    assert!(factory.built().entry.factory);
    let named = [("shop.py", ""), ("app.yaml", "entry: shop:make()\n")];
    assert_eq!(kit.build(&named).await.built().entry.to_string(), "shop:make()");
}

#[tokio::test]
async fn an_environment_for_python_2_is_made_by_virtualenv_and_pip() {
    let Some(kit) = Kit::new() else { return };
    if !has_python(&kit, "2.7").await {
        return;
    }
    let app_yaml = ("app.yaml", "python: \"2.7\"\n");
    let pins = "markupsafe==1.1.1\nvirtualenv==13.1.0\npip==9.0.3\n";
    let source = [INDEX, app_yaml, ("requirements.txt", pins), ("old.py", "print 1")];
    let built = kit.build(&source).await.built();
    let site = site_packages(&built.environment);
    assert!(site.ends_with("python2.7/site-packages"));
    assert!(has_file(&site.join("markupsafe"), "_speedups."), "the compiled part is missing");
    assert!(has_file(&site, "virtualenv.py") && has_file(&site, "pip-9.0.3."));
    assert!(has_file(&built.server, "pyuwsgi"));
    assert!(built.code.join("old.pyc").is_file());
    let again = kit.build(&source).await;
    assert!(again.logged("nothing to install"), "{:?}", again.log);
    assert_eq!(again.built().environment, built.environment);
    let unknown = [INDEX, app_yaml, ("requirements.txt", "markupsafe==99.9\n")];
    assert_eq!(kit.build(&unknown).await.rejection(), "the requirements could not be resolved");
}

#[tokio::test]
async fn a_package_for_python_2_may_name_its_build_system() {
    let Some(kit) = Kit::new() else { return };
    if !has_python(&kit, "2.7").await {
        return;
    }
    let app_yaml = ("app.yaml", "python: \"2.7\"\n");
    let source = ("requirements.txt", "--no-binary attrs\nattrs==21.4.0\n");
    let built = kit.build(&[INDEX, app_yaml, source]).await.built();
    assert!(has_file(&site_packages(&built.environment), "attrs-21.4.0."));
}

#[tokio::test]
async fn a_folder_is_installed_for_python_2() {
    let Some(kit) = Kit::new() else { return };
    if !has_python(&kit, "2.7").await {
        return;
    }
    let app_yaml = ("app.yaml", "python: \"2.7\"\n");
    for line in ["./own\n", "-e own\n"] {
        let source = [
            INDEX,
            app_yaml,
            ("requirements.txt", line),
            ("own/setup.py", SETUP),
            ("own/own.py", "ANSWER = 42\n"),
        ];
        let built = kit.build(&source).await.built();
        assert!(has_file(&site_packages(&built.environment), "own.py"), "{line}");
    }
}

#[tokio::test]
async fn a_setup_py_alone_says_what_an_app_needs() {
    let Some(kit) = Kit::new() else { return };
    let setup = "from setuptools import setup\n\
                 setup(name='own', version='1', py_modules=['index'], install_requires=['six==1.16.0'])\n";
    for python in ["2.7", "3.6", "3.8"] {
        if !has_python(&kit, python).await {
            continue;
        }
        let app_yaml = format!("python: \"{python}\"\n");
        let source = [INDEX, ("app.yaml", app_yaml.as_str()), ("setup.py", setup)];
        let site = site_packages(&kit.build(&source).await.built().environment);
        assert!(has_file(&site, "six-1.16.0."), "{python}");
        assert!(has_file(&site, "own-1"), "{python}: the app's own metadata is missing");
    }
}

#[tokio::test]
async fn an_old_python_has_the_setuptools_of_its_time() {
    let Some(kit) = Kit::new() else { return };
    if !has_python(&kit, "3.8").await {
        return;
    }
    let app_yaml = ("app.yaml", "python: \"3.8\"\n");
    let none = ("requirements.txt", "--no-binary :all:\nitsdangerous==2.1.2\n");
    let built = kit.build(&[INDEX, app_yaml, none]).await.built();
    assert!(has_file(&site_packages(&built.environment), "setuptools-56.0.0."));
    let own = ("requirements.txt", "setuptools==59.8.0\n");
    let built = kit.build(&[INDEX, app_yaml, own]).await.built();
    let site = site_packages(&built.environment);
    assert!(has_file(&site, "setuptools-59.8.0.") && !has_file(&site, "setuptools-56"));
}

#[tokio::test]
async fn every_python_3_gets_its_app_server() {
    let Some(kit) = Kit::new() else { return };
    for python in ["3.6", "3.7", "3.8", "3.9", "3.10", "3.12", "3.13", "3.14"] {
        if !has_python(&kit, python).await {
            continue;
        }
        let app_yaml = format!("python: \"{python}\"\n");
        let source = [INDEX, ("app.yaml", &app_yaml), ("requirements.txt", "markupsafe\n")];
        let built = kit.build(&source).await.built();
        assert!(has_file(&built.server, "pyuwsgi"), "{python}");
        let site = site_packages(&built.environment);
        assert!(has_file(&site.join("markupsafe/__pycache__"), "_native."), "{python}");
    }
}

#[tokio::test]
async fn requirements_may_stand_in_other_files() {
    let Some(kit) = Kit::new() else { return };
    let project = "[project]\nname = \"shop\"\nversion = \"1\"\nrequires-python = \">=3.9\"\n\
                   dependencies = [\"itsdangerous>=2\"]\n";
    let project = ("pyproject.toml", project);
    let built = kit.build(&[INDEX, project]).await.built();
    assert_eq!(packages(&built.environment), ["itsdangerous"]);

    let poetry = "[tool.poetry.dependencies]\npython = \"^3.9\"\nitsdangerous = \"^2.0\"\n\
                  colorama = {version = \"*\", markers = \"sys_platform == 'win32'\"}\n";
    let lock = "[[package]]\nname = \"itsdangerous\"\nversion = \"2.1.1\"\n\
                [[package]]\nname = \"colorama\"\nversion = \"0.4.6\"\n";
    let poetry = [INDEX, ("pyproject.toml", poetry), ("poetry.lock", lock)];
    let built = kit.build(&poetry).await.built();
    assert_eq!(packages(&built.environment), ["itsdangerous"]);
    assert!(has_file(&site_packages(&built.environment), "itsdangerous-2.1.1."));

    let pipfile = "{\"_meta\": {}, \"default\": {\"itsdangerous\": {\"version\": \"==2.1.2\"}}}";
    let built = kit.build(&[INDEX, ("Pipfile.lock", pipfile)]).await.built();
    assert!(has_file(&site_packages(&built.environment), "itsdangerous-2.1.2."));

    let lock = "version = 1\nrequires-python = \">=3.9\"\n\n[[package]]\nname = \"shop\"\n\
                version = \"1\"\nsource = { virtual = \".\" }\n";
    let alone = "[project]\nname = \"shop\"\nversion = \"1\"\nrequires-python = \">=3.9\"\n";
    let built = kit.build(&[INDEX, ("pyproject.toml", alone), ("uv.lock", lock)]).await.built();
    assert_eq!(packages(&built.environment), Vec::<String>::new());
}

#[tokio::test]
async fn what_the_server_lacks_is_named_with_its_package() {
    let Some(kit) = Kit::new() else { return };
    let setup = "import sys\nsys.stderr.write('own.c:1: fatal error: libpq-fe.h: No such file or directory\\n')\nsys.exit(1)\n";
    let source = [INDEX, ("requirements.txt", "./own\n"), ("own/setup.py", setup)];
    let rejection = kit.build(&source).await.rejection();
    assert!(
        rejection.ends_with("comes to this server with: apt-get install libpq-dev"),
        "{rejection}"
    );
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}
