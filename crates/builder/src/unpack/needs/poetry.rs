//! What Poetry's part of a `pyproject.toml` asks for, and its lock or PDM's, in the words of a
//! `requirements.txt`.
//!
//! Source: <https://python-poetry.org/docs/dependency-specification/>.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use toml::{Table, Value};

use super::pipfile::unchecked;
use super::{index_lines, lookup, read_toml, strings};
use crate::unpack::UnpackError;

const DEPENDENCIES: [&str; 3] = ["tool", "poetry", "dependencies"];
/// The keys by which a dependency is to be had elsewhere than in an index.
const PLACES: [&str; 4] = ["path", "url", "file", "git"];
/// What a `Pipfile` may tell of the machines that a package is for, as in `sys_platform = "== 'win32'"`.
const MARKERS: [&str; 11] = [
    "os_name",
    "sys_platform",
    "platform_machine",
    "platform_python_implementation",
    "platform_release",
    "platform_system",
    "platform_version",
    "python_version",
    "python_full_version",
    "implementation_name",
    "implementation_version",
];

/// The requirements of Poetry's own table, without those for development and optional ones.
pub fn dependencies(project: &Table) -> Vec<String> {
    let Some(table) = lookup(project, &DEPENDENCIES).and_then(Value::as_table) else {
        return Vec::new();
    };
    let others = table.iter().filter(|(name, _)| *name != "python");
    others.flat_map(|(name, value)| lines(name, value)).collect()
}

/// The requirements `lines` of `project.dependencies`, which Poetry's own table may say a place for.
///
/// Source: <https://python-poetry.org/docs/dependency-specification/#projectdependencies-and-toolpoetrydependencies>.
pub fn with_places(lines: Vec<String>, project: &Table) -> Vec<String> {
    let Some(table) = lookup(project, &DEPENDENCIES).and_then(Value::as_table) else {
        return lines;
    };
    lines.into_iter().flat_map(|line| with_place(&line, table).unwrap_or(vec![line])).collect()
}

/// `line` by what `table` says of its package: one line for each place; `None` where it names none.
fn with_place(line: &str, table: &Table) -> Option<Vec<String>> {
    let (requirement, condition) = line.split_once(';').unwrap_or((line, ""));
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = requirement.trim().split(|c| !is_name(c)).next()?;
    let (_, value) = table.iter().find(|(key, _)| normal(key) == normal(name))?;
    let places: &[Value] = match value {
        Value::Array(list) => list,
        value => std::slice::from_ref(value),
    };
    let places = places.iter().filter_map(Value::as_table).filter(|place| has_place(place));
    let found: Vec<String> = places
        .filter_map(|place| {
            let mut place = place.clone();
            if let Some((_, extras)) = requirement.split_once('[') {
                let extras = extras.split(']').next()?.split(',');
                let extras = extras.map(|extra| Value::from(extra.trim())).collect();
                place.insert("extras".to_owned(), Value::Array(extras));
            }
            let conditions = [condition, text(&place, "markers").unwrap_or_default()];
            let conditions: Vec<&str> =
                conditions.into_iter().map(str::trim).filter(|text| !text.is_empty()).collect();
            if !conditions.is_empty() {
                let conditions = conditions.join(") and (");
                place.insert("markers".to_owned(), conditions.into());
            }
            self::line(name, &place)
        })
        .collect();
    (!found.is_empty()).then_some(found)
}

/// Whether a dependency is to be had elsewhere than in an index.
fn has_place(dependency: &Table) -> bool {
    PLACES.iter().any(|key| dependency.contains_key(*key))
}

/// The Pythons that Poetry's own table asks for, where that is one range.
pub fn python(project: &Table) -> Option<String> {
    let text = lookup(project, &DEPENDENCIES)?.get("python")?.as_str()?;
    specifiers(text).filter(|range| !range.is_empty())
}

/// The indexes that Poetry's or PDM's own table names.
pub fn indexes(project: &Table) -> String {
    let list = |tool| lookup(project, &["tool", tool, "source"]).and_then(Value::as_array).cloned();
    let sources: Vec<Value> =
        [list("poetry"), list("pdm")].into_iter().flatten().flatten().collect();
    let urls = sources.iter().filter_map(|source| source.get("url")?.as_str());
    index_lines(urls) + &unchecked(&sources)
}

