//! The command line over TCP: the same commands, with a token.

#![forbid(unsafe_code)]

use std::process::{Command, Stdio};
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, Output, eventually};
use anyhow::{Context, Result, ensure};

/// Somebody elsewhere, with a token in their environment.
struct Elsewhere<'a> {
    engine: &'a Engine,
    token: String,
}

impl Elsewhere<'_> {
    fn ace(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.command(arguments)?.stdin(Stdio::null()).output()?;
        Ok(Output {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ace"));
        command.args(arguments).env_remove("ACE_TOKEN_FILE").env("ACE_TOKEN", &self.token);
        command.env("ACE_SERVER", format!("http://{}", self.engine.api()?));
        Ok(command)
    }
}

#[test]
fn a_tenant_deploys_and_looks_after_its_app_from_elsewhere() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let made = engine.ace(&["token", "create", "--tenant", "acme", "--name", "laptop"])?.ok()?;
    let token = made.stdout.trim().to_owned();
    ensure!(made.stderr.contains("not shown again"), "{}", made.stderr);
    let acme = Elsewhere { engine: &engine, token };
    let files = AppFolder::empty()?;
    files.write("index.html", "from elsewhere")?;
    engine.deploy(files.path(), "shop")?.ok()?;

    let app = AppFolder::saying("of acme")?;
    let folder = app.path().to_str().context("a path")?;
    acme.ace(&["deploy", folder, "--app", "blog"])?.ok()?;
    ensure!(engine.get("blog", "/")?.text() == "of acme");
    let apps = acme.ace(&["apps", "--json"])?.ok()?.json()?;
    ensure!(apps.as_array().is_some_and(|all| all.len() == 1), "{apps}");
    ensure!(apps[0]["tenant"] == "acme", "{apps}");
    let releases = acme.ace(&["releases", "blog", "--json"])?.ok()?.json()?;
    ensure!(releases["releases"][0]["by"]["label"] == "laptop", "{releases}");
    let logs = acme.ace(&["logs", "blog"])?.ok()?.stdout;
    ensure!(logs.contains("release 1 serves: deployed (by laptop)"), "{logs}");
    let said = acme.ace(&["run", "blog", "--", "echo", "hello"])?.ok()?;
    ensure!(said.stdout == "hello\n", "{said:?}");

    let theirs = acme.ace(&["destroy", "shop", "--yes"])?;
    ensure!(theirs.status == 1 && theirs.stderr.contains("no app named \"shop\""), "{theirs:?}");
    let down = acme.ace(&["down"])?;
    ensure!(down.status == 1 && down.stderr.contains("your token is not for that"), "{down:?}");
    ensure!(acme.ace(&["apps"])?.ok()?.stdout.contains("blog"));
    acme.ace(&["destroy", "blog", "--yes"])?.ok()?;

    let id = acme.token.split('_').nth(1).context("an id")?;
    engine.ace(&["token", "revoke", id])?.ok()?;
    let revoked = acme.ace(&["apps"])?;
    ensure!(revoked.status == 1 && revoked.stderr.contains("was revoked"), "{revoked:?}");
    Ok(())
}

#[test]
fn an_admin_elsewhere_may_do_all_that_root_may() -> Result<()> {
    let mut engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let made = engine.ace(&["token", "create", "--role", "admin", "--expires", "1h", "--json"])?;
    let made = made.ok()?.json()?;
    let token = made["secret"].as_str().context("a secret")?.to_owned();
    ensure!(made["token"]["expires_at"].is_string(), "{made}");
    let admin = Elsewhere { engine: &engine, token: token.clone() };
    let listed = admin.ace(&["token", "list"])?.ok()?;
    ensure!(listed.stdout.contains("admin") && !listed.stdout.contains(&token), "{listed:?}");
    admin.ace(&["doctor"])?.ok()?;
    admin.ace(&["down"])?.ok()?;
    let gone = || (!engine.socket().exists()).then_some(());
    eventually("the engine's end", Duration::from_secs(60), gone)?;
    engine.down()
}

#[test]
fn a_token_is_asked_for_and_never_printed() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let nobody = Elsewhere { engine: &engine, token: String::new() }.ace(&["apps"])?;
    ensure!(nobody.status == 1 && nobody.stderr.contains("set ACE_TOKEN"), "{nobody:?}");
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "ace_wrong\n")?;
    let path = file.path().to_str().context("a path")?;
    let nobody = Elsewhere { engine: &engine, token: String::new() };
    let wrong = nobody.ace(&["apps", "--token-file", path])?;
    ensure!(wrong.status == 1 && wrong.stderr.contains("good for nothing"), "{wrong:?}");
    ensure!(!wrong.stderr.contains("ace_wrong"), "{wrong:?}");
    Ok(())
}
