//! What a source needs: the packages that its files ask for, as an installer is told.
//!
//! The first file of [`FILES`] that asks for any counts. The versions of a `poetry.lock` or `pdm.lock`
//! become constraints: it doesn't tell for which machines a package is meant, which a resolver finds
//! out; its hashes are checked when packages are installed.

mod pipfile;
mod poetry;
mod requirements_txt;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::UnpackError;
use super::inspect::{is_file, is_folder, read_text};
use super::tree::open_beneath;

/// The largest file that is read.
const FILE_MAX: u64 = 8 << 20;
/// What can ask for packages, the most decisive first.
const FILES: [&str; 11] = [
    requirements_txt::NAME,
    "uv.lock",
    "pylock.toml",
    "Pipfile.lock",
    "poetry.lock",
    "pdm.lock",
    "pyproject.toml",
    "Pipfile",
    "setup.py",
    "setup.cfg",
    requirements_txt::INPUT,
];
/// What conda and pixi read.
const CONDA: [&str; 6] = [
    "environment.yml",
    "environment.yaml",
    "conda-lock.yml",
    "conda-lock.yaml",
    "pixi.toml",
    "pixi.lock",
];
/// How many files that don't count are told.
const UNREAD_MAX: usize = 6;
const PYPI: [&str; 2] = ["https://pypi.org/simple", "https://pypi.python.org/simple"];
/// What names a host whose certificate is not to be checked.
const TRUSTED_HOST: &str = "--trusted-host";
/// How a `setup.py` or a `setup.cfg` asks for packages.
const SETUP_REQUIRES: [&str; 2] = ["install_requires", "ext_modules"];

/// What a source asks for.
pub struct Needs {
    pub requirements: Requirements,
    /// The other files that could have asked for packages.
    pub ignored: Vec<String>,
    /// The Pythons that it runs on: `>=3.8,<3.12`.
    pub python: Option<String>,
    /// It is a project that its requirements don't install, without its metadata beside it.
    pub undescribed: bool,
}

/// The packages that a source asks for, and where it does. `options` are lines of a
/// `requirements.txt` with further indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Requirements {
    None,
    /// `requirements.txt`, as pip reads it.
    File {
        prereleases: bool,
        /// The same for uv, where that reads it in another way.
        rewritten: Option<String>,
    },
    /// `uv.lock`, beside its `pyproject.toml`.
    UvLock {
        options: String,
    },
    /// `pylock.toml`. Source: <https://packaging.python.org/en/latest/specifications/pylock-toml/>.
    Pylock,
    /// `pyproject.toml`, as only uv reads it: it names packages' sources for it.
    Project {
        options: String,
    },
    /// The file named `source`, put in the words of a `requirements.txt`: each package with its
    /// hashes.
    Locked {
        source: String,
        requirements: String,
    },
    /// The files named `source`, put in the words of a `requirements.txt`.
    Text {
        source: String,
        requirements: String,
        /// Versions to keep to, where a package is needed.
        constraints: String,
        /// The same with the hashes of their files, as far as these are known.
        hashes: String,
    },
}

impl Requirements {
    /// The hosts that requirements in `text` have taken at their word, as `HOST` or `HOST:PORT`.
    pub fn trusted_hosts(text: &str) -> impl Iterator<Item = &str> {
        text.lines().filter_map(|line| {
            let rest = line.trim().strip_prefix(TRUSTED_HOST)?;
            Some(rest.strip_prefix(['=', ' '])?.trim())
        })
    }

    /// Lines of a `requirements.txt` that say how indexes are asked, and more.
    pub fn lines(&self) -> &str {
        match self {
            Self::None | Self::Pylock => "",
            Self::File { rewritten, .. } => rewritten.as_deref().unwrap_or_default(),
            Self::UvLock { options } | Self::Project { options } => options,
            Self::Locked { requirements, .. } | Self::Text { requirements, .. } => requirements,
        }
    }
}

