//! What a source needs: the packages that its files ask for, in the words of a `requirements.txt`.
//!
//! The first of these that there is counts: `requirements.txt`, `uv.lock`, `Pipfile.lock`, and
//! `pyproject.toml` with what `poetry.lock` holds it to. The versions of a `poetry.lock` become
//! constraints: it doesn't tell for which machines a package is meant, which a resolver finds out.

mod pipfile;
mod poetry;

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::UnpackError;
use super::inspect::{is_file, is_folder, read_text};

/// The largest file that is read.
const FILE_MAX: u64 = 8 << 20;

/// What a source asks for.
pub struct Needs {
    pub requirements: Requirements,
    /// The Pythons that it runs on: `>=3.8,<3.12`.
    pub python: Option<String>,
}

/// The packages that a source asks for, and where it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Requirements {
    None,
    /// `requirements.txt`, as pip reads it.
    File,
    /// `uv.lock`, beside its `pyproject.toml`.
    UvLock,
    /// The files named `source`, put in the words of a `requirements.txt`.
    Text {
        source: String,
        requirements: String,
        /// Versions to keep to, where a package is needed.
        constraints: String,
    },
}

/// Reads what the source below `root` needs.
///
/// Errors: a file that is not what it is called, with its place.
pub fn find(root: &OwnedFd) -> Result<Needs, UnpackError> {
    let project = match read_text(root, "pyproject.toml", FILE_MAX)? {
        Some(text) => parse_toml("pyproject.toml", &text)?,
        None => Table::new(),
    };
    let requirements = if is_file(root, "requirements.txt") {
        Requirements::File
    } else if is_file(root, "uv.lock") && !project.is_empty() {
        Requirements::UvLock
    } else if let Some(text) = read_text(root, "Pipfile.lock", FILE_MAX)? {
        pipfile::requirements(&text)?
    } else {
        of_project(root, &project)?
    };
    Ok(Needs { requirements, python: python_of(&project) })
}

fn of_project(root: &OwnedFd, project: &Table) -> Result<Requirements, UnpackError> {
    let has_dynamic = strings(project, &["project", "dynamic"]).any(|name| name == "dependencies");
    let mut lines: Vec<String> = if lookup(project, &["project", "dependencies"]).is_some() {
        strings(project, &["project", "dependencies"]).map(str::to_owned).collect()
    } else {
        poetry::dependencies(project)
    };
    // Elsewhere the source's own packages lie in /ace/code, which is on sys.path.
    let is_package = project.contains_key("build-system");
    if is_package && (has_dynamic || is_folder(root, "src")) {
        lines.push("-e .".to_owned());
    }
    if lines.is_empty() {
        return Ok(Requirements::None);
    }
    let (source, constraints) = match read_text(root, "poetry.lock", FILE_MAX)? {
        Some(text) => ("poetry.lock", poetry::constraints(&parse_toml("poetry.lock", &text)?)),
        None => ("pyproject.toml", Vec::new()),
    };
    let (requirements, constraints) = (lines.join("\n"), constraints.join("\n"));
    Ok(Requirements::Text { source: source.to_owned(), requirements, constraints })
}

/// The Pythons that a project asks for; `None` also where that can't be said as a range.
fn python_of(project: &Table) -> Option<String> {
    match lookup(project, &["project", "requires-python"]) {
        Some(text) => text.as_str().map(str::to_owned),
        None => poetry::python(project),
    }
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
        find(&rustix::fs::open(folder.path(), OFlags::PATH, Mode::empty()).unwrap())
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
        assert_eq!(requirements(&[("requirements.txt", ""), PROJECT]), Requirements::File);
        assert_eq!(requirements(&[("uv.lock", ""), PROJECT]), Requirements::UvLock);
        let text = |text: &str| Requirements::Text {
            source: "pyproject.toml".to_owned(),
            requirements: text.to_owned(),
            constraints: String::new(),
        };
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
    fn a_poetry_project_keeps_to_its_lock() {
        let project = "[tool.poetry.dependencies]\npython = '*'\nflask = '^3.0'\n";
        let lock = "[[package]]\nname = 'flask'\nversion = '3.0.1'\n";
        let expected = Requirements::Text {
            source: "poetry.lock".to_owned(),
            requirements: "flask>=3.0,<4".to_owned(),
            constraints: "flask==3.0.1".to_owned(),
        };
        assert_eq!(requirements(&[("pyproject.toml", project), ("poetry.lock", lock)]), expected);
    }

    #[test]
    fn a_file_that_is_not_toml_is_refused() {
        let error = needs(&[("pyproject.toml", "[project\n")]).err().unwrap().to_string();
        assert!(error.starts_with("pyproject.toml can't be read"), "{error}");
    }
}
