//! What Poetry's part of a `pyproject.toml` and its lock ask for, in the words of a
//! `requirements.txt`.
//!
//! Source: <https://python-poetry.org/docs/dependency-specification/>.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{lookup, strings};

const DEPENDENCIES: [&str; 3] = ["tool", "poetry", "dependencies"];

/// The requirements of Poetry's own table, without those for development and optional ones.
pub fn dependencies(project: &Table) -> Vec<String> {
    let Some(table) = lookup(project, &DEPENDENCIES).and_then(Value::as_table) else {
        return Vec::new();
    };
    let others = table.iter().filter(|(name, _)| *name != "python");
    others.flat_map(|(name, value)| lines(name, value)).collect()
}

/// The Pythons that Poetry's own table asks for, where that is one range.
pub fn python(project: &Table) -> Option<String> {
    let text = lookup(project, &DEPENDENCIES)?.get("python")?.as_str()?;
    specifiers(text).filter(|range| !range.is_empty())
}

/// The versions that the lock holds packages to. A package with several is left to the resolver.
pub fn constraints(lock: &Table) -> Vec<String> {
    let packages = lock.get("package").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages.iter().filter_map(Value::as_table) {
        let of_index = lookup(package, &["source", "type"]).is_none_or(|kind| {
            // The rest lies in a folder, a repository or at an address, which the requirement names.
            kind.as_str() == Some("legacy")
        });
        if let (true, Some(name), Some(version)) =
            (of_index, text(package, "name"), text(package, "version"))
        {
            versions.entry(name).or_default().push(version);
        }
    }
    let single = versions.iter().filter_map(|(name, versions)| match versions[..] {
        [version] => Some(format!("{name}=={version}")),
        _ => None,
    });
    single.collect()
}

/// The lines of one dependency: a version, a table, or a list of tables for several machines.
fn lines(name: &str, value: &Value) -> Vec<String> {
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
    } else if let Some(url) = text(table, "url") {
        format!("{name}{extras} @ {url}")
    } else if let Some(url) = text(table, "git") {
        let reference = ["rev", "tag", "branch"].iter().find_map(|key| text(table, key));
        let reference = reference.map(|name| format!("@{name}")).unwrap_or_default();
        format!("{name}{extras} @ git+{url}{reference}")
    } else {
        let version = text(table, "version").and_then(specifiers).unwrap_or_default();
        format!("{name}{extras}{version}")
    };
    let markers = markers(table);
    Some(if markers.is_empty() { requirement } else { format!("{requirement} ; {markers}") })
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
    all.extend(text(table, "markers").map(|markers| format!("({markers})")));
    all.join(" and ")
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
            ]
        );
        assert_eq!(python(&project).as_deref(), Some(">=3.8,<4"));
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
        assert_eq!(constraints(&lock), ["a==1.0"]);
    }
}
