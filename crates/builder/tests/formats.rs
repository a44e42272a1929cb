//! Every way to say what an app needs, with packages from the index. Needs root and the internet.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // All of it is for tests.

mod kit;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use kit::{INDEX, Kit, has_file, has_python, packages, site_packages};

/// The hash of the wheel of six 1.16.0.
const SIX: &str = "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254";

#[tokio::test]
async fn hashes_in_requirements_are_kept_to() {
    let Some(kit) = Kit::new() else { return };
    let six = format!("six==1.16.0 \\\n  --hash=sha256:{SIX}\n");
    let built = kit.build(&[INDEX, ("requirements.txt", &six)]).await.built();
    assert!(has_file(&site_packages(&built.environment), "six-1.16.0."));
    let other = six.replace('8', "9");
    let other = kit.build(&[INDEX, ("requirements.txt", &other)]).await;
    assert_eq!(other.rejection(), "the requirements could not be installed", "{:?}", other.log);
    let more = format!("python-dateutil==2.9.0 --hash=sha256:{SIX}\n");
    let incomplete = kit.build(&[INDEX, ("requirements.txt", &more)]).await;
    assert!(incomplete.logged("six") || incomplete.logged("hash"), "{:?}", incomplete.log);
    let mixed = kit.build(&[INDEX, ("requirements.txt", &format!("{six}idna\n"))]).await;
    assert!(mixed.rejection().contains("\"idna\" has no --hash"), "{}", mixed.rejection());
}

#[tokio::test]
async fn the_hashes_of_a_lock_are_kept_to() {
    let Some(kit) = Kit::new() else { return };
    let project = "[tool.poetry.dependencies]\npython = \"*\"\nsix = \"^1.15\"\n";
    let lock = format!(
        "[[package]]\nname = \"six\"\nversion = \"1.16.0\"\n\
         files = [{{file = \"six.whl\", hash = \"sha256:{SIX}\"}}]\n"
    );
    let project = ("pyproject.toml", project);
    let built = kit.build(&[INDEX, project, ("poetry.lock", &lock)]).await.built();
    assert!(has_file(&site_packages(&built.environment), "six-1.16.0."));
    let other = lock.replace("sha256:8", "sha256:9");
    let other = kit.build(&[INDEX, project, ("poetry.lock", &other)]).await;
    assert_eq!(other.rejection(), "the requirements could not be installed", "{:?}", other.log);
    let pipfile = format!(
        "{{\"default\": {{\"six\": {{\"version\": \"==1.16.0\", \"hashes\": [\"sha256:{SIX}\"]}}}}}}"
    );
    let built = kit.build(&[INDEX, ("Pipfile.lock", &pipfile)]).await.built();
    assert!(has_file(&site_packages(&built.environment), "six-1.16.0."));
    let other = pipfile.replace("sha256:8", "sha256:9");
    let other = kit.build(&[INDEX, ("Pipfile.lock", &other)]).await;
    assert_eq!(other.rejection(), "the requirements could not be installed", "{:?}", other.log);
}

#[tokio::test]
async fn requirements_include_others_and_the_apps_variables() {
    let Some(kit) = Kit::new() else { return };
    let outcome = kit
        .build(&[
            INDEX,
            ("app.yaml", "env: {SCHEME: https}\n"),
            ("requirements.txt", "\u{feff}-r in/base.txt\r\n-c in/versions.txt\r\n"),
            (
                "in/base.txt",
                "--extra-index-url ${SCHEME}://pypi.org/simple\r\n\
                 six ; python_version > '2'  # used\r\nidna==3.7\r\n",
            ),
            ("in/versions.txt", "six<1.17\r\n"),
            ("Pipfile", "[packages]\n"),
        ])
        .await;
    assert!(outcome.logged("packages: requirements.txt; not read: Pipfile"), "{:?}", outcome.log);
    let built = outcome.built();
    let site = site_packages(&built.environment);
    assert!(has_file(&site, "six-1.16.0.") && has_file(&site, "idna-3.7."));
}

#[tokio::test]
async fn requirements_may_go_on_and_name_folders_of_packages() {
    let Some(kit) = Kit::new() else { return };
    let source = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &str| fs::write(source.path().join(path), content).unwrap();
    fs::create_dir_all(source.path().join("in/near")).unwrap();
    write("index.py", INDEX.1);
    write("requirements.txt", "-r in/base.txt\r\n");
    let base = "--find-links near\r\nown>=1\\\r\n  ,<2\r\nidna \\\r\n  ==3.7\r\n";
    write("in/base.txt", base);
    write_wheel(&source.path().join("in/near/own-1.0-py3-none-any.whl"));
    let built = kit.build_folder(source.path()).await.built();
    let site = site_packages(&built.environment);
    assert!(has_file(&site, "own-1.0.") && has_file(&site, "idna-3.7."));
}

