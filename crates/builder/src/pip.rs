//! pip 20.3 and virtualenv 20.15, as a build's commands run them. They install for Python 2.7, which
//! uv can't.
//!
//! virtualenv carries the wheels of the last pip and setuptools that run on Python 2.7. It runs itself
//! on a newer Python beside it, and pip on the environment's own. pip is unpacked: out of its wheel it
//! can't run what builds a package that names its build system. It's unpacked without its record, so
//! that it does not take itself for a package of the environment. An app that asks for another pip or
//! virtualenv gets it as a package; it never installs anything.
//!
//! pip has no lock. Resolved is what it downloads: the lock is the list of these files with their
//! hashes, and only they are installed; with them go the folders and repositories that the requirements
//! name, which pip looks through but does not download. Sources become wheels first, which pip's cache keeps by the
//! sources' hashes, so that what has not changed isn't compiled again.

use std::path::{Path, PathBuf};

use ace_api::BuildError;

use crate::container::{Bench, Command};
use crate::environment::{
    APART, CACHE, DOWNLOADS, ENVIRONMENT, Installer, PIP_CONSTRAINTS, PIP_LOCK, PYTHON, make_apart,
    see_python,
};
use crate::python::Python;
use crate::site::Site;
use crate::unpack::Requirements;
use crate::uv::Uv;

/// The folder of virtualenv and what it needs, by its name in the engine's and in containers.
const FOLDER: &str = "virtualenv-20.15.1";
const REQUIREMENT: &str = include_str!("virtualenv.txt");
const VIRTUALENV: &str = "/ace/virtualenv";
const PIP_WHEEL: &str =
    "/ace/virtualenv/virtualenv/seed/wheels/embed/pip-20.3.4-py2.py3-none-any.whl";
/// The folder of pip alone, by its name in the engine's and in containers.
const PIP_FOLDER: &str = "pip-20.3.4";
const PIP: &str = "/ace/pip";
const PIP_PROGRAM: &str = "/ace/pip/pip";
/// Unpacks pip from a wheel to a folder, and compiles it for where that will stand.
const UNPACK: &str = "
import compileall, sys, zipfile
wheel, folder, place = sys.argv[1:]
files = zipfile.ZipFile(wheel)
files.extractall(folder, [name for name in files.namelist() if name.startswith('pip/')])
compileall.compile_dir(folder, ddir=place, quiet=True)
";
const SETUPTOOLS: &str =
    "/ace/virtualenv/virtualenv/seed/wheels/embed/setuptools-44.1.1-py2.py3-none-any.whl";
const WHEEL: &str =
    "/ace/virtualenv/virtualenv/seed/wheels/embed/wheel-0.37.1-py2.py3-none-any.whl";
/// Where wheels are put that the cache has, too.
const WHEELS: &str = "/ace/user/wheels";
/// The oldest Python that virtualenv runs on here.
const HELPER: [u32; 3] = [3, 8, 0];
/// Runs the source's `setup.py` with setuptools, whether it knows of that or not.
const EGG_INFO: &str = "
import sys, setuptools
sys.argv[:] = ['setup.py', '--quiet', 'egg_info']
sys.path.insert(0, '')
__file__ = 'setup.py'
exec(compile(open(__file__).read(), __file__, 'exec'))
";
/// Prints the files of a folder as requirements: pip checks the hash in an address, and finds what it
/// has in its cache by that and the name. Without a name where the file's doesn't tell it for sure. Then
/// those of the app's own requirements that are no files. A folder is not installed as editable: its
/// metadata would lie in this release's source alone, and the next one may use the environment again.
const LIST: &str = "
import hashlib, os, re, sys, urllib
for name in sorted(os.listdir(sys.argv[1])):
    path = os.path.join(sys.argv[1], name)
    with open(path, 'rb') as content:
        hash = hashlib.sha256(content.read()).hexdigest()
    first = re.match('(.+?)-[0-9]', name)
    sure = first and first.group(1) == name.rsplit('-', 1)[0]
    named = first.group(1) + ' @ ' if sure else ''
    print('%sfile://%s#sha256=%s' % (named, urllib.quote(path), hash))

sys.path.insert(0, sys.argv[3])
from pip._internal.network.session import PipSession
from pip._internal.req import parse_requirements
from pip._internal.req.constructors import install_req_from_parsed_requirement

for line in parse_requirements(sys.argv[2], PipSession()):
    wanted = install_req_from_parsed_requirement(line)
    if wanted.link and wanted.link.is_existing_dir():
        print(line.requirement)
    elif wanted.editable:
        print('-e ' + line.requirement)
";
/// Runs pip, the rest of the arguments, where setuptools finds the package that makes wheels. It must
/// be a folder for that, and no part of the environment.
const WITH_WHEEL: &str = "
import os, sys, zipfile
zipfile.ZipFile(sys.argv[1]).extractall('/tmp/wheel')
os.environ['PYTHONPATH'] = '/tmp/wheel'
os.execv(sys.executable, [sys.executable, '-s'] + sys.argv[2:])
";

/// The programs, and where packages come from.
pub struct Pip {
    /// virtualenv's folder on the host.
    virtualenv: PathBuf,
    /// pip's.
    pip: PathBuf,
    /// What virtualenv runs on.
    helper: Python,
    index: String,
}