/// The lock beside a project, with its name. Both kinds list their packages alike.
pub fn read_lock(root: &OwnedFd) -> Result<Option<(&'static str, Table)>, UnpackError> {
    for name in ["poetry.lock", "pdm.lock"] {
        if let Some(lock) = read_toml(root, name)? {
            return Ok(Some((name, lock)));
        }
    }
    Ok(None)
}

/// The versions that a lock holds packages to, one a line.
pub fn constraints(lock: &Table) -> String {
    let packages = packages(lock).into_iter();
    packages.map(|(name, package)| format!("{name}=={}\n", package.version)).collect()
}

/// The same with hashes, for packages that have any.
pub fn hashes(lock: &Table) -> String {
    let packages = packages(lock).into_iter().filter(|(_, package)| !package.hashes.is_empty());
    let line = |(name, Locked { version, hashes }): (&str, Locked)| {
        let hashes: String = hashes.iter().map(|hash| format!(" --hash={hash}")).collect();
        format!("{name}=={version}{hashes}\n")
    };
    packages.map(line).collect()
}

/// `line`, where it asks for a repository's branch, with the commit that the lock has of it.
pub fn at_commit(line: String, lock: &Table) -> String {
    let Some((name, rest)) = line.split_once(" @ git+") else { return line };
    let plain = name.split('[').next().unwrap_or(name).trim();
    let Some(commit) = commit_of(lock, plain) else { return line };
    let end = rest.find(['#', ' ', ';']).unwrap_or(rest.len());
    let (url, further) = rest.split_at(end);
    let path = url.rfind('/').map_or(0, |slash| slash + 1);
    let url = url[path..].find('@').map_or(url, |at| &url[..path + at]);
    format!("{name} @ git+{url}@{commit}{further}")
}

/// The commit of the package `name`, as Poetry writes it or PDM.
fn commit_of<'a>(lock: &'a Table, name: &str) -> Option<&'a str> {
    let packages = lock.get("package")?.as_array()?.iter().filter_map(Value::as_table);
    let mut named = packages
        .filter(|package| text(package, "name").is_some_and(|it| normal(it) == normal(name)));
    let package = named.next()?;
    let of_poetry = lookup(package, &["source", "resolved_reference"]).and_then(Value::as_str);
    let commit = of_poetry.or_else(|| text(package, "revision"))?;
    commit.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(commit)
}

/// A package's name as it is compared.
fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

/// A package of a lock.
struct Locked<'a> {
    version: &'a str,
    hashes: Vec<&'a str>,
}

/// The packages of an index by name. One with several versions is left to the resolver.
fn packages(lock: &Table) -> BTreeMap<&str, Locked<'_>> {
    let all = lock.get("package").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut found: BTreeMap<&str, Vec<Locked<'_>>> = BTreeMap::new();
    for package in all.iter().filter_map(Value::as_table).filter(|package| is_of_index(package)) {
        let (Some(name), Some(version)) = (text(package, "name"), text(package, "version")) else {
            continue;
        };
        let locked = Locked { version, hashes: hashes_of(lock, package, name) };
        let known = found.entry(name).or_default();
        // PDM lists a package again with its extras.
        match known.iter_mut().find(|known| known.version == version) {
            Some(known) => known.hashes.extend(locked.hashes),
            None => known.push(locked),
        }
    }
    let single = |(name, mut versions): (_, Vec<_>)| match versions.len() {
        1 => Some((name, versions.remove(0))),
        _ => None,
    };
    found.into_iter().filter_map(single).collect()
}

/// The rest lies in a folder, a repository or at an address, which the requirement names.
fn is_of_index(package: &Table) -> bool {
    let kind = lookup(package, &["source", "type"]).and_then(Value::as_str);
    let elsewhere =
        ["path", "url", "git", "hg", "svn"].iter().any(|key| package.contains_key(*key));
    kind.is_none_or(|kind| kind == "legacy") && !elsewhere
}