/// Writes the wheel of a package named `own`.
fn write_wheel(path: &Path) {
    let mut wheel = ZipWriter::new(File::create(path).unwrap());
    let files = [
        ("own.py", ""),
        ("own-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: own\nVersion: 1.0\n"),
        (
            "own-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        ("own-1.0.dist-info/RECORD", "own.py,,\n"),
    ];
    for (name, content) in files {
        wheel.start_file(name, SimpleFileOptions::default()).unwrap();
        wheel.write_all(content.as_bytes()).unwrap();
    }
    wheel.finish().unwrap();
}

#[tokio::test]
async fn a_source_whose_wheel_is_named_in_an_old_way_is_installed() {
    let Some(kit) = Kit::new() else { return };
    for python in ["3.6", "3.12"] {
        if !has_python(&kit, python).await {
            continue;
        }
        let built = kit
            .build(&[
                INDEX,
                ("app.yaml", &format!("python: \"{python}\"\n")),
                ("requirements.txt", "own @ file:///ace/code/own\n"),
                (
                    "own/setup.py",
                    "from setuptools import setup\nsetup(name='own', py_modules=['own'])\n",
                ),
                ("own/setup.cfg", "[bdist_wheel]\npython-tag = cp3\n"),
                ("own/own.py", ""),
            ])
            .await
            .built();
        assert!(has_file(&site_packages(&built.environment), "own-0.0.0"), "{python}");
    }
}

#[tokio::test]
async fn a_package_for_an_older_setuptools_is_built_with_one() {
    let Some(kit) = Kit::new() else { return };
    if !has_python(&kit, "3.11").await {
        return;
    }
    let setup = "import sys, setuptools\n\
                 if int(setuptools.__version__.split('.')[0]) >= 58:\n\
                 \x20   sys.exit('error in own setup command: use_2to3 is invalid.')\n\
                 setuptools.setup(name='own', py_modules=['own'])\n";
    let built = kit
        .build(&[
            INDEX,
            ("app.yaml", "python: \"3.11\"\n"),
            ("requirements.txt", "./own\n"),
            ("own/setup.py", setup),
            ("own/own.py", ""),
        ])
        .await
        .built();
    assert!(has_file(&site_packages(&built.environment), "own-0.0.0"));
}

#[tokio::test]
async fn a_build_that_fails_is_told_with_what_would_do() {
    let Some(kit) = Kit::new() else { return };
    let failing = "import sys\nsys.exit('fatal error: portaudio.h: No such file or directory')\n";
    let outcome =
        kit.build(&[INDEX, ("requirements.txt", "./own\n"), ("own/setup.py", failing)]).await;
    let told = outcome.rejection();
    assert!(told.ends_with("apt-get install portaudio19-dev"), "{told}");
    if !has_python(&kit, "3.12").await {
        return;
    }
    // Its source has no file that 3.12 compiles.
    let outcome = kit
        .build(&[INDEX, ("app.yaml", "python: \"3.12\"\n"), ("requirements.txt", "cffi==1.14.0\n")])
        .await;
    let told = outcome.rejection();
    assert!(told.contains("has wheels for Python 2.7, 3.6"), "{told}: {:?}", outcome.log);
    assert!(told.contains("but not for 3.12: ask for"), "{told}");
}

#[tokio::test]
async fn a_pylock_and_a_setup_py_are_installed() {
    let Some(kit) = Kit::new() else { return };
    let lock = format!(
        "lock-version = \"1.0\"\ncreated-by = \"hand\"\n\n[[packages]]\nname = \"six\"\n\
         version = \"1.16.0\"\nindex = \"https://pypi.org/simple\"\n\
         wheels = [{{name = \"six-1.16.0-py2.py3-none-any.whl\", url = \"https://files.pythonhosted.org/packages/d9/5a/e7c31adbe875f2abbb91bd84cf2dc52d792b5a01506781dbcf25c91daf11/six-1.16.0-py2.py3-none-any.whl\", hashes = {{sha256 = \"{SIX}\"}}}}]\n"
    );
    let built = kit.build(&[INDEX, ("pylock.toml", &lock)]).await.built();
    assert!(has_file(&site_packages(&built.environment), "six-1.16.0."));
    let setup = "from setuptools import setup\n\
                 setup(name='shop', py_modules=['index'], install_requires=['itsdangerous'])\n";
    let outcome = kit.build(&[INDEX, ("setup.py", setup)]).await;
    assert!(outcome.logged("packages: setup.py"), "{:?}", outcome.log);
    assert_eq!(packages(&outcome.built().environment), ["itsdangerous"]);
}
