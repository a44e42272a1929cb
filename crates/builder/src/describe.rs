//! A project's own metadata, beside its code: name, version and entry points.
//!
//! A source on `sys.path` can be imported without being installed. But many a project asks
//! `importlib.metadata` for its own version when it is imported, and finds its plugins by their entry
//! points. So its build system is asked for them, as an installer would, and what it says lies in
//! `/ace/code`, where both are looked for. It is not in the environment, which is named by its
//! requirements and outlives a change of the source.

use std::collections::BTreeMap;

use ace_api::BuildError;

use crate::container::{Bench, Command};
use crate::environment::{Installer, in_source, see_python};
use crate::python::Python;
use crate::site::Site;

/// Where the installer puts what it makes of the project.
const DESCRIBED: &str = "/ace/user/described";

/// Keeps what describes the project, and nothing of how it would be installed. The files of an
/// installation lie elsewhere. What setuptools leaves in the source does as well.
const KEEP: &str = "
import glob, os, shutil, sys
described, code = sys.argv[1:]
for folder in glob.glob(os.path.join(described, '*.dist-info')):
    if glob.glob(os.path.join(code, '*.egg-info')):
        break
    kept = os.path.join(code, os.path.basename(folder))
    os.mkdir(kept)
    for name in ('METADATA', 'entry_points.txt', 'top_level.txt'):
        if os.path.exists(os.path.join(folder, name)):
            shutil.copyfile(os.path.join(folder, name), os.path.join(kept, name))
";

/// Puts the metadata of the project in the source beside its code. A project that can't be asked is
/// served all the same: it may have no need of them. `env` is the app's.
pub async fn describe(
    installer: &Installer,
    env: &BTreeMap<String, String>,
    python: &Python,
    bench: &Bench,
    site: &Site,
) -> Result<(), BuildError> {
    bench.log().say("asking the project for its metadata").await;
    let command = match installer {
        Installer::Uv(uv) => without_repository(uv.describe(python, DESCRIBED)),
        Installer::Pip(pip) => pip.describe(python),
    };
    if !bench.run(in_source(command, env, site)).await?.success {
        let words = "the project can't be built: it has no metadata, such as its own version";
        bench.log().say(words).await;
        return Ok(());
    }
    let program = python.interpreter.program.display().to_string();
    let words = [&program, "-E", "-s", "-c", KEEP, DESCRIBED, "/ace/code"];
    bench.run(in_source(see_python(Command::new(words), python), env, site)).await?;
    Ok(())
}

/// For build systems that ask a repository for the version, which is not sent.
fn without_repository(command: Command) -> Command {
    ["SETUPTOOLS_SCM_PRETEND_VERSION", "PBR_VERSION", "PDM_BUILD_SCM_VERSION"]
        .into_iter()
        .fold(command, |command, name| command.env(name, "0.0.0"))
}