/// Reads what the source below `root` needs, where installers have the variables `env`.
///
/// Errors: a file that is not what it is called, with its place.
pub fn find(root: &OwnedFd, env: &BTreeMap<String, String>) -> Result<Needs, UnpackError> {
    let project = read_toml(root, "pyproject.toml")?.unwrap_or_default();
    let pipfile = read_toml(root, "Pipfile")?;
    let requirements = if is_file(root, requirements_txt::NAME) {
        requirements_txt::requirements(root, env)?
    } else if is_file(root, "uv.lock") && !project.is_empty() {
        let lock = read_toml(root, "uv.lock")?.unwrap_or_default();
        Requirements::UvLock { options: indexes_of_lock(&lock) }
    } else if is_file(root, "pylock.toml") {
        Requirements::Pylock
    } else if let Some(text) = read_text(root, "Pipfile.lock", FILE_MAX)? {
        pipfile::of_lock(&text)?
    } else {
        match (of_project(root, &project)?, &pipfile) {
            (Requirements::None, Some(pipfile)) => pipfile::requirements(pipfile),
            (Requirements::None, None) => match of_setup(root)? {
                Requirements::None if is_file(root, requirements_txt::INPUT) => {
                    requirements_txt::input(root, env)?
                }
                requirements => requirements,
            },
            (requirements, _) => requirements,
        }
    };
    let mut ignored = match requirements {
        Requirements::None => unread(root)?,
        _ => ignored(root, &requirements, &project),
    };
    if lookup(&project, &["tool", "pixi", "dependencies"]).is_some() {
        ignored.push("the conda packages of pyproject.toml".to_owned());
    }
    let python = python_of(&project).or_else(|| pipfile::python(pipfile.as_ref()?));
    let undescribed = is_project(root, &project)
        && !installs_itself(root, &requirements)?
        && !is_described(root)?;
    Ok(Needs { requirements, ignored, python, undescribed })
}

/// Whether a build system can make a package of the source.
fn is_project(root: &OwnedFd, project: &Table) -> bool {
    project.contains_key("build-system") || is_file(root, "setup.py")
}

/// Whether the requirements name the source itself, as `-e .` does.
fn installs_itself(root: &OwnedFd, requirements: &Requirements) -> Result<bool, UnpackError> {
    let text = match requirements {
        Requirements::None | Requirements::Project { .. } => return Ok(false),
        // As a rule, they do.
        Requirements::UvLock { .. } | Requirements::Pylock => return Ok(true),
        Requirements::File { .. } => {
            read_text(root, requirements_txt::NAME, FILE_MAX)?.unwrap_or_default()
        }
        Requirements::Locked { requirements, .. } | Requirements::Text { requirements, .. } => {
            requirements.clone().into_bytes()
        }
    };
    let text = String::from_utf8_lossy(&text);
    let places = text.lines().filter_map(|line| line.split_whitespace().next_back());
    Ok(places
        .map(|place| place.split('[').next().unwrap_or(place))
        .any(|place| matches!(place, "." | "./" | "--editable=." | "-e.")))
}

/// Whether metadata lie at its top, as in an archive that was made for an index.
fn is_described(root: &OwnedFd) -> Result<bool, UnpackError> {
    let is_it = |name: &String| name.ends_with(".egg-info") || name.ends_with(".dist-info");
    Ok(names(root, ".")?.iter().any(is_it))
}

/// Files that list packages, none of which is one that counts: for other tools, or for one occasion of several.
fn unread(root: &OwnedFd) -> Result<Vec<String>, UnpackError> {
    let is_list = |name: &String| name.ends_with(".txt") || name.ends_with(".in");
    let top = names(root, ".")?.into_iter();
    let mut unread: Vec<String> = top
        .filter(|name| {
            name.starts_with("requirements") && is_list(name) || CONDA.contains(&&**name)
        })
        .collect();
    if is_folder(root, "requirements") {
        let lists = names(root, "requirements")?.into_iter().filter(is_list);
        unread.extend(lists.map(|name| format!("requirements/{name}")));
    }
    unread.sort();
    unread.truncate(UNREAD_MAX);
    Ok(unread)
}