/// The hashes of a package's files: with the package, or in locks of Poetry before 1.3 apart.
fn hashes_of<'a>(lock: &'a Table, package: &'a Table, name: &str) -> Vec<&'a str> {
    let with_it = package.get("files");
    let files = with_it.or_else(|| lookup(lock, &["metadata", "files", name]));
    let files = files.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let hash = |file: &'a Value| file.get("hash")?.as_str();
    let is_hash = |hash: &&str| hash.starts_with("sha256:") && !hash.contains(char::is_whitespace);
    files.iter().filter_map(hash).filter(is_hash).collect()
}

/// The lines of one dependency: a version, a table, or a list of tables for several machines.
pub fn lines(name: &str, value: &Value) -> Vec<String> {
    match value {
        Value::String(version) => {
            vec![format!("{name}{}", specifiers(version).unwrap_or_default())]
        }
        Value::Table(table) => line(name, table).into_iter().collect(),
        Value::Array(list) => list.iter().flat_map(|value| lines(name, value)).collect(),
        _ => Vec::new(),
    }
}

/// `None` for an optional dependency.
fn line(name: &str, table: &Table) -> Option<String> {
    if table.get("optional").and_then(Value::as_bool) == Some(true) {
        return None;
    }
    let extras: Vec<&str> = strings(table, &["extras"]).collect();
    let extras = if extras.is_empty() { String::new() } else { format!("[{}]", extras.join(",")) };
    let requirement = if let Some(path) = text(table, "path") {
        let develop = table.get("develop").and_then(Value::as_bool) == Some(true);
        let option = if develop { "-e " } else { "" };
        return Some(format!("{option}./{}{extras}", path.trim_start_matches("./")));
    } else if let Some(url) = text(table, "url").or_else(|| text(table, "file")) {
        format!("{name}{extras} @ {url}{}", subdirectory(table))
    } else if let Some(url) = text(table, "git") {
        let reference = ["rev", "tag", "branch", "ref"].iter().find_map(|key| text(table, key));
        let reference = reference.map(|name| format!("@{name}")).unwrap_or_default();
        format!("{name}{extras} @ git+{url}{reference}{}", subdirectory(table))
    } else {
        let version = text(table, "version").and_then(specifiers).unwrap_or_default();
        format!("{name}{extras}{version}")
    };
    let markers = markers(table);
    Some(if markers.is_empty() { requirement } else { format!("{requirement} ; {markers}") })
}

/// Where in a repository or archive a package lies, as the end of its address.
fn subdirectory(table: &Table) -> String {
    text(table, "subdirectory").map(|path| format!("#subdirectory={path}")).unwrap_or_default()
}

/// The conditions under which a dependency counts, joined; empty if it always does.
fn markers(table: &Table) -> String {
    let mut all: Vec<String> = Vec::new();
    if let Some(range) = text(table, "python").and_then(specifiers).filter(|text| !text.is_empty())
    {
        all.extend(range.split(',').map(|specifier| {
            let version = specifier.trim_start_matches(['<', '>', '=', '!', '~']);
            let operator = &specifier[..specifier.len() - version.len()];
            format!("python_full_version {operator} '{version}'")
        }));
    }
    all.extend(text(table, "platform").map(platform));
    all.extend(MARKERS.iter().filter_map(|name| Some(format!("{name} {}", text(table, name)?))));
    all.extend(text(table, "markers").map(|markers| format!("({markers})")));
    all.join(" and ")
}

/// Poetry's word for the machines that a dependency is for: `linux`, `!=win32`, `linux || darwin`.
fn platform(constraint: &str) -> String {
    let one = |name: &str| match name.trim().strip_prefix("!=") {
        Some(name) => format!("sys_platform != '{}'", name.trim()),
        None => format!("sys_platform == '{}'", name.trim().trim_start_matches('=')),
    };
    format!("({})", constraint.split("||").map(one).collect::<Vec<_>>().join(" or "))
}