impl Pip {
    /// Makes virtualenv's and pip's folder below `tools` if they aren't there, for `python`, one of
    /// `pythons`, which are all that there are.
    pub async fn ensure(
        uv: Uv,
        pythons: &[Python],
        python: &Python,
        tools: &Path,
        bench: &Bench,
        site: &Site,
    ) -> Result<Self, BuildError> {
        // The oldest: virtualenv is old as well.
        let helper = pythons.iter().rev().find(|python| python.version >= HELPER);
        let helper = helper.cloned().ok_or_else(|| {
            let message = "apps on Python 2.7 need a Python 3.8 or newer beside it on this server";
            BuildError::Rejected(message.to_owned())
        })?;
        let index = uv.index.clone();
        let (virtualenv, pip) = (tools.join(FOLDER), tools.join(PIP_FOLDER));
        if !virtualenv.is_dir() {
            bench.log().say("installing virtualenv and pip, once for this server").await;
            let uv = Installer::Uv(uv);
            uv.install_apart(REQUIREMENT, &helper, bench, site, virtualenv.clone()).await?;
        }
        if !pip.is_dir() {
            let program = python.interpreter.program.display().to_string();
            let words = [&program, "-E", "-s", "-c", UNPACK, PIP_WHEEL, APART, PIP];
            let command = see_python(Command::new(words), python);
            let command = command.read_only(&virtualenv, VIRTUALENV);
            make_apart(command, bench, site, pip.clone()).await?;
        }
        Ok(Self { virtualenv, pip, helper, index })
    }

    pub fn make_empty(&self, python: &Python) -> Command {
        let (helper, program) = (&self.helper.interpreter.program, &python.interpreter.program);
        let (helper, program) = (helper.display().to_string(), program.display().to_string());
        let mut words = vec![helper.as_str(), "-s", "-m", "virtualenv", "--quiet", "--no-download"];
        words.extend(["--no-periodic-update", "--app-data", "/tmp/virtualenv"]);
        // Old sources are built with the setuptools that they find.
        words.extend(["--no-pip", "--no-wheel", "--python", &program, ENVIRONMENT]);
        let command = Command::new(words).env("PYTHONPATH", VIRTUALENV);
        see_python(self.see_tools(command, python), &self.helper)
    }

    /// Downloads `requirements` with all that they need.
    pub fn download(&self, python: &Python, requirements: &Requirements) -> Command {
        let (input, files) = requirements.input();
        let mut words = vec!["download", "--dest", DOWNLOADS, "--requirement", input];
        if requirements.has_constraints() {
            words.extend(["--constraint", PIP_CONSTRAINTS]);
        }
        let mut command = self.pip(python, PYTHON, &words);
        command.files = files;
        command
    }

    /// Prints what was downloaded, and what of `requirements` can't be.
    pub fn list_downloads(&self, python: &Python, requirements: &Requirements) -> Command {
        let (input, files) = requirements.input();
        let words = [PYTHON, "-E", "-s", "-c", LIST, DOWNLOADS, input, PIP];
        let mut command = self.see_tools(Command::new(words), python);
        command.files = files;
        command
    }

    /// Makes wheels of the sources in the lock at [`PIP_LOCK`], and leaves them in the cache. One that
    /// can't be made a wheel can still be installed.
    pub fn make_wheels(&self, python: &Python) -> Command {
        let words = ["wheel", "--no-deps", "--wheel-dir", WHEELS, "--requirement", PIP_LOCK];
        let mut command = self.pip(python, PYTHON, &words);
        command.argv.splice(1..2, ["-c", WITH_WHEEL, WHEEL].map(str::to_owned));
        command
    }

    /// Installs the lock at [`PIP_LOCK`], whose files are downloaded, into the environment.
    pub fn install(&self, python: &Python) -> Command {
        self.pip(python, PYTHON, &["install", "--no-deps", "--requirement", PIP_LOCK])
    }

    /// Installs the hashed requirements at [`PIP_LOCK`] into the folder `target`.
    pub fn install_apart(&self, python: &Python, target: &str) -> Command {
        let program = python.interpreter.program.display().to_string();
        let mut words = vec!["install", "--no-deps", "--require-hashes", "--target", target];
        words.extend(["--requirement", PIP_LOCK]);
        let command = self.pip(python, &program, &words).env("PIP_NO_CACHE_DIR", "1");
        // The interpreter need not have it, and a source is built with it.
        command.env("PYTHONPATH", SETUPTOOLS)
    }

    /// Has setuptools write what the project in the source says of itself, there.
    pub fn describe(&self, python: &Python) -> Command {
        let program = python.interpreter.program.display().to_string();
        let words = [&program, "-s", "-c", EGG_INFO];
        self.see_tools(Command::new(words), python).env("PYTHONPATH", SETUPTOOLS)
    }

    fn pip(&self, python: &Python, program: &str, words: &[&str]) -> Command {
        let argv = [program, "-s", PIP_PROGRAM].into_iter().chain(words.iter().copied());
        self.see_tools(Command::new(argv), python)
            .env("PIP_CACHE_DIR", CACHE)
            .env("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt")
            .env("PIP_CONFIG_FILE", "/dev/null")
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("PIP_INDEX_URL", &self.index)
            .env("PIP_NO_INPUT", "1")
            .env("PIP_NO_PYTHON_VERSION_WARNING", "1")
            .env("PIP_PROGRESS_BAR", "off")
            .online()
    }

    fn see_tools(&self, command: Command, python: &Python) -> Command {
        let command = see_python(command, python).read_only(&self.virtualenv, VIRTUALENV);
        command.read_only(&self.pip, PIP)
    }
}