/// The names in the folder at `path`, as far as they are text.
fn names(root: &OwnedFd, path: &str) -> Result<Vec<String>, UnpackError> {
    let unreadable = |errno: Errno| {
        UnpackError::Source(format!("the source can't be listed: {}", io::Error::from(errno)))
    };
    let folder = open_beneath(root, Path::new(path), OFlags::RDONLY | OFlags::DIRECTORY);
    let mut names = Vec::new();
    for entry in Dir::read_from(folder.map_err(unreadable)?).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        names.extend(entry.file_name().to_str().ok().map(str::to_owned));
    }
    Ok(names)
}

fn of_project(root: &OwnedFd, project: &Table) -> Result<Requirements, UnpackError> {
    let has_dynamic = strings(project, &["project", "dynamic"]).any(|name| name == "dependencies");
    let has_own = lookup(project, &["project", "dependencies"]).is_some();
    let mut lines: Vec<String> = match has_own {
        true => {
            let own = strings(project, &["project", "dependencies"]).map(str::to_owned);
            poetry::with_places(own.collect(), project)
        }
        false => poetry::dependencies(project),
    };
    // Elsewhere the source's own packages lie in /ace/code, which is on sys.path.
    let is_package = project.contains_key("build-system");
    if is_package && (has_dynamic || is_folder(root, "src")) {
        lines.push("-e .".to_owned());
    }
    if lines.is_empty() {
        return Ok(Requirements::None);
    }
    let lock = poetry::read_lock(root)?;
    if lock.is_none() && has_own && lookup(project, &["tool", "uv", "sources"]).is_some() {
        // Were it to be installed itself, it would lie in src, and uv reads the rest from there.
        return match lines.last().is_some_and(|line| line == "-e .") {
            true => Ok(text("pyproject.toml", &["-e .".to_owned()], &indexes_of_uv(project))),
            false => Ok(Requirements::Project { options: indexes_of_uv(project) }),
        };
    }
    let options = indexes_of_uv(project) + &poetry::indexes(project);
    let Some((source, lock)) = lock else { return Ok(text("pyproject.toml", &lines, &options)) };
    let lines: Vec<String> = lines.into_iter().map(|line| poetry::at_commit(line, &lock)).collect();
    Ok(Requirements::Text {
        source: source.to_owned(),
        requirements: options + &lines.join("\n"),
        constraints: poetry::constraints(&lock),
        hashes: poetry::hashes(&lock),
    })
}

/// A project that only setuptools knows, where it asks for something.
fn of_setup(root: &OwnedFd) -> Result<Requirements, UnpackError> {
    for source in ["setup.py", "setup.cfg"] {
        let text = read_text(root, source, FILE_MAX)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if SETUP_REQUIRES.iter().any(|word| text.contains(word)) {
            return Ok(self::text(source, &["-e .".to_owned()], ""));
        }
    }
    Ok(Requirements::None)
}

/// Requirements that stand in `source`, after `options`.
fn text(source: &str, lines: &[String], options: &str) -> Requirements {
    let requirements = options.to_owned() + &lines.join("\n");
    let (constraints, hashes) = Default::default();
    Requirements::Text { source: source.to_owned(), requirements, constraints, hashes }
}