/// Poetry's constraint as version specifiers; `None` for a union, which they can't say.
fn specifiers(constraint: &str) -> Option<String> {
    if constraint.contains("||") || constraint.contains(" | ") {
        return None;
    }
    let parts = constraint.split(',').map(str::trim).filter(|part| !matches!(*part, "" | "*"));
    Some(parts.map(specifier).collect::<Vec<_>>().join(","))
}

fn specifier(part: &str) -> String {
    if let Some(version) = part.strip_prefix('^') {
        return between(version, |numbers| {
            let first = numbers.iter().position(|number| *number != 0);
            first.unwrap_or(numbers.len() - 1)
        });
    }
    if let Some(version) = part.strip_prefix('~').filter(|version| !version.starts_with('=')) {
        return between(version, |numbers| 1.min(numbers.len() - 1));
    }
    match part.split_at(part.find(|c: char| c.is_ascii_digit()).unwrap_or(0)) {
        ("" | "=", version) => format!("=={version}"),
        (operator, version) => format!("{}{version}", operator.trim()),
    }
}

/// From `version` up to the next one in the number at the place that `raised` says.
fn between(version: &str, raised: impl FnOnce(&[u64]) -> usize) -> String {
    let version = version.trim();
    let numbers: Vec<u64> = version.split('.').map_while(|part| part.parse().ok()).collect();
    if numbers.is_empty() {
        return format!(">={version}");
    }
    let place = raised(&numbers);
    let mut next = numbers[..=place].to_vec();
    next[place] = next[place].saturating_add(1);
    let next: Vec<String> = next.iter().map(u64::to_string).collect();
    format!(">={version},<{}", next.join("."))
}

