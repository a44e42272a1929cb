//! uv, as a build's commands run it. Installs for Python 3.6 and later.

use std::path::PathBuf;

use crate::container::Command;
use crate::environment::{
    CACHE, ENVIRONMENT, Form, Lock, PIP_CONSTRAINTS, PIP_INPUT, PIP_LOCK, PYTHON, see_python,
};
use crate::python::Python;
use crate::tools::UV;
use crate::unpack::Requirements;

/// The program, and where packages come from.
pub struct Uv {
    /// uv on the host.
    pub program: PathBuf,
    pub index: String,
}

impl Uv {
    pub fn make_empty(&self, python: &Python) -> Command {
        let words = ["venv", "--quiet", "--no-project", "--python", &program(python), ENVIRONMENT];
        self.command(python, &words)
    }

    /// Prints `requirements` with their versions and hashes.
    pub fn resolve(&self, python: &Python, requirements: &Requirements) -> Command {
        let (input, files) = match requirements {
            Requirements::File { rewritten: Some(text), .. } => {
                (PIP_INPUT, vec![(PIP_INPUT.into(), text.clone())])
            }
            others => others.input(),
        };
        let program = program(python);
        let mut words = vec!["pip", "compile", input, "--generate-hashes", "--no-header"];
        words.extend(["--no-annotate", "--emit-index-url", "--emit-find-links"]);
        words.extend(["--emit-build-options", "--python", &program]);
        if requirements.has_constraints() {
            words.extend(["--constraints", PIP_CONSTRAINTS]);
        }
        if let Requirements::File { prereleases: true, .. } = requirements {
            words.extend(["--prerelease", "allow"]);
        }
        let mut command = trusting(self.in_source(python, &words), requirements.lines());
        if let Requirements::Project { .. } = requirements {
            command = command.env("UV_INDEX_STRATEGY", "first-index"); // As uv has it.
        }
        let fit = |(path, text): (PathBuf, String)| match installs_editable(python) {
            true => (path, text),
            false => (path, without_editable(&text)),
        };
        command.files = files.into_iter().map(fit).collect();
        command
    }

    /// Prints what `uv.lock` says, in the same form.
    pub fn export(&self, python: &Python) -> Command {
        let program = program(python);
        let mut words = vec!["export", "--frozen", "--no-dev", "--format", "requirements-txt"];
        words.extend(["--no-header", "--no-annotate", "--python", &program]);
        self.in_source(python, &words)
    }

    /// Installs `lock`, which stands where it says, into the environment.
    /// `further` words go with it.
    pub fn install(&self, python: &Python, lock: &Lock, further: &[String]) -> Command {
        let mut words = match lock.form() {
            Form::Resolved | Form::Pylock => {
                vec!["pip", "sync", lock.path(), "--allow-empty-requirements"]
            }
            // Not sync: it would take the list for complete.
            Form::Given => vec!["pip", "install", "--requirements", lock.path()],
        };
        words.extend(["--python", PYTHON]);
        words.extend(lock.is_hashed().then_some("--require-hashes"));
        if lock.has_constraints() {
            words.extend(["--constraints", PIP_CONSTRAINTS]);
        }
        words.extend(compiles(python).then_some("--compile-bytecode"));
        words.extend(further.iter().map(String::as_str));
        trusting(self.in_source(python, &words), lock.text())
    }

    /// Installs the hashed requirements at [`PIP_LOCK`] beside what the environment has.
    pub fn add(&self, python: &Python) -> Command {
        let mut words = vec!["pip", "install", "--quiet", "--no-deps", "--require-hashes"];
        words.extend(["--requirements", PIP_LOCK, "--python", PYTHON]);
        words.extend(compiles(python).then_some("--compile-bytecode"));
        self.command(python, &words).env("UV_CACHE_DIR", CACHE)
    }

    /// Installs the hashed requirements at [`PIP_LOCK`] into the folder `target`.
    pub fn install_apart(&self, python: &Python, target: &str) -> Command {
        let program = program(python);
        let mut words = vec!["pip", "install", "--no-cache", "--no-deps", "--require-hashes"];
        words.extend(["--target", target, "--requirements", PIP_LOCK, "--python", &program]);
        words.extend(compiles(python).then_some("--compile-bytecode"));
        self.command(python, &words)
    }

    /// A command that works for a source: of several indexes, the best version counts, as with pip.
    fn in_source(&self, python: &Python, words: &[&str]) -> Command {
        let command = self.command(python, words).env("UV_CACHE_DIR", CACHE);
        command.env("UV_INDEX_STRATEGY", "unsafe-best-match")
    }

    /// Installs the project in the source into the folder `target`, to see what it says of itself.
    pub fn describe(&self, python: &Python, target: &str) -> Command {
        let program = program(python);
        let mut words = vec!["pip", "install", "--quiet", "--no-deps", "--target", target];
        words.extend(["--python", &program]);
        // Its files stay where they are, if the setuptools of this Python can do that.
        words.extend((python.version >= [3, 7, 0]).then_some("--editable"));
        words.push(".");
        self.in_source(python, &words)
    }

    fn command(&self, python: &Python, words: &[&str]) -> Command {
        let argv = [UV].iter().chain(words).map(|word| (*word).to_owned());
        see_python(Command::new(argv), python)
            .read_only(&self.program, UV)
            .env("UV_DEFAULT_INDEX", &self.index)
            .env("UV_LINK_MODE", "copy")
            .env("UV_NO_CONFIG", "1")
            .env("UV_NO_PROGRESS", "1")
            .env("UV_PYTHON_DOWNLOADS", "never")
            .env("NO_COLOR", "1")
            .online()
    }
}

/// Has the hosts that requirements in `text` trust taken at their word. uv does not read that there.
fn trusting(command: Command, text: &str) -> Command {
    let hosts: Vec<&str> = Requirements::trusted_hosts(text).collect();
    if hosts.is_empty() { command } else { command.env("UV_INSECURE_HOST", hosts.join(" ")) }
}

/// Whether uv can compile to byte code for it.
pub fn compiles(python: &Python) -> bool {
    python.version >= [3, 7, 0]
}

/// Whether there is a setuptools for it that installs a source where it lies.
fn installs_editable(python: &Python) -> bool {
    python.version >= [3, 7, 0]
}

/// The same, but the app's own source is copied into the environment.
fn without_editable(requirements: &str) -> String {
    let lines = requirements.lines().map(|line| if line == "-e ." { "." } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

fn program(python: &Python) -> String {
    python.interpreter.program.display().to_string()
}