/// Which of the files that can ask for packages didn't count.
fn ignored(root: &OwnedFd, requirements: &Requirements, project: &Table) -> Vec<String> {
    let asks = |name: &str| match name {
        "pyproject.toml" => {
            lookup(project, &["project", "dependencies"]).is_some()
                || !poetry::dependencies(project).is_empty()
        }
        // Most projects with other files have one, to be installed elsewhere.
        "setup.py" | "setup.cfg" => false,
        _ => true,
    };
    let source = requirements.source();
    // Each lock is of the file that says what is to be locked.
    let lock_of = |name: &str| match source {
        "uv.lock" | "poetry.lock" | "pdm.lock" | "pylock.toml" => name == "pyproject.toml",
        "Pipfile.lock" => name == "Pipfile",
        requirements_txt::NAME => name == requirements_txt::INPUT,
        _ => false,
    };
    let others = FILES.iter().filter(|name| **name != source && !lock_of(name) && asks(name));
    others.filter(|name| is_file(root, name)).map(|name| (*name).to_owned()).collect()
}

/// The indexes that a `uv.lock` has packages from, but for PyPI.
fn indexes_of_lock(lock: &Table) -> String {
    let packages = lock.get("package").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let packages = packages.iter().filter_map(Value::as_table);
    index_lines(packages.filter_map(|package| lookup(package, &["source", "registry"])?.as_str()))
}

/// The indexes that a project names for uv.
fn indexes_of_uv(project: &Table) -> String {
    let list = |path: &[&str]| lookup(project, path).and_then(Value::as_array).cloned();
    let tables = list(&["tool", "uv", "index"]).unwrap_or_default();
    let extra = list(&["tool", "uv", "extra-index-url"]).unwrap_or_default();
    let urls = tables.iter().filter_map(|index| index.get("url")?.as_str());
    index_lines(urls.chain(extra.iter().filter_map(Value::as_str)))
}

/// A line of a `requirements.txt` for each index or folder of packages, once, but not for PyPI.
fn index_lines<'a>(places: impl Iterator<Item = &'a str>) -> String {
    let mut lines: Vec<String> = Vec::new();
    for place in places.filter(|place| !PYPI.contains(&place.trim_end_matches('/'))) {
        let option = if place.contains("://") { "--extra-index-url" } else { "--find-links" };
        let line = format!("{option} {place}\n");
        if !lines.contains(&line) && !place.contains(char::is_whitespace) {
            lines.push(line);
        }
    }
    lines.concat()
}

/// A line for the host of an index whose certificate is not to be checked.
fn trusted_line(index: &str) -> String {
    let host = index.split_once("://").map_or(index, |(_, rest)| rest);
    let host = host.split(['/', '?', '#']).next().unwrap_or(host);
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    match host.is_empty() || host.contains(char::is_whitespace) {
        true => String::new(),
        false => format!("{TRUSTED_HOST} {host}\n"),
    }
}

/// The Pythons that a project asks for; `None` also where that can't be said as a range.
fn python_of(project: &Table) -> Option<String> {
    match lookup(project, &["project", "requires-python"]) {
        Some(text) => text.as_str().map(str::to_owned),
        None => poetry::python(project),
    }
}

fn read_toml(root: &OwnedFd, name: &str) -> Result<Option<Table>, UnpackError> {
    read_text(root, name, FILE_MAX)?.map(|text| parse_toml(name, &text)).transpose()
}

fn parse_toml(name: &str, text: &[u8]) -> Result<Table, UnpackError> {
    let wrong = |error: String| UnpackError::Source(format!("{name} can't be read: {error}"));
    let text = std::str::from_utf8(text).map_err(|error| wrong(error.to_string()))?;
    text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))
}

/// What stands at the end of a row of tables within each other.
fn lookup<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (last, tables) = path.split_last()?;
    tables.iter().try_fold(table, |table, name| table.get(*name)?.as_table())?.get(*last)
}

