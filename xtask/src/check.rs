//! `cargo xtask check`: all that must hold before a change is taken in.
//!
//! Cheap steps come first. A step that fails does not keep the later ones from running, so that
//! one run shows every problem. What is left out for want of a tool is said at the end.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::guards;
use crate::layers;
use crate::tally::Tally;

/// Runs every step and prints what came of them; the last line is the sum of all tests. Returns
/// whether all steps went well.
pub fn run() -> Result<bool> {
    require_root()?;
    let root = guards::repository()?;
    std::env::set_current_dir(&root).context("could not enter the repository")?;
    let mut failed = Vec::new();
    let mut left_out = Vec::new();
    let mut step = |name: &'static str, outcome: Result<()>| {
        if let Err(error) = outcome {
            eprintln!("error: {name}: {error:#}");
            failed.push(name);
        }
    };
    step("format", format());
    step("guards", guards::run(&root));
    step("layers", layers::run(&root));
    step("lints", lints());
    step("dependencies", dependencies(&mut left_out));
    let mut tally = Tally::default();
    step("tests", tests(&mut tally, &mut left_out));

    for test in &tally.flaky {
        println!("failed, then passed (find out why): {test}");
    }
    for what in &left_out {
        println!("left out: {what}");
    }
    if !failed.is_empty() {
        println!("failed steps: {}", failed.join(", "));
    }
    println!("{tally}");
    Ok(failed.is_empty())
}

/// Tests make containers, mounts and networks; without root most of them could only be skipped.
fn require_root() -> Result<()> {
    let output = Command::new("id").arg("-u").output().context("could not run `id`")?;
    if output.stdout.trim_ascii() != b"0" {
        bail!("the tests make containers and need root: sudo make test");
    }
    Ok(())
}

fn format() -> Result<()> {
    heading("format");
    if !exists("rustfmt") {
        bail!("rustfmt is not installed");
    }
    succeed(Command::new("cargo").args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    heading("lints");
    if !exists("cargo-clippy") {
        bail!("clippy is not installed");
    }
    let mut clippy = Command::new("cargo");
    clippy.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    succeed(&mut clippy)
}

fn dependencies(left_out: &mut Vec<&str>) -> Result<()> {
    if !exists("cargo-deny") {
        left_out.push("cargo deny check (licences, advisories, banned crates): not installed");
        return Ok(());
    }
    heading("dependencies");
    succeed(Command::new("cargo").args(["deny", "check"]))
}

fn tests(tally: &mut Tally, left_out: &mut Vec<&str>) -> Result<()> {
    heading("tests");
    if exists("cargo-nextest") {
        let arguments = ["nextest", "run", "--workspace", "--no-fail-fast"];
        let units = counted(Command::new("cargo").args(arguments), tally);
        let docs = Command::new("cargo").args(["test", "--workspace", "--doc"]).status();
        units?;
        return match docs.context("could not run cargo test")?.success() {
            true => Ok(()),
            false => bail!("a documentation test failed"),
        };
    }
    left_out.push("cargo nextest (a process and a deadline for each test): not installed; cargo test ran instead");
    // Engines share the kernel, and one test takes away what all of them rely on: one at a time.
    let arguments = ["test", "--workspace", "--no-fail-fast", "--", "--test-threads=1"];
    counted(Command::new("cargo").args(arguments), tally)
}

/// Runs a test runner, passing its output on, and adds what it counted to `tally`.
fn counted(command: &mut Command, tally: &mut Tally) -> Result<()> {
    if std::io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (out, err) = std::thread::scope(|threads| {
        let out = threads.spawn(|| stdout.map(|pipe| pass_on(pipe, std::io::stdout())));
        let err = stderr.map(|pipe| pass_on(pipe, std::io::stderr()));
        (out.join().ok().flatten(), err)
    });
    tally.add(out.unwrap_or_default());
    tally.add(err.unwrap_or_default());
    match child.wait()?.success() {
        true => Ok(()),
        false => bail!("`{command:?}` failed"),
    }
}

/// Copies lines as they come, and counts the tests that they tell of.
fn pass_on(from: impl Read, mut to: impl Write) -> Tally {
    let mut tally = Tally::default();
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line), Ok(read) if read > 0) {
        // The count must go on though nobody may be reading.
        let _ = to.write_all(&line);
        tally.add(Tally::of_line(&String::from_utf8_lossy(&line)));
        line.clear();
    }
    tally
}

fn heading(name: &str) {
    println!("== {name}");
}

fn exists(program: &str) -> bool {
    let quiet =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not run {command:?}"))?;
    match status.success() {
        true => Ok(()),
        false => bail!("`{command:?}` failed"),
    }
}
