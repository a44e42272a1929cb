//! Packages that only an older setuptools can build, because what they use of it has been removed since.
//!
//! uv builds each package with the newest setuptools that its Python has. Where one fails by such a word,
//! what failed is run once more with an older one. Source: <https://setuptools.pypa.io/en/latest/history.html>.

use ace_api::BuildError;

use crate::container::{Bench, Command, Ended};
use crate::python::Python;

/// Where uv finds the versions that it's to build with.
const BUILD_CONSTRAINTS: &str = "/ace/lock/build-constraints.txt";
/// What a package's build says, and the version of setuptools from which on.
const REMOVED: [(&str, u32); 3] = [
    ("cannot import name 'Feature'", 46),
    ("use_2to3 is invalid", 58),
    ("No module named 'pkg_resources'", 81),
];
/// The first setuptools that runs on Python 3.12.
const FIRST_FOR_3_12: u32 = 66;

/// The first version of setuptools that lacks what a build misses by its own words in `line`.
pub fn removed_in(line: &str) -> Option<u32> {
    REMOVED.iter().find(|(words, _)| line.contains(words)).map(|(_, version)| *version)
}

/// Runs `command`, one of uv's that builds packages; once more, if an older setuptools would do.
pub async fn run(bench: &Bench, python: &Python, command: Command) -> Result<Ended, BuildError> {
    let mut again = command.again();
    let ended = bench.run(command).await?;
    let below = bench.log().setuptools_below();
    let Some(below) = below.filter(|below| !ended.success && fits(*below, python.version)) else {
        return Ok(ended);
    };
    bench
        .log()
        .say(format!("a package is for an older setuptools: building with one below {below}"))
        .await;
    again.files.push((BUILD_CONSTRAINTS.into(), format!("setuptools<{below}\n")));
    Ok(bench.run(again.env("UV_BUILD_CONSTRAINT", BUILD_CONSTRAINTS)).await?)
}

/// Whether a setuptools below `version` runs on `python`.
fn fits(version: u32, python: [u32; 3]) -> bool {
    python < [3, 12, 0] || version > FIRST_FOR_3_12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_setuptools_no_longer_has_is_known_by_its_words() {
        for (line, below) in [
            ("error in FormEncode setup command: use_2to3 is invalid.", 58),
            ("ImportError: cannot import name 'Feature' from 'setuptools' (/ace/cache/x)", 46),
            ("ModuleNotFoundError: No module named 'pkg_resources'", 81),
        ] {
            assert_eq!(removed_in(line), Some(below), "{line}");
        }
        assert_eq!(removed_in("error: command 'gcc' failed"), None);
    }

    #[test]
    fn no_setuptools_is_asked_for_that_the_python_can_not_run() {
        assert!(fits(58, [3, 11, 7]) && fits(81, [3, 13, 0]));
        assert!(!fits(58, [3, 12, 0]));
    }
}