fn strings<'a>(table: &'a Table, path: &[&str]) -> impl Iterator<Item = &'a str> {
    let list = lookup(table, path).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(Value::as_str)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use rustix::fs::{Mode, OFlags};

    use super::*;

    fn needs(files: &[(&str, &str)]) -> Result<Needs, UnpackError> {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let root = rustix::fs::open(folder.path(), OFlags::PATH, Mode::empty()).unwrap();
        find(&root, &BTreeMap::new())
    }

    fn requirements(files: &[(&str, &str)]) -> Requirements {
        needs(files).unwrap().requirements
    }

    const PROJECT: (&str, &str) = (
        "pyproject.toml",
        "[project]\nname = 'shop'\nrequires-python = '>=3.8'\ndependencies = ['flask>=3', 'six']\n",
    );

    #[test]
    fn the_first_file_that_there_is_counts() {
        assert_eq!(requirements(&[("index.py", "")]), Requirements::None);
        let file = Requirements::File { prereleases: false, rewritten: None };
        assert_eq!(requirements(&[("requirements.txt", ""), PROJECT]), file);
        let lock = Requirements::UvLock { options: String::new() };
        assert_eq!(requirements(&[("uv.lock", ""), PROJECT]), lock);
        assert_eq!(requirements(&[("pylock.toml", ""), PROJECT]), Requirements::Pylock);
        let text = |lines: &str| text("pyproject.toml", &[lines.to_owned()], "");
        assert_eq!(requirements(&[PROJECT]), text("flask>=3\nsix"));
        let settings = ("pyproject.toml", "[tool.black]\nline-length = 100\n");
        assert_eq!(requirements(&[settings]), Requirements::None);
        let package = format!("{}[build-system]\nrequires = []\n", PROJECT.1);
        assert_eq!(requirements(&[("pyproject.toml", &package)]), text("flask>=3\nsix"));
        let in_src = [("pyproject.toml", package.as_str()), ("src/shop/__init__.py", "")];
        assert_eq!(requirements(&in_src), text("flask>=3\nsix\n-e ."));
    }

    #[test]
    fn a_project_says_which_pythons_it_runs_on() {
        assert_eq!(needs(&[PROJECT]).unwrap().python.as_deref(), Some(">=3.8"));
        let poetry = ("pyproject.toml", "[tool.poetry.dependencies]\npython = '^3.8'\n");
        assert_eq!(needs(&[poetry]).unwrap().python.as_deref(), Some(">=3.8,<4"));
        assert_eq!(needs(&[]).unwrap().python, None);
    }

    #[test]
    fn a_project_that_is_not_installed_is_to_be_described() {
        let package =
            ("pyproject.toml", "[project]\nname = 'shop'\n[build-system]\nrequires = []\n");
        let setup = ("setup.py", "");
        let undescribed = |files: &[(&str, &str)]| needs(files).unwrap().undescribed;
        assert!(undescribed(&[package]));
        assert!(undescribed(&[setup, ("requirements.txt", "flask\n./vendor/x.whl\n")]));
        assert!(!undescribed(&[PROJECT]) && !undescribed(&[]));
        for own in ["flask\n-e .\n", ".[all]\n", "--editable=.\n"] {
            assert!(!undescribed(&[setup, ("requirements.txt", own)]), "{own}");
        }
        assert!(!undescribed(&[package, ("src/shop/__init__.py", "")]));
        assert!(!undescribed(&[setup, ("shop.egg-info/PKG-INFO", "")]));
    }

    #[test]
    fn a_poetry_project_keeps_to_its_lock() {
        let project = "[tool.poetry.dependencies]\npython = '*'\nflask = '^3.0'\n";
        let lock = "[[package]]\nname = 'flask'\nversion = '3.0.1'\n";
        let expected = Requirements::Text {
            source: "poetry.lock".to_owned(),
            requirements: "flask>=3.0,<4".to_owned(),
            constraints: "flask==3.0.1\n".to_owned(),
            hashes: String::new(),
        };
        assert_eq!(requirements(&[("pyproject.toml", project), ("poetry.lock", lock)]), expected);
    }

    #[test]
    fn what_does_not_count_is_named() {
        let ignored = |files: &[(&str, &str)]| needs(files).unwrap().ignored;
        let (file, setup) = (("requirements.txt", ""), ("setup.py", "install_requires"));
        let pipfile = [("Pipfile", ""), ("Pipfile.lock", "{\"default\": {}}")];
        assert_eq!(ignored(&[file, PROJECT, setup]), ["pyproject.toml"]);
        assert_eq!(ignored(&[pipfile[0], pipfile[1], file]), ["Pipfile.lock", "Pipfile"]);
        assert_eq!(ignored(&[("uv.lock", ""), PROJECT]), [""; 0]);
        assert_eq!(ignored(&[file, ("pyproject.toml", "[tool.black]\n")]), [""; 0]);
        let lists = [("requirements/base.txt", ""), ("requirements-dev.txt", "")];
        let conda = ("environment.yml", "");
        let unread = ["environment.yml", "requirements-dev.txt", "requirements/base.txt"];
        assert_eq!(ignored(&[lists[0], lists[1], conda]), unread);
        assert_eq!(ignored(&[file, lists[0], conda]), [""; 0]);
        assert_eq!(ignored(&[("index.py", "")]), [""; 0]);
        assert_eq!(ignored(&[("pixi.toml", ""), ("pixi.lock", "")]), ["pixi.lock", "pixi.toml"]);
        let pixi = format!("{}[tool.pixi.dependencies]\ngdal = '*'\n", PROJECT.1);
        let told = ["the conda packages of pyproject.toml"];
        assert_eq!(ignored(&[("pyproject.toml", &pixi)]), told);
    }

    #[test]
    fn what_a_requirements_txt_would_be_made_of_counts_where_there_is_none() {
        let input = ("requirements.in", "six # why\n-c versions.txt\n");
        let lines = ["six", "--constraint /ace/code/versions.txt"].map(str::to_owned);
        assert_eq!(requirements(&[input]), text("requirements.in", &lines, ""));
        let file = Requirements::File { prereleases: false, rewritten: None };
        assert_eq!(requirements(&[input, ("requirements.txt", "six==1")]), file);
        assert_eq!(needs(&[input, ("requirements.txt", "")]).unwrap().ignored, [""; 0]);
    }

    #[test]
    fn a_project_of_setuptools_is_installed_where_it_asks_for_something() {
        let setup = "from setuptools import setup\nsetup(name='shop', install_requires=['six'])\n";
        let installed = text("setup.py", &["-e .".to_owned()], "");
        assert_eq!(requirements(&[("setup.py", setup)]), installed);
        assert_eq!(requirements(&[("setup.py", "setup(name='shop')")]), Requirements::None);
        let builds = ("pyproject.toml", "[build-system]\nrequires = ['setuptools']\n");
        let options = ("setup.cfg", "[options]\ninstall_requires =\n  six\n");
        let installed = text("setup.cfg", &["-e .".to_owned()], "");
        assert_eq!(requirements(&[builds, options]), installed);
    }

    #[test]
    fn the_indexes_of_uvs_files_are_named() {
        let project = format!(
            "{}[tool.uv.sources]\nsix = {{index = 'own'}}\n[[tool.uv.index]]\nname = 'own'\n\
             url = 'https://own.test/simple'\n[[tool.uv.index]]\nurl = 'https://pypi.org/simple/'\n",
            PROJECT.1
        );
        let options = "--extra-index-url https://own.test/simple\n".to_owned();
        let project = ("pyproject.toml", project.as_str());
        assert_eq!(requirements(&[project]), Requirements::Project { options: options.clone() });
        let lock = "[[package]]\nname = 'six'\nsource = {registry = 'https://own.test/simple'}\n\
                    [[package]]\nname = 'a'\nsource = {registry = 'https://pypi.org/simple'}\n";
        let locked = Requirements::UvLock { options };
        assert_eq!(requirements(&[project, ("uv.lock", lock)]), locked);
    }

    #[test]
    fn a_file_that_is_not_toml_is_refused() {
        let error = needs(&[("pyproject.toml", "[project\n")]).err().unwrap().to_string();
        assert!(error.starts_with("pyproject.toml can't be read"), "{error}");
    }
}
