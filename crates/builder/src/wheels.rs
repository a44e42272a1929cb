//! For which Pythons a package has wheels, where building it for the app's own has failed.
//!
//! Told from the names of the files in the index. Source of their form:
//! <https://packaging.python.org/en/latest/specifications/binary-distribution-format/>.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;

use crate::fetch::Client;
use crate::index::{self, PageFile};

/// How long the index may take. It's only for a hint.
const WITHIN: Duration = Duration::from_secs(20);
const NAME_MAX: usize = 128;
/// The Pythons that apps run on.
const PYTHONS: [Minor; 10] =
    [[2, 7], [3, 6], [3, 7], [3, 8], [3, 9], [3, 10], [3, 11], [3, 12], [3, 13], [3, 14]];

/// Major and minor version of a Python.
type Minor = [u32; 2];

/// One version of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    name: String,
    version: String,
}

/// The package whose build has failed, if uv says so in `line`.
pub fn failed_in(line: &str) -> Option<Version> {
    let (_, rest) = line.split_once("ailed to ")?;
    let (_, rest) = rest.split_once("build `")?;
    let (name, version) = rest.split_once('`')?.0.split_once("==")?;
    let is_plain = |text: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+!".contains(&byte);
        (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(fits)
    };
    let plain = is_plain(name) && is_plain(version);
    plain.then(|| Version { name: name.to_owned(), version: version.to_owned() })
}

/// What would do instead of `failed` on `python`, such as `3.12`, or instead of that Python. `None` where the
/// index at `index` does not tell.
pub async fn instead(index: &str, failed: &Version, python: &str) -> Option<String> {
    let python = minor(python)?;
    let project = failed.name.to_ascii_lowercase().replace(['_', '.'], "-");
    let client = Client::new();
    let page = timeout(WITHIN, index::page(&client, index, &project)).await;
    match page.ok()? {
        Ok((_, page)) => told(failed, &page.files, python),
        Err(error) => {
            tracing::debug!(project, %error, "the index does not tell of wheels");
            None
        }
    }
}

fn told(failed: &Version, files: &[PageFile], python: Minor) -> Option<String> {
    let wheels = wheels(files);
    let of_failed = wheels.get(&key(&failed.version)?).cloned().unwrap_or_default();
    if of_failed.contains(&python) {
        // It wasn't for the lack of one.
        return None;
    }
    let Version { name, version } = failed;
    let wanted = in_words(&[python]);
    let newest = wheels.iter().rev();
    let for_it = newest.clone().find(|(_, pythons)| pythons.contains(&python));
    match (&of_failed[..], for_it) {
        ([], Some((other, _))) => {
            let other = text(other);
            Some(format!("{name} {version} has no wheel for Python {wanted}, but {other} has"))
        }
        ([], None) => {
            let (other, pythons) = newest.clone().next()?;
            let (other, pythons) = (text(other), in_words(pythons));
            Some(format!(
                "{name} has no wheels for Python {wanted}; {other} has them for {pythons}: set \
                 python in app.yaml"
            ))
        }
        (pythons, Some((other, _))) => {
            let (other, pythons) = (text(other), in_words(pythons));
            Some(format!(
                "{name} {version} has wheels for Python {pythons}, but not for {wanted}: ask for \
                 {name} {other}, which has, or set python in app.yaml"
            ))
        }
        (pythons, None) => {
            let pythons = in_words(pythons);
            Some(format!(
                "{name} has wheels for Python {pythons}, but not for {wanted}: set python in \
                 app.yaml"
            ))
        }
    }
}

/// The Pythons that each version has wheels for on this machine; final versions only.
fn wheels(files: &[PageFile]) -> BTreeMap<Vec<u64>, Vec<Minor>> {
    let mut all: BTreeMap<Vec<u64>, Vec<Minor>> = BTreeMap::new();
    for file in files {
        let Some((version, fits)) = wheel(&file.filename) else { continue };
        let pythons = all.entry(version).or_default();
        pythons.extend(PYTHONS.into_iter().filter(|python| fits(*python)));
        pythons.sort_unstable();
        pythons.dedup();
    }
    all.retain(|_, pythons| !pythons.is_empty());
    all
}