fn text<'a>(table: &'a Table, key: &str) -> Option<&'a str> {
    table.get(key)?.as_str()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn poetrys_versions_become_specifiers() {
        for (constraint, expected) in [
            ("*", ""),
            ("^1.2.3", ">=1.2.3,<2"),
            ("^0.2.3", ">=0.2.3,<0.3"),
            ("^0.0.3", ">=0.0.3,<0.0.4"),
            ("^0.0", ">=0.0,<0.1"),
            ("~1.2.3", ">=1.2.3,<1.3"),
            ("~1", ">=1,<2"),
            ("1.2.3", "==1.2.3"),
            ("=1.2.3", "==1.2.3"),
            ("1.2.*", "==1.2.*"),
            (">=1.2, <2 , !=1.5", ">=1.2,<2,!=1.5"),
            ("~=1.4", "~=1.4"),
            ("^1.0b1", ">=1.0b1,<2"),
        ] {
            assert_eq!(specifiers(constraint).as_deref(), Some(expected), "{constraint}");
        }
        assert_eq!(specifiers("^1.0 || ^2.0"), None);
    }

    #[test]
    fn every_kind_of_dependency_becomes_a_line() {
        let project: Table = concat!(
            "[tool.poetry.dependencies]\n",
            "python = '>=3.8,<4'\n",
            "a = {version = '^1.0', extras = ['x', 'y'], markers = \"os_name == 'posix'\"}\n",
            "b = {git = 'https://h/b', tag = 'v1'}\n",
            "c = {path = './libs/c', develop = true}\n",
            "d = [{version = '1.0', python = '<3.9'}, {version = '2.0', python = '^3.9'}]\n",
            "e = {version = '*', optional = true}\n",
            "f = {version = '*', platform = '!=win32'}\n",
            "g = {git = 'https://h/g', rev = 'abc', subdirectory = 'in/g'}\n",
        )
        .parse()
        .unwrap();
        assert_eq!(
            dependencies(&project),
            [
                "a[x,y]>=1.0,<2 ; (os_name == 'posix')",
                "b @ git+https://h/b@v1",
                "-e ./libs/c",
                "d==1.0 ; python_full_version < '3.9'",
                "d==2.0 ; python_full_version >= '3.9' and python_full_version < '4'",
                "f ; (sys_platform != 'win32')",
                "g @ git+https://h/g@abc#subdirectory=in/g",
            ]
        );
        assert_eq!(python(&project).as_deref(), Some(">=3.8,<4"));
    }

    #[test]
    fn a_requirement_of_the_project_is_had_where_poetrys_table_says() {
        let project: Table = concat!(
            "[tool.poetry.dependencies]\n",
            "Own_Kit = {git = 'https://h/kit', tag = 'v1', markers = \"os_name == 'posix'\"}\n",
            "near = {path = 'libs/near', develop = true}\n",
            "flask = {source = 'own'}\n",
        )
        .parse()
        .unwrap();
        for (line, expected) in [
            (
                "own-kit[x, y] (>=1) ; python_version > '3'",
                "own-kit[x,y] @ git+https://h/kit@v1 ; (python_version > '3') and (os_name == 'posix')",
            ),
            ("near>=1", "-e ./libs/near"),
            ("flask (>=3,<4)", "flask (>=3,<4)"),
            ("six", "six"),
        ] {
            assert_eq!(with_places(vec![line.to_owned()], &project), [expected]);
        }
    }

    #[test]
    fn a_lock_holds_packages_to_their_only_version() {
        let lock: Table = concat!(
            "[[package]]\nname = 'a'\nversion = '1.0'\n",
            "[[package]]\nname = 'twice'\nversion = '1.0'\n",
            "[[package]]\nname = 'twice'\nversion = '2.0'\n",
            "[[package]]\nname = 'here'\nversion = '1.0'\n[package.source]\ntype = 'directory'\n",
        )
        .parse()
        .unwrap();
        assert_eq!(constraints(&lock), "a==1.0\n");
        assert_eq!(hashes(&lock), "");
    }

    #[test]
    fn a_lock_knows_the_hashes_of_its_files() {
        let new = "[[package]]\nname = 'a'\nversion = '1'\n\
                   files = [{file = 'a.whl', hash = 'sha256:aa'}, {file = 'b', hash = 'md5:b'}]\n";
        let old = "[[package]]\nname = 'a'\nversion = '1'\n\
                   [metadata.files]\na = [{file = 'a.whl', hash = 'sha256:aa'}]\n";
        let twice = format!("{new}[[package]]\nname = 'a'\nversion = '1'\nextras = ['x']\n");
        for lock in [new, old, &twice] {
            assert_eq!(hashes(&lock.parse().unwrap()), "a==1 --hash=sha256:aa\n", "{lock}");
        }
    }

    #[test]
    fn a_repository_is_at_the_commit_of_the_lock() {
        let poetry = "[[package]]\nname = 'own-kit'\nversion = '1'\n[package.source]\ntype = 'git'\n\
                      url = 'https://h/kit.git'\nreference = 'main'\nresolved_reference = 'abc1'\n";
        let pdm = "[[package]]\nname = 'own-kit'\nversion = '1'\ngit = 'https://h/kit.git'\n\
                   ref = 'main'\nrevision = 'abc1'\n";
        for lock in [poetry, pdm] {
            let lock: Table = lock.parse().unwrap();
            for (line, expected) in [
                ("own_kit[x] @ git+https://h/kit.git", "own_kit[x] @ git+https://h/kit.git@abc1"),
                (
                    "own-kit @ git+ssh://git@h/kit.git@main#subdirectory=a ; python_version > '3'",
                    "own-kit @ git+ssh://git@h/kit.git@abc1#subdirectory=a ; python_version > '3'",
                ),
                ("other @ git+https://h/other@v1", "other @ git+https://h/other@v1"),
                ("own-kit==1", "own-kit==1"),
            ] {
                assert_eq!(at_commit(line.to_owned(), &lock), expected);
            }
        }
    }

    #[test]
    fn indexes_are_named_but_for_pypi() {
        let project: Table = concat!(
            "[[tool.poetry.source]]\nname = 'own'\nurl = 'https://own.test/simple'\n",
            "[[tool.poetry.source]]\nname = 'PyPI'\npriority = 'primary'\n",
            "[[tool.pdm.source]]\nname = 'pypi'\nurl = 'https://pypi.org/simple'\n",
        )
        .parse()
        .unwrap();
        assert_eq!(indexes(&project), "--extra-index-url https://own.test/simple\n");
    }
}
