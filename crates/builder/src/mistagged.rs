//! Packages whose sources make wheels with the tag `cp3`, by which they mean any CPython 3. pip took it so
//! until version 20, and never looks at the tag of what it has just built; uv does, and refuses it.
//!
//! On Python 3.7 and later, the build is told another tag. The last setuptools for Python 3.6 can't be
//! told; there, pip 20.3 installs the same lock.

use std::collections::BTreeMap;

use ace_api::BuildError;

use crate::container::{Bench, Command, Ended};
use crate::environment::{CACHE, Lock, PIP_LOCK, PYTHON, check_end, in_source, see_python};
use crate::python::Python;
use crate::site::Site;
use crate::uv::Uv;

/// Packages that are put right in one environment; uv names one at a time.
const PACKAGES_MAX: usize = 8;
/// A folder for pip, which is no part of the environment.
const PIP: &str = "/ace/user/pip";
const PIP_PROGRAM: &str = "/ace/user/pip/pip";
const PIP_REQUIREMENT: &str = "pip==20.3.4 \
    --hash=sha256:217ae5161a0e08c0fb873858806e3478c9775caffce5168b50ec885e358c199d\n";

/// The package whose wheel uv says in `line` not to fit, because of that tag alone.
pub fn named_in(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("The built wheel `")?;
    let (name, _) = rest.split_once("-cp3-none-any.whl` is not compatible")?;
    let (name, _) = name.split_once('-')?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
    is_name.then(|| name.to_owned())
}

/// Installs `lock`, which uv has just failed to install because of such packages. `with_lock` makes a command
/// one that works on it.
pub async fn install(
    uv: &Uv,
    lock: &Lock,
    python: &Python,
    bench: &Bench,
    site: &Site,
    with_lock: impl Fn(Command) -> Command,
) -> Result<Ended, BuildError> {
    if python.version < [3, 7, 0] {
        bench.log().say("uv refuses a wheel with the tag cp3: installing with pip 20.3").await;
        let mut fetch = uv.install_apart(python, PIP);
        fetch.files.push((PIP_LOCK.into(), PIP_REQUIREMENT.to_owned()));
        let ended = bench.run(in_source(fetch, &BTreeMap::new(), site)).await?;
        check_end(&ended, bench, "pip 20.3 could not be installed")?;
        return Ok(bench.run(with_lock(pip(uv, python))).await?);
    }
    let mut mistagged = bench.log().mistagged();
    loop {
        let settings: Vec<String> = mistagged.iter().map(|name| setting(name)).collect();
        let ended = bench.run(with_lock(uv.install(python, lock, &settings))).await?;
        let now = bench.log().mistagged();
        if ended.success || now.len() == mistagged.len() || now.len() > PACKAGES_MAX {
            return Ok(ended);
        }
        mistagged = now;
    }
}

/// pip, which installs the lock.
fn pip(uv: &Uv, python: &Python) -> Command {
    let words = [PYTHON, "-s", PIP_PROGRAM, "install", "--no-deps", "--use-pep517"];
    let words = words.into_iter().chain(["--requirement", PIP_LOCK]);
    see_python(Command::new(words), python)
        .env("PIP_CACHE_DIR", CACHE)
        .env("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt")
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_INDEX_URL", &uv.index)
        .env("PIP_NO_INPUT", "1")
        .env("PIP_PROGRESS_BAR", "off")
        .online()
}

/// What makes the build of the package `name` say that its wheel fits any Python 3.
fn setting(name: &str) -> String {
    format!("--config-settings-package={name}:--build-option=--python-tag=py3")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_meant_for_any_cpython_3_is_put_right() {
        let says = |wheel: &str| {
            named_in(&format!(
                "  cause: The built wheel `{wheel}` is not compatible with the current"
            ))
        };
        assert_eq!(says("kinto-14.8.0-cp3-none-any.whl").as_deref(), Some("kinto"));
        assert_eq!(says("own_one-0.0.0-cp3-none-any.whl").as_deref(), Some("own_one"));
        assert_eq!(says("own-1-cp37-none-any.whl"), None);
        assert_eq!(named_in("kinto-14.8.0-cp3-none-any.whl"), None);
    }
}