/// The version of the wheel named `name`, and whether it fits a Python.
fn wheel(name: &str) -> Option<(Vec<u64>, impl Fn(Minor) -> bool)> {
    let parts: Vec<&str> = name.strip_suffix(".whl")?.split('-').collect();
    let [_, version, .., python, abi, platform] = parts[..] else { return None };
    let is_ours = platform.split('.').any(|platform| {
        let machine = platform.ends_with(std::env::consts::ARCH);
        platform == "any" || machine && platform.contains("linux") && !platform.contains("musl")
    });
    let tags = python.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (is_stable, is_free_threaded) =
        (abi == "abi3", abi.starts_with("cp3") && abi.ends_with('t'));
    let fits = move |[major, minor]: Minor| {
        let exact =
            [format!("cp{major}{minor}"), format!("py{major}{minor}"), format!("py{major}")];
        let from = |tag: &str| tag.strip_prefix("cp3").and_then(|minor| minor.parse::<u32>().ok());
        let later =
            |tag: &String| is_stable && major == 3 && from(tag).is_some_and(|from| minor >= from);
        is_ours && !is_free_threaded && tags.iter().any(|tag| exact.contains(tag) || later(tag))
    };
    Some((key(version)?, fits))
}

/// A final version's numbers, by which versions are in order.
fn key(version: &str) -> Option<Vec<u64>> {
    let mut numbers: Vec<u64> =
        version.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    while numbers.len() > 2 && numbers.last() == Some(&0) {
        numbers.pop();
    }
    Some(numbers)
}

fn text(version: &[u64]) -> String {
    version.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

fn minor(text: &str) -> Option<Minor> {
    let (major, minor) = text.split_once('.')?;
    Some([major.parse().ok()?, minor.parse().ok()?])
}

/// `3.6 to 3.9`, `2.7, 3.6`.
fn in_words(pythons: &[Minor]) -> String {
    let text = |[major, minor]: &Minor| format!("{major}.{minor}");
    let place = |python: &Minor| PYTHONS.iter().position(|known| known == python);
    let in_a_row = pythons.windows(2).all(|two| place(&two[0]).map(|at| at + 1) == place(&two[1]));
    match pythons {
        [first, _, .., last] if in_a_row && first[0] == 3 => {
            format!("{} to {}", text(first), text(last))
        }
        all => all.iter().map(text).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<PageFile> {
        let machine = std::env::consts::ARCH;
        let file =
            |name: &&str| PageFile { filename: name.replace("ARCH", machine), url: String::new() };
        names.iter().map(file).collect()
    }

    fn told_of(version: &str, names: &[&str], python: Minor) -> Option<String> {
        let failed = Version { name: "shop".to_owned(), version: version.to_owned() };
        told(&failed, &files(names), python)
    }

    #[test]
    fn the_package_that_failed_is_named_by_uv() {
        for line in
            ["error: Failed to build `shop==1.0`", "  × Failed to download and build `shop==1.0`"]
        {
            let failed = failed_in(line).unwrap();
            assert_eq!((failed.name.as_str(), failed.version.as_str()), ("shop", "1.0"));
        }
        for line in ["Failed to build `shop @ file:///ace/code`", "Failed to build `a/../b==1`", ""]
        {
            assert_eq!(failed_in(line), None, "{line}");
        }
    }

    #[test]
    fn another_version_or_another_python_is_named() {
        let names = [
            "shop-1.0-cp36-cp36m-manylinux1_ARCH.whl",
            "shop-1.0-cp37-cp37m-manylinux1_ARCH.whl",
            "shop-1.0-cp38-cp38-manylinux2014_ARCH.manylinux_2_17_ARCH.whl",
            "shop-1.0-cp39-cp39-win_amd64.whl",
            "shop-1.0-cp39-cp39-musllinux_1_1_ARCH.whl",
            "shop-1.0.tar.gz",
            "shop-1.10-cp311-abi3-manylinux_2_28_ARCH.whl",
            "shop-1.9-cp312-cp312-manylinux_2_28_ARCH.whl",
            "shop-2.0rc1-py3-none-any.whl",
            "shop-1.11-cp313-cp313t-manylinux_2_28_ARCH.whl",
        ];
        assert_eq!(
            told_of("1.0", &names, [3, 12]).unwrap(),
            "shop 1.0 has wheels for Python 3.6 to 3.8, but not for 3.12: ask for shop 1.10, which \
             has, or set python in app.yaml"
        );
        assert_eq!(
            told_of("1.0", &names, [3, 9]).unwrap(),
            "shop has wheels for Python 3.6 to 3.8, but not for 3.9: set python in app.yaml"
        );
        assert_eq!(
            told_of("0.9", &names, [3, 14]).unwrap(),
            "shop 0.9 has no wheel for Python 3.14, but 1.10 has"
        );
        let told = told_of("0.9", &names, [3, 9]).unwrap();
        assert!(told.contains("1.10 has them for 3.11 to 3.14"), "{told}");
        assert_eq!(told_of("1.0", &names, [3, 7]), None, "it failed for another reason");
        assert_eq!(told_of("1.0", &["shop-1.0.tar.gz"], [3, 7]), None);
    }
}
